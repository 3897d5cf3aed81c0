"""The authors' released code (github.com/AMAP-ML/APPO, commit b04e7e9): what it does, not how.

Its control flow, beside appo.py. The numbers come with `--preset released` (config.py).
    - All branches are drawn before the first update, from the policy that sampled the rollouts.
      So Omega is 1 there, and entropy alone chooses.
    - N * B branch points are the best of all rollouts of a prompt, not B of each.
    - A branch keeps the chosen token and draws what follows.
    - Guards of the future term: tokens whose log-ratio exceeds log 3 leave the future sum; where
      credit is negative and the ratio above 6, Omega is clipped to [0.8, 1]; a rollout with more
      than one dual-clipped token gives no policy gradient.
Confirmed in that code. Differs from it in: equations are those of appo.py (Eq. 5-8), and faults are
not repeated, such as a token mean per micro-batch (docs/paper.md, section 4).
"""

import math

import torch
from torch import Tensor

import appo
from advantage import policy_loss, scale_by_future
from appo import Prompt
from branching import choose_branch_points, future_value
from config import Config
from policy import Policy, pad
from rollout import Rollout
from sampling import Sampler
from support.metrics import Meter
from support.phases import in_phase
from support.reward_calls import Rewards
from support.schedule import cache_parts

# above this ratio negative credit is scaled by an Omega of at most 1
RATIO_GUARD, GUARD_CLIP = 6.0, (0.8, 1.0)


def step(
    policy: Policy, optimizer, sampler: Sampler, prompts: list[Prompt], config: Config, meter: Meter
) -> list[Rollout]:
    """One step as the released code takes it; arguments and result as in appo.step."""
    with policy.unsharded():
        batches = appo.sample_initial(policy, sampler, prompts, config)
    appo.score_reference(policy, batches, config)
    with policy.unsharded():
        rewards = appo.rewards_of(prompts)
        branched = []
        for batch in batches:
            branched.append(branch_early(policy, sampler, batch, config, rewards))
        rewards.set([x for branches in branched for x in branches])
    for batch, branches in zip(batches, branched):
        score_again(policy, batch, config)
        guarded_credit(batch, branches, config)
        meter.add(batch, appo.update(policy, optimizer, batch, config, guarded_loss))
    return [r for rollouts in (*batches, *branched) for r in rollouts]


def branch_early(
    policy: Policy,
    sampler: Sampler,
    rollouts: list[Rollout],
    config: Config,
    rewards: Rewards,
) -> list[Rollout]:
    """logp_old, branch points and branches of a mini-batch, before any update."""
    branches = []
    for part in cache_parts(rollouts, config):
        cache = appo.score_now(policy, part, config)
        for r in part:
            r.logp_old = r.logp
        appo.set_omega(part, config)
        points = pooled_points(policy, part, config)
        # the chosen token is kept: what follows it is drawn
        points = [[t + 1 for t in places] for places in points]
        branches += sampler.branches(part, points, cache, rewards.begin)
        del cache
    return branches


@in_phase("score")
def score_again(policy: Policy, rollouts: list[Rollout], config: Config) -> None:
    """Log-probs under the policy as it is before an update."""
    with policy.unsharded():
        for part in cache_parts(rollouts, config):
            policy.score(part, config.temperature, config.micro_tokens)


@in_phase("score")
def pooled_points(policy: Policy, rollouts: list[Rollout], config: Config) -> list[list[int]]:
    """The N * B best tokens of each prompt, as token indices per rollout.

    Not the last token before a result or the end: a kept token must have one after it to draw, and
    min_new tokens of the budget behind it.
    """
    allowed, last = [], config.max_tokens - config.min_new - 1
    for r in rollouts:
        fit = appo.candidates(policy, r, config)
        follows = [*r.mask[1:], False]
        allowed.append([ok and follows[t] and t <= last for t, ok in enumerate(fit)])
    scores, preferred, _ = appo.rank_tokens(policy, rollouts, config)
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


@in_phase("update")
def guarded_credit(rollouts: list[Rollout], branches: list[Rollout], config: Config) -> None:
    """Eq. 6-7 with the guards of the future term."""
    appo.hand_out(rollouts, "omega", guarded_omega(rollouts, config))
    appo.compare_groups(rollouts, branches, config)
    for r in rollouts:
        ratio = (r.logp - r.logp_old).exp()
        guarded = (r.advantage < 0) & (ratio > RATIO_GUARD)
        omega = r.omega.clamp(*config.future_clip)
        omega = torch.where(guarded, r.omega.clamp(*GUARD_CLIP), omega)
        r.advantage = scale_by_future(r.advantage, omega, config.future_weight, (0.0, math.inf))


def guarded_omega(rollouts: list[Rollout], config: Config) -> Tensor:
    """Omega, (R, T), without the tokens whose log-ratio is above log 3."""
    old = [r.logp_old for r in rollouts]
    now = [torch.where(r.logp - r.logp_old > math.log(3.0), r.logp_old, r.logp) for r in rollouts]
    mask = pad([r.mask for r in rollouts], torch.bool)
    now, old = pad(now, torch.float32), pad(old, torch.float32)
    return future_value(now, old, mask, config.half_life, config.decay_over)


def guarded_loss(
    logp: Tensor, logp_old: Tensor, adv: Tensor, mask: Tensor, **how
) -> tuple[Tensor, dict]:
    """policy_loss; a rollout with more than one dual-clipped token keeps its KL term only."""
    ratio = (logp.detach() - logp_old).exp()
    dual = mask & (adv < 0) & (ratio > how["clip_c"])
    adv = torch.where(dual.sum(-1, keepdim=True) > 1, 0.0, adv)
    value, stats = policy_loss(logp, logp_old, adv, mask, **how)
    # those of the rollouts left out count too
    return value, stats | {"clip_dual": int(dual.sum()) / max(stats["tokens"], 1)}
