"""Forks: branches from the cache of a scoring pass, against computing their prefixes anew.

starting        until the first token of every branch
branch_phase    until the end of every branch
"""

from functools import partial

import torch
from transformers import DynamicCache

from extras.bench import models
from extras.bench.measure import figure, in_turn, ratio, repeats
from model import Policy
from sampling import Rollout, Sampler, Start, mix_seed

MIB = 2**20
FORKS = 4


def forks(args) -> dict:
    """Four branches from each parent: forked, against computing their prefixes anew."""
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
        self.scored = models.score_and_keep(policy, self.rollouts)
        self.places = [(n, length - 1 - k) for n in range(parents) for k in range(FORKS)]

    def branches(self) -> list[Rollout]:
        """New branches, nothing sampled yet."""
        return [self.rollouts[n].fork(at, mix_seed(n, at)) for n, at in self.places]

    def forked(self) -> list[Start]:
        """Where they start from the scoring pass' cache."""
        return [
            Start(r, self.scored.cache, n, self.scored.hidden[n, at])
            for r, (n, at) in zip(self.branches(), self.places)
        ]

    def computed_anew(self) -> list[Start]:
        """Where they start from a new pass over their prefixes."""
        return models.computed_anew(self.policy, self.branches())

    def sampler(self, new: int) -> Sampler:
        """A sampler that has a row for each branch and `new` tokens for the last to leave."""
        return models.make_sampler(self.policy, len(self.places), self.length + new - 1)


def starting(family: Family, plain, title: str, n: int) -> dict:
    """From parents to the first token of every branch, against reading the prefixes alone.

    The reading is our prefill or a plain forward pass of Hugging Face's model into a new cache,
    whichever is faster. Weights are packed before, for both; that has a figure of its own.
    Memory: the most allocated on the way, a fork's with the live rows' cache.
    """
    policy, sampler = family.policy, family.sampler(1)
    prefixes = [r.prompt + r.ids for r in family.branches()]
    reader = models.make_sampler(policy, len(prefixes), family.length, chunk=64)
    readings = {
        "prefill": partial(reader.prefill, prefixes),
        "Hugging Face forward": partial(read_padded, plain, prefixes),
    }

    def fork() -> None:
        sampler.run(family.forked())

    def fork_and_allocate() -> None:
        family.sampler(1).run(family.forked())

    # the first token drawn ends a branch
    stop_ids, policy.stop_ids = policy.stop_ids, set(range(policy.vocabulary))
    packing = [1000 * t for (t,) in in_turn(partial(nothing_in, policy.packed), times=n)]
    with policy.packed():
        how = min(readings, key=lambda way: min(in_turn(readings[way], times=1)))
        pairs = in_turn(readings[how], fork, times=n)
        ours = models.most_allocated(fork_and_allocate)
        theirs = models.most_allocated(readings[how])
    policy.stop_ids = stop_ids
    return {
        f"{title}, seconds of {how} / fork": ratio(pairs),
        f"{title}, forked in": figure([1000 * forked for _, forked in pairs], "ms"),
        f"{title}, weights packed in": figure(packing, "ms"),
        f"{title}, memory of a fork": figure([ours / MIB], "MiB"),
        f"{title}, memory computed anew": figure([theirs / MIB], "MiB"),
    }


def nothing_in(scope) -> None:
    """Enter a context and leave it."""
    with scope():
        pass


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
    """All branches to their end: forked, against prefixes computed anew, with the same seeds.

    `new` tokens each, and up to three more for those that leave earlier.
    """
    last, sampler = {}, family.sampler(new)

    def run(how: str, starts) -> None:
        begun = starts()
        sampler.run(begun)
        last[how] = [s.rollout.ids[family.length :] for s in begun]

    pairs = in_turn(
        partial(run, "anew", family.computed_anew), partial(run, "forked", family.forked), times=n
    )
    same = [
        a == b for anew, forked in zip(last["anew"], last["forked"]) for a, b in zip(anew, forked)
    ]
    return {
        f"{title}, {new} new tokens, seconds anew / forked": ratio(pairs),
        f"{title}, {new} new tokens, share of equal ids": figure([sum(same) / len(same)], "share"),
    }
