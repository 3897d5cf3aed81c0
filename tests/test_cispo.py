"""methods/cispo.py: REINFORCE with a clipped weight per token."""

import math

import pytest
import torch
from method_parts import config_of, stepped

from advantage import policy_loss
from methods import cispo

f64 = torch.float64


def gradient(ratios, credit):
    """(loss, its gradient in log pi) of one rollout of these ratios; logp_old is -1."""
    logp = torch.tensor([[math.log(r) - 1 for r in ratios]], dtype=f64, requires_grad=True)
    old, mask = -torch.ones_like(logp), torch.ones(1, len(ratios), dtype=torch.bool)
    config = config_of("cispo")
    how = {name: getattr(config, name) for name in ("clip_low", "clip_high", "clip_c", "aggregate")}
    loss = cispo.step.keywords["loss"]
    value, _ = loss(logp, old.detach(), torch.tensor([credit], dtype=f64), mask, **how, total=1)
    return value.item(), torch.autograd.grad(value, logp)[0][0].tolist()


def test_gradient_by_hand():
    """-min(r, 1.28) A whatever the signs; no lower bound and no dual clip."""
    ratios, credit = [1.0, 2.0, 0.1, 2.0, 0.1, 9.0], [1.0, 1.0, 1.0, -2.0, -2.0, -2.0]
    value, grad = gradient(ratios, credit)
    weights = [1.0, 1.28, 0.1, 1.28, 0.1, 1.28]
    expected = [-w * a for w, a in zip(weights, credit)]
    assert grad == pytest.approx(expected, abs=1e-12)
    logs = [math.log(r) - 1 for r in ratios]
    assert value == pytest.approx(sum(e * x for e, x in zip(expected, logs)), abs=1e-12)


def test_at_ratio_one_it_is_reinforce_and_keeps_every_tokens_gradient():
    g = torch.Generator().manual_seed(1)
    old = -torch.rand(6, 11, generator=g, dtype=f64) * 3
    adv, mask = torch.randn(6, 11, generator=g, dtype=f64), torch.rand(6, 11, generator=g) < 0.7
    reinforce = torch.where(mask, -adv / mask.sum(), 0)
    for far in (0.0, 2.0):
        logp = (old + torch.where(adv > 0, far, -far)).requires_grad_()
        how = dict(clip_low=1.0, aggregate="token-mean", surrogate=cispo.cispo_surrogate)
        grad = torch.autograd.grad(policy_loss(logp, old, adv, mask, **how)[0], logp)[0]
        weight = torch.where(adv > 0, 1.28, math.exp(-2)) if far else torch.ones(())
        torch.testing.assert_close(grad, reinforce * weight, atol=1e-7, rtol=0)


@pytest.mark.slow
def test_a_step(agent, tools, prompts):
    numbers, _ = stepped(agent, tools, prompts, "cispo", ppo_epochs=2)
    assert numbers["clip_dual"] == 0 and numbers["ratio_max"] > 1.28
