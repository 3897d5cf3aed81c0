"""Forks: branches that copy their prefix from a scoring pass' cache, against a fresh prefill.

starting        until the first token of every branch
branch_phase    until the end of every branch
"""

from functools import partial

import torch
from transformers import DynamicCache

from extras.bench import models
from extras.bench.measure import figure, in_turn, ratio, repeats
from policy import Policy
from rollout import Rollout
from sampling import Sampler

MIB = 2**20
FORKS = 4


def forks(args) -> dict:
    """Four branches from each parent: forked, against a fresh prefill of their prefixes."""
    figures = {}
    for name, folder in models.model_folders(args, "forks").items():
        policy, plain = models.endless_policy(folder), models.plain_model(folder)
        tiny = "Llama" in name
        parents, new = (2, 8) if args.light else (4, 128) if tiny else (1, 128)
        lengths = (512,) if args.light else (64, 128, 256, 512, 1024) if tiny else (256, 512, 1024)
        for length in lengths:
            family = Family(policy, parents, length)
            title = f"forks: {name}, {FORKS * parents} prefixes of {length} tokens"
            figures |= starting(family, plain, title, repeats(args))
            if tiny:
                figures |= branch_phase(family, new, title, repeats(args))
    return figures


class Family:
    """Parents after a scoring pass; four branches leave each, at its last four tokens."""

    def __init__(self, policy: Policy, parents: int, length: int):
        self.policy, self.length = policy, length
        self.rollouts = models.made_up_rollouts(policy, parents, 16, length)
        self.cache = models.score_and_keep(policy, self.rollouts)
        self.points = [[length - 1 - k for k in range(FORKS)]] * parents

    def branches(self) -> list[Rollout]:
        """New branches, nothing sampled yet."""
        self.begin_again()
        return [r.fork(at) for r, places in zip(self.rollouts, self.points) for at in places]

    def begin_again(self) -> None:
        """The next branches have the seeds of the first ones: a seed counts its parent's forks."""
        for r in self.rollouts:
            r.forks = 0

    def sampler(self, new: int) -> Sampler:
        """A sampler that has a row for each branch and `new` tokens for the last to leave."""
        rows = FORKS * len(self.rollouts)
        return models.make_sampler(self.policy, rows, self.length + new - 1)

    def fork(self, sampler: Sampler) -> list[Rollout]:
        """All branches to their end, from the scoring pass' cache."""
        self.begin_again()
        return sampler.branches(self.rollouts, self.points, self.cache)

    def prefill(self, sampler: Sampler) -> list[Rollout]:
        """The same after a fresh prefill of every branch's prefix."""
        starts = models.computed_anew(self.policy, self.branches())
        sampler.run(starts)
        return [start.rollout for start in starts]


def starting(family: Family, plain, title: str, n: int) -> dict:
    """From parents to the first token of every branch, against reading the prefixes alone.

    The reading is our prefill or a plain forward pass of Hugging Face's model into a new cache,
    whichever is faster. Weights are packed before, for both; that has a figure of its own.
    Memory: the most allocated on the way, a fork's with the live rows' cache.
    """
    policy, sampler = family.policy, family.sampler(1)
    prefixes = [r.prompt + r.ids for r in family.branches()]
    reader = models.make_sampler(policy, len(prefixes), family.length, prefill_chunk=64)
    readings = {
        "prefill": partial(reader.prefill, prefixes),
        "Hugging Face forward": partial(read_padded, plain, prefixes),
    }
    # the first token drawn ends a branch
    stop_ids, policy.stop_ids = policy.stop_ids, set(range(policy.vocabulary))
    packing = [1000 * t for (t,) in in_turn(partial(pack_weights, policy), times=n)]
    with policy.unsharded():
        how = min(readings, key=lambda way: min(in_turn(readings[way], times=1)))
        pairs = in_turn(readings[how], partial(family.fork, sampler), times=n)
        ours = models.most_allocated(lambda: family.fork(family.sampler(1)))
        theirs = models.most_allocated(readings[how])
    policy.stop_ids = stop_ids
    return {
        f"{title}, seconds of {how} / fork": ratio(pairs),
        f"{title}, forked in": figure([1000 * forked for _, forked in pairs], "ms"),
        f"{title}, weights packed in": figure(packing, "ms"),
        f"{title}, memory of a fork": figure([ours / MIB], "MiB"),
        f"{title}, memory of a fresh prefill": figure([theirs / MIB], "MiB"),
    }


def pack_weights(policy: Policy) -> None:
    """Weights as a CPU samples with them."""
    with policy.unsharded():
        policy.for_sampling()


@torch.no_grad()
def read_padded(plain, prefixes: list[list[int]]) -> DynamicCache:
    """One forward pass over prefixes padded on the right, without the head."""
    ids = torch.zeros(len(prefixes), max(map(len, prefixes)), dtype=torch.long)
    for row, prefix in zip(ids, prefixes):
        row[: len(prefix)] = torch.tensor(prefix)
    cache = DynamicCache(config=plain.config)
    plain.get_decoder()(input_ids=ids, past_key_values=cache, use_cache=True)
    return cache


def branch_phase(family: Family, new: int, title: str, n: int) -> dict:
    """All branches to their end: forked, against a fresh prefill, with the same seeds.

    `new` tokens each, and up to three more for those that leave earlier.
    """
    last, sampler = {}, family.sampler(new)

    def run(how: str, grow) -> None:
        last[how] = [r.ids[family.length :] for r in grow(sampler)]

    pairs = in_turn(
        partial(run, "prefill", family.prefill), partial(run, "fork", family.fork), times=n
    )
    same = [
        a == b
        for fresh, forked in zip(last["prefill"], last["fork"])
        for a, b in zip(fresh, forked)
    ]
    title = f"{title}, {new} new tokens"
    return {
        f"{title}, seconds of fresh prefill / forked": ratio(pairs),
        f"{title}, share of equal ids": figure([sum(same) / len(same)], "share"),
    }
