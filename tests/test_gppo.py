"""methods/gppo.py: PPO's value, a bounded gradient where PPO has none."""

import math

import pytest
import torch
from method_parts import stepped

from advantage import policy_loss
from methods import gppo

f64 = torch.float64


def gradient(ratios, credit, clip_c=3.0, **how):
    """(loss per token, its gradient in log pi) of one rollout of these ratios, at logp_old = 0."""
    logp = torch.tensor([[math.log(r) for r in ratios]], dtype=f64, requires_grad=True)
    zeros, mask = torch.zeros_like(logp), torch.ones(1, len(ratios), dtype=torch.bool)
    adv = torch.tensor([credit], dtype=f64)
    loss, _ = policy_loss(
        logp, zeros, adv, mask, clip_c=clip_c, aggregate="token-mean", total=1, **how
    )
    return loss.item(), torch.autograd.grad(loss, logp)[0][0].tolist()


def test_gradient_by_hand():
    """Bounds 0.8 and 1.28: inside r, outside the bound, both times -A; PPO's is 0 there."""
    ratios = [1.1, 2.0, 0.5, 0.9, 0.5, 2.0, 4.0]
    credit = [1.0, 1.0, 1.0, -2.0, -2.0, -2.0, -2.0]
    value, grad = gradient(ratios, credit, surrogate=gppo.gppo_surrogate)
    expected = [-1.1, -1.28, -0.5, 1.8, 1.6, 4.0, 0.0]
    assert grad == pytest.approx(expected, abs=1e-12), "the last one is dual-clipped"
    ppo_value, ppo_grad = gradient(ratios, credit)
    assert value == pytest.approx(ppo_value, abs=1e-12)
    assert value == pytest.approx(-1.1 - 1.28 - 0.5 + 1.8 + 1.6 + 4.0 + 6.0, abs=1e-12)
    assert ppo_grad == pytest.approx([-1.1, 0, -0.5, 1.8, 0, 4.0, 0], abs=1e-12)


def test_it_has_ppos_value_and_differs_only_where_clipped():
    g = torch.Generator().manual_seed(1)
    old = -torch.rand(6, 11, generator=g, dtype=f64) * 3
    logp = (old + torch.randn(6, 11, generator=g, dtype=f64) * 0.4).requires_grad_()
    adv, mask = torch.randn(6, 11, generator=g, dtype=f64), torch.rand(6, 11, generator=g) < 0.7
    value, grad = {}, {}
    for name, how in (("ppo", {}), ("gppo", {"surrogate": gppo.gppo_surrogate})):
        loss, _ = policy_loss(logp, old, adv, mask, clip_c=math.inf, **how)
        value[name], grad[name] = loss.item(), torch.autograd.grad(loss, logp)[0]
    assert value["gppo"] == pytest.approx(value["ppo"], abs=1e-12)
    ratio = (logp - old).detach().exp()
    clipped = mask & ((adv > 0) & (ratio > 1.28) | (adv < 0) & (ratio < 0.8))
    assert clipped.any() and torch.equal((grad["ppo"] - grad["gppo"]).abs() > 1e-12, clipped)


@pytest.mark.slow
def test_a_step(agent, tools, prompts):
    """Its surrogate is the one at work: a step with several updates clips some tokens."""
    numbers, _ = stepped(agent, tools, prompts, "gppo", ppo_epochs=2)
    assert gppo.step.keywords["loss"].keywords["surrogate"] is gppo.gppo_surrogate
    assert numbers["clip_high"] > 0 and numbers["optimizer_steps"] == 4
