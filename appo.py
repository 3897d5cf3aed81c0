"""APPO, Agentic Procedural Policy Optimization (arXiv 2606.12384): one training step.

    1. Sampler.initial    N initial rollouts of every prompt, forked from one prefill
    2. Sampler.run        one loop decodes all rows; tools answer inside it
    3. Rewards            a number for every rollout, in threads while others are sampled
    4. Policy.score       log-probs at the start of the step, before the policy moves
    then, for every mini-batch of prompts, with the policy as it is by then:
    5. decision_points    uncertain tokens whose future has become likelier          (Eq. 3-5)
    6. Sampler.branches   resample from those tokens; a branch copies its parent's cache
    7. assign_credit      two groups, then the future term                           (Eq. 6-7)
    8. update             clipped policy gradient on the initial rollouts            (Eq. 8)

Every number of a token lives on its Rollout (rollout.py). Branches never enter the loss. Words:
    to score     one pass of the model over whole rollouts; the branching score is Eq. 5
    two groups   of a prompt: its initial rollouts, its branches; each is compared within itself
    credit       the advantage of a token
    unsharded    every process holds the whole weights, as sampling needs
    part         a mini-batch, or a piece of it whose cache fits into --fork_tokens
    pass         one call of the model, on a micro-batch: --micro_tokens tokens at most
    in_phase     what the time of a function counts for (support/phases.py)

Differs from the paper in: README's five departures. A gap filled here: before the first update of a
step Omega is 1 everywhere and Eq. 5 is undefined; there entropy alone chooses.
Differs from the released code in: the chosen token is drawn anew, not kept; the B best points of
every rollout, not the N B best of a prompt; branches are drawn before every update with the current
policy, not once per step with the old one (methods/released.py does all three its way); closing
tags in the prompt do not count as calls; no token that the policy did not sample is trained on.

Axes: R rollouts of a mini-batch or of a pass, N of them of one prompt, T response tokens.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advantage import dual_group_advantage, policy_loss, scale_by_future
from branching import (
    branch_candidates,
    choose_branch_points,
    future_value,
    omega_is_constant,
)
from config import Config
from policy import Policy, pad, padded_width
from rollout import Rollout
from sampling import Sampler
from support.criteria import Tokens, ranked
from support.metrics import Meter, over_passes
from support.phases import in_phase
from support.reward_calls import Rewards
from support.schedule import (
    cache_parts,
    check_step,
    equal_passes,
    in_epochs,
    refuse_broken_rewards,
    refuse_broken_tools,
    split_minibatches,
)


@dataclass(frozen=True)
class Prompt:
    """What is asked: token ids, the seed of its rollouts, and what a rollout earns: a number, or
    {"reward": number, ...} with more to log. question: what tools with a state are opened with."""

    ids: list[int]
    seed: int
    reward: Callable[[Rollout], float | dict]
    question: Any = None


def step(
    policy: Policy, optimizer, sampler: Sampler, prompts: list[Prompt], config: Config, meter: Meter
) -> list[Rollout]:
    """One step of APPO over the prompts of all ranks; each rank takes its share of them.

    Returns: this rank's initial rollouts, then its branches. The numbers are in `meter`.
    Raises:  ValueError if the sampler or the reference does not fit the configuration;
             Unavailable, before any update, if more than half of the initial rollouts' tool calls
             or rewards failed. Of branches that is only logged.
    """
    # 1-3. initial rollouts, tools inside the loop, rewards
    with policy.unsharded():
        batches = sample_initial(policy, sampler, prompts, config)
    # 4. log-probs at the start of the step, before the policy moves
    score_start(policy, batches, config)
    rollouts = [r for batch in batches for r in batch]
    for batch in in_epochs(batches, prompts, config):
        branches, rewards = [], rewards_of(prompts)
        with policy.unsharded():
            for part in cache_parts(batch, config):
                # 5. uncertain tokens (Eq. 3) whose future has become likelier (Eq. 4-5)
                cache = score_now(policy, part, config)
                set_omega(part, config)
                points = decision_points(policy, part, config)
                # 6. branches from there, and their rewards
                branches += sampler.branches(part, points, cache, finished=rewards.begin)
                # its memory is needed by the next part and by the update
                del cache
        rewards.set(branches)
        # 7. credit from both groups, scaled by the future value
        assign_credit(batch, branches, config)
        # 8. one optimizer step on the initial rollouts
        stats = update(policy, optimizer, batch, config)
        meter.add(batch, stats)
        rollouts += branches
    return rollouts


# ---- 1-4. the start of a step


def sample_initial(
    policy: Policy, sampler: Sampler, prompts: list[Prompt], config: Config
) -> list[list[Rollout]]:
    """N rewarded rollouts of every prompt: all in one run of the sampler, then by mini-batch."""
    check_step(policy, sampler, prompts, config)
    minibatches = split_minibatches(prompts, config, policy.ranks)
    mine = sorted(p for batch in minibatches for p in batch)
    rollouts = sample_prompts(policy, sampler, prompts, mine, config)
    return [[r for p in batch for r in rollouts if r.group == p] for batch in minibatches]


def sample_prompts(
    policy: Policy, sampler: Sampler, prompts: list[Prompt], mine: list[int], config: Config
) -> list[Rollout]:
    """N rewarded rollouts of each of these prompts. mine: their indices, this rank's."""
    asked = [prompts[p] for p in mine]
    rewards = rewards_of(prompts)
    rollouts = sampler.initial(
        [prompt.ids for prompt in asked],
        config.initial,
        [prompt.seed for prompt in asked],
        groups=mine,
        finished=rewards.begin,
        questions=[prompt.question for prompt in asked],
    )
    rewards.set(rollouts)
    refuse_broken_tools(rollouts, policy.ranks, sampler.tools)
    refuse_broken_rewards(rollouts, policy.ranks)
    return rollouts


def rewards_of(prompts: list[Prompt]) -> Rewards:
    """Rewards of rollouts, each by its prompt; they begin while others are still sampled."""
    return Rewards(lambda rollout: prompts[rollout.group].reward(rollout))


@in_phase("score")
def score_start(policy: Policy, batches: list[list[Rollout]], config: Config) -> None:
    """Set r.logp_old of all mini-batches, and r.logp_ref if there is a KL term.

    The passes are those of `score_now`, so Omega is exactly 1 while the policy has not moved. The
    sampler's own log-probs would not do: they round otherwise, and that would pass for a move.
    """
    score_reference(policy, batches, config)
    with policy.unsharded():
        for batch in batches:
            for part in cache_parts(batch, config):
                policy.score(part, config.temperature, config.micro_tokens)
    for r in (r for batch in batches for r in batch):
        r.logp_old = r.logp


def score_reference(policy: Policy, batches: list[list[Rollout]], config: Config) -> None:
    """Set r.logp_ref under the frozen reference, if there is a KL term.

    Ranks hold unequal numbers of rollouts: the reference's weights are gathered once for all.
    r.logp is the reference's until the policy itself is scored.
    """
    if not config.kl_coef:
        return
    with policy.reference.unsharded():
        for batch in batches:
            policy.reference.score(batch, config.temperature, config.micro_tokens)
    for r in (r for batch in batches for r in batch):
        r.logp_ref = r.logp


# ---- 5. decision points


@in_phase("score")
def score_now(policy: Policy, rollouts: list[Rollout], config: Config):
    """Set r.logp and r.entropy (Eq. 3); returns the cache that branches fork from, if B > 0."""
    keep = config.branches > 0
    return policy.score(rollouts, config.temperature, config.micro_tokens, keep_cache=keep)


@in_phase("score")
def set_omega(rollouts: list[Rollout], config: Config) -> None:
    """Set r.omega, for the credit, and r.score_omega, for the branching score (Eq. 4).

    They differ in their half-lives only.
    """
    hand_out(rollouts, "omega", omega_of(rollouts, config.half_life, config))
    hand_out(rollouts, "score_omega", omega_of(rollouts, config.score_half_life, config))


def omega_of(rollouts: list[Rollout], half_life: float, config: Config) -> Tensor:
    """Omega, (R, T): how much likelier the policy now makes what follows each token (Eq. 4)."""
    now, old = (pad([getattr(r, x) for r in rollouts], torch.float32) for x in ("logp", "logp_old"))
    mask = pad([r.mask for r in rollouts], torch.bool)
    return future_value(now, old, mask, half_life, config.decay_over)


@in_phase("score")
def decision_points(policy: Policy, rollouts: list[Rollout], config: Config) -> list[list[int]]:
    """The tokens of each rollout to branch at, best first: the B best by branching score (Eq. 5),
    or by another --criterion.

    Needs r.entropy and r.score_omega; sets r.branching_score and r.degenerate.
    """
    scores, preferred, top_up = rank_tokens(policy, rollouts, config)
    allowed = pad([candidates(policy, r, config) for r in rollouts], torch.bool)
    return choose_branch_points(scores, allowed, config.branches, preferred, top_up)


def rank_tokens(
    policy: Policy, rollouts: list[Rollout], config: Config
) -> tuple[Tensor, Tensor | None, Tensor]:
    """What `choose_branch_points` takes, (R, T) each, for Eq. 5.

    scores: branching_score. preferred: both_above_average. top_up: entropy. Where Omega is constant
    the score is z(H); where entropy is constant too, a uniform draw. Which criterion:
    support/criteria.py. Sets r.branching_score and r.degenerate.
    """
    tokens = Tokens.of(policy, rollouts)
    scores, preferred, top_up = ranked(tokens, config)
    hand_out(rollouts, "branching_score", scores)
    constant = omega_is_constant(tokens.omega, tokens.mask, config.score_clip)  # (R,)
    for r, alike in zip(rollouts, constant.tolist()):
        r.degenerate = alike
    return scores, preferred, top_up


def hand_out(rollouts: list[Rollout], name: str, rows: Tensor) -> None:
    """Give every rollout its row of (R, T), without the padding."""
    for r, row in zip(rollouts, rows):
        setattr(r, name, row[: len(r.ids)].clone())


def candidates(policy: Policy, rollout: Rollout, config: Config) -> list[bool]:
    """Where a branch of this rollout may start, (T,).

    Not the first token that it drew itself: every sibling draws that one anyway. Not an end of turn
    or padding. At least min_new tokens of the budget must be left.
    """
    texts = [policy.text[i] for i in rollout.ids]
    fit = branch_candidates(texts, rollout.mask, rollout.family.protocol.tags, config.exclude_punct)
    never = policy.stop_ids | {policy.tokenizer.pad_token_id}
    last = config.max_tokens - config.min_new
    return [
        ok and rollout.fork_at < t <= last and i not in never
        for t, (ok, i) in enumerate(zip(fit, rollout.ids))
    ]


# ---- 7. credit


@in_phase("update")
def assign_credit(rollouts: list[Rollout], branches: list[Rollout], config: Config) -> None:
    """Set r.advantage of the initial rollouts: Eq. 6, prompts apart, then Eq. 7 with r.omega.

    branches: of these rollouts, in any order.
    """
    compare_groups(rollouts, branches, config)
    for r in rollouts:
        weight, clip = config.future_weight, config.future_clip
        r.advantage = scale_by_future(r.advantage, r.omega, weight, clip)


def compare_groups(rollouts: list[Rollout], branches: list[Rollout], config: Config) -> None:
    """Set r.advantage by Eq. 6: a branch credits the tokens that it shares with its parent."""
    index = {id(r): n for n, r in enumerate(rollouts)}
    advantage = dual_group_advantage(
        rewards=torch.tensor([r.reward for r in rollouts], dtype=torch.float64),
        branch_rewards=torch.tensor([x.reward for x in branches], dtype=torch.float64),
        parent=torch.tensor([index[id(x.parent)] for x in branches], dtype=torch.long),
        fork_at=torch.tensor([x.fork_at for x in branches], dtype=torch.long),
        mask=pad([r.mask for r in rollouts], torch.bool),
        how=config.dual,
        correction=config.std_correction,
        group=torch.tensor([r.group for r in rollouts]),
    )  # (R, T)
    hand_out(rollouts, "advantage", advantage.float())


# ---- 8. the update


@in_phase("update")
def update(
    policy: Policy, optimizer, rollouts: list[Rollout], config: Config, loss=policy_loss
) -> dict:
    """One optimizer step on a mini-batch of initial rollouts (Eq. 8).

    The normaliser is the mini-batch's, over all ranks: its initial rollouts, times B + 1 with
    norm = "budget"; with aggregate = "token-mean" its policy tokens. So the gradient is the same
    however rollouts are split into passes. A gradient that is not finite changes nothing.

    Args:    rollouts: this rank's, with logp_old, advantage and, for a KL term, logp_ref.
             loss: takes what policy_loss takes and returns (loss, stats) as it does, with "tokens"
             and "ratio_max".
    Returns: the loss' statistics over all ranks; "loss", "padding", "skipped" (0 or 1), and
             "grad_norm" before clipping.
    """
    ranks = policy.ranks
    tokens, count = ranks.sum([sum(sum(r.mask) for r in rollouts), len(rollouts)])
    total = tokens if config.aggregate == "token-mean" else count
    if config.norm == "budget" and config.aggregate == "seq-mean":
        total *= config.branches + 1

    def losses() -> Iterator[tuple[Tensor, dict, int]]:
        for micro_batch in equal_passes(rollouts, config.micro_tokens, ranks):
            logp = policy.logp(micro_batch, config.temperature)  # (R, T)
            value, stats = loss_of(micro_batch, logp, total, config, loss)
            yield value, stats, len(micro_batch) * padded_width(micro_batch)

    unpadded = sum(len(r.prompt) + len(r.ids) for r in rollouts)
    return descend(policy, optimizer, losses(), unpadded, config)


def descend(
    policy: Policy,
    optimizer,
    losses: Iterator[tuple[Tensor, dict, int]],
    unpadded: int,
    config: Config,
) -> dict:
    """One optimizer step on the sum of the losses of passes; returns as update does.

    losses: the loss of each pass, its statistics, its tokens with padding; made one at a time.
    unpadded: tokens of all passes without padding.
    """
    passes = []
    optimizer.zero_grad(set_to_none=True)
    # transformers recomputes activations in training mode only
    policy.model.train(config.checkpointing)
    for value, stats, padded in losses:
        value.backward()
        passes.append(stats | {"loss": value.item(), "padded": padded})
    policy.model.eval()
    norm = policy.take_step([optimizer], config.clip_grad)
    return over_passes(passes, unpadded, policy.ranks) | {
        "grad_norm": norm,
        "skipped": float(not math.isfinite(norm)),
    }


def loss_of(
    rollouts: list[Rollout], logp: Tensor, total: float, config: Config, loss
) -> tuple[Tensor, dict]:
    """The loss of one pass, from logp (R, T) with its gradient and what its rollouts hold."""

    def rows(name: str) -> Tensor:
        return pad([getattr(r, name) for r in rollouts], torch.float32).to(logp.device)

    return loss(
        logp,
        rows("logp_old"),
        rows("advantage"),
        pad([r.mask for r in rollouts], torch.bool).to(logp.device),
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        clip_c=config.clip_c,
        aggregate=config.aggregate,
        total=total,
        logp_ref=rows("logp_ref") if config.kl_coef else None,
        kl_coef=config.kl_coef,
    )
