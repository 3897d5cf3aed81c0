"""The rows that are decoded: on the host which rollout is where, on the device their numbers.

1. check_starts   what cannot be sampled is refused before anything is
2. Row            a rollout, its slot, and what the model has not read yet
3. Live           the cache of all slots, and numbers per slot
"""

from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

import torch

from policy import Policy
from rollout import Rollout
from support.sampling_params import beyond_positions


@dataclass
class Row:
    """A live row: its slot, and the tokens of a tool result that the model has not read yet."""

    rollout: Rollout
    slot: int
    unread: list[int] = field(default_factory=list)
    # decode step at which its result came
    since: int = 0

    @property
    def cached(self) -> int:
        """Tokens that its slot of the cache holds."""
        return len(self.rollout.prompt) + len(self.rollout.ids) - len(self.unread)


class Live:
    """What a decode step reads and writes, all on the device: the cache and numbers per row.

    hidden predicts the row's next token; seed and position decide what is drawn; running is 1 for
    rows that decode, 0 for those that wait; drawn: ids, log-probs, entropies of the last step.
    seen: which ids a row holds, (rows, V), where repetitions are penalised; else None.
    """

    def __init__(self, policy: Policy, rows: int, capacity: int, penalises: bool = False):
        integers = partial(torch.zeros, dtype=torch.long, device=policy.device)
        self.policy = policy
        self.cache = policy.cache(rows, capacity)
        self.hidden = torch.zeros(
            rows, policy.model.config.hidden_size, dtype=policy.dtype, device=policy.device
        )
        self.seed, self.position, self.running = integers(rows), integers(rows), integers(rows)
        seen = rows, policy.model.config.vocab_size
        self.seen = integers(seen, dtype=torch.bool) if penalises else None
        self.drawn = torch.zeros(3, rows, dtype=torch.float64, device=policy.device)

    def mark(self, rows: list[Row]) -> None:
        """What these rows have seen: prompt, response and results, whatever was drawn since."""
        for row in rows if self.seen is not None else ():
            ids = row.rollout.prompt + row.rollout.ids
            self.seen[row.slot] = False
            self.seen[row.slot, self.policy.tensor(ids)] = True

    def move(self, slots: list[int], to: list[int], length: int) -> None:
        """Rows change their slots, or change places; none holds more than `length` tokens."""
        source, target = self.policy.tensor(slots), self.policy.tensor(to)
        # one layer at a time: what is on its way takes memory
        for layer in self.cache.kv:
            layer[target, :length] = layer[source, :length]
        numbers = (self.cache.length, self.hidden, self.seed, self.position, self.seen)
        for x in (x for x in numbers if x is not None):
            x[target] = x[source]


def check_starts(starts: list, budget: int, positions: int | None) -> None:
    """Refuse starts that cannot be.

    Args: budget: tokens of a response. positions: those of the model, if known.
    """
    cache = starts[0].cache
    if any(start.cache is not cache for start in starts):
        raise ValueError("the starts of a run must share one cache")
    for r in (start.rollout for start in starts):
        if len(r.ids) != r.fork_at or (cache is None and r.ids):
            place = ", without a cache at the end of its prompt" * (cache is None)
            raise ValueError(
                f"a start begins where its rollout ends{place}: {len(r.ids)} ids, "
                f"fork_at {r.fork_at}"
            )
    longest = max(len(start.rollout.prompt) for start in starts)
    problem = beyond_positions(longest, budget, positions)
    if problem:
        raise ValueError(problem)
    if cache is None:
        check_prompts(list({s.prompt_number: s.rollout.prompt for s in starts}.values()))
        if len(list(groupby(starts, lambda s: s.prompt_number))) > len(
            {s.prompt_number for s in starts}
        ):
            raise ValueError("starts of one prompt must follow each other")


def check_prompts(prompts: list[list[int]]) -> None:
    """ValueError for a prompt without a token."""
    for p, ids in enumerate(prompts):
        if not ids:
            raise ValueError(
                f"prompt {p} has no token: there is nothing to predict the first one from"
            )
