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
    rows = [{"question": f"q{k}", "answer": "5" if k == 0 else "6"} for k in range(4)]
    data = write(tmp_path / "a.jsonl", *rows)
    evaluation.main(["--model", str(run), "--steps", "0", "40", "--data", data])
    said = capsys.readouterr().out
    assert "| a, step 0 | 4 x 1 | 25.0 " in said and "| a, step 40 | 4 x 1 | 75.0 " in said
    assert re.search(r"eval_a_step_000040.json - .*eval_a_step_000000.json: 4 questions in", said)
    assert "correct  +0.5000" in said
    saved = json.loads((run / "eval_a_step_000040.json").read_text())
    assert saved["settings"]["checkpoint"] == str(run / "step_000040")
    # the newest step alone is what is there already
    fake.loaded = 0
    evaluation.main(["--model", str(run), "--data", data])
    assert fake.loaded == 0


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
