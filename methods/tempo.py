"""TEMPO (arXiv 2509.18314): GRPO's rollouts and advantage, and the change of a prefix tree's value.

    1-4. as in grpo.py: G independent rollouts, tools, rewards, log-probs
    5.   credit: the tree of common prefixes gives every token the change of value that it made
    6.   update: as in grpo.py

    z_i  = (R_i - mean R) / std R                     within the prompt's G rollouts
    V(s) = mean of z over the rollouts that begin with the tokens s
    A_it = z_i + V(s_t+1) - V(s_t)                    s_t: the prompt and the first t tokens

Where all rollouts that share s_t draw the same token, or only one is left, this is GRPO.

Source: the authors' code (github.com/fatebreaker/tempo, core_algos.py, commit 0a1c273), read: the
advantage, and that the change of V is divided by std R as well. The abstract agrees (GRPO plus
temporal differences at branching tokens). Not confirmed: the numbers of the paper's equations.
Differs from that code in: --std_correction (unbiased there); a tool's tokens belong to the prefix,
so a tree goes on behind a shared tool result (theirs ends at the first one). The value that such a
result changes is nobody's credit.
"""

from functools import partial

import torch
from torch import Tensor

from advantage import group_advantage
from config import Config
from methods import grpo
from rollout import Rollout
from support.phases import in_phase
from support.ranks import Ranks


@in_phase("update")
def prefix_credit(rollouts: list[Rollout], config: Config, ranks: Ranks) -> None:
    """Set r.advantage, (T,): z_i + V(s_t+1) - V(s_t), 0 at a tool's tokens."""
    rewards, group = grpo.rewards_by_group(rollouts)
    z = group_advantage(rewards, config.std_correction, group)
    for g in group.unique():
        members = (group == g).nonzero()[:, 0].tolist()
        changes = value_changes([rollouts[n].ids for n in members], z[members])
        for n, change in zip(members, changes, strict=True):
            r = rollouts[n]
            r.advantage = ((z[n] + change) * torch.tensor(r.mask)).float()


def value_changes(responses: list[list[int]], value: Tensor) -> list[Tensor]:
    """V(s_t+1) - V(s_t) of every token of each response, (T,) each.

    value: (G,), what each response is worth; V(s) is its mean over those that begin with s.
    """
    changes = [torch.zeros(len(ids), dtype=value.dtype) for ids in responses]
    for ids, change in zip(responses, changes):
        sharing = list(range(len(responses)))
        for t, token in enumerate(ids):
            after = [k for k in sharing if responses[k][t : t + 1] == [token]]
            # alone it stays: nothing changes any more
            if len(sharing) == 1:
                break
            change[t] = value[after].mean() - value[sharing].mean()
            sharing = after
    return changes


step = partial(grpo.step, credit=prefix_credit)
