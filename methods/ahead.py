"""APPO with the branches of several mini-batches drawn together, --branch_ahead of them.

    5-6. for every K mini-batches: points by the policy as it is before the first of them
    7.   credit: Omega anew, by the policy as it is before each update
    The other steps are those of appo.py.

The paper draws the branches of a mini-batch with the policy that its update finds. A run of the
sampler reads all weights for every token, however few rows it has: K times fewer runs with K times
as many rows are cheaper. The price: of K mini-batches all but the first branch from points, and by
a policy, that is up to K - 1 updates old. How much that changes them: extras/study/drift.py.
With K = all of a step's mini-batches Omega is 1 wherever points are chosen in the first epoch:
entropy alone chooses. Late mini-batches are scored in other passes than their logp_old: where a
format rounds otherwise from pass to pass, that passes for a move. A logged score is that of the
choice, the entropy and Omega beside it are those of the credit.
With K = 1 this is appo.py bit for bit.
"""

import dataclasses

import appo
from config import Config
from policy import Policy
from rollout import Rollout
from sampling import Sampler
from support.metrics import Meter
from support.schedule import cache_parts, in_epochs


def step(
    policy: Policy, optimizer, sampler: Sampler, prompts: list, config: Config, meter: Meter
) -> list[Rollout]:
    """One step; arguments and result as in appo.step."""
    with policy.unsharded():
        batches = appo.sample_initial(policy, sampler, prompts, config)
    rollouts = [r for batch in batches for r in batch]
    # the passes that points are chosen by: where the policy has not moved, Omega is exactly 1
    appo.score_start(policy, list(map(joined, ahead(batches, config))), config)
    for group in ahead(in_epochs(batches, prompts, config), config):
        branches, rewards = [], appo.rewards_of(prompts)
        with policy.unsharded():
            for part in cache_parts(joined(group), config):
                cache = appo.score_now(policy, part, config)
                appo.set_omega(part, config)
                points = appo.decision_points(policy, part, config)
                branches += sampler.branches(part, points, cache, rewards.begin)
                del cache
        rewards.set(branches)
        for late, batch in enumerate(group):
            if late:
                score_anew(policy, batch, config)
            own = [x for x in branches if any(x.parent is r for r in batch)]
            appo.assign_credit(batch, own, config)
            meter.add(batch, appo.update(policy, optimizer, batch, config))
        rollouts += branches
    return rollouts


def ahead(batches: list, config: Config) -> list[list]:
    """The mini-batches whose branches are drawn together."""
    K = config.branch_ahead
    return [batches[start : start + K] for start in range(0, len(batches), K)]


def joined(group: list[list[Rollout]]) -> list[Rollout]:
    """The rollouts of several mini-batches."""
    return [r for batch in group for r in batch]


def score_anew(policy: Policy, batch: list[Rollout], config: Config) -> None:
    """Log-probs, entropies and Omega by the policy as it is now; nothing will fork from here."""
    with policy.unsharded():
        appo.score_now(policy, batch, dataclasses.replace(config, branches=0))
    appo.set_omega(batch, config)
