"""support/sft.py: the loss of imitation, the schedule, a cold start that is interrupted."""

import dataclasses
import math
from functools import partial

import pytest
import torch

from config import read_settings
from policy import Policy
from rollout import Rollout
from support import sft
from support.examples import read_examples
from support.ranks import Ranks
from support.runfiles import forget_cold_start, newest


@pytest.mark.parametrize(
    "budget, passes",
    [
        pytest.param(4096, 1, marks=pytest.mark.slow),
        pytest.param(1, 3, marks=pytest.mark.slow),
        (300, 2),
    ],
)
def test_imitation_loss_by_hand(agent, world, budget, passes, monkeypatch):
    example = read_examples(str(world / "traces.jsonl"), agent.tokenizer)[-3:]
    total, count = 0.0, 0
    for ids, mask in example:
        logp = agent.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        for t in range(1, len(ids)):
            if mask[t]:
                total, count = total - logp[t - 1, ids[t]].item(), count + 1
    run, still = (
        dataclasses.replace(read_settings([]), micro_tokens=budget),
        torch.optim.SGD(agent.model.parameters(), lr=0.0),
    )
    rollouts = [Rollout(ids[:1], 0, ids=ids[1:], mask=mask[1:]) for ids, mask in example]
    loss = -agent.logp(rollouts, 1.0).sum() / count
    grads = torch.autograd.grad(loss, list(agent.model.parameters()))
    exact = torch.cat([g.flatten() for g in grads]).norm().item()
    seen, logp_of = [], Policy.logp
    monkeypatch.setattr(Policy, "logp", lambda *a: seen.append(1) or logp_of(*a))
    found, norm = sft.imitate(agent, [still], example, run, Ranks())
    assert found == pytest.approx(total / count, abs=1e-5) and len(seen) == passes
    assert norm == pytest.approx(exact, rel=1e-4)


# ---- schedule and order


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_the_schedule_rises_and_falls_to_0(schedule, warmup):
    """By hand, also where a cold start goes on in the middle."""
    run = dataclasses.replace(read_settings([]), cold_schedule=schedule, cold_warmup=warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    schedules, up = sft.schedules_of([optimizer], 37, run), math.ceil(warmup * 37)
    assert sft.warmup_steps(37, run) == up
    for i in [*range(37), 5]:
        done = (i - up) / (37 - up)
        down = 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        sft.set_rates(schedules, i, up)
        share = (i + 1) / up if i < up else down
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * share, abs=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_single_step_of_warm_up_is_at_the_peak(schedule):
    run = dataclasses.replace(read_settings([]), cold_schedule=schedule, cold_warmup=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    sft.set_rates(sft.schedules_of([optimizer], 1, run), 0, sft.warmup_steps(1, run))
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_every_epoch_is_a_new_order_or_the_files():
    run = dataclasses.replace(read_settings([]), cold_batch=4, cold_shuffle=True)
    seen = [k for i in range(5) for k in sft.batch_at(i, 10, run)]
    assert (
        sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
        and seen[:10] != seen[10:]
        and seen[:10] != list(range(10))
    )
    assert [
        k
        for i in range(5)
        for k in sft.batch_at(i, 10, dataclasses.replace(run, cold_shuffle=False))
    ] == [*range(10), *range(10)]


# ---- a cold start that is interrupted

SHORT = dict(cold_steps=7, cold_save_every=3, micro_tokens=4096)


def reached(rows, stop):
    """Are there as many rows?"""
    return len(rows) == stop


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_cold_start_goes_on_bit_for_bit(optimizer, world, tmp_path):
    """Seven steps at once, and five, a request to stop, two more from the folder:
    the same weights and the same numbers.
    """
    run, results, rows = (
        dataclasses.replace(read_settings([]), cold_optimizer=optimizer, **SHORT),
        {},
        {"whole": [], "parts": []},
    )
    for name, stops in (("whole", [99]), ("parts", [5, 99])):
        for stop in stops:
            folder = newest(tmp_path / name, "cold")
            policy = Policy.load(str(folder or world / "model"))
            examples = read_examples(str(world / "traces.jsonl"), policy.tokenizer)[:24]
            (tmp_path / name).mkdir(exist_ok=True)
            loss = sft.cold_start(
                policy,
                examples,
                run,
                Ranks(),
                sft.Hooks(
                    progress=False,
                    folder=tmp_path / name,
                    checkpoint=folder,
                    log=rows[name].append,
                    asked=partial(reached, rows[name], stop),
                ),
            )
            assert (loss is None) == (stop == 5)
        results[name] = list(policy.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(results["whole"], results["parts"]))
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in rows["whole"]] == [
        {k: v for k, v in row.items() if k != "seconds"} for row in rows["parts"]
    ]
    assert {f.name for f in tmp_path.glob("*/cold_*")} == {"cold_000006"}, (
        "the one before is deleted"
    )
    forget_cold_start(tmp_path / "parts")
    assert not list((tmp_path / "parts").glob("cold_*"))


@pytest.mark.slow
def test_a_cold_start_whose_gradients_are_not_finite_stops(agent, world):
    with torch.no_grad():
        agent.model.lm_head.weight[5] = float("nan")
    examples = read_examples(str(world / "traces.jsonl"), agent.tokenizer)[:8]
    with pytest.raises(
        ValueError,
        match="cold start: no finite gradient in 3 steps in a row, the last at step 3; "
        "try a smaller --cold_lr",
    ):
        sft.cold_start(
            agent,
            examples,
            dataclasses.replace(read_settings([]), **SHORT),
            Ranks(),
            sft.Hooks(progress=False),
        )
