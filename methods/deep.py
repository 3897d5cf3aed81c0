"""APPO with branches of branches (arXiv 2606.12384, appendix E): trees of depth L, --depth.

    5-6. fork_deeper   every rollout of a tree is forked at B new points, L times over
    The other steps are those of appo.py: only initial rollouts have credit and are trained on.

        M = N (B + 1)^L rollouts of a prompt

The appendix prints M = B (N + 1)^L, against M = N (B + 1) elsewhere; its rows fit the formula here
with N and B exchanged. How a deeper tree grows is not said there, and the released code has none.
An initial rollout is forked at its L B best points: the first B branches may be forked L - 1 times
more, the next B L - 2 times, and so on. Points of a branch lie beyond the first token that it drew.
The current policy drew it, so there Omega is 1: Eq. 5 is entropy alone.
Eq. 6 generalised: S(n,t) are all descendants of rollout n that share its token t, the group of
branches all descendants of a prompt; each weighs the same. With L = 1 this is appo.py bit for bit.
"""

import dataclasses

import appo
from config import Config
from policy import Policy
from rollout import Rollout
from sampling import Finished, Sampler
from support.metrics import Meter
from support.schedule import cache_parts, in_epochs


def step(
    policy: Policy, optimizer, sampler: Sampler, prompts: list, config: Config, meter: Meter
) -> list[Rollout]:
    """One step; arguments and result as in appo.step."""
    with policy.unsharded():
        batches = appo.sample_initial(policy, sampler, prompts, config)
    appo.score_start(policy, batches, config)
    rollouts = [r for batch in batches for r in batch]
    # what --norm budget divides by
    whole = dataclasses.replace(config, branches=(config.branches + 1) ** config.depth - 1)
    for batch in in_epochs(batches, prompts, config):
        branches, rewards = [], appo.rewards_of(prompts)
        with policy.unsharded():
            for part in cache_parts(batch, config):
                branches += fork_deeper(policy, sampler, part, config, rewards.begin)
        rewards.set(branches)
        appo.assign_credit(batch, [as_from_root(x) for x in branches], config)
        meter.add(batch, appo.update(policy, optimizer, batch, whole))
        rollouts += branches
    return rollouts


def fork_deeper(
    policy: Policy, sampler: Sampler, part: list[Rollout], config: Config, finished: Finished
) -> list[Rollout]:
    """All descendants of these initial rollouts, parents before children."""
    # with how many times each may be forked
    waiting, descendants, B = [(r, config.depth) for r in part], [], config.branches
    while waiting:
        # a cache holds no more rollouts than the part has
        rollouts, lefts = map(list, zip(*waiting[: len(part)]))
        waiting = waiting[len(part) :]
        cache = appo.score_now(policy, rollouts, config)
        for r in rollouts:
            r.logp_old = r.logp if r.parent else r.logp_old
        appo.set_omega(rollouts, config)
        most = dataclasses.replace(config, branches=B * max(lefts))
        points = appo.decision_points(policy, rollouts, most)
        points = [places[: B * left] for places, left in zip(points, lefts)]
        branches = sampler.branches(rollouts, points, cache, finished)
        del cache
        again = [left - 1 - k // B for ts, left in zip(points, lefts) for k in range(len(ts))]
        waiting += [(x, left) for x, left in zip(branches, again) if left]
        descendants += branches
    return descendants


def as_from_root(branch: Rollout) -> Rollout:
    """A branch of any depth as one of its initial rollout, from where its line left that."""
    line = branch
    while line.parent.parent:
        line = line.parent
    return dataclasses.replace(branch, parent=line.parent, fork_at=line.fork_at)
