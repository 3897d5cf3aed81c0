"""methods/dr_grpo.py: no standard deviation, tokens summed over a constant."""

import dataclasses
import math
from functools import partial

import pytest
import torch
from conftest import CONFIG, judge
from method_parts import by_hand, config_of, credits_of, loss_by, stepped
from test_appo import Keep

import appo
from advantage import policy_loss
from methods import dr_grpo
from support.ranks import Ranks


def test_credit_by_hand():
    """R - mean of the group; prompts apart; nothing for a tool's tokens or equal rewards."""
    mine = [by_hand(1.0, "101"), by_hand(0.0, "11"), by_hand(0.0, "1"), by_hand(3.0, "1", 7)]
    mine += [by_hand(0.1, "11", 8) for _ in range(3)]
    dr_grpo.centred_credit(mine, config_of("dr_grpo"), Ranks())
    third = pytest.approx(-1 / 3)
    assert credits_of(mine) == [
        pytest.approx([2 / 3, 0, 2 / 3]),
        [third, third],
        [third],
        [0],
        *[[0, 0]] * 3,
    ]


def test_loss_by_hand():
    """Every token weighs 1 / (2 rollouts x 10): a long rollout more than a short one."""
    mine = [by_hand(1.0, "1011"), by_hand(0.0, "1")]
    for r, credit in zip(mine, (0.5, -0.5)):
        r.logp_old = torch.zeros(len(r.ids))
        r.advantage = credit * torch.tensor(r.mask)
    logp = torch.tensor([[0.1, 9.0, 5.0, 0.0], [-0.1, 0.0, 0.0, 0.0]], requires_grad=True)
    config = config_of("dr_grpo", max_tokens=10)

    loss = partial(dr_grpo.summed_loss, max_tokens=10)
    value, stats = loss_by(loss, mine, logp, 2, config)
    tokens = [-0.5 * math.exp(0.1), -0.5 * 1.28, -0.5, 0.5 * math.exp(-0.1)]
    assert value.item() == pytest.approx(sum(tokens) / 20, rel=1e-6) and stats["tokens"] == 4
    (grad,) = torch.autograd.grad(value, logp)
    expected = torch.tensor([[tokens[0], 0, 0, tokens[2]], [tokens[3], 0, 0, 0]]) / 20
    torch.testing.assert_close(grad, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("budget", [1, 400])
def test_the_update_does_not_depend_on_the_split_into_passes(agent, rollouts, budget):
    """And is that of a mean over tokens, by another constant."""
    _, mine = rollouts
    agent.score(mine, 1.0, 4096)
    for r in mine:
        r.logp_old, r.reward = r.logp, 100 * judge(r)
    dr_grpo.centred_credit(mine, config_of("dr_grpo"), Ranks())
    summed = partial(dr_grpo.summed_loss, max_tokens=CONFIG.max_tokens)
    grads = []
    for algo, micro_tokens, loss in (
        ("dr_grpo", 4096, summed),
        ("dr_grpo", budget, summed),
        ("grpo", 4096, policy_loss),
    ):
        config = config_of(algo, micro_tokens=micro_tokens, clip_grad=1e9)
        config = dataclasses.replace(config, aggregate="token-mean") if algo == "grpo" else config
        optimizer = Keep(agent.model.parameters(), lr=0.0)
        appo.update(agent, optimizer, mine, config, loss)
        grads.append(optimizer.seen)
    factor = sum(sum(r.mask) for r in mine) / (len(mine) * CONFIG.max_tokens)
    assert max(float(g.abs().max()) for g in grads[0]) > 1e-4
    for whole, split, mean in zip(*grads):
        torch.testing.assert_close(whole, split, atol=1e-6, rtol=0)
        torch.testing.assert_close(whole, factor * mean, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_a_step(agent, tools, prompts):
    numbers, rollouts = stepped(agent, tools, prompts, "dr_grpo", minibatch=4)
    for r in rollouts:
        mean = sum(x.reward for x in rollouts if x.group == r.group) / 4
        assert r.advantage[r.mask.index(True)].item() == pytest.approx(r.reward - mean, abs=1e-6)
    # the ratios of the only update are 1
    total = sum(float(r.advantage.sum()) for r in rollouts)
    assert numbers["optimizer_steps"] == 1
    assert numbers["loss"] == pytest.approx(-total / (16 * CONFIG.max_tokens), rel=1e-3, abs=1e-8)
    assert abs(total) > 1e-3
