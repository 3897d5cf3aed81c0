"""Ours, not the paper's: a tree credits itself, and every sampled token is trained on once.

    1-3. as in appo.py: initial rollouts, tools, rewards
    4.   log-probs at the start of the step
    5.   grow: branches from points of the initial rollouts, by the policy of the start
    6.   tree_credit: leaves that share a token against those that parted at the fork before it
    7.   update_trees: one packed pass over each tree, shared prefixes once

Credit of token t of rollout m; a and b are rollouts of the prompt, s(a, b) the tokens they share:

    g    = max{ s(m, b) : s(m, b) <= t }                    the last fork before t
    A_mt = mean{ R_b : s(m, b) > t } - mean{ R_b : s(m, b) = g }

The first mean estimates the value of the prefix that ends with t; the second the value of the
prefix before the last fork, without the rollouts that share t. Without forks it is the
leave-one-out baseline. No standard deviation, no future term.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from advantage import policy_loss
from appo import (
    Prompt,
    decision_points,
    hand_out,
    loss_of,
    rewards_of,
    sample_initial,
    set_omega,
)
from config import Config
from methods.grpo import start_log_probs
from policy import Policy
from rollout import Rollout
from sampling import Sampler
from support.metrics import Meter, over_passes
from support.packed_trees import (
    logp_of_trees,
    own_mask,
    shared_tokens,
    tree_passes,
    tree_width,
    unique_tokens,
)
from support.phases import in_phase
from support.schedule import cache_parts, in_epochs


def step(
    policy: Policy, optimizer, sampler: Sampler, prompts: list[Prompt], config: Config, meter: Meter
) -> list[Rollout]:
    """One step; arguments and result as in appo.step."""
    with policy.unsharded():
        batches = sample_initial(policy, sampler, prompts, config)
        rewards = rewards_of(prompts)
        grown = [grow(policy, sampler, batch, config, rewards) for batch in batches]
        rewards.set([x for branches in grown for x in branches])
    batches = [[*batch, *branches] for batch, branches in zip(batches, grown)]
    start_log_probs(policy, batches, config)
    for batch in batches:
        assign_tree_credit(batch)
    for batch in in_epochs(batches, prompts, config):
        stats = update_trees(policy, optimizer, batch, config)
        meter.add(as_trained([batch]), [], stats)
    return [r for batch in batches for r in batch]


def grow(policy: Policy, sampler: Sampler, rollouts: list[Rollout], config: Config, rewards):
    """Branches of a mini-batch, before any update."""
    branches = []
    for part in cache_parts(rollouts, config):
        cache = policy.score(part, config.temperature, config.micro_tokens, keep_cache=True)
        for r in part:
            r.logp_old = r.logp
        set_omega(part, config)
        points = fork_places(policy, part, config)
        branches += sampler.branches(part, points, cache, rewards.begin)
        del cache
    return branches


def fork_places(policy: Policy, rollouts: list[Rollout], config: Config) -> list[list[int]]:
    return decision_points(policy, rollouts, config)


@in_phase("update")
def assign_tree_credit(rollouts: list[Rollout]) -> None:
    """Set r.advantage of all rollouts of a mini-batch, prompts apart."""
    for tree in trees_of(rollouts):
        rewards = torch.tensor([r.reward for r in tree], dtype=torch.float64)
        credit = tree_credit(rewards, shared_tokens(tree))
        hand_out(tree, "advantage", credit.float())


def trees_of(rollouts: list[Rollout]) -> list[list[Rollout]]:
    """The rollouts of each prompt, in the order given."""
    groups = dict.fromkeys(r.group for r in rollouts)
    return [[r for r in rollouts if r.group == group] for group in groups]


def tree_credit(rewards: Tensor, shared: Tensor) -> Tensor:
    """The credit of every token of a tree's rollouts.

    Args:    rewards: (R,). shared: (R, R) tokens that two rollouts share; (m, m) all of m's.
    Returns: (R, T); 0 where nobody parted before, and behind a rollout's end.
    """
    R, T = len(rewards), max(1, int(shared.max()))
    credit = torch.zeros(R, T, dtype=rewards.dtype)
    for m in range(R):
        for start, end, others in segments(shared[m], m):
            with_it = shared[m] >= end
            credit[m, start:end] = rewards[with_it].mean() - rewards[others].mean()
    return credit


def segments(shared: Tensor, m: int):
    """Tokens of rollout m between two forks: (start, end, who parted at the start)."""
    length = int(shared[m])
    others = torch.arange(len(shared)) != m
    forks = sorted({int(s) for s in shared[others] if s < length})
    for start, end in zip(forks, [*forks[1:], length]):
        yield start, end, others & (shared == start)


@in_phase("update")
def update_trees(policy: Policy, optimizer, rollouts: list[Rollout], config: Config) -> dict:
    """One optimizer step on the own tokens of all rollouts, each with the same weight.

    Returns: as appo.update; "padding" is that of the packed trees.
    """
    ranks, trees = policy.ranks, trees_of(rollouts)
    config = replace(config, aggregate="token-mean")
    [total] = ranks.sum([sum(sum(own_mask(r)) for r in rollouts)])
    passes = []
    optimizer.zero_grad(set_to_none=True)
    policy.model.train(config.checkpointing)
    for part in tree_passes(trees, config.micro_tokens, ranks):
        logp = logp_of_trees(policy, part, config.temperature)  # (R, T)
        value, stats = loss_of(as_trained(part), logp, total, config, policy_loss)
        value.backward()
        padded = len(part) * max(map(tree_width, part))
        passes.append(stats | {"loss": value.item(), "padded": padded})
    policy.model.eval()
    norm = policy.take_step([optimizer], config.clip_grad)
    return over_passes(passes, sum(map(unique_tokens, trees)), ranks) | {
        "grad_norm": norm,
        "skipped": float(not math.isfinite(norm)),
    }


def as_trained(trees: list[list[Rollout]]) -> list[Rollout]:
    """Their rollouts with a mask that holds own policy tokens alone."""
    return [replace(r, mask=own_mask(r)) for tree in trees for r in tree]
