"""methods/tree.py: the credit of a tree, and one step of it."""

import dataclasses

import pytest
import torch
from conftest import CONFIG, one_step, snapshot
from test_appo import Keep
from test_tree_levels import grown

from config import ALGOS
from methods import tree
from methods.tree import tree_credit
from policy import Policy, pad
from rollout import Call, Rollout
from support import tree_levels
from support.tree_levels import own_mask, unique_tokens


def test_credit_of_a_tree_worked_out_by_hand():
    """Rollout 0 of 5 tokens, 1 forks from it at 3, 2 at 1; rollout 3 stands alone."""
    rewards = torch.tensor([1.0, 0.0, 0.5, 0.25], dtype=torch.float64)
    shared = torch.tensor([[5, 3, 1, 0], [3, 4, 1, 0], [1, 1, 3, 0], [0, 0, 0, 2]])
    first = (1 + 0 + 0.5) / 3 - 0.25
    want = [
        [first, 0.5 - 0.5, 0.5 - 0.5, 1 - 0, 1 - 0],
        [first, 0.5 - 0.5, 0.5 - 0.5, 0 - 1, 0],
        [first, 0.5 - (1 + 0) / 2, 0.5 - (1 + 0) / 2, 0, 0],
        [0.25 - 0.5, 0.25 - 0.5, 0, 0, 0],
    ]
    torch.testing.assert_close(tree_credit(rewards, shared), torch.tensor(want).double())


def test_without_forks_it_is_the_leave_one_out_baseline():
    rewards, n = torch.rand(6, dtype=torch.float64), 6
    credit = tree_credit(rewards, torch.diag(torch.full((n,), 4)))
    others = (rewards.sum() - rewards) / (n - 1)
    torch.testing.assert_close(credit, (rewards - others)[:, None].expand(n, 4))
    assert tree_credit(rewards[:1], torch.tensor([[4]])).abs().max() == 0


def test_credit_estimates_the_gradient_without_bias():
    """A bandit of two choices, exactly: all outcomes of a root choice, a later one and a fork.

    Each token's credit times its score function, averaged over all draws, is the true gradient of
    the expected reward with respect to that choice's logit at the state where it was made.
    """
    p, q = 0.3, (0.6, 0.2)
    value = torch.tensor([[0.1, 0.9], [0.4, 0.7]], dtype=torch.float64)
    mean = [q[a] * value[a, 1] + (1 - q[a]) * value[a, 0] for a in (0, 1)]
    truth = p * (1 - p) * (mean[1] - mean[0])
    shared = torch.tensor([[2, 1, 0], [1, 2, 0], [0, 0, 2]])
    total, later = 0.0, [0.0, 0.0]
    for code in range(2**5):
        a, b, c, d, e = ((code >> k) & 1 for k in range(5))
        # two rollouts a-b and d-e; a fork of the first that draws its second choice again: a-c
        chance = (p if a else 1 - p) * (p if d else 1 - p)
        for first, second in ((a, b), (a, c), (d, e)):
            chance *= q[first] if second else 1 - q[first]
        rewards = torch.stack([value[a, b], value[a, c], value[d, e]])
        credit = tree_credit(rewards, shared)
        total += chance * (credit[0, 0] * (a - p) + credit[2, 0] * (d - p))
        for row, first, second in ((0, a, b), (1, a, c), (2, d, e)):
            later[first] += chance * credit[row, 1] * (second - q[first])
    assert float(total / 2) == pytest.approx(float(truth), abs=1e-12)
    # three rollouts make the later choice, in either state
    for first, seen in ((0, 1 - p), (1, p)):
        truth = q[first] * (1 - q[first]) * (value[first, 1] - value[first, 0])
        assert float(later[first]) == pytest.approx(float(3 * seen * truth), abs=1e-12)


def test_all_branches_of_a_rollout_begin_where_one_turn_does():
    """Turns begin at 3 and 7, after results; the second rollout ends with its first result."""
    first = Rollout(
        [1], 0, ids=[*range(9)], mask=[True] * 2 + [False] + [True] * 3 + [False] + [True] * 2
    )
    first.calls = [Call("python", "", "ok", 0.0, 2, 3), Call("python", "", "ok", 0.0, 6, 7)]
    second = Rollout([1], 0, ids=[*range(3)], mask=[True] * 2 + [False])
    second.calls = [Call("python", "", "ok", 0.0, 2, 3)]
    asked = []
    for turn in (1, 2, 3):
        config = dataclasses.replace(
            CONFIG, **ALGOS["tree"] | {"branches": 2}, algo="tree", fork_turn=turn
        )
        tree.at_a_turn(None, [first, second], config, lambda rollouts, points: asked.append(points))
    assert asked == [[[3, 3], []], [[7, 7], []], [[], []]]
    with pytest.raises(ValueError, match="--fork_turn 2 is for --algo tree, got --algo grpo"):
        dataclasses.replace(CONFIG, **ALGOS["grpo"], algo="grpo", fork_turn=2)


@pytest.mark.parametrize("budget", [10**6, 1])
def test_the_gradient_of_an_update_is_that_of_its_rollouts(agent, budget):
    """Against whole rollouts, each own token once, in one pass or a pass a tree. The ratio is 1."""
    rollouts = grown([5, 6, 7], 11) + grown([9, 8], 9, seed=1, group=1)
    agent.score(rollouts, 1.0, 4096)
    generator = torch.Generator().manual_seed(0)
    for r in rollouts:
        r.logp_old, r.advantage = r.logp, torch.randn(len(r.ids), generator=generator)
    own = pad([own_mask(r) for r in rollouts], torch.bool)
    advantage = pad([r.advantage for r in rollouts], torch.float32)
    loss = -(agent.logp(rollouts, 1.0) * advantage * own).sum() / own.sum()
    want = torch.autograd.grad(loss, list(agent.model.parameters()))
    keep = Keep(agent.model.parameters(), lr=0.0)
    settings = ALGOS["tree"] | dict(algo="tree", clip_grad=0.0, micro_tokens=budget)
    tree.update_trees(agent, keep, rollouts, dataclasses.replace(CONFIG, **settings))
    for a, b in zip(keep.seen, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * float(b.abs().max()), rtol=0)


@pytest.mark.slow
def test_a_step(agent_folder, tools, prompts, monkeypatch):
    """Branches are trained too, every own token once, and nothing is computed twice.

    Tokens that the update puts through the model are the unique ones, padding apart.
    """
    policy = Policy.load(str(agent_folder))
    levels, hidden_of = [], tree_levels.hidden_of
    monkeypatch.setattr(
        tree_levels, "hidden_of", lambda *given: levels.extend(given[1]) or hidden_of(*given)
    )
    padded = []
    policy.decoder.register_forward_pre_hook(
        lambda _, args, given: (
            padded.append(given["input_ids"].numel()) if torch.is_grad_enabled() else None
        ),
        with_kwargs=True,
    )
    config = dataclasses.replace(CONFIG, **ALGOS["tree"], algo="tree")
    before = [p.clone() for p in policy.model.parameters()]
    metrics, rollouts = one_step(policy, tools, prompts, config, step=tree.step)
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.model.parameters()))
    assert metrics["branches"] > 0 and metrics["skipped"] == 0
    assert metrics["tokens_trained"] == sum(sum(own_mask(r)) for r in rollouts)
    trees = tree.trees_of(rollouts)
    assert metrics["tokens_unique"] == sum(map(unique_tokens, trees))
    computed = sum(len(ids) for level in levels for ids in level.ids)
    assert computed / metrics["tokens_unique"] == 1.0
    assert sum(padded) == sum(level.width * len(level.ids) for level in levels)
    monkeypatch.undo()
    again, same = one_step(Policy.load(str(agent_folder)), tools, prompts, config, step=tree.step)
    assert [snapshot(r) for r in rollouts] == [snapshot(r) for r in same]
    assert again["loss"] == metrics["loss"]
