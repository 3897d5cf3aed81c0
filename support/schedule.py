"""Which prompts and rollouts go together, and when.

    1. Prompts             of a step; further ones for a method that draws again
    2. check_step, refuse_broken_tools, refuse_broken_rewards   what would waste a step
    3. split_minibatches   prompts of an update; a prompt's rollouts stay together: they are a group
    4. in_epochs           the mini-batches of all PPO epochs
    5. cache_parts         parts of a mini-batch whose cache fits
    6. equal_passes        micro-batches, as many on every rank

Prompts are anything with `seed`; rollouts anything with `prompt`, `ids` and `mask`.
"""

from collections import Counter
from collections.abc import Callable

import torch

from policy import Policy, micro_batches, padded_width
from rollout import Rollout
from support.http import Unavailable
from support.phases import in_phase
from support.ranks import Ranks
from support.reward_calls import fault_of
from support.seeds import MINIBATCHES, mix_seed
from support.shapes import padded_keys


class Prompts(list):
    """The prompts of a step, and further ones for a method that draws again.

    draw: round -> prompts, always the same ones; those of round 0 are the step's own.
    """

    def __init__(self, draw: Callable[[int], list]):
        super().__init__(draw(0))
        self.draw, self.rounds = draw, 0

    def more(self) -> range:
        """Append the prompts of the next round. Returns: their indices."""
        first = len(self)
        self.rounds += 1
        self += self.draw(self.rounds)
        return range(first, len(self))


def split_minibatches(prompts: list, config, ranks: Ranks | None = None) -> list[list[int]]:
    """Mini-batches of the indices of prompts, in an order drawn from the first one's seed.

    With ranks, this rank's share of each. A prompt's N rollouts stay together: they are a group.
    """
    order = _permutation(len(prompts), mix_seed(prompts[0].seed, MINIBATCHES, 0))
    size = config.minibatch
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return [ranks.share(batch) for batch in batches] if ranks else batches


def in_epochs(batches: list, prompts: list, config) -> list:
    """The mini-batches of all PPO epochs: after the first epoch the same ones in a new order."""
    orders = [
        _permutation(len(batches), mix_seed(prompts[0].seed, MINIBATCHES, epoch))
        for epoch in range(1, config.ppo_epochs)
    ]
    return batches + [batches[k] for order in orders for k in order]


def cache_parts(rollouts: list[Rollout], config) -> list[list[Rollout]]:
    """A mini-batch in parts of whole prompts, whose cache holds at most fork_tokens tokens."""
    size = max(1, len(rollouts))
    if config.fork_tokens and config.branches:
        tokens = config.initial * padded_keys(padded_width(rollouts))
        size = max(1, config.fork_tokens // tokens) * config.initial
    return [rollouts[start : start + size] for start in range(0, len(rollouts), size)]


def _permutation(n: int, seed: int) -> list[int]:
    """A permutation of n numbers, drawn from a seed."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()


def check_step(policy: Policy, sampler, prompts: list, config) -> None:
    """Refuse what would waste a step or bias it without a word."""
    params = sampler.params
    if params.top_p < 1 or params.top_k or params.repetition_penalty != 1:
        raise ValueError(
            "training samples from the whole distribution: the sampler's top_p must be 1, its "
            "top_k 0 and its repetition_penalty 1"
        )
    for name in ("temperature", "max_tokens"):
        theirs, ours = getattr(params, name), getattr(config, name)
        if theirs != ours:
            raise ValueError(
                f"the sampler's {name} is {theirs}, the configuration's {ours}: they must be the "
                "same"
            )
    if config.kl_coef and policy.reference is None:
        raise ValueError(f"kl_coef = {config.kl_coef} needs a reference policy")
    if not prompts or len(prompts) % config.minibatch:
        raise ValueError(
            f"{len(prompts)} prompts cannot be split into mini-batches of {config.minibatch}"
        )


def equal_passes(rollouts: list[Rollout], budget: int, ranks: Ranks) -> list[list[Rollout]]:
    """Micro-batches, as many on every rank: FSDP's collectives need that.

    A rank with fewer makes up for them with passes of a rollout that has no policy token.
    """
    passes = [[rollouts[n] for n in rows] for rows in micro_batches(rollouts, budget)]
    nothing = Rollout([0], 0, ids=[0], mask=[False])
    nothing.logp_old = nothing.logp_ref = nothing.advantage = torch.zeros(1)
    missing = int(ranks.max([len(passes)])[0]) - len(passes)
    return passes + [[nothing]] * missing


@in_phase("wait")
def refuse_broken_tools(rollouts: list, ranks: Ranks, tools: dict) -> None:
    """Raise Unavailable, on all ranks, if more than half of the tool calls failed by our fault.

    Rewards would be those of broken tools.
    """
    calls = Counter((call.name, call.status == "infra") for r in rollouts for call in r.calls)
    calls = sum(ranks.gather(calls), Counter())
    failed = {name: n for (name, infra), n in calls.items() if infra}
    if 2 * sum(failed.values()) > calls.total():
        why = {name: getattr(tools.get(name), "problem", "") for name in failed}
        each = ", ".join(
            f"{name} {n}" + f": {why[name]}" * bool(why[name]) for name, n in failed.items()
        )
        raise Unavailable(
            "tools",
            f"{sum(failed.values())} of {calls.total()} calls failed for reasons of infrastructure "
            f"({each})",
        )


@in_phase("wait")
def refuse_broken_rewards(rollouts: list, ranks: Ranks) -> None:
    """Raise Unavailable, on all ranks, if more than half of the rewards failed."""
    broken = [r for r in rollouts if r.reward_fault]
    parts = ranks.gather((len(broken), len(rollouts), [fault_of(r) for r in broken[:1]]))
    failed, count = sum(part[0] for part in parts), sum(part[1] for part in parts)
    if 2 * failed > count:
        first = next(faults[0] for _, _, faults in parts if faults)
        raise Unavailable("rewards", f"{failed} of {count} failed: {first}")
