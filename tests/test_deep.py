"""methods/deep.py: with one level it is appo; trees of two levels, and whom they credit."""

import dataclasses
import math

import pytest
import torch
from conftest import CONFIG, one_step
from method_parts import assert_a_step_is_appos

import appo
from config import Config, read_settings
from extras.plan import work
from methods import deep
from rollout import Rollout
from support.steplog import branch_lines, tree_rows

SMALL = dict(prompts=2, minibatch=1, initial=2, branches=2)
DEEP = dataclasses.replace(CONFIG, **SMALL, algo="deep", depth=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [dict(), dict(norm="budget", prompts=4, minibatch=2, fork_tokens=1)]
)
def test_one_level_is_appo_bit_for_bit(agent_folder, tools, prompts, changes):
    own = dict(algo="deep", depth=1)
    assert_a_step_is_appos(agent_folder, tools, prompts, deep.step, SMALL | changes, own)


@pytest.mark.slow
def test_a_step_of_two_levels(agent, tools, prompts, monkeypatch):
    """Every rollout is forked at B points, twice over: N (B + 1)^2 of a prompt, or a few less,
    where a branch is so short that it has no two tokens to fork at."""
    divided, update = [], appo.update

    def watched(*given):
        divided.append(given[-1].branches + 1)
        return update(*given)

    monkeypatch.setattr(appo, "update", watched)
    before = [p.clone() for p in agent.model.parameters()]
    numbers, tree = one_step(agent, tools, prompts, DEEP, step=deep.step)
    assert all(math.isfinite(v) for v in numbers.values()) and numbers["optimizer_steps"] == 2
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.model.parameters()))
    assert divided == [9, 9], "--norm budget divides by N (B + 1)^2"
    for group in range(2):
        rows = [r for r in tree if r.group == group]
        initial = [r for r in rows if r.parent is None]
        assert len(initial) == 2
        for r in initial:
            first = [x for x in rows if x.parent is r]
            assert len({x.fork_at for x in first}) == len(first) == 4
            forked = [sum(y.parent is x for y in rows) for x in first]
            own = [sum(x.mask[x.fork_at :]) for x in first]
            assert forked[2:] == [0, 0] and all(
                n == 2 or n < 2 and tokens < 6 for n, tokens in zip(forked[:2], own)
            )
    for x in (x for x in tree if x.parent):
        assert x.fork_at > x.parent.fork_at and x.ids[: x.fork_at] == x.parent.ids[: x.fork_at]
        assert x.advantage is None, "only initial rollouts are trained on"
    assert len({r.seed for r in tree}) == len(tree)
    made = len(tree) - 4
    assert numbers["branches"] == made and 28 < made <= work(DEEP, 100, 0.5)["branches"] == 32
    assert numbers["tokens_trained"] == sum(sum(r.mask) for r in tree if r.parent is None)
    rows = tree_rows(agent, 1, tree, 2)
    assert all(row["parent"] is None or row["parent"] < row["index"] for row in rows)
    assert len(branch_lines(agent, tree, 32)) == made


def grown(parent, at, reward):
    """A branch of six tokens."""
    x = parent.fork(at)
    x.ids, x.mask, x.reward = [2] * 6, [True] * 6, reward
    return x


def test_credit_by_all_descendants_that_share_a_token():
    """Initial rewards 1 and 0: z = 1, -1. Descendants earn 3, 1, 1, 3: z = 1, -1, -1, 1."""
    a, b = (Rollout([1], n, ids=[2] * 6, mask=[True] * 6, reward=1.0 - n) for n in range(2))
    a.omega = b.omega = torch.ones(6)
    first = grown(a, 2, 3.0)
    # shares two tokens with a, as its parent does
    second = grown(first, 4, 1.0)
    late = grown(a, 5, 1.0)
    other = grown(b, 3, 3.0)
    lines = [deep.as_from_root(x) for x in (first, second, late, other)]
    assert [(x.parent is a, x.fork_at) for x in lines] == [
        (True, 2),
        (True, 2),
        (True, 5),
        (False, 3),
    ]
    assert second.parent is first and second.fork_at == 4, "the tree itself stays"
    appo.assign_credit([a, b], lines, dataclasses.replace(DEEP, future_weight=0.0))
    third = (1 - 1 / 3) / 2
    wanted = torch.tensor([third, third, 0.0, 0.0, 0.0, 1.0])
    torch.testing.assert_close(a.advantage, wanted, atol=1e-5, rtol=0)
    wanted = torch.tensor([0.0, 0.0, 0.0, -1.0, -1.0, -1.0])
    torch.testing.assert_close(b.advantage, wanted, atol=1e-5, rtol=0)


def test_depth_is_a_setting_of_this_method_only():
    assert read_settings(["--algo", "deep"]).depth == 2 and Config().depth == 1
    assert read_settings(["--algo", "deep", "--depth", "3"]).depth == 3
    with pytest.raises(ValueError, match="--depth 2 is for --algo deep, got --algo appo"):
        Config(depth=2)
