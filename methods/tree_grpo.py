"""Tree-GRPO (arXiv 2509.21240): trees of agent steps, compared within a tree and across trees.

    1. N trees of a prompt (M in the paper): initial rollouts, as in appo.py
    2. B nodes of each tree (N in the paper) at random, with replacement: the prompt, or a turn that
       follows a tool result; a new branch starts at each
    3. credit: within the tree plus within the prompt
    4. update: as in appo.py, on all N (B + 1) leaves

    A_i = (R_i - mean_tree R) / std_tree R + (R_i - mean_prompt R) / std_prompt R

Source: the authors' code (github.com/AMAP-ML/Tree-GRPO, commit 90b1709), read: nodes in
tree_node.py (get_expand_node), credit in ray_trainer_ts.py ("tree"), the numbers in its three
scripts: 2 trees, 2 nodes, 1 iteration, ratio clip 0.2, dual clip 3, a mean over tokens. Not
confirmed: the numbers of the paper's equations.
Differs from it in: --std_correction (unbiased there); no KL term unless --kl_coef (0.001 there);
one iteration (L = 1) is all there is; a node that leaves less than min_new tokens of the budget is
none.
"""

from functools import partial

import torch

from advantage import group_advantage
from config import Config
from methods import trained_branches
from methods.grpo import rewards_by_group, spread_over_tokens
from methods.trained_branches import Fork, after_results
from policy import Policy
from rollout import Rollout
from support.phases import in_phase
from support.ranks import Ranks
from support.seeds import BRANCHES, mix_seed, uniform


def random_nodes(
    policy: Policy, rollouts: list[Rollout], config: Config, fork: Fork
) -> list[Rollout]:
    """B branches of every initial rollout, each from one of its nodes."""
    points = []
    for r in rollouts:
        nodes = [0, *after_results(r, config)]
        seeds = torch.full((config.branches,), mix_seed(r.seed, BRANCHES))
        drawn = uniform(seeds, torch.arange(config.branches)).tolist()
        points.append([nodes[int(u * len(nodes))] for u in drawn])
    return fork(rollouts, points)


@in_phase("update")
def leaf_credit(rollouts: list[Rollout], config: Config, ranks: Ranks) -> None:
    """Every token of a leaf earns its distance from its tree and from its prompt."""
    roots = [id(root_of(r)) for r in rollouts]
    rewards, prompt = rewards_by_group(rollouts)
    tree = torch.tensor([roots.index(root) for root in roots], dtype=torch.long)
    within = group_advantage(rewards, config.std_correction, tree)
    across = group_advantage(rewards, config.std_correction, prompt)
    spread_over_tokens(rollouts, within + across)


def root_of(r: Rollout) -> Rollout:
    """The initial rollout that a rollout descends from."""
    return r if r.parent is None else root_of(r.parent)


step = partial(trained_branches.step, expand=random_nodes, credit=leaf_credit)
