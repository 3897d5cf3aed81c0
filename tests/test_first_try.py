"""A first try with a model and 40 questions of one's own; then a run from one of its steps."""

import json

import pytest
import torch
import transformers
from conftest import lines, untrained

import train
from extras.world.student import build_tokenizer, syllables
from policy import Policy


@pytest.fixture
def mine(tmp_path):
    """A folder with a random model and 40 questions."""
    import random

    tokenizer = build_tokenizer(*syllables(random.Random("first try")))
    untrained("llama", tokenizer, initializer_range=0.02).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"question": f"What is {k} plus {k}?", "answer": str(2 * k)} for k in range(40)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    transformers.utils.logging.disable_progress_bar()
    return tmp_path


def weights(folder):
    return [p.detach() for p in Policy.load(str(folder)).model.parameters()]


@pytest.mark.slow
def test_a_first_try_and_a_run_from_its_step(mine, capsys):
    """Nothing but model, data and tools need be said; sizes are here to take seconds."""
    small = ["--steps", "1", "--initial", "2", "--branches", "1", "--max_tokens", "16"]
    small += ["--sandbox", "best-effort", "--lr", "0.01"]
    what = ["--model", str(mine / "model"), "--data", str(mine / "mine.jsonl"), "--tools", "python"]
    train.main([*what, *small, "--out", str(mine / "x")])
    said = capsys.readouterr().out
    assert "mine.jsonl holds 40 questions: --prompts 32 instead of 128, --minibatch 16" in said
    (step,) = lines(mine / "x", "metrics")
    assert step["optimizer_steps"] == 2 and step["epoch"] == 0.8

    train.main(["--from", str(mine / "x"), "--out", str(mine / "y"), "--lr", "0.02"])
    saved = json.loads((mine / "y" / "config.json").read_text())
    assert saved["from_run"] == saved["model"] == str(mine / "x" / "step_000001")
    assert (saved["lr"], saved["initial"], saved["prompts"]) == (0.02, 2, 32)
    before, begun = weights(mine / "x" / "step_000001"), weights(mine / "y" / "step_000000")
    assert all(torch.equal(a, b) for a, b in zip(before, begun, strict=True))
    (again,) = lines(mine / "y", "metrics")
    assert again["step"] == 1 and again["tokens_total"] == again["tokens_sampled"]
