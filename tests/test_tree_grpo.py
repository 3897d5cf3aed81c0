"""methods/tree_grpo.py: random nodes, the two comparisons, one step."""

import dataclasses
import math
from collections import Counter

import pytest
import torch
from conftest import CONFIG, one_step, snapshot
from test_arpo import member

from config import ALGOS
from methods import trained_branches, tree_grpo
from policy import Policy
from rollout import Rollout
from support.ranks import Ranks

TREE = dataclasses.replace(CONFIG, **ALGOS["tree_grpo"], prompts=4, minibatch=2)


def test_credit_worked_out_by_hand():
    """Two trees of three leaves; a branch of a branch belongs to the tree of its root."""
    rewards = [1.0, 0.0, 0.5, 0.0, 0.0, 0.0]
    leaves = [
        Rollout([1], n, 3, ids=[1, 2], mask=[True, False], reward=x) for n, x in enumerate(rewards)
    ]
    leaves[1].parent, leaves[2].parent = leaves[0], leaves[1]
    leaves[4].parent = leaves[5].parent = leaves[3]
    tree_grpo.leaf_credit(leaves, TREE, Ranks())
    within = math.sqrt((0.25 + 0.25 + 0.0) / 3)
    across = math.sqrt((0.75**2 + 0.25**2 + 0.25**2 + 3 * 0.25**2) / 6)
    want = [0.5 / within + 0.75 / across, -0.5 / within - 0.25 / across, 0.25 / across]
    want += [-0.25 / across] * 3
    for leaf, a in zip(leaves, want, strict=True):
        torch.testing.assert_close(leaf.advantage, torch.tensor([a, 0.0]), atol=1e-4, rtol=0)


def test_nodes_are_drawn_evenly_with_replacement():
    """The prompt and the two turns behind results: a third of the branches each."""
    config = dataclasses.replace(TREE, branches=3)
    mine = [member(0, seed, [[1.0] * 3] * 3) for seed in range(500)]
    asked = []
    tree_grpo.random_nodes(None, mine, config, lambda r, points: asked.append(points))
    [points] = asked
    assert all(len(places) == 3 for places in points)
    drawn = Counter(t for places in points for t in places)
    assert set(drawn) == {0, 5, 10} and all(abs(n - 500) < 90 for n in drawn.values())
    assert any(len(set(places)) < 3 for places in points), "with replacement"
    short = dataclasses.replace(config, max_tokens=13)
    tree_grpo.random_nodes(None, mine[:20], short, lambda r, points: asked.append(points))
    assert {t for places in asked[1] for t in places} == {0, 5}


@pytest.mark.slow
def test_a_step(agent_folder, tools, prompts):
    policy = Policy.load(str(agent_folder))
    before = [p.clone() for p in policy.model.parameters()]
    metrics, rollouts = one_step(policy, tools, prompts, TREE, step=tree_grpo.step)
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.model.parameters()))
    assert all(math.isfinite(x) for x in metrics.values()) and metrics["skipped"] == 0
    assert len(rollouts) == 4 * 6 and metrics["branches"] == 4 * 4
    assert metrics["tokens_trained"] == sum(sum(r.mask) for r in rollouts)
    for x in (r for r in rollouts if r.parent is not None):
        assert x.parent.parent is None and len(x.ids) > x.fork_at
        assert x.fork_at in {0, *trained_branches.after_results(x.parent, TREE)}
    assert any(x.fork_at for x in rollouts) and any(x.parent and not x.fork_at for x in rollouts)
    again, same = one_step(
        Policy.load(str(agent_folder)), tools, prompts, TREE, step=tree_grpo.step
    )
    assert [snapshot(r) for r in rollouts] == [snapshot(r) for r in same]
    assert again["loss"] == metrics["loss"]
