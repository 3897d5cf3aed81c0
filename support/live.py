"""The rows that are decoded: on the host which rollout is where, on the device their numbers.

1. Row    a rollout, its slot, and what the model has not read yet
2. Live   the cache of all slots, and numbers per slot
"""

from dataclasses import dataclass, field
from functools import partial

import torch

from policy import Policy
from rollout import Rollout


@dataclass
class Row:
    """A live row: its slot, and the tokens of a tool result that the model has not read yet."""

    rollout: Rollout
    slot: int
    unread: list[int] = field(default_factory=list)
    # decode step at which its result came
    since: int = 0

    @property
    def held(self) -> int:
        """Tokens that its slot of the cache holds."""
        return len(self.rollout.prompt) + len(self.rollout.ids) - len(self.unread)


class Live:
    """What a decode step reads and writes, all on the device: the cache and numbers per row.

    hidden predicts the row's next token; seed and position decide what is drawn; running is 1 for
    rows that decode, 0 for those that wait; drawn: ids, log-probs, entropies of the last step.
    """

    def __init__(self, policy: Policy, rows: int, slots: int):
        whole = partial(torch.zeros, dtype=torch.long, device=policy.device)
        self.policy = policy
        self.cache = policy.cache(rows, slots)
        self.hidden = torch.zeros(
            rows, policy.model.config.hidden_size, dtype=policy.dtype, device=policy.device
        )
        self.seed, self.position, self.running = whole(rows), whole(rows), whole(rows)
        self.drawn = torch.zeros(3, rows, dtype=torch.float64, device=policy.device)

    def move(self, slots: list[int], to: list[int], length: int) -> None:
        """Rows change their slots, or change places; none holds more than `length` tokens."""
        source, target = self.policy.tensor(slots), self.policy.tensor(to)
        # one layer at a time: what is on its way takes memory
        for layer in (*self.cache.k, *self.cache.v):
            layer[target, :, :length] = layer[source, :, :length]
        for x in (self.cache.length, self.hidden, self.seed, self.position):
            x[target] = x[source]
