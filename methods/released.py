"""The authors' released code (github.com/AMAP-ML/APPO, commit b04e7e9): what it does, not how.

Its control flow, beside appo.py. The numbers come with `--preset released` (config.py).
    - All branches are drawn before the first update, from the policy that sampled the rollouts.
      So Omega is 1 there, and entropy alone chooses.
    - N * B branch points are the best of all rollouts of a prompt, not B of each.
    - A branch keeps the chosen token and draws what follows.
    - Guards of the future term: tokens whose log-ratio exceeds log 3 leave the future sum; where
      credit is negative and the ratio above 6, Omega is clipped to [0.8, 1]; a rollout with more
      than one dual-clipped token gives no policy gradient.
"""

import math
from functools import partial

import torch

import appo
from advantage import policy_loss, scale_by_future
from appo import Prompt
from branching import choose_branch_points
from config import Config
from policy import Policy, pad
from rollout import Rollout
from sampling import Sampler
from support.metrics import Meter
from support.schedule import (
    cache_parts,
    check_step,
    split_minibatches,
)


def step(
    policy: Policy, optimizer, sampler: Sampler, prompts: list[Prompt], config: Config, meter: Meter
) -> list[Rollout]:
    """One step as the released code takes it; arguments and result as in appo.step."""
    check_step(policy, sampler, prompts, config)
    minibatches = split_minibatches(prompts, config, policy.ranks)
    with policy.unsharded():
        batches = appo.sample_initial(sampler, prompts, minibatches, config.initial, meter)
    meter.phase("score")
    appo.score_reference(policy, batches, config)
    with policy.unsharded():
        grown = [branch_early(policy, sampler, batch, config, meter) for batch in batches]
        for branches in grown:
            appo.set_rewards(branches, prompts)
    for batch, branches in zip(batches, grown):
        meter.phase("score")
        with policy.unsharded():
            for part in cache_parts(batch, config):
                policy.score(part, config.temperature, config.micro_tokens)
        guarded_credit(batch, branches, config)
        meter.phase("update")
        loss = partial(policy_loss, max_dual_clipped=1)
        meter.add(batch, branches, appo.update(policy, optimizer, batch, config, loss))
    meter.phase("wait")
    return [r for rollouts in (*batches, *grown) for r in rollouts]


def branch_early(
    policy: Policy, sampler: Sampler, rollouts: list[Rollout], config: Config, meter: Meter
) -> list[Rollout]:
    """logp_old, branch points and branches of a mini-batch, before any update."""
    branches = []
    for part in cache_parts(rollouts, config):
        meter.phase("score")
        cache = appo.score_now(policy, part, config)
        for r in part:
            r.logp_old = r.logp
        appo.set_omega(part, config)
        points = pooled_points(policy, part, config)
        meter.phase("branch")
        branches += sampler.branches(part, points, cache, keep=True)
        del cache
    return branches


def pooled_points(policy: Policy, rollouts: list[Rollout], config: Config) -> list[list[int]]:
    """The N * B best tokens of each prompt, as token indices per rollout.

    Not the last token before a result or the end: a kept token must have one after it to draw.
    """
    allowed = []
    for r in rollouts:
        fit = appo.candidates(policy, r, config, kept=1)
        allowed.append([ok and follows for ok, follows in zip(fit, [*r.mask[1:], False])])
    scores, preferred, _ = appo.rank_tokens(rollouts, config)
    N, T = config.initial, scores.shape[1]
    # one long row per prompt
    scores = scores.reshape(-1, N * T)
    allowed = pad(allowed, torch.bool, T).reshape(-1, N * T)
    preferred = None if preferred is None else preferred.reshape(-1, N * T)
    points = [[] for _ in rollouts]
    # topped up by score too, as theirs is
    for p, chosen in enumerate(
        choose_branch_points(scores, allowed, N * config.branches, preferred)
    ):
        for place in chosen:
            points[p * N + place // T].append(place % T)
    return points


def guarded_credit(rollouts: list[Rollout], branches: list[Rollout], config: Config) -> None:
    """Eq. 6-7 with the guards of the future term."""
    omega = appo.omega_of(rollouts, config.half_life, config, ignore_above=math.log(3.0))
    appo.hand_out(rollouts, "omega", omega)
    appo.compare_groups(rollouts, branches, config)
    for r in rollouts:
        ratio = (r.logp - r.logp_old).exp()
        weight, clip = config.future_weight, config.future_clip
        r.advantage = scale_by_future(r.advantage, r.omega, weight, clip, ratio)
