"""train.py: a run end to end, resume, and the real-model path on a tiny random Llama."""

import dataclasses
import json
import math
import os
import re
import shutil
import signal
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from conftest import SMALL, arguments, lines, trainer_tensors, untrained

import appo
import train
from config import ALGOS, Config, read_settings
from policy import Policy
from rollout import Rollout
from support import heldout
from support.questions import Question
from support.ranks import Ranks
from support.runfiles import newest
from train import batch_of, further_of

METRICS = Path(train.__file__).parent / "docs/metrics.md"


# ---- order


def test_every_epoch_is_a_permutation():
    run = dataclasses.replace(Config(), prompts=6, minibatch=3)
    seen = [i for step in range(10) for i in batch_of(run, step, 20)]
    assert sorted(seen[:20]) == sorted(seen[20:40]) == list(range(20)) and seen[:20] != seen[20:40]
    assert batch_of(dataclasses.replace(run, seed=1), 0, 20) != seen[:6]


def test_further_questions_are_drawn_anew_but_always_the_same():
    """None comes twice in a step until all have come; another step has another order."""
    run = dataclasses.replace(Config(), prompts=6, minibatch=3)
    rounds = [batch_of(run, 4, 20), *(further_of(run, 4, k, 20) for k in (1, 2, 3))]
    seen = sum(rounds, [])
    assert sorted(seen[:20]) == list(range(20)) and len(seen) == 24
    assert rounds[2] == further_of(run, 4, 2, 20) != further_of(run, 5, 2, 20)
    assert further_of(dataclasses.replace(run, seed=1), 4, 1, 20) != rounds[1]
    assert sorted(further_of(run, 0, 1, 3)) == [0, 0, 1, 1, 2, 2], "fewer than a step asks for"


# ---- a run


def test_the_runs_folder(finished):
    steps = [x for x in lines(finished, "metrics") if "reward" in x]
    assert [x["step"] for x in steps] == [1, 2, 3, 4]
    for x in steps:
        assert {
            "tokens_sampled",
            "tokens_trained",
            "optimizer_steps",
            "seconds_sample",
            "seconds_branch",
            "seconds_score",
            "seconds_update",
            "degenerate",
        } <= set(x)
        assert all(math.isfinite(v) for v in x.values())
        phases = [v for name, v in x.items() if name.startswith("seconds_")]
        assert x["seconds"] == pytest.approx(sum(phases), rel=1e-9) and len(phases) == 7
        assert {"time", "lr", "epoch"} <= set(x) and x["epoch"] == x["step"] * 4 / 200
        assert x["reward_auto"] == x["reward"] and {
            "reward_f1",
            "reward_math",
            "reward_released",
        } <= set(x)
        assert (
            x["degenerate_first"] == 1
            and x["degenerate_later"] < 0.5
            and x["computed_per_unique"] <= 1
        )
    for total, name in (("tokens_total", "tokens_sampled"), ("calls_total", "calls_made")):
        assert [x[total] for x in steps] == list(accumulate(x[name] for x in steps))
    evaluations = [x["step"] for x in lines(finished, "metrics") if "eval_greedy" in x]
    assert evaluations == [0, 2, 4] and (finished / "eval_000004.json").exists()
    assert (finished / "latest").read_text() == "step_000004" and {
        p.name for p in finished.glob("step_*")
    } == {"step_000000", "step_000002", "step_000004"}
    config = json.loads((finished / "config.json").read_text())
    assert (
        set(config["data_sha256"]) == {"data", "eval_data", "corpus"}
        and read_settings(["--config", str(finished / "config.json")]).prompts == 4
    )
    assert (
        config["sandbox_level"]
        and config["prompts"] == 4
        and config["versions"]["torch"] == torch.__version__
        and config["future_weight"] == 0.5
    )


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    finished, world, agent_folder, tmp_path, capsys, monkeypatch
):
    """Four steps in one go; and two, a request to stop that costs the evaluation due then, and
    two more: all tensors and all lines of both logs the same.
    """
    parts = tmp_path / "parts"
    settings = SMALL | dict(save_every=3, eval_every=2)
    args, write = (
        arguments(world, tmp_path, model=agent_folder, out=parts, **settings),
        train.write_step,
    )
    monkeypatch.setattr(
        train,
        "write_step",
        lambda run, policy, log, step, *rest: (
            write(run, policy, log, step, *rest),
            step == 2 and os.kill(os.getpid(), signal.SIGTERM),
        ),
    )
    train.main(args)
    monkeypatch.undo()
    assert (
        "asked to stop: step 2 is saved" in capsys.readouterr().out
        and (parts / "latest").read_text() == "step_000002"
    )
    # a step that was under way when the run was killed, its last line cut short
    for name in ("metrics", "rollouts"):
        with open(parts / f"{name}.jsonl", "a") as log:
            log.write(json.dumps({"step": 3, "reward": 9}) + '\n{"step": 3, "ids": [1, 2')
    train.main(args)
    assert "going on from" in capsys.readouterr().out
    a, b = (Policy.load(str(out / "step_000004")).model.parameters() for out in (finished, parts))
    assert all(torch.equal(x, y) for x, y in zip(a, b))
    a, b = (trainer_tensors(out / "step_000004", tmp_path) for out in (finished, parts))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

    def plain(out):
        return [
            {k: v for k, v in x.items() if "seconds" not in k and k not in ("occupancy", "time")}
            for x in lines(out, "metrics")
        ]

    assert plain(finished) == plain(parts) and [
        x["step"] for x in plain(finished) if "eval_greedy" in x
    ] == [0, 2, 4]

    def trees(out):
        return [
            x | {"calls": [c | {"seconds": 0} for c in x["calls"]]} for x in lines(out, "rollouts")
        ]

    assert trees(finished) == trees(parts)


@pytest.mark.slow
def test_a_run_with_a_cold_start_that_is_stopped(world, tmp_path, capsys, monkeypatch):
    """Asked to stop after four of six steps of the cold start, the same command goes on with them:
    the weights and numbers of a run that was not stopped.
    """
    traces = tmp_path / "traces.jsonl"
    traces.write_text("".join(open(world / "traces.jsonl").readlines()[:100]))
    settings = SMALL | dict(
        steps=0, eval_questions=0, cold_steps=6, cold_batch=4, cold_start=traces
    )
    imitate, seen = train.sft.imitate, []
    monkeypatch.setattr(
        train.sft,
        "imitate",
        lambda *a: (
            seen.append(1) or len(seen) == 4 and os.kill(os.getpid(), signal.SIGTERM),
            imitate(*a),
        )[1],
    )
    train.main(arguments(world, tmp_path, out=tmp_path / "parts", **settings))
    assert "the cold start is saved, the same command goes on with it" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "parts").iterdir() if p.is_dir()} == {"cold_000004"}
    with pytest.raises(ValueError, match="holds a run with another --cold_lr"):
        train.main(
            arguments(world, tmp_path, out=tmp_path / "parts", **settings | dict(cold_lr=0.5))
        )
    for out in ("parts", "whole"):
        train.main(arguments(world, tmp_path, out=tmp_path / out, **settings))
    assert "going on with the cold start from" in capsys.readouterr().out
    left = {p.name for p in (tmp_path / "parts").iterdir() if p.is_dir()}
    assert left == {"step_000000"}, "nothing is left of the cold start"
    a, b = (
        Policy.load(str(tmp_path / out / "step_000000")).model.parameters()
        for out in ("whole", "parts")
    )
    assert all(torch.equal(x, y) for x, y in zip(a, b))
    a, b = (
        [
            {k: v for k, v in x.items() if k != "seconds"}
            for x in lines(tmp_path / out, "cold_start")
        ]
        for out in ("whole", "parts")
    )
    assert a == b and [x["step"] for x in a] == [1, 2, 3, 4, 5, 6] and a[0]["lr"] > a[-1]["lr"] > 0


@pytest.mark.slow
def test_the_checkpoint_is_looked_for_under_the_lock(
    finished, world, agent_folder, tmp_path, monkeypatch, capsys
):
    """A run that starts while its predecessor still saves:
    what counts is what is there when the lock is free.
    """
    settings = SMALL | dict(steps=2, save_every=1, eval_questions=0)
    train.main(arguments(world, tmp_path, model=agent_folder, **settings | dict(steps=1)))
    locked = train.locked

    def late(folder, ranks):
        monkeypatch.undo()
        train.main(arguments(world, tmp_path, model=agent_folder, **settings))
        return locked(folder, ranks)

    monkeypatch.setattr(train, "locked", late)
    train.main(arguments(world, tmp_path, model=agent_folder, **settings | dict(steps=4)))
    assert capsys.readouterr().out.rpartition("going on from")[2].split()[0].endswith("000002")
    a, b = (
        Policy.load(str(out / "step_000004")).model.parameters()
        for out in (finished, tmp_path / "run")
    )
    assert all(torch.equal(x, y) for x, y in zip(a, b))


def test_a_request_to_stop_during_an_evaluation_is_obeyed_before_the_next_step(
    world, agent_folder, tmp_path, monkeypatch, capsys
):
    sampled = heldout.evaluate
    monkeypatch.setattr(
        heldout,
        "evaluate",
        lambda *a, **k: (os.kill(os.getpid(), signal.SIGTERM), sampled(*a, **k))[1],
    )
    train.main(arguments(world, tmp_path, model=agent_folder, **SMALL))
    assert (
        "asked to stop: step 0 is saved" in capsys.readouterr().out
        and newest(tmp_path / "run").name == "step_000000"
        and not lines(tmp_path / "run", "metrics")
    )


@pytest.mark.slow
def test_the_reference_outlives_keep(world, agent_folder, tmp_path):
    settings = SMALL | dict(
        steps=3, save_every=1, keep_checkpoints=1, eval_questions=0, branches=0, kl_coef=0.1
    )
    train.main(arguments(world, tmp_path, model=agent_folder, **settings))
    assert {p.name for p in (tmp_path / "run").glob("step_*")} == {"step_000000", "step_000003"}
    train.main(arguments(world, tmp_path, model=agent_folder, **settings | dict(steps=4)))


@pytest.mark.slow
def test_without_kl_no_reference_is_loaded(world, agent_folder, tmp_path, monkeypatch):
    loaded, load = [], train.load_policy
    monkeypatch.setattr(train, "load_policy", lambda *a: loaded.append(1) or load(*a))
    for coef, models in ((0.0, 1), (0.1, 2)):
        loaded.clear()
        train.main(
            arguments(
                world,
                tmp_path,
                model=agent_folder,
                out=tmp_path / str(coef),
                **SMALL | dict(steps=1, eval_questions=0, kl_coef=coef),
            )
        )
        assert len(loaded) == models


@pytest.mark.slow
def test_broken_tools_stop_a_run_that_then_goes_on(
    finished, world, agent_folder, tmp_path, monkeypatch
):
    """From the third step on no search is answered:
    nothing is trained on that, two steps are saved, and with the search back the run ends as if
    nothing had been.
    """
    import tools
    from support.http import Unavailable

    args = arguments(
        world, tmp_path, model=agent_folder, out=tmp_path / "run", **SMALL | dict(save_every=50)
    )
    original, step = tools.SearchTool.run, appo.step
    steps = []
    monkeypatch.setattr(appo, "step", lambda *a: steps.append(1) or step(*a))
    monkeypatch.setattr(
        tools.SearchTool,
        "run",
        lambda self, query: (
            original(self, query) if len(steps) < 3 else tools.ToolResult("infra", "Error: no", 0.0)
        ),
    )
    with pytest.raises(
        Unavailable,
        match=r"step 3: tools: \d+ of \d+ calls failed for reasons of infrastructure "
        r"\(search \d+\); step 2 is saved",
    ):
        train.main(args)
    assert (tmp_path / "run" / "latest").read_text() == "step_000002"
    monkeypatch.undo()
    train.main(args)
    a, b = (
        Policy.load(str(out / "step_000004")).model.parameters()
        for out in (finished, tmp_path / "run")
    )
    assert all(torch.equal(x, y) for x, y in zip(a, b))


def spoil_credit(monkeypatch, when):
    """Advantages that are not a number, from here on whenever when() holds."""
    assign = appo.assign_credit

    def spoilt(rollouts, branches, config):
        assign(rollouts, branches, config)
        for r in rollouts if when() else ():
            r.advantage = r.advantage * float("nan")

    monkeypatch.setattr(appo, "assign_credit", spoilt)


@pytest.mark.slow
def test_gradients_that_are_not_finite_stop_the_run(world, agent_folder, tmp_path, monkeypatch):
    """Credit that is not a number:
    no update is made, and after two such steps the run stops with the rollouts on disk and the
    weights of the start.
    """
    spoil_credit(monkeypatch, lambda: True)
    with pytest.raises(
        ValueError,
        match=r"the gradients of 2 steps in a row were not finite; the last step's rollouts are in "
        r".*skipped_000002_0.jsonl",
    ):
        train.main(
            arguments(
                world, tmp_path, model=agent_folder, **SMALL | dict(max_skipped=2, eval_questions=0)
            )
        )
    assert [x["skipped"] for x in lines(tmp_path / "run", "metrics")] == [
        1.0,
        1.0,
    ] and "gradient was not finite" in str(lines(tmp_path / "run", "metrics")[0]["alarms"])
    rows = [json.loads(line) for line in open(tmp_path / "run" / "skipped_000002_0.jsonl")]
    assert len(rows) >= 16 and {row["group"] for row in rows} == {0, 1, 2, 3}
    a, b = (
        Policy.load(str(path)).model.parameters()
        for path in (agent_folder, newest(tmp_path / "run"))
    )
    assert all(torch.equal(x, y) for x, y in zip(a, b))


@pytest.mark.slow
def test_a_step_with_a_skipped_update_is_not_saved(world, agent_folder, tmp_path, monkeypatch):
    """Every step would be saved;
    from the third on no gradient is finite: none of these is, and starting again changes nothing of
    that.
    """
    step = appo.step
    monkeypatch.setattr(appo, "step", lambda *a: (seen.append(1), step(*a))[1])
    spoil_credit(monkeypatch, lambda: len(seen) > 2 - done)
    for done in (0, 2):
        seen = []
        with pytest.raises(ValueError, match="the gradients of 2 steps in a row were not finite"):
            train.main(
                arguments(
                    world,
                    tmp_path,
                    model=agent_folder,
                    **SMALL | dict(steps=9, save_every=1, max_skipped=2, eval_questions=0),
                )
            )
        assert newest(tmp_path / "run").name == "step_000002" and len(seen) == 4 - done


@pytest.mark.slow
def test_stopped_amid_skipped_updates_a_run_goes_on_counting(
    world, agent_folder, tmp_path, monkeypatch
):
    spoil_credit(monkeypatch, lambda: True)
    flags = arguments(
        world,
        tmp_path,
        model=agent_folder,
        **SMALL | dict(max_skipped=2, eval_questions=0, save_every=9),
    )
    before = signal.getsignal(signal.SIGINT)
    train.main(flags + ["--steps", "1"])
    assert signal.getsignal(signal.SIGINT) == before
    with pytest.raises(
        ValueError, match="the gradients of 2 steps in a row were not finite.*skipped_000002"
    ):
        train.main(flags)


@pytest.mark.slow
@pytest.mark.parametrize("algo", sorted(ALGOS.keys() - {"appo"}))
def test_every_algo_trains(world, agent_folder, tmp_path, algo):
    """A step of train.py with the step of methods/NAME.py, its numbers in the log and the bar."""
    preset = {"preset": "released", "reward": "auto"} if algo == "released" else {"algo": algo}
    changes = dict(steps=1, prompts=2, minibatch=1, eval_questions=0, initial=4) | preset
    train.main(arguments(world, tmp_path, model=agent_folder, **SMALL | changes))
    (numbers,) = lines(tmp_path / "run", "metrics")
    assert (numbers["branches"] == 0) == (ALGOS[algo].get("branches") == 0)
    assert numbers["optimizer_steps"] == 2 and math.isfinite(numbers["loss"])
    assert json.loads((tmp_path / "run" / "config.json").read_text())["algo"] == algo


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_no_gpu_is_said(world, tmp_path):
    with pytest.raises(ValueError, match="sees no GPU"):
        train.main(arguments(world, tmp_path, device="cuda"))


def test_an_evaluation_lost_to_a_kill_is_made_up_for(
    finished, world, agent_folder, tmp_path, capsys
):
    shutil.copytree(finished, tmp_path / "run")
    kept = [
        x
        for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines(True)
        if not ('"step": 4' in x and "eval_greedy" in x)
    ]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(kept))
    train.main(arguments(world, tmp_path, model=agent_folder, out=tmp_path / "run", **SMALL))
    assert "all of --steps 4 are done" in capsys.readouterr().out
    last = [x for x in lines(tmp_path / "run", "metrics") if "eval_greedy" in x][-1]
    assert last == [x for x in lines(finished, "metrics") if "eval_greedy" in x][-1]


@pytest.mark.slow
def test_a_budget_of_sampled_tokens_ends_a_run(world, agent_folder, tmp_path, capsys):
    """With the step that reaches it; that step is saved and evaluated, and nothing follows it."""
    settings = SMALL | dict(steps=50, model=agent_folder, save_every=1)
    train.main(arguments(world, tmp_path, **settings | dict(max_sampled=1)))
    [first] = [x for x in lines(tmp_path / "run", "metrics") if "tokens_sampled" in x]
    budget = first["tokens_sampled"] + 1
    train.main(arguments(world, tmp_path, **settings | dict(max_sampled=budget)))
    metrics = lines(tmp_path / "run", "metrics")
    assert [x["step"] for x in metrics if "tokens_sampled" in x] == [1, 2]
    assert [x["step"] for x in metrics if "eval_greedy" in x] == [0, 1, 2]
    assert newest(tmp_path / "run").name == "step_000002"
    capsys.readouterr()
    train.main(arguments(world, tmp_path, **settings | dict(max_sampled=budget)))
    assert "all of --max_sampled are done" in capsys.readouterr().out
    assert lines(tmp_path / "run", "metrics") == metrics


@pytest.mark.slow
def test_the_reference_of_a_resumed_run_is_the_starting_model(world, agent_folder, tmp_path):
    runs = {}
    for name, stops in (("whole", ["2"]), ("parts", ["1", "2"])):
        for stop in stops:
            train.main(
                arguments(
                    world,
                    tmp_path,
                    model=agent_folder,
                    out=tmp_path / name,
                    **SMALL
                    | dict(
                        steps=stop, save_every=1, eval_questions=0, branches=0, kl_coef=0.1, lr=1e-3
                    ),
                )
            )
        runs[name] = [x["kl_ref"] for x in lines(tmp_path / name, "metrics")]
    assert runs["whole"] == runs["parts"] and runs["whole"][0] < runs["whole"][1]


def test_every_logged_number_is_defined_in_the_docs(finished):
    text = METRICS.read_text()
    names = {name for x in lines(finished, "metrics") for name in x}
    missing = [
        n
        for n in sorted(names)
        if f"`{n}`" not in text
        and f"`{re.sub('@[0-9]+', '@k', n)}`" not in text
        and not n.startswith(("tool_", "seconds_", "eval_python_", "eval_search_"))
    ]
    assert not missing
    assert "`tool_STATUS`" in text and "`seconds_PHASE`" in text and "`eval_TOOL_STATUS`" in text


# ---- a real model's path, in small


def test_a_hugging_face_model_on_real_formats(tokenizer, tmp_path, capsys):
    """A random Llama, verl's data format with the authors' broken prompt, their search cache as the
    corpus: the path that SmolLM2 takes.
    """
    untrained("llama", tokenizer, initializer_range=0.02).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    def chat(k):
        return [
            {"role": "system", "content": "Answer in \x08oxed{}."},
            {"role": "user", "content": f"What is {k} plus {k}?"},
        ]

    rows = [
        {
            "data_source": "x",
            "prompt": chat(k),
            "ability": "math",
            "reward_model": {"ground_truth": str(2 * k), "style": "rule"},
            "extra_info": {"index": k},
            "metadata": None,
        }
        for k in range(4)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "cache.json").write_text(json.dumps({"q": "Page 1: one\nPage 2: two"}))
    train.main(
        [
            "--model",
            str(tmp_path / "model"),
            "--data",
            str(tmp_path / "train.jsonl"),
            "--corpus",
            str(tmp_path / "cache.json"),
            "--out",
            str(tmp_path / "run"),
            "--steps",
            "3",
            "--prompts",
            "2",
            "--minibatch",
            "1",
            "--initial",
            "2",
            "--branches",
            "2",
            "--max_tokens",
            "24",
            "--rows",
            "4",
            "--show",
            "3",
            "--lr",
            "1e-3",
            "--sandbox",
            "best-effort",
            "--reward",
            "released",
        ]
    )
    printed = capsys.readouterr().out
    assert "repaired the backspace in \\boxed in 4 of 4 prompts" in printed
    assert (
        len(
            re.findall(
                r"branch at token \d+ of \d+: .* entropy \d\.\d+ Omega \d\.\d+ score [+-]\d",
                printed,
            )
        )
        == 9
    )
    steps = lines(tmp_path / "run", "metrics")
    assert len(steps) == 3 and all(
        x["computed_per_unique"] <= 1 and x["branches"] == 8 for x in steps
    )


def test_the_reward_that_is_trained_on_is_not_computed_again(monkeypatch):
    """It may cost money or draw at random: the log's mean is that of the rewards given."""
    question = Question("1", [{"role": "user", "content": "q"}], ["4"], "math")
    text = "<think> a </think><answer> \\boxed{4} </answer>"
    wrong = text.replace("4}", "5}")
    rollouts = [
        Rollout([1], 0, finish="stop", pieces=[(True, said)], reward=x)
        for said, x in ((text, 7.0), (wrong, 8.0))
    ]
    # the log's means are those of initial rollouts
    branch = Rollout([1], 0, finish="stop", pieces=[(True, wrong)], parent=rollouts[0])
    asked, original = [], train.reward

    def counted(rollout, golds, kind, task):
        asked.append(kind)
        return original(rollout, golds, kind, task)

    monkeypatch.setattr(train, "reward", counted)
    means = train.every_reward([*rollouts, branch], [question], "math", Ranks())
    assert means["reward_math"] == 7.5 and means["reward_f1"] == means["reward_auto"] == 0.5
    assert means["accuracy"] == 0.5
    assert sorted(asked) == sorted(["auto", "f1", "released"] * 2)
