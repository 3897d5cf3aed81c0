"""Ours, not the paper's: a tree credits itself, and every sampled token is trained on once.

    1-3. as in appo.py: initial rollouts, tools, rewards
    4.   at_a_turn: B branches of each, all from the start of the turn behind --fork_turn results
    5.   log-probs at the start of the step
    6.   tree_credit: leaves that share a token against those that parted at the fork before it
    7.   update_trees: one pass over each tree, shared prefixes once

Credit of token t of rollout m; a and b are rollouts of the prompt. s(a, b) is how many first tokens
they share by their forks, s(m, m) the length of m:

    g    = max{ s(m, b) : s(m, b) <= t }                    the last fork before t; none: credit 0
    A_mt = mean{ R_b : s(m, b) > t } - mean{ R_b : s(m, b) = g }

The first mean estimates the value of the prefix that ends with t. The second is a baseline: of the
rollouts that parted at the last fork, none of which shares t. Without forks it is leave-one-out.
No standard deviation, no future term.
Where a tree forks depends on the prefix alone, so the credit of a token has no bias, given its
prefix. Behind a fork there are B + 1 rows of tokens, before it one: the endings weigh more in an
update. A branch costs its suffix: many are cheap where the turns before the fork are long.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from advantage import policy_loss
from appo import descend, hand_out, loss_of
from config import Config
from methods import trained_branches
from methods.trained_branches import Fork, after_results
from policy import Policy
from rollout import Rollout
from support.phases import in_phase
from support.ranks import Ranks
from support.tree_levels import (
    logp_of_trees,
    own_mask,
    padded_tokens,
    shared_tokens,
    tree_passes,
    unique_tokens,
)


def at_a_turn(policy: Policy, rollouts: list[Rollout], config: Config, fork: Fork):
    """B branches of each initial rollout from the start of one turn, none if it did not get there.

    Siblings from one place are compared with each other, and with their parent.
    """
    began = [after_results(r, config)[config.fork_turn - 1 : config.fork_turn] for r in rollouts]
    # [t] or []
    return fork(rollouts, [turn * config.branches for turn in began])


@in_phase("update")
def assign_tree_credit(rollouts: list[Rollout], config: Config, ranks: Ranks) -> None:
    """Set r.advantage of all rollouts of a step, prompts apart; as grpo.group_credit."""
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


def segments(shared: Tensor, m: int) -> Iterator[tuple[int, int, Tensor]]:
    """Tokens of rollout m between two forks: (start, end, who parted at the start)."""
    length = int(shared[m])
    others = torch.arange(len(shared)) != m
    forks = sorted({int(s) for s in shared[others] if s < length})
    for start, end in zip(forks, [*forks[1:], length]):
        yield start, end, others & (shared == start)


@in_phase("update")
def update_trees(policy: Policy, optimizer, rollouts: list[Rollout], config: Config):
    """One optimizer step on the own tokens of all rollouts, each with the same weight.

    Returns: (what was trained, statistics as appo.update's); "padding" is that of levels.
    """
    ranks, trees = policy.ranks, trees_of(rollouts)
    [total] = ranks.sum([sum(sum(own_mask(r)) for r in rollouts)])

    def losses() -> Iterator[tuple[Tensor, dict, int]]:
        for part in tree_passes(trees, config.micro_tokens, ranks):
            logp = logp_of_trees(policy, part, config.temperature)  # (R, T)
            loss = loss_of(as_trained(part), logp, total, config, policy_loss)
            yield *loss, padded_tokens(part)

    unique = sum(map(unique_tokens, trees))
    return as_trained(trees), descend(policy, optimizer, losses(), unique, config)


def as_trained(trees: list[list[Rollout]]) -> list[Rollout]:
    """Copies whose mask is True only at policy tokens from fork_at on; a parent is no copy."""
    return [replace(r, mask=own_mask(r)) for tree in trees for r in tree]


step = partial(
    trained_branches.step, expand=at_a_turn, credit=assign_tree_credit, learn=update_trees
)
