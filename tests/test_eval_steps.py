"""eval.py --steps: two checkpoints of one run, compared question by question."""

import json
import re

import pytest
from eval_parts import write
from test_eval import fake  # noqa: F401  (a fixture)

import eval as evaluation
from eval import EvalConfig


@pytest.fixture
def run(tmp_path):
    """A run's folder with checkpoints after steps 0 and 40."""
    for step in (0, 40):
        folder = tmp_path / "run" / f"step_{step:06d}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"%d" % step)
        (folder / "manifest.json").write_text("{}")
    (tmp_path / "run" / "latest").write_text("step_000040")
    return tmp_path / "run"


def test_two_steps_of_a_run_are_compared(run, fake, tmp_path, monkeypatch, capsys):  # noqa: F811
    """Step 0 answers 5, step 40 answers 6: of four questions 6 is right three times."""
    answers = {"step_000000": "5", "step_000040": "6"}

    def sampling(run, model, jobs, opened):
        fake.answer = answers[model.rpartition("/")[2]]
        return fake.sampling(run, model, jobs, opened)

    monkeypatch.setattr(evaluation, "sampling", sampling)
    rows = [{"question": f"q{k}", "answer": "5" if k == 0 else "6"} for k in range(3)]
    # a gold that no answer matches is warned of, once for both steps
    rows.append({"question": "q3", "answer": ["6", "a}"]})
    data = write(tmp_path / "a.jsonl", *rows)
    page = tmp_path / "page.html"
    flags = ["--model", str(run), "--data", data, "--html", str(page)]
    evaluation.main([*flags, "--steps", "0", "40"])
    said = capsys.readouterr().out
    assert "| a, step 0 | 4 x 1 | 25.0 " in said and "| a, step 40 | 4 x 1 | 75.0 " in said
    assert re.search(r"eval_a_step_000040.json - .*eval_a_step_000000.json: 4 questions in", said)
    assert "correct  +0.5000" in said
    assert said.count("row 4: warning: its answer 'a}' is not graded as right") == 1
    assert "<td>a, step 40</td>" in page.read_text() and "correct  +0.5000" in page.read_text()
    saved = json.loads((run / "eval_a_step_000040.json").read_text())
    assert saved["settings"]["checkpoint"] == str(run / "step_000040")
    # the newest step alone is what is there already
    fake.loaded = 0
    evaluation.main(flags)
    assert fake.loaded == 0 and "step 40" not in page.read_text()


@pytest.mark.parametrize(
    "flags, most",
    [
        ([], 15),
        (["--max_tool_calls", "python=2,search=4"], 6),
        (["--max_tool_calls", "python=2", "--max_calls", "9"], 9),
    ],
)
def test_budgets_of_tools_may_all_be_used_up(run, fake, tmp_path, flags, most):  # noqa: F811
    data = write(tmp_path / "a.jsonl", {"question": "q", "answer": "5"})
    evaluation.main(["--model", str(run), "--data", data, *flags])
    saved = json.loads((run / "eval_a_step_000040.json").read_text())["settings"]
    assert saved["max_calls"] == most and saved["repetition_penalty"] == 1.0


def test_a_result_from_before_these_settings_goes_on(run, fake, tmp_path):  # noqa: F811
    data = write(tmp_path / "a.jsonl", {"question": "q", "answer": "5"})
    evaluation.main(["--model", str(run), "--data", data])
    path = run / "eval_a_step_000040.json"
    saved = json.loads(path.read_text())
    for name in ("repetition_penalty", "max_tool_calls"):
        del saved["settings"][name]
    path.write_text(json.dumps(saved))
    evaluation.main(["--model", str(run), "--data", data])
    with pytest.raises(ValueError, match="made with repetition_penalty = 1.0, now 1.1"):
        evaluation.main(["--model", str(run), "--data", data, "--repetition_penalty", "1.1"])


@pytest.mark.parametrize(
    "budgets, line",
    [("python", "--max_tool_calls must be NAME=N"), ("shell=3", "'shell' is no tool here")],
)
def test_budgets_that_cannot_be_meant(run, tmp_path, budgets, line):
    data = write(tmp_path / "a.jsonl", {"question": "q", "answer": "5"})
    flags = ["--model", str(run), "--data", data, "--max_tool_calls", budgets]
    with pytest.raises(ValueError, match=line):
        evaluation.main([*flags, "--tools", "python", "--sandbox", "best-effort"])


@pytest.mark.parametrize(
    "steps, line",
    [
        ((0,), "--steps takes two steps to compare"),
        ((0, 40, 40), "--steps takes two steps to compare"),
        ((40, 40), "--steps takes two steps to compare"),
        ((0, 30), "--steps 30: .*run holds no checkpoint of that step"),
    ],
)
def test_steps_that_cannot_be_compared(run, steps, line):
    with pytest.raises(ValueError, match=line):
        EvalConfig(model=str(run), data=("d.jsonl",), steps=steps)


def test_a_served_model_has_no_steps(run):
    with pytest.raises(ValueError, match="--steps needs the weights here"):
        EvalConfig(model=str(run), data=("d",), steps=(0, 40), served="http://h/v1")
