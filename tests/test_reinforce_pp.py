"""methods/reinforce_pp.py: credit of the whole batch, and KL in the reward."""

import math
import statistics

import pytest
import torch
from method_parts import by_hand, config_of, credits_of, loss_by, on_ranks, stepped

from advantage import policy_loss
from methods import reinforce_pp
from support.ranks import Ranks


def with_kl(rollouts, *kl):
    """logp_old and logp_ref whose difference, per token, is this."""
    for r, row in zip(rollouts, kl):
        r.logp_ref = -torch.ones(len(r.ids))
        r.logp_old = r.logp_ref + torch.tensor(row)
    return rollouts


def test_credit_by_hand_without_kl():
    """Rewards 1 at three tokens and 0 at one: mean 0.75, variance 3/16; a tool's token apart."""
    mine = [by_hand(1.0, "1101", 0), by_hand(0.0, "1", 5)]
    reinforce_pp.batch_credit(mine, config_of("reinforce_pp"), Ranks())
    s = math.sqrt(3 / 16) + 1e-6
    up, down = 0.25 / s, -0.75 / s
    assert credits_of(mine) == [pytest.approx([up, up, 0, up]), pytest.approx([down])]


def test_credit_by_hand_with_kl():
    """Eq. 4: R - 0.5 of the KL from the token on; a tool's 7.0 is nobody's. Then whitened."""
    mine = [by_hand(1.0, "1101"), by_hand(0.0, "11", 3)]
    with_kl(mine, [0.2, -0.4, 7.0, 0.6], [0.0, 1.0])
    reinforce_pp.batch_credit(mine, config_of("reinforce_pp", kl_coef=0.5), Ranks())
    raw = [1 - 0.5 * 0.4, 1 - 0.5 * 0.2, 1 - 0.5 * 0.6, -0.5, -0.5]
    mean, s = statistics.fmean(raw), statistics.pstdev(raw) + 1e-6
    a, b, c, d, e = ((x - mean) / s for x in raw)
    first, second = credits_of(mine)
    assert first == pytest.approx([a, b, 0, c], abs=1e-6)
    assert second == pytest.approx([d, e], abs=1e-6)


def test_credit_that_does_not_vary_is_exactly_zero():
    mine = [by_hand(0.1, "11", group) for group in range(3)]
    reinforce_pp.batch_credit(mine, config_of("reinforce_pp"), Ranks())
    assert credits_of(mine) == [[0, 0]] * 3
    reinforce_pp.batch_credit([], config_of("reinforce_pp"), Ranks())


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_the_batch_is_that_of_all_ranks(cut):
    """Four rollouts on two ranks, one of which may have none, earn what they earn on one."""

    def made():
        rewards = zip((1.0, 0.0, 0.5, 2.0), ("11", "101", "1", "1111"))
        return [by_hand(reward, mask, n) for n, (reward, mask) in enumerate(rewards)]

    config = config_of("reinforce_pp")
    alone, apart = made(), made()
    reinforce_pp.batch_credit(alone, config, Ranks())
    shares = [apart[:cut], apart[cut:]]
    on_ranks(lambda share, ranks: reinforce_pp.batch_credit(share, config, ranks), shares)
    for a, b in zip(alone, apart, strict=True):
        torch.testing.assert_close(a.advantage, b.advantage, atol=1e-6, rtol=0)
    assert alone[0].advantage[0] != alone[1].advantage[0]


def test_the_loss_has_no_kl_of_its_own():
    mine = with_kl([by_hand(1.0, "11")], [0.3, 0.1])
    mine[0].advantage = torch.ones(2)
    logp = (mine[0].logp_old + 0.05)[None].requires_grad_()
    config = config_of("reinforce_pp", kl_coef=0.5)
    value, stats = loss_by(reinforce_pp.step.keywords["loss"], mine, logp, 1, config)
    plain, _ = loss_by(policy_loss, mine, logp, 1, config_of("reinforce_pp"))
    assert value.item() == plain.item() == pytest.approx(-math.exp(0.05))
    kl = [math.exp(-x) - 1 + x for x in (0.35, 0.15)]
    assert stats["kl_ref"] == pytest.approx(sum(kl) / 2, rel=1e-4), "it is logged"


@pytest.mark.slow
@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_a_step(agent, tools, prompts, kl_coef):
    numbers, rollouts = stepped(agent, tools, prompts, "reinforce_pp", kl_coef=kl_coef)
    A = torch.cat([r.advantage[torch.tensor(r.mask)] for r in rollouts])
    assert abs(A.mean()) < 1e-5 and A.std(correction=0).item() == pytest.approx(1, abs=1e-3)
    # the reference is the policy at the start: no KL in the reward, some after the first update
    assert (numbers["kl_ref"] > 0) == bool(kl_coef)
    assert (rollouts[0].logp_ref is not None) == bool(kl_coef)
