"""methods/reinforce_pp_baseline.py: the group's mean, the batch's deviation, a squared KL."""

import math
import statistics

import pytest
import torch
from method_parts import by_hand, config_of, credits_of, loss_by, on_ranks, stepped

from methods import reinforce_pp_baseline
from support.ranks import Ranks


def made():
    """Two prompts: rewards 1, 0 and 5, 5; the second's do not vary. Lengths 3 + 1 and 1 + 1."""
    rows = [(1.0, "1101", 0), (0.0, "1", 0), (5.0, "1", 1), (5.0, "01", 1)]
    return [by_hand(*row) for row in rows]


def test_credit_by_hand():
    """0.5 at three tokens, -0.5 at one, 0 at two: against mean 1/6 and their deviation."""
    mine = made()
    config = config_of("reinforce_pp_baseline")
    reinforce_pp_baseline.baseline_credit(mine, config, Ranks())
    raw = [0.5, 0.5, 0.5, -0.5, 0.0, 0.0]
    mean, s = statistics.fmean(raw), statistics.pstdev(raw) + 1e-6
    up, down, flat = ((x - mean) / s for x in (0.5, -0.5, 0.0))
    expected = [[up, up, 0, up], [down], [flat], [0, flat]]
    for row, wanted in zip(credits_of(mine), expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)
    equal = [by_hand(0.1, "11", group) for group in (0, 0, 0, 1)]
    reinforce_pp_baseline.baseline_credit(equal, config, Ranks())
    assert credits_of(equal) == [[0, 0]] * 4


def test_the_batch_is_that_of_all_ranks():
    config = config_of("reinforce_pp_baseline")
    alone, apart = made(), made()
    credit = reinforce_pp_baseline.baseline_credit
    credit(alone, config, Ranks())
    on_ranks(lambda share, ranks: credit(share, config, ranks), [apart[:2], apart[2:]])
    for a, b in zip(alone, apart, strict=True):
        torch.testing.assert_close(a.advantage, b.advantage, atol=1e-6, rtol=0)


def test_squared_kl_by_hand():
    """A rollout of two tokens and one of a tool: the loss is -ratio + beta (logp - logp_ref)^2 / 2,
    and its gradient -ratio + beta (logp - logp_ref).
    """
    (r,) = (by_hand(1.0, "101"),)
    r.logp_old, r.logp_ref = torch.tensor([-1.0, 0.0, -2.0]), torch.tensor([-1.5, 9.0, -1.9])
    r.advantage = torch.tensor([1.0, 0.0, 1.0])
    logp = r.logp_old[None].clone().requires_grad_()
    config = config_of("reinforce_pp_baseline", kl_coef=0.4)
    loss = reinforce_pp_baseline.step.keywords["loss"]
    value, stats = loss_by(loss, [r], logp, 1, config)
    assert value.item() == pytest.approx(-1 + 0.4 / 2 * (0.25 + 0.01) / 2, abs=1e-6)
    (grad,) = torch.autograd.grad(value, logp)
    expected = torch.tensor([[(-1 + 0.4 * 0.5) / 2, 0.0, (-1 - 0.4 * 0.1) / 2]])
    torch.testing.assert_close(grad, expected, atol=1e-6, rtol=0)
    kl = [math.exp(-0.5) - 1 + 0.5, math.exp(0.1) - 1 - 0.1]
    assert stats["kl_ref"] == pytest.approx(sum(kl) / 2, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_a_step(agent, tools, prompts, kl_coef):
    numbers, rollouts = stepped(agent, tools, prompts, "reinforce_pp_baseline", kl_coef=kl_coef)
    A = torch.cat([r.advantage[torch.tensor(r.mask)] for r in rollouts])
    assert abs(A.mean()) < 1e-5 and A.std(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert (numbers["kl_ref"] > 0) == bool(kl_coef)
