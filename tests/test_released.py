"""methods/released.py: branches before the first update, pooled points, kept tokens, guards."""

import copy
import dataclasses
import math

import pytest
import torch
from conftest import CONFIG, one_step
from test_appo import scored

import appo
from config import PRESETS
from methods import released
from policy import Policy
from rollout import Rollout

RELEASED = dataclasses.replace(
    CONFIG, **PRESETS["released"] | dict(initial=4, prompts=8, minibatch=4, max_tokens=128)
)


@pytest.mark.slow
@pytest.mark.parametrize("fork_tokens", [0, pytest.param(700, marks=pytest.mark.slow)])
def test_branches_come_before_the_first_update(agent, tools, prompts, fork_tokens, monkeypatch):
    chosen, pooled = {}, released.pooled_points

    def watched(policy, part, config):
        points = pooled(policy, part, config)
        chosen.update({id(r): places for r, places in zip(part, points)})
        return points

    monkeypatch.setattr(released, "pooled_points", watched)
    agent.reference = Policy(copy.deepcopy(agent.model), agent.tokenizer)
    changed = dataclasses.replace(RELEASED, fork_tokens=fork_tokens)
    metrics, rollouts = one_step(agent, tools, prompts, changed, step=released.step)
    assert metrics["degenerate"] == 1, "all were chosen by entropy alone"
    assert metrics["omega_std"] > 0 and metrics["kl_ref"] > 0 and metrics["branches"] == 32
    assert metrics["optimizer_steps"] == 2
    for x in (r for r in rollouts if r.parent is not None):
        assert x.fork_at - 1 in chosen[id(x.parent)], "the chosen token is kept"
        assert len(x.ids) > x.fork_at


def test_points_are_pooled_per_prompt(agent, rollouts):
    _, mine = rollouts
    config = dataclasses.replace(RELEASED, initial=2, branches=3)
    appo.set_omega(scored(agent, mine), config)
    points = released.pooled_points(agent, mine, config)
    assert all(len(points[2 * p]) + len(points[2 * p + 1]) == 6 for p in range(8))
    assert points != appo.decision_points(agent, mine, config)
    for r, places in zip(mine, points):
        assert all(r.mask[t] and r.mask[t + 1] for t in places), "a token follows that is drawn"


def test_guards_reach_the_numbers(agent, rollouts):
    _, mine = rollouts
    for r in scored(agent, mine):
        # every token is now e^3 = 20 times likelier
        r.logp_old = torch.where(torch.tensor(r.mask), r.logp - 3.0, r.logp)
    mine[0].reward = -1.0
    plain = appo.omega_of(mine, 32.0, RELEASED)
    assert plain.max() > 1e3
    config = dataclasses.replace(RELEASED, initial=2)
    released.guarded_credit(mine, [], config)
    guarded = [r.advantage for r in mine]
    assert all((r.omega == 1).all() for r in mine), "log-ratios above log 3 take no part"
    appo.hand_out(mine, "omega", plain)
    appo.assign_credit(mine, [], config)
    for r, own in zip(mine, guarded):
        factor = 2.0 / 2.2
        torch.testing.assert_close(own, r.advantage * factor, atol=1e-5, rtol=0)


def by_hand(logp, advantage):
    """A rollout whose log-probs were 0 at the start of the step."""
    r = Rollout([1], 0, ids=[2] * len(logp), mask=[True] * len(logp), reward=1.0)
    r.logp, r.logp_old = torch.tensor(logp), torch.zeros(len(logp))
    r.advantage = torch.tensor(advantage)
    return r


def test_large_log_ratios_leave_the_future_sum():
    config = dataclasses.replace(RELEASED, half_life=math.inf)
    omega = released.guarded_omega([by_hand([0.1, 2.0, 0.1], [0.0] * 3)], config)
    torch.testing.assert_close(omega.log(), torch.tensor([[0.2, 0.1, 0.1]]))


def test_negative_credit_of_a_large_ratio_is_scaled_by_one_at_most(monkeypatch):
    """Omega 1.1 at every token; ratio 7 at the first two of four."""
    r = by_hand([math.log(7.0), math.log(7.0), 0.0, 0.0], [1.0, -1.0, 1.0, -1.0])
    monkeypatch.setattr(released, "guarded_omega", lambda *_: torch.full((1, 4), 1.1))
    monkeypatch.setattr(appo, "compare_groups", lambda *_: None)
    released.guarded_credit([r], [], RELEASED)
    torch.testing.assert_close(r.advantage, torch.tensor([2.1, -2.0, 2.1, -2.1]))


def test_a_rollout_with_two_dual_clipped_tokens_gives_no_policy_gradient():
    logp = torch.full((2, 3), 2.0, dtype=torch.float64, requires_grad=True)
    old, mask = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.bool)
    # three dual-clipped tokens in row 0, one in row 1
    adv = torch.tensor([[-1.0, -1.0, -1.0], [-1.0, 0.5, 0.5]], dtype=torch.float64)
    how = dict(clip_c=3.0, aggregate="seq-mean", total=2)
    loss, stats = released.guarded_loss(logp, old, adv, mask, **how)
    assert loss.item() == pytest.approx((0 + (3 - 2 * 0.5 * 1.28) / 3) / 2)
    assert stats["clip_dual"] == 4 / 6
    kl, _ = released.guarded_loss(logp, old, adv, mask, logp_ref=old, kl_coef=0.1, **how)
    low_variance = math.exp(-2.0) + 2.0 - 1
    assert kl.item() - loss.item() == pytest.approx(0.1 * low_variance), "its KL term stays"
