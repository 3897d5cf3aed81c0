"""methods/dapo.py: who is kept, what a length costs, one mean over tokens, the same on resume."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import CONFIG, SMALL, arguments, lines, one_step, sampler_for
from test_ranks import spread

import appo
import train
from advantage import policy_loss
from config import ALGOS, Config
from methods import dapo, grpo
from policy import Policy
from protocol import encode_prompt
from rollout import Rollout
from support.metrics import Meter
from support.questions import load_questions
from support.ranks import Ranks
from support.runfiles import newest
from support.schedule import Prompts
from support.seeds import mix_seed
from support.steplog import alarms

DAPO = dataclasses.replace(
    CONFIG, **ALGOS["dapo"] | dict(initial=2, prompts=4, minibatch=2, max_tokens=64)
)


def asked(ids: list[list[int]], *rounds: str) -> Prompts:
    """Prompts of several rounds, a letter each: rewards vary (v) or are the same (s)."""

    def draw(round: int) -> list[appo.Prompt]:
        rewards = {"v": lambda r: float(r.seed % 1009), "s": lambda r: -1.0}
        letters, first = rounds[round], sum(map(len, rounds[:round]))
        return [
            appo.Prompt(ids[first + k], mix_seed(7, first + k), rewards[letter])
            for k, letter in enumerate(letters)
        ]

    return Prompts(draw)


def trained(rollouts: list[Rollout]) -> list[int]:
    """The prompts whose rollouts have credit."""
    return sorted({r.group for r in rollouts if r.advantage is not None})


# ---- who is kept


def test_prompts_are_drawn_until_enough_vary(agent, tools, prompts):
    before = [p.detach().clone() for p in agent.model.parameters()]
    drawn = asked(prompts, "vsvs", "ssvs", "vvvv", "vvvv")
    numbers, rollouts = one_step(agent, tools, drawn, DAPO, step=dapo.step)
    assert trained(rollouts) == [0, 2, 6, 8], "the first four that vary"
    assert [r.group for r in rollouts] == [p for p in range(12) for _ in range(2)]
    assert all(r.prompt == prompts[r.group] for r in rollouts)
    assert (numbers["prompts_drawn"], numbers["prompts_dropped"]) == (12, 8)
    assert numbers["optimizer_steps"] == 2 and numbers["zero_std"] == 5 / 12
    assert numbers["tokens_sampled"] == sum(sum(r.mask) for r in rollouts)
    assert numbers["tokens_trained"] == sum(
        sum(r.mask) for r in rollouts if r.group in (0, 2, 6, 8)
    )
    assert numbers["reward"] == pytest.approx(sum(r.reward for r in rollouts) / 24)
    assert all(math.isfinite(x) for x in numbers.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.model.parameters()))
    for p in (0, 2, 6, 8):
        low, high = sorted((r for r in rollouts if r.group == p), key=lambda r: r.reward)
        for r, sign in ((low, -1.0), (high, 1.0)):
            expected = sign * torch.tensor(r.mask, dtype=torch.float32)
            torch.testing.assert_close(r.advantage, expected, atol=2e-2, rtol=0)


def test_after_the_last_round_dropped_prompts_fill_the_step(agent, tools, prompts, monkeypatch):
    monkeypatch.setattr(dapo, "ROUNDS", 2)
    drawn = asked(prompts, "ssvs", "sssv", "vvvv")
    numbers, rollouts = one_step(agent, tools, drawn, DAPO, step=dapo.step)
    assert trained(rollouts) == [0, 1, 2, 7], "those that vary, then the first others"
    assert (numbers["prompts_drawn"], numbers["prompts_dropped"]) == (8, 4)
    said = alarms(numbers | {"sampler_gap_exact": True})
    assert any("the step was filled" in text for text in said)


@pytest.mark.parametrize("epochs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_without_a_redraw_and_a_penalty_it_is_grpo(
    agent_folder, tools, prompts, monkeypatch, epochs
):
    plain = lambda rollouts, config: grpo.group_credit(rollouts, config, Ranks())  # noqa: E731
    monkeypatch.setattr(dapo, "shaped_credit", plain)
    weights = []
    for step in (dapo.step, grpo.step):
        policy = Policy.load(str(agent_folder))
        config = dataclasses.replace(DAPO, ppo_epochs=epochs)
        numbers, _ = one_step(policy, tools, asked(prompts, "vvvv"), config, step=step)
        assert (numbers["prompts_drawn"], numbers["prompts_dropped"]) == (4, 0)
        weights.append(list(policy.model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*weights))


def test_all_ranks_decide_alike_and_failed_rewards_do_not_vary():
    def group(p, *rewards, fault=""):
        return [Rollout([1], 0, p, reward=x, reward_fault=fault) for x in rewards]

    mine = group(0, 1.0, 0.0) + group(2, 0.5) + group(2, 0.1 + 0.2, fault="it raised")
    parts = [{}, {1: {0.0}, 3: {0.0, 1.0}}]
    both = SimpleNamespace(gather=lambda part: [part, parts[1]])
    assert dapo.equal_rewards(mine, both) == {0: False, 2: True, 1: True, 3: False}
    none = SimpleNamespace(gather=lambda part: [part, parts[1]])
    assert dapo.equal_rewards([], none) == {1: True, 3: False}, "a rank without prompts"


# ---- credit and loss


def of(length: int, reward: float, results: int = 0) -> Rollout:
    """A rollout whose last tokens, `results` of them, are a tool's."""
    mask = [True] * (length - results) + [False] * results
    return Rollout([1], 0, ids=[2] * length, mask=mask, reward=reward)


def test_the_end_of_the_budget_costs_up_to_1():
    """L_max 100, L_c 20: 0 up to 80 tokens, -1/2 at 90, -1 at 100; a tool's tokens count."""
    rollouts = [of(50, 1.0), of(80, 1.0), of(90, 0.0, results=40), of(100, 1.0)]
    config = dataclasses.replace(DAPO, max_tokens=100)
    dapo.shaped_credit(rollouts, config)
    shaped = torch.tensor([1.0, 1.0, -0.5, 0.0], dtype=torch.float64)
    # mean 3/8, variance 27/64
    expected = (shaped - 3 / 8) / math.sqrt(27 / 64)
    for r, credit in zip(rollouts, expected):
        own = torch.tensor(r.mask)
        assert r.advantage[own].tolist() == pytest.approx(
            [float(credit)] * int(own.sum()), abs=1e-5
        )
        assert not r.advantage[~own].any()
    assert [r.reward for r in rollouts] == [1.0, 1.0, 0.0, 1.0], "the log's are as they were given"


def test_the_loss_is_one_mean_over_tokens_without_a_dual_clip():
    """Eq. 8 on two rollouts of 1 and 3 tokens, one of them a tool's, by hand."""
    ratios = [[1.4], [0.5, 9.0, 1.1]]
    rollouts = [of(1, 1.0), of(3, 0.0)]
    rollouts[1].mask = [True, False, True]
    for r, a in zip(rollouts, (1.0, -2.0)):
        r.logp_old, r.advantage = torch.zeros(len(r.ids)), torch.full((len(r.ids),), a)
    logp = torch.zeros(2, 3, dtype=torch.float64)
    for row, values in enumerate(ratios):
        logp[row, : len(values)] = torch.tensor(values, dtype=torch.float64).log()
    value, _ = appo.loss_of(rollouts, logp, 3, DAPO, policy_loss)
    # clipped at 1.28; clipped at 0.8; not clipped
    assert value.item() == pytest.approx(-(1.28 * 1 + 0.8 * -2 + 1.1 * -2) / 3, abs=1e-12)
    logp[0, 0], rollouts[0].advantage[0] = math.log(9.0), -1.0
    value, _ = appo.loss_of(rollouts, logp, 3, DAPO, policy_loss)
    assert value.item() == pytest.approx((9.0 + 1.6 + 2.2) / 3, abs=1e-12)


# ---- several processes, a run that goes on


def step_on_this_rank(model: str, data: str) -> tuple:
    """(prompts with credit, seeds of all rollouts) of this rank, weights, numbers."""
    policy = Policy.load(model)
    ids = [encode_prompt(policy.tokenizer, q.messages) for q in load_questions(data)[:12]]
    sampler = sampler_for(policy, {}, max_tokens=64)
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.1)
    meter = Meter(sampler)
    drawn = asked(ids, "vsvs", "ssvs", "vvvv")
    rollouts = dapo.step(policy, optimizer, sampler, drawn, DAPO, meter)
    numbers = meter.numbers(rollouts, policy.ranks)
    seeds = {r.seed for r in rollouts}
    weights = [p.detach() for p in policy.model.parameters()]
    return trained(rollouts), seeds, weights, numbers


@pytest.mark.slow
def test_two_ranks_keep_what_one_keeps(agent_folder, world, tmp_path):
    folder, data = str(agent_folder), str(world / "train.jsonl")
    kept, seeds, weights, numbers = step_on_this_rank(folder, data)
    parts = spread(step_on_this_rank, 2, tmp_path / "spread", folder, data)
    assert kept == sorted(p for part in parts for p in part[0]) == [0, 2, 6, 8]
    assert seeds == parts[0][1] | parts[1][1] and not parts[0][1] & parts[1][1]
    for _, _, theirs, other in parts:
        assert max(float((a - b).abs().max()) for a, b in zip(weights, theirs)) < 1e-6
        for name in ("prompts_drawn", "prompts_dropped", "tokens_trained", "reward", "loss"):
            assert other[name] == pytest.approx(numbers[name], abs=1e-6), name


@pytest.mark.slow
def test_a_run_that_goes_on_draws_the_same(world, agent_folder, tmp_path):
    """Three steps in one go; one, and two more: the same prompts, rollouts and weights."""
    settings = SMALL | dict(algo="dapo", model=agent_folder, eval_questions=0, log_trees=99)
    for out, steps in (("whole", 3), ("parts", 1), ("parts", 3)):
        train.main(arguments(world, tmp_path, **settings | dict(out=tmp_path / out, steps=steps)))
    whole, parts = (lines(tmp_path / out, "metrics") for out in ("whole", "parts"))
    drawn = [x["prompts_drawn"] for x in whole]
    assert drawn == [x["prompts_drawn"] for x in parts] and max(drawn[1:]) > 4
    rows = [
        [(x["step"], x["group"], x["prompt"], x["ids"]) for x in lines(tmp_path / out, "rollouts")]
        for out in ("whole", "parts")
    ]
    assert rows[0] == rows[1]
    a, b = (
        Policy.load(str(newest(tmp_path / out))).model.parameters() for out in ("whole", "parts")
    )
    assert all(torch.equal(x, y) for x, y in zip(a, b))


def test_one_rollout_of_a_prompt_is_refused():
    with pytest.raises(ValueError, match="--algo dapo .* needs --initial 2 or more"):
        Config(**ALGOS["dapo"], algo="dapo", initial=1)
