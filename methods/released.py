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
from dataclasses import replace
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
    check_step,
    split_minibatches,
    whole_prompts,
)


def step(
    policy: Policy, optimizer, sampler: Sampler, prompts: list[Prompt], config: Config, meter: Meter
) -> list[Rollout]:
    """One step as the released code takes it; arguments and result as in appo.step."""
    check_step(policy, sampler, prompts, config)
    minibatches = split_minibatches(prompts, config, policy.ranks)
    with policy.unsharded():
        batches = appo.sample_initial(sampler, prompts, minibatches, config.initial, meter)
        grown = []
        for batch in batches:
            parts = whole_prompts(batch, config)
            early = [
                x for part in parts for x in branch_early(policy, sampler, part, config, meter)
            ]
            appo.reward(early, prompts)
            grown.append(early)
    for batch, branches in zip(batches, grown):
        with policy.unsharded():
            meter.phase("score")
            policy.score(batch, config.temperature, config.micro_tokens)
        guarded_credit(batch, branches, config)
        meter.phase("update")
        loss = partial(policy_loss, max_dual_clipped=1)
        meter.add(batch, branches, appo.update(policy, optimizer, batch, config, loss))
    meter.phase("wait")
    return [r for rollouts in (*batches, *grown) for r in rollouts]


def branch_early(
    policy: Policy, sampler: Sampler, rollouts: list[Rollout], config: Config, meter: Meter
) -> list[Rollout]:
    """logp_old, branch points and branches of some prompts, before any update."""
    meter.phase("score")
    appo.score_reference(policy, rollouts, config)
    cache = appo.score_now(policy, rollouts, config)
    for r in rollouts:
        r.logp_old = r.logp
    points = pooled_points(policy, rollouts, config)
    meter.phase("branch")
    return sampler.branches(rollouts, points, cache, keep=True)


def pooled_points(policy: Policy, rollouts: list[Rollout], config: Config) -> list[list[int]]:
    """The N * B best tokens of each prompt, as token indices per rollout.

    Not the last token before a result or the end: a kept token must have one after it to draw.
    """
    allowed = []
    for r in rollouts:
        follows = r.mask[1:] + [False]
        fit = appo.candidates(policy, r, replace(config, min_new=config.min_new + 1))
        allowed.append([ok and own for ok, own in zip(fit, follows)])
    ranked = [*appo.rank_tokens(rollouts, config)]
    ranked.insert(1, pad(allowed, torch.bool))
    N, T = config.initial, ranked[0].shape[1]
    # one long row per prompt
    scores, allowed, preferred, top_up = (x if x is None else x.reshape(-1, N * T) for x in ranked)
    points = [[] for _ in rollouts]
    pooled = choose_branch_points(scores, allowed, N * config.branches, preferred, top_up)
    for p, chosen in enumerate(pooled):
        for place in chosen:
            points[p * N + place // T].append(place % T)
    return points


def guarded_credit(rollouts: list[Rollout], branches: list[Rollout], config: Config) -> None:
    """Eq. 6-7 with the guards of the future term."""
    omega = appo.future_values(rollouts, config.half_life, config, ignore_above=math.log(3.0))
    appo.spread(rollouts, "omega", omega)
    appo.assign_credit(rollouts, branches, replace(config, future_weight=0.0))
    for r in rollouts:
        ratio = (r.logp - r.logp_old).exp()
        weight, clip = config.future_weight, config.future_clip
        r.advantage = scale_by_future(r.advantage, r.omega, weight, clip, ratio)
