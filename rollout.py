"""One prompt and everything after it: the tokens, and the numbers that belong to each of them.

1. Rollout.append   tokens, their mask and the sampler's numbers are born together
2. Rollout.fork     a branch: the same first tokens, a seed of its own
3. Family           what a rollout shares with its branches
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from torch import Tensor

from protocol import PAPER, Tags, left_open
from support.seeds import BRANCHES, mix_seed


@dataclass
class Call:
    """A tool call: ids[start:end] of its rollout are the result (mask False).

    ran: did the tool see it? state_after: of a tool with state (support/own_tools.py).
    """

    name: str
    # text, or the arguments of a function by name
    argument: str | dict
    status: str
    seconds: float
    start: int
    end: int
    ran: bool = False
    state_after: Any = field(default=None, repr=False, compare=False)


@dataclass
class Family:
    """What an initial rollout and its branches share.

    question: of the prompt, if the caller named it. protocol: how calls are written. first: the
    state that each tool begins with. closers: each closes a state.
    """

    question: Any = None
    protocol: Tags = PAPER
    first: dict[str, Any] = field(default_factory=dict)
    closers: list[Callable[[], None]] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def __reduce__(self):
        """Sent to another process it has no states: they stay here."""
        return Family, (self.question, self.protocol)

    def close(self) -> None:
        """Close all states that tools hold for it."""
        while self.closers:
            self.closers.pop()()


def close_all(rollouts: list["Rollout"]) -> None:
    """Close the states that tools hold for these rollouts and their branches."""
    for r in rollouts:
        r.family.close()


@dataclass(eq=False)
class Rollout:
    """One prompt and everything after it, with the numbers of every token.

    ids: the response, T tokens, without the prompt. ids, mask, sampled_logp and sampled_entropy
    grow together and always have the same length; a tool's tokens have mask False and 0 for the
    other two. The tensors are (T,), on the CPU, and come later: see appo.py. A branch has a parent
    and shares ids[:fork_at] with it.

    finish: "stop" (end of turn), "length" (budget), "calls" (one call too many), "forged" (the
    policy wrote <result> itself). group: index of its prompt; one prompt's rollouts are compared.
    """

    prompt: list[int]
    seed: int
    group: int = 0
    # what the prompt has opened of the response: "<think>" or nothing (protocol.opened_by)
    opened: str = ""
    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    sampled_logp: list[float] = field(default_factory=list)
    sampled_entropy: list[float] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    # (written by the policy?, text), in order
    pieces: list[tuple[bool, str]] = field(default_factory=list)
    finish: str = ""
    reward: float = 0.0
    # what a reward function returned besides; why it failed, if it did (support/reward_calls.py)
    reward_parts: dict[str, float] = field(default_factory=dict)
    reward_fault: str = ""
    family: Family = field(default_factory=Family, repr=False)
    parent: "Rollout | None" = None
    fork_at: int = 0
    # branches so far: their seeds differ by it
    forks: int = 0

    # log-probs in nats, from Policy.score: at the start of the step, now, under the reference
    logp_old: Tensor | None = None
    logp: Tensor | None = None
    logp_ref: Tensor | None = None
    # of the next-token distribution now, nats: Eq. 3 (Policy.score)
    entropy: Tensor | None = None
    # future value in the credit and in the score, no unit: Eq. 4 (appo.set_omega)
    omega: Tensor | None = None
    score_omega: Tensor | None = None
    # Eq. 5, or another --criterion's; was Omega constant? (appo.decision_points)
    branching_score: Tensor | None = None
    degenerate: bool = False
    # credit: Eq. 6-7 (appo.assign_credit)
    advantage: Tensor | None = None

    @property
    def text(self) -> str:
        """The response as the policy saw it, tool results included, and what the prompt opened."""
        return self.opened + "".join(text for _, text in self.pieces)

    @property
    def policy_text(self) -> str:
        """The same without tool results."""
        return self.opened + "".join(text for own, text in self.pieces if own)

    @property
    def last_turn(self) -> str:
        """What the policy wrote after the last tool result, and the <think> left open for it."""
        own, text = self.pieces[-1] if self.pieces else (True, "")
        # a result itself holds no tag, so a <think> in its piece is the template's
        opened = left_open(self.pieces[-2][1]) if len(self.pieces) > 1 else self.opened
        return opened + text if own else ""

    @property
    def truncated(self) -> bool:
        return self.finish in ("length", "calls")

    def state(self, tool: str) -> Any:
        """The state of a tool after the last call of it. None without one, and where the tool
        replays and the rollout that made that call has gone on."""
        calls = [call for call in self.calls if call.name == tool and call.ran]
        after = calls[-1].state_after if calls else self.family.first.get(tool)
        return after.state if after else None

    def inherits(self, call: Call) -> bool:
        """Is a call the parent's? All calls of a turn end where its last result does."""
        return self.parent is not None and call.end <= self.fork_at

    def answered(self, results: list) -> None:
        """Note how the last calls ended. Their results are one block, which is the first call's."""
        first, *others = self.calls[-len(results) :]
        for call, result in zip((first, *others), results):
            call.status, call.seconds, call.end = result.status, result.seconds, len(self.ids)
        # their results are one block
        for call in others:
            call.start = call.end

    def append(self, ids: list[int], mask: bool, logp: list[float], entropy: list[float]) -> None:
        """Add tokens to all four lists at once."""
        assert len(ids) == len(logp) == len(entropy), "a token and its numbers are born together"
        self.ids += ids
        self.mask += [mask] * len(ids)
        self.sampled_logp += logp
        self.sampled_entropy += entropy

    def fork(self, at: int) -> "Rollout":
        """A branch that shares ids[:at] and the calls completed in them; each has its own seed."""
        self.forks += 1
        return Rollout(
            prompt=self.prompt,
            seed=mix_seed(self.seed, BRANCHES, self.forks),
            group=self.group,
            opened=self.opened,
            family=self.family,
            ids=self.ids[:at],
            mask=self.mask[:at],
            sampled_logp=self.sampled_logp[:at],
            sampled_entropy=self.sampled_entropy[:at],
            calls=[call for call in self.calls if call.end <= at],
            parent=self,
            fork_at=at,
        )
