"""eval.py: runs on a bundled world and without a model, killed and resumed, and what is refused."""

import dataclasses
import json
import math
import os
import re
from pathlib import Path

import pytest
from eval_parts import answered, column, model_folder, result_of, settings, write

import eval as evaluation
from eval import EvalConfig, load_file
from rollout import Rollout
from sampling import Sampler
from support import scores
from support.judge import Judge
from support.questions import parsed
from support.results import locked_file


@pytest.mark.slow
def test_command_line(world, agent_folder, asked, tmp_path, capsys):
    """Golds of every other question are what the model answers greedily: just those are right."""
    evaluation.main(
        settings(agent_folder, world, tmp_path, write(tmp_path / "a.jsonl", *asked), temperature=0)
    )
    own = [answers[0] for answers in column(result_of(tmp_path, "a")["rows"], "answer")]
    assert sum(a is not None for a in own) >= 8
    golds = [a if a is not None and k % 2 == 0 else "no such answer" for k, a in enumerate(own)]
    b = write(tmp_path / "b.jsonl", *[row | {"answer": gold} for row, gold in zip(asked, golds)])
    evaluation.main(
        settings(agent_folder, world, tmp_path, b, temperature=0, samples=3, questions=10)
    )
    result, expected = result_of(tmp_path, "b"), [gold != "no such answer" for gold in golds[:10]]
    assert column(result["rows"], "correct") == [[e] * 3 for e in expected]
    assert (
        result["numbers"]["avg@3"]
        == result["numbers"]["pass@3"]
        == pytest.approx(sum(expected) / 10)
        and 0 < sum(expected) < 10
    )
    assert (
        result["settings"]["seed"] == 0
        and result["versions"]
        and "| b | 10 x 3 | " in capsys.readouterr().out
    )
    evaluation.main(
        settings(
            agent_folder,
            world,
            tmp_path,
            b,
            temperature=1,
            samples=4,
            top_p=1,
            top_k=0,
            out=tmp_path / "out" / "sampled",
        )
    )
    sampled = json.loads((tmp_path / "out" / "sampled" / "eval_b_model.json").read_text())
    correct = column(sampled["rows"], "correct")
    assert sampled["numbers"]["avg@4"] == pytest.approx(sum(map(sum, correct)) / 48) and sampled[
        "numbers"
    ]["pass@4"] == pytest.approx(sum(map(any, correct)) / 12)
    assert (
        all(math.isfinite(v) for v in sampled["numbers"].values())
        and sampled["numbers"]["python_ok"] > 0.9
    )


@pytest.mark.slow
def test_an_evaluation_that_was_killed_goes_on(
    world, agent_folder, asked, tmp_path, monkeypatch, capsys
):
    """Killed in the third batch, the last line cut short: in the end all is as without the kill."""
    data = write(tmp_path / "a.jsonl", *asked)

    def run(out):
        evaluation.main(
            settings(agent_folder, world, tmp_path, data, samples=2, out=tmp_path / out)
        )

    original, calls = Sampler.initial, []

    def interrupted(*args, **how):
        calls.append(len(args[1]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **how)

    monkeypatch.setattr(scores, "BATCH", 4)
    run("whole")
    monkeypatch.setattr(Sampler, "initial", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("parts")
    partial = tmp_path / "parts" / "eval_a_model.partial.jsonl"
    assert len(partial.read_text().splitlines()) == 1 + 8
    partial.write_text(partial.read_text()[:-50])
    with pytest.raises(
        ValueError,
        match="partial.jsonl was made with samples = 2, now 3: give another --out$",
    ):
        evaluation.main(
            settings(agent_folder, world, tmp_path, data, samples=3, out=tmp_path / "parts")
        )
    calls[:] = [0] * 3
    # on another day
    monkeypatch.setattr(evaluation, "today", lambda: "2031-05-06")
    run("parts")
    assert "7 of 12 questions were done before" in capsys.readouterr().out and not partial.exists()
    whole, parts = (
        json.loads((tmp_path / out / "eval_a_model.json").read_text()) for out in ("whole", "parts")
    )

    def without_time(rows):
        call = r'(\["(?:python|search)", "(?:[^"\\\\]|\\\\.)*", "[a-z_]+"), [0-9.e-]+\]'
        return json.loads(re.sub(call, r"\1]", json.dumps(rows)))

    assert without_time(whole["rows"]) == without_time(parts["rows"])
    assert whole["numbers"] == parts["numbers"]
    run("parts")
    assert "12 of 12 questions were done before" in capsys.readouterr().out and calls == [0] * 3 + [
        4,
        1,
    ], "a finished evaluation is not sampled again"


class Fake:
    """In the place of the model: every sample is `answer`.

    After `batches` questions comes a kill. asked: the numbers of the questions sampled.
    """

    answer, batches = "5", math.inf

    def __init__(self):
        self.asked, self.loaded = [], 0

    def sampling(self, run, model, jobs, opened):
        self.loaded += 1
        return self.sample, {job.path: [[k] for k in range(len(job.questions))] for job in jobs}

    def sample(self, prompts, n, seeds, questions):
        if len(self.asked) >= self.batches:
            raise KeyboardInterrupt
        self.asked += [prompt[0] for prompt in prompts]
        return [
            Rollout(
                [1], 0, ids=[1], mask=[True], finish="stop", pieces=[(True, answered(self.answer))]
            )
            for _ in prompts
            for _ in range(n)
        ]


@pytest.fixture
def fake(monkeypatch):
    made = Fake()
    monkeypatch.setattr(evaluation, "sampling", made.sampling)
    monkeypatch.setattr(scores, "BATCH", 1)
    return made


def run_fake(tmp_path, *data, **changes):
    model, out = tmp_path / "model", tmp_path / "out"
    flags = dict(model=model if model.exists() else model_folder(tmp_path), out=out) | changes
    evaluation.main(
        ["--data", *data, *[x for name, value in flags.items() for x in (f"--{name}", str(value))]]
    )
    return result_of(tmp_path, Path(data[0]).stem)


def killed_after(fake, batches, tmp_path, data, **changes):
    fake.batches = len(fake.asked) + batches
    with pytest.raises(KeyboardInterrupt):
        run_fake(tmp_path, data, **changes)
    fake.batches = math.inf
    return tmp_path / "out" / f"eval_{Path(data).stem}_model.partial.jsonl"


ODD = ["a", "b", "line\u2028paragraph\u2029next\u0085end", "pair \U0001f600", "日本", "f"]


def odd_file(tmp_path, name="x.jsonl"):
    return write(tmp_path / name, *[{"question": text, "answer": "5"} for text in ODD])


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_no_question_is_lost_to_odd_characters_or_a_cut(fake, tmp_path, cut):
    """Unicode's line separators, a surrogate pair, a cut last line: every question once.

    In order, and the seconds add up.
    """
    data, fake.answer = odd_file(tmp_path), "\ud83d 本"
    partial = killed_after(fake, 4, tmp_path, data)
    partial.write_bytes(partial.read_bytes()[: -cut or None])
    spent = sum(
        json.loads(line)["seconds"]
        for line in partial.read_text().splitlines()[1 : 4 if cut else 5]
    )
    result = run_fake(tmp_path, data)
    assert [row["id"] for row in result["rows"]] == list("123456") and [
        row["question"] for row in result["rows"]
    ] == ODD
    assert (
        fake.asked == [0, 1, 2, 3] + [3] * (cut > 0) + [4, 5]
        and result["rows"][0]["samples"][0]["answer"] == "\ud83d 本"
    )
    assert (
        result["seconds"] > spent > 0
        and not partial.exists()
        and (tmp_path / "out" / "eval_x_model.json").read_bytes().isascii()
    )


def test_what_follows_a_broken_line_is_sampled_again(fake, tmp_path):
    data = odd_file(tmp_path)
    partial = killed_after(fake, 4, tmp_path, data)
    lines = partial.read_bytes().split(b"\n")
    partial.write_bytes(b"\n".join([*lines[:2], lines[2][:30], *lines[3:]]))
    assert [row["id"] for row in run_fake(tmp_path, data)["rows"]] == list("123456") and fake.asked[
        4:
    ] == [1, 2, 3, 4, 5]


def test_a_line_that_was_cut_does_not_spoil_the_next(fake, tmp_path):
    data = odd_file(tmp_path)
    for kept in (3, 4):
        partial = killed_after(fake, 2 if kept == 4 else 4, tmp_path, data)
        partial.write_bytes(partial.read_bytes()[:-20])
        assert (
            sum(parsed(line, "row") is not None for line in partial.read_bytes().split(b"\n"))
            == kept
        )
    assert [row["id"] for row in run_fake(tmp_path, data)["rows"]] == list(
        "123456"
    ) and fake.asked == [0, 1, 2, 3, 3, 4, 4, 5]


def test_more_rows_than_questions_are_refused(fake, tmp_path):
    data = odd_file(tmp_path)
    run_fake(tmp_path, data)
    file = tmp_path / "out" / "eval_x_model.json"
    result = json.loads(file.read_text())
    file.write_text(json.dumps(result | {"rows": result["rows"] + result["rows"][:1]}))
    with pytest.raises(ValueError, match="more questions were done before than .*x.jsonl has"):
        run_fake(tmp_path, data)


def test_rows_of_other_questions_are_refused(fake, tmp_path):
    data = odd_file(tmp_path)
    partial = killed_after(fake, 3, tmp_path, data)
    for name, other in (("id", "9"), ("question", "else")):
        lines = [json.loads(line) for line in partial.read_text().splitlines()]
        kept, lines[2]["row"][name] = lines[2]["row"][name], other
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(
            ValueError, match="question 2 is .* in what was done before, '2' in .*x.jsonl"
        ):
            run_fake(tmp_path, data)
        lines[2]["row"][name] = kept
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
    partial.write_text(partial.read_text() + partial.read_text().split("\n", 1)[1] * 2)
    with pytest.raises(ValueError, match="question 4 is '1'"):
        run_fake(tmp_path, data)


def test_two_files_of_one_name_are_refused(fake, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        odd_file(tmp_path / name)
    with pytest.raises(ValueError, match="a/x.jsonl and .*b/x.jsonl would write one result file"):
        run_fake(tmp_path, str(tmp_path / "a" / "x.jsonl"), str(tmp_path / "b" / "x.jsonl"))
    assert not fake.loaded and not (tmp_path / "out").exists()


def test_a_finished_evaluation_keeps_what_it_says(fake, tmp_path, judging):
    """Run again it loads no model and changes nothing; a judge adds verdicts, which stay."""
    data, server = (
        odd_file(tmp_path),
        judging(lambda prompt: "CORRECT" if "QUESTION" in prompt else "YES"),
    )
    first = run_fake(tmp_path, data)
    assert first["seconds"] > 0 and run_fake(tmp_path, data) == first and fake.loaded == 1
    judged = run_fake(tmp_path, data, judge=server.url, judge_model="m")
    assert judged["judge"] == "m" and judged["numbers"]["judge_avg@1"] == 1
    assert (judged["seconds"], judged["versions"]) == (first["seconds"], first["versions"])
    assert run_fake(tmp_path, data) == judged and fake.loaded == 1
    (tmp_path / "out" / "eval_x_model.json").write_text(
        json.dumps(judged | {"versions": {"python": "2"}, "seconds": 7.5})
    )
    assert (
        run_fake(tmp_path, data)["versions"] == {"python": "2"}
        and run_fake(tmp_path, data)["seconds"] == 7.5
    )


def test_parts_under_other_versions_are_told(fake, tmp_path, monkeypatch):
    data = odd_file(tmp_path)
    killed_after(fake, 3, tmp_path, data)
    monkeypatch.setattr("support.results.versions", lambda: {"torch": "99"})
    assert re.fullmatch(r"\d.*, then 99", run_fake(tmp_path, data)["versions"]["torch"])


def test_what_fails_before_its_first_question_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        evaluation.main(
            [
                "--model",
                str(tmp_path / "none"),
                "--data",
                odd_file(tmp_path),
                "--out",
                str(tmp_path / "out"),
                "--tools",
                "python",
                "--sandbox",
                "best-effort",
            ]
        )
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("finished", [False, True])
def test_another_evaluation_is_refused_before_a_model_is_loaded(fake, tmp_path, finished):
    """With other settings, data or weights no evaluation goes on; with a copy of them it does."""
    data, other = odd_file(tmp_path), write(tmp_path / "y.jsonl", {"question": "q", "answer": "5"})
    run_fake(tmp_path, data) if finished else killed_after(fake, 3, tmp_path, data)
    changes = {
        "seed": dict(seed=1),
        "temperature": dict(temperature=0.5),
        "checkpoint": dict(model=tmp_path / "elsewhere" / "model"),
    }
    loaded = fake.loaded
    (tmp_path / "elsewhere").mkdir()
    model_folder(tmp_path / "elsewhere")
    for name, flags in changes.items():
        with pytest.raises(ValueError, match=f"was made with {name} = "):
            run_fake(tmp_path, other, data, **flags)
    model_folder(tmp_path, b"0" * 50 + b"1" + b"0" * 49)
    with pytest.raises(ValueError, match="was made with weights = "):
        run_fake(tmp_path, data)
    os.utime(model_folder(tmp_path) / "model.safetensors", (1, 1))
    write(Path(data), *[{"question": text, "answer": "6"} for text in ODD])
    with pytest.raises(ValueError, match="was made with data_sha256 = "):
        run_fake(tmp_path, data)
    odd_file(tmp_path)
    assert fake.loaded == loaded and len(run_fake(tmp_path, data)["rows"]) == 6


def test_two_evaluations_cannot_write_one_file(fake, tmp_path):
    data = odd_file(tmp_path)
    partial = killed_after(fake, 3, tmp_path, data)
    with locked_file(partial):
        with pytest.raises(
            ValueError, match="another evaluation is writing to .*partial.jsonl: give another --out"
        ):
            run_fake(tmp_path, data)
    assert len(run_fake(tmp_path, data)["rows"]) == 6


def test_settings_may_change_until_a_question_is_done(fake, tmp_path):
    data = odd_file(tmp_path)
    killed_after(fake, 0, tmp_path, data)
    assert run_fake(tmp_path, data, samples=2)["settings"]["samples"] == 2


def test_answers_that_cannot_be_right_are_named_before_a_model_is_loaded(fake, tmp_path, capsys):
    fake.batches = 0
    answers = [("5", "math"), ("a} b", "qa"), ("Paris", "qa")] + [("{", "math")] * 12
    rows = [
        {"question": str(k), "answer": answer, "task": task}
        for k, (answer, task) in enumerate(answers)
    ]
    with pytest.raises(KeyboardInterrupt):
        run_fake(tmp_path, write(tmp_path / "x.jsonl", *rows))
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert (
        "x.jsonl, row 2: warning: its answer 'a} b' is not graded as right" in warnings[0]
        and len(warnings) == 11
    )
    assert warnings[-1].endswith("warning: ... and 3 answers more")


def test_the_papers_judge_is_missed(fake, tmp_path, capsys):
    run_fake(tmp_path, odd_file(tmp_path, "gaia.jsonl"))
    run_fake(tmp_path, odd_file(tmp_path, "hotpotqa.jsonl"))
    told = [line for line in capsys.readouterr().out.splitlines() if "--judge" in line]
    assert len(told) == 1 and "gaia.jsonl: the paper has a model judge these answers" in told[0]


def test_one_action_at_once(tmp_path, capsys):
    for flags in (
        ["--benchmarks", "--regrade", "a"],
        ["--compare", "a", "b", "--overlap", "a", "b"],
    ):
        with pytest.raises(SystemExit):
            evaluation.main(flags)
        assert "not allowed with argument" in capsys.readouterr().err


def test_a_judge_that_is_not_there_is_named_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation.Policy, "load", lambda *a: pytest.fail("a model was loaded"))
    monkeypatch.setattr(Judge, "PATIENCE", dict(retries=0))
    with pytest.raises(ValueError, match="--judge http://127.0.0.1:9/v1: .*Connection refused"):
        run_fake(
            tmp_path,
            write(tmp_path / "q.jsonl", {"question": "a", "answer": "1"}),
            judge="http://127.0.0.1:9/v1",
            judge_model="m",
        )
    with pytest.raises(ValueError, match="--judge and --judge_model go together"):
        evaluation.main(["--model", "m", "--data", "d", "--judge", "http://x"])
    with pytest.raises(ValueError, match="--judge foo: not a URL of the form"):
        run_fake(
            tmp_path,
            write(tmp_path / "q.jsonl", {"question": "a", "answer": "1"}),
            judge="foo",
            judge_model="m",
        )


def test_a_benchmark_decides_how_answers_are_graded(tmp_path):
    run = EvalConfig(model="m", data=("d",))
    paths = [
        write(tmp_path / name, {"question": "a", "answer": "5"})
        for name in ("bamboogle.jsonl", "gsm8k.jsonl", "other.jsonl")
    ]
    assert [load_file(run, path)[0].task for path in paths] == ["qa", "math", "math"]
    assert load_file(dataclasses.replace(run, task="math"), paths[0])[0].task == "math"


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--samples", "0"], "--samples must be >= 1"),
        (["--temperature", "-1"], "--temperature must be >= 0"),
        (["--questions", "-1"], "--questions must be >= 0"),
        (["--rows", "0"], "--rows must be >= 1"),
        ([], "data file .* does not exist"),
        (["--data", ""], "--model and --data are needed"),
    ],
)
def test_bad_flags(flags, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluation.main(
            ["--model", str(tmp_path / "m"), "--data", str(tmp_path / "no.jsonl"), *flags]
        )


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="--model .*nothing is neither"):
        evaluation.main(
            [
                "--model",
                str(tmp_path / "nothing"),
                "--data",
                write(tmp_path / "d.jsonl", {"question": "a", "answer": "1"}),
                "--tools",
                "python",
                "--sandbox",
                "best-effort",
                "--out",
                str(tmp_path / "new"),
            ]
        )


@pytest.mark.parametrize(
    "flag, value, line",
    [
        ("--out", " \t", "--out is empty: name a folder, or leave it out"),
        ("--device", "tpu", "--device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        ("--date", "20260131", "--date must be a day such as 2026-01-31, got '20260131'"),
    ],
)
def test_a_flag_that_cannot_be_meant_is_refused_in_words(flag, value, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        evaluation.main(["--model", "m", "--data", "d.jsonl", flag, value])
