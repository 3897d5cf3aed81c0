"""methods/tempo.py: the change of a prefix tree's value, on top of GRPO's advantage."""

import dataclasses
import math

import pytest
import torch
from conftest import CONFIG, one_step

from config import ALGOS
from methods import grpo, tempo
from policy import Policy
from rollout import Rollout
from support.ranks import Ranks

TEMPO = dataclasses.replace(CONFIG, **ALGOS["tempo"], prompts=4, minibatch=2)


def rollout(ids, reward, group=0, tool=()):
    mask = [t not in tool for t in range(len(ids))]
    return Rollout([1], 0, group, ids=list(ids), mask=mask, reward=reward)


def test_value_changes_worked_out_by_hand():
    """Three begin with 1; of these two go on with 2 and part at the third token."""
    value = torch.tensor([1.0, 0.0, 0.5, -0.3], dtype=torch.float64)
    responses = [[1, 2, 3], [1, 2, 4, 5], [1, 6], [7, 2]]
    root, one, two = 0.3, 0.5, 0.5
    want = [
        [one - root, two - one, 1.0 - two],
        [one - root, two - one, 0.0 - two, 0.0],
        [one - root, 0.5 - one],
        [-0.3 - root, 0.0],
    ]
    for change, numbers in zip(tempo.value_changes(responses, value), want, strict=True):
        torch.testing.assert_close(change, torch.tensor(numbers, dtype=torch.float64))


def test_credit_worked_out_by_hand():
    """Rewards 1, 0, 0, 1 of one prompt: mean and deviation 1/2, so z is 1, -1, -1, 1."""
    mine = [rollout([1, 2], 1.0), rollout([1, 3, 4], 0.0), rollout([1, 3, 5], 0.0)]
    mine += [rollout([6], 1.0), rollout([1, 2], 0.5, group=1), rollout([1, 3], 0.5, group=1)]
    tempo.prefix_credit(mine, TEMPO, Ranks())
    third = 1 / 3
    want = [
        [1 + (-third - 0), 1 + (1 + third)],
        [-1 - third, -1 + (-1 + third), -1.0],
        [-1 - third, -1 + (-1 + third), -1.0],
        [1 + 1.0],
        # a group without variance
        [0.0, 0.0],
        [0.0, 0.0],
    ]
    for r, numbers in zip(mine, want, strict=True):
        torch.testing.assert_close(r.advantage, torch.tensor(numbers), atol=1e-5, rtol=0)


def test_the_tree_goes_on_behind_a_shared_result():
    """Tokens 1 and 2 are a tool's. Two share them; the third got another result for its call."""
    mine = [rollout([1, 8, 9, 2], 1.0, tool=(1, 2)), rollout([1, 8, 9, 3], 0.0, tool=(1, 2))]
    mine += [rollout([1, 8, 7, 3], 0.0, tool=(1, 2))]
    tempo.prefix_credit(mine, TEMPO, Ranks())
    z, other = math.sqrt(2), -math.sqrt(0.5)
    shared = (z + other) / 2
    want = [[z, 0, 0, z + z - shared], [other, 0, 0, other + other - shared], [other, 0, 0, other]]
    for r, numbers in zip(mine, want, strict=True):
        torch.testing.assert_close(r.advantage, torch.tensor(numbers), atol=1e-4, rtol=0)


def test_telescopes_to_twice_the_advantage(rollouts):
    """V begins at 0 and ends at z; without tool calls all changes add up to z."""
    _, mine = rollouts
    everyone = [dataclasses.replace(r, mask=[True] * len(r.ids)) for r in mine]
    for n, r in enumerate(everyone):
        r.reward = float(n % 3)
    plain = [dataclasses.replace(r) for r in everyone]
    tempo.prefix_credit(everyone, TEMPO, Ranks()), grpo.group_credit(plain, TEMPO, Ranks())
    for r, p in zip(everyone, plain):
        changes = (r.advantage - p.advantage).sum()
        assert float(changes) == pytest.approx(float(p.advantage[0]), abs=1e-4)


@pytest.mark.slow
def test_a_step(agent_folder, tools, prompts):
    policy = Policy.load(str(agent_folder))
    before = [p.clone() for p in policy.model.parameters()]
    metrics, rollouts = one_step(policy, tools, prompts, TEMPO, step=tempo.step)
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.model.parameters()))
    assert all(math.isfinite(x) for x in metrics.values())
    assert metrics["branches"] == 0 and metrics["skipped"] == 0 and len(rollouts) == 16
    other, _ = one_step(Policy.load(str(agent_folder)), tools, prompts, TEMPO, step=grpo.step)
    assert other["tokens_trained"] == metrics["tokens_trained"]
    assert other["grad_norm"] != metrics["grad_norm"], "credit differs from GRPO's"
