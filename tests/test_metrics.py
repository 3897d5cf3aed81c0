"""support/metrics.py: means over what they say, phases, and counts."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from rollout import Call, Rollout
from support.metrics import Meter, over_minibatches, over_passes
from support.ranks import Ranks

GOOD = "<think> a </think><answer> \\boxed{4} </answer>"


def test_numbers_of_a_step_are_means_over_tokens():
    names = ("entropy", "loss", "ratio_max", "degenerate", "trained", "rows")
    log = [dict(zip(names, x)) for x in ((1.0, 1.0, 2.0, 1.0, 10, 1), (4.0, 4.0, 1.0, 0.0, 30, 3))]
    assert [over_minibatches(name, log) for name in names[:4]] == [3.25, 2.5, 2.0, 0.25]


def test_numbers_of_a_tree():
    """One prompt of three tokens, two rollouts, one branch, by hand."""
    initial = [
        Rollout([1, 2, 3], 0, ids=[1] * n, mask=[True] * n, finish=finish, pieces=[(True, GOOD)])
        for n, finish in ((4, "stop"), (6, "length"))
    ]
    # a reward of somebody's own may be negative where the format is kept
    for r, reward in zip(initial, (1.0, -1.0)):
        n = len(r.ids)
        r.reward, r.sampled_logp = reward, [-1.0] * n
        r.logp, r.logp_old = torch.full((n,), -1.1), torch.full((n,), -1.2)
        r.omega, r.entropy = torch.full((n,), 1.5), torch.full((n,), 0.5)
    ok, infra = (Call("python", "1", "ok", 0.1, 0, 2), Call("search", "q", "infra", 0.1, 3, 4))
    initial[1].calls = [ok, infra]
    # inherits the first call, which is not counted again
    branch = initial[1].fork(2)
    branch.calls.append(Call("python", "2", "timeout", 0.1, 3, 4))
    branch.ids, branch.reward = [1] * 5, 0.5
    sampler = SimpleNamespace(count=Counter(computed=5))
    meter = Meter(sampler)
    sampler.count = Counter(computed=5 + 16, sampled=13, row_calls=26)
    meter.add(initial, {"loss": 2.0, "ratio_max": 3.0})
    numbers = meter.numbers([*initial, branch], Ranks())
    expected = {
        "reward": 0.0,
        "reward_std": 1.0,
        "reward_branch": 0.5,
        "format_errors": 0.5,
        "truncated": 0.5,
        "length": 5.0,
        "calls": 1.0,
        "calls_made": 3,
        "tool_ok": 1 / 3,
        "tool_infra": 1 / 3,
        "tool_timeout": 1 / 3,
        "tool_error": 0.0,
        "branches": 1,
        "fork_depth": 2 / 6,
        "tokens_unique": 3 + 10 + 3,
        "tokens_computed": 16,
        "tokens_sampled": 13,
        "tokens_trained": 10,
        "computed_per_unique": 1.0,
        "occupancy": 0.5,
        "entropy": 0.5,
        "omega": 1.5,
        "omega_std": 0.0,
        "drift": 0.1,
        "sampler_gap": 0.2,
        "loss": 2.0,
        "ratio_max": 3.0,
        "optimizer_steps": 1,
        "prompts_drawn": 1,
        "prompts_dropped": 0,
    }
    assert {name: numbers[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_the_spread_of_omega_is_over_all_policy_tokens_of_the_step():
    """Not a mean of spreads: two mini-batches, each constant, differ. A tool's token is none."""
    sampler = SimpleNamespace(count=Counter(computed=1))
    meter = Meter(sampler)
    values = ([1.0, 1.0, 9.0], [1.5, 1.5, 1.25])
    for omega, mask in zip(values, ([True, True, False], [True, True, True])):
        r = Rollout([1], 0, ids=[1, 1, 1], mask=mask, sampled_logp=[0.0] * 3, finish="stop")
        r.omega = torch.tensor(omega)
        r.logp = r.logp_old = r.entropy = torch.zeros(3)
        meter.add([r], {"loss": 0.0, "ratio_max": 1.0})
        sampler.count += Counter(computed=3)
    tokens = torch.tensor([1.0, 1.0, 1.5, 1.5, 1.25], dtype=torch.float64)
    assert meter.numbers([r], Ranks())["omega_std"] == pytest.approx(
        tokens.std(correction=0).item(), rel=1e-12
    )


def test_a_prompt_without_an_update_was_dropped():
    sampler = SimpleNamespace(count=Counter(computed=1))
    meter, rollouts = Meter(sampler), []
    for group, reward in ((3, 1.0), (3, 0.0), (5, 0.0), (7, 0.0)):
        r = Rollout([1], 0, group, ids=[1], mask=[True], sampled_logp=[0.0], finish="stop")
        r.reward, r.omega = reward, torch.ones(1)
        r.logp = r.logp_old = r.entropy = torch.zeros(1)
        rollouts.append(r)
    # two PPO epochs
    for _ in range(2):
        meter.add(rollouts[:2], {"loss": 0.0, "ratio_max": 1.0})
    numbers = meter.numbers(rollouts, Ranks())
    assert (numbers["prompts_drawn"], numbers["prompts_dropped"]) == (3, 2)
    assert numbers["reward"] == 0.25, "of all that were sampled"


def test_a_tiny_spread_of_omega_keeps_its_digits():
    meter = Meter(SimpleNamespace(count=Counter(computed=1)))
    r = Rollout([1], 0, ids=[1] * 4, mask=[True] * 4, sampled_logp=[0.0] * 4, finish="stop")
    r.omega = 1 + torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64) * 1e-6
    r.logp = r.logp_old = r.entropy = torch.zeros(4)
    meter.add([r], {"loss": 0.0, "ratio_max": 1.0})
    assert meter.numbers([r], Ranks())["omega_std"] == pytest.approx(1e-6, rel=1e-6)


def test_the_numbers_of_an_update_from_those_of_its_passes():
    """Means weigh by policy tokens, the loss adds up, ratio_max is the largest."""
    passes = [
        {"ratio": 1.0, "tokens": 30, "ratio_max": 1.5, "loss": 0.25, "padded": 64},
        {"ratio": 2.0, "tokens": 10, "ratio_max": 1.2, "loss": -1.0, "padded": 16},
    ]
    expected = {"ratio": 1.25, "loss": -0.75, "padding": 0.25, "ratio_max": 1.5}
    assert over_passes(passes, 60, Ranks()) == pytest.approx(expected)


def test_the_spread_of_omega_is_that_of_one_process():
    """Two processes with unequal numbers of tokens log what one with all of them would."""
    parts, meters = [], []
    for k, omega in enumerate(([1.0, 1.2, 1.4], [0.9])):
        sampler = SimpleNamespace(count=Counter(computed=1))
        meters.append(Meter(sampler))
        n = len(omega)
        r = Rollout([1], 0, k, ids=[1] * n, mask=[True] * n, sampled_logp=[0.0] * n, finish="stop")
        r.omega, r.logp = torch.tensor(omega), torch.zeros(n)
        r.logp_old = r.entropy = r.logp
        meters[k].add([r], {"loss": 0.0, "ratio_max": 1.0})
        sampler.count += Counter(computed=3)
        meters[k].numbers([r], SimpleNamespace(gather=lambda part: parts.append(part) or [part]))
    numbers = meters[0].numbers([], SimpleNamespace(gather=lambda part: parts))
    assert (numbers["prompts_drawn"], numbers["prompts_dropped"]) == (2, 0)
    tokens = torch.tensor([1.0, 1.2, 1.4, 0.9]).double()
    assert numbers["omega_std"] == pytest.approx(tokens.std(correction=0).item(), rel=1e-9)
    assert numbers["omega"] == pytest.approx(tokens.mean().item(), rel=1e-9)
