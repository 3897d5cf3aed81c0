"""support/inputs.py: what is refused before a model is loaded, all of it at once."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from conftest import arguments

import eval as evaluation
import policy
import train
from support.examples import read_chats
from support.inputs import only_rank_0_prints, read_run
from support.questions import read_rows
from tools import PythonTool


@pytest.fixture
def no_model(monkeypatch):
    def loaded(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(policy.AutoModelForCausalLM, "from_pretrained", loaded)


def sliding(folder):
    transformers.MistralConfig(
        sliding_window=64, architectures=["MistralForCausalLM"]
    ).save_pretrained(folder)
    return folder


def masked(folder):
    transformers.BertConfig(architectures=["BertForMaskedLM"]).save_pretrained(folder)
    return folder


BAD = {
    "missing data": (lambda t: dict(data=t / "no.jsonl"), "no.jsonl does not exist"),
    "missing eval": (lambda t: dict(eval_data=t / "no.jsonl"), "no.jsonl does not exist"),
    "missing corpus": (lambda t: dict(corpus=t / "no.jsonl"), "no.jsonl does not exist"),
    "missing cold start": (lambda t: dict(cold_start=t / "no.jsonl"), "no.jsonl does not exist"),
    "row without answer": (
        lambda t: dict(data=t / "rows.jsonl"),
        "rows.jsonl, row 2 has no answer",
    ),
    "unknown tool": (lambda t: dict(tools="python,shell"), "unknown tool 'shell'"),
    "long prompt": (
        lambda t: dict(max_prompt=8),
        "row 1: the prompt has \\d+ tokens, --max_prompt is 8",
    ),
    "few questions": (
        lambda t: dict(data=t / "three.jsonl", max_prompt=2048, prompts=16),
        "3 questions, fewer than --prompts 16",
    ),
    "sandbox": (
        lambda t: dict(sandbox="yes"),
        "sandbox must be require, best-effort, off or the http",
    ),
    "no sandbox server": (lambda t: dict(sandbox="http://127.0.0.1:9"), "python does not answer"),
    "no search server": (
        lambda t: dict(corpus="http://127.0.0.1:9/retrieve"),
        "search does not answer: http://127.0.0.1:9/retrieve: Connection refused",
    ),
    "no key": (lambda t: dict(corpus="serper"), "SERPER_API_KEY"),
    "few positions": (lambda t: dict(max_tokens=10**6), "are more than the model's \\d+ positions"),
    "no model there": (lambda t: dict(model=t), "--model .* is neither"),
    "sliding window": (lambda t: dict(model=sliding(t / "s")), "sliding-window"),
    "not causal": (lambda t: dict(model=masked(t / "b")), "not a causal language model"),
    "bad example": (lambda t: dict(cold_start=t / "rows.jsonl"), "rows.jsonl, row 1"),
    "no such model": (lambda t: dict(model=t / "nothing"), "--model .*nothing"),
}


# four attempts at a server
WAITS = {"no search server": pytest.mark.slow}


@pytest.mark.parametrize("name", [pytest.param(x, marks=WAITS.get(x, ())) for x in BAD])
def test_bad_input_is_named_before_a_model_is_loaded(name, world, tmp_path, no_model):
    changes, message = BAD[name]
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "1"}\n{"question": "b"}\n')
    (tmp_path / "three.jsonl").write_text('{"question": "a", "answer": "1"}\n' * 3)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train.main(arguments(world, tmp_path, **changes(tmp_path)))
    assert not (tmp_path / "run").exists()


def test_model_without_data(no_model):
    with pytest.raises(ValueError, match="--model was given without --data"):
        train.main(["--model", "m"])


def test_all_that_is_wrong_is_said_at_once(world, tmp_path, no_model):
    """Files that do not exist come with wrong flags."""
    flags = arguments(world, tmp_path, data=tmp_path / "no.jsonl", eval_data=tmp_path / "nor.jsonl")
    with pytest.raises(ValueError) as refused:
        train.main([*flags, "--initial", "0", "--brunches", "3"])
    said = str(refused.value).splitlines()
    for text in ("no.jsonl does not exist", "nor.jsonl does not exist", "--initial", "--brunches"):
        assert sum(text in line for line in said) == 1, text


def test_all_of_it_comes_before_torch_is_imported(world, tmp_path):
    """Flags, files, rows and tools, in one message."""
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "1"}\n{"question": "b"}\n')
    bad = dict(data=tmp_path / "rows.jsonl", eval_data=tmp_path / "no.jsonl", sandbox="yes")
    bad |= dict(cold_start=tmp_path / "rows.jsonl")
    flags = [*arguments(world, tmp_path, **bad), "--initial", "0"]
    code = f"""
import runpy, sys
sys.argv = ["train.py", *{flags!r}]
try:
    runpy.run_path("train.py", run_name="__main__")
except SystemExit as end:
    print(end.code, "torch" in sys.modules)
"""
    root = Path(train.__file__).parent
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert shown.stdout.endswith(" False\n"), shown
    for text in (
        "--initial must be >= 1",
        "no.jsonl does not exist",
        "row 2 has no answer",
        "sandbox must be require",
        "rows.jsonl, row 1: ",
    ):
        assert shown.stdout.count(text) == 1, shown.stdout


def test_a_run_of_the_bundled_world_refuses_its_sandbox_before_the_world_is_made():
    with pytest.raises(ValueError, match="sandbox must be require"):
        read_run(["--sandbox", "yes"])


def test_one_gpu_for_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(
        ValueError, match="--device cuda:1 names one GPU for 8 processes: give cuda"
    ):
        read_run(["--device", "cuda:1"])


def test_the_faults_of_all_tools_are_said_at_once(world, tmp_path):
    bad = dict(tools="python,search,shell", corpus=tmp_path / "no.jsonl", sandbox="yes")
    with pytest.raises(ValueError) as refused:
        read_run(arguments(world, tmp_path, **bad))
    for text in ("unknown tool 'shell'", "no.jsonl does not exist", "sandbox must be require"):
        assert str(refused.value).count(text) == 1, refused.value


def test_a_tool_that_opens_beside_one_that_does_not_is_closed(world, tmp_path, monkeypatch):
    closed = []
    close = PythonTool.close
    monkeypatch.setattr(PythonTool, "close", lambda self: closed.append(1) or close(self))
    bad = dict(corpus=tmp_path / "no.jsonl", sandbox="best-effort")
    with pytest.raises(ValueError, match="no.jsonl does not exist"):
        read_run(arguments(world, tmp_path, **bad))
    assert closed == [1]


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
def test_an_environment_that_torchrun_did_not_make_is_named(monkeypatch, name):
    monkeypatch.setenv(name, "first")
    with pytest.raises(ValueError, match=f"{name} must be a whole number, got 'first'"):
        only_rank_0_prints()
        read_run([])


def test_json_that_is_nested_too_deeply_is_named(tmp_path):
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="--config .*deep.json is not JSON"):
        read_run(["--config", str(deep)])
    with pytest.raises(ValueError, match="deep.json is not a list in JSON"):
        list(read_rows(deep))
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="deep.jsonl, row 1 is not JSON"):
        read_chats(str(tmp_path / "deep.jsonl"))


def first_run(tmp_path, count, *flags):
    """The settings of a first try with so many questions of one's own."""
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(f'{{"question": "{k}", "answer": "1"}}\n' for k in range(count)))
    (tmp_path / "model").mkdir(exist_ok=True)
    model = ["--model", str(tmp_path / "model"), "--data", str(data)]
    tools = ["--tools", "python", "--sandbox", "best-effort"]
    run, rows = read_run([*model, *tools, *flags])
    rows.close()
    return run.prompts, run.minibatch


@pytest.mark.slow
@pytest.mark.parametrize(
    "count, flags, fits",
    [
        (40, [], (32, 16)),
        (20, [], (16, 16)),
        (10, [], (10, 10)),
        (40, ["--minibatch", "8"], (40, 8)),
        (128, [], (128, 16)),
        (40, ["--prompts", "32"], (32, 16)),
    ],
)
def test_a_step_falls_to_what_few_questions_allow(tmp_path, capsys, count, flags, fits):
    assert first_run(tmp_path, count, *flags) == fits
    said = [line for line in capsys.readouterr().out.splitlines() if "instead of" in line]
    assert len(said) == (count < 128 and "--prompts" not in flags)
    assert all(
        f"mine.jsonl holds {count} questions: --prompts {fits[0]} instead" in x for x in said
    )


def test_a_model_without_a_chat_template_is_refused_before_its_weights(world, tmp_path, no_model):
    """By a run and by an evaluation, which also asks whether prompt and answer fit the model."""
    model = tmp_path / "base"
    shutil.copytree(world / "model", model)
    evaluated = ["--data", str(world / "test.jsonl"), "--model", str(model)]
    evaluated += ["--corpus", str(world / "corpus.jsonl"), "--sandbox", "best-effort"]
    with pytest.raises(ValueError, match="more than the model's \\d+ positions"):
        evaluation.main([*evaluated, "--max_tokens", "1000000", "--out", str(tmp_path / "long")])
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = None
    shutil.rmtree(model)
    shutil.copytree(world / "model", model, ignore=shutil.ignore_patterns("*token*", "*jinja"))
    tokenizer.save_pretrained(model)
    examples = dict(model=model, cold_start=world / "traces.jsonl")
    for main, flags in (
        (train.main, arguments(world, tmp_path, **examples)),
        (evaluation.main, [*evaluated, "--out", str(tmp_path / "out")]),
    ):
        with pytest.raises(ValueError, match="--model .*base has no chat template, which") as said:
            main(flags)
        assert "\n" not in str(said.value)


def said_of(world, tmp_path, capsys, rows, **other) -> list[str]:
    """What a start says of questions like these."""
    data = tmp_path / "asked.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, unencoded = read_run(arguments(world, tmp_path, data=data, **other))
    unencoded.close()
    return capsys.readouterr().out.splitlines()


def test_tools_that_no_question_tells_of_are_named(world, tmp_path, capsys):
    chat = [{"role": "user", "content": "Use <python> print(6 * 7) </python>. What is 6 * 7?"}]
    rows = [{"prompt": chat, "answer": "42"}] * 16
    asked = dict(prompts=16, minibatch=16, sandbox="best-effort", eval_data="", cold_start="")
    said = [line for line in said_of(world, tmp_path, capsys, rows, **asked) if "tells of" in line]
    assert len(said) == 1 and "asked.jsonl: no question tells of <search>: a chat is" in said[0]
    # a question that is text comes with the tools; a native format has them in its template
    rows[3] = {"question": "What is 6 * 7?", "answer": "42"}
    assert not [x for x in said_of(world, tmp_path, capsys, rows, **asked) if "tells of" in x]
    rows = rows[:1] * 16
    said = said_of(world, tmp_path, capsys, rows, protocol="hermes", **asked)
    assert not [x for x in said if "tells of" in x]
    examples = asked | {"cold_start": world / "traces.jsonl"}
    assert not [x for x in said_of(world, tmp_path, capsys, rows, **examples) if "tells of" in x]


def test_answers_that_their_grader_rejects_are_named_by_a_run_too(world, tmp_path, capsys):
    answers = ["5", "1}^N", "1/2"] * 6
    rows = [{"question": "?", "answer": answer, "task": "math"} for answer in answers]
    asked = dict(prompts=16, minibatch=16, sandbox="best-effort")
    said = [line for line in said_of(world, tmp_path, capsys, rows, **asked) if "warning" in line]
    assert [line.split(":")[0].rpartition(", ")[2] for line in said] == [
        f"row {row}" for row in range(2, 19, 3)
    ]
    assert all("its answer '1}^N' is not graded as right, whoever gives it" in x for x in said)
    # a reward of one's own decides itself
    own = tmp_path / "own.py"
    own.write_text("def mine(rollout, question):\n    return 1.0\n")
    asked |= {"reward_fn": f"{own}:mine"}
    assert not [x for x in said_of(world, tmp_path, capsys, rows, **asked) if "warning" in x]


def test_a_checkpoint_of_a_run_was_taught_the_tags(world, finished, tmp_path, capsys):
    """So neither a run that begins with it nor its evaluation speaks of them."""
    chat = [{"role": "user", "content": "What is 6 * 7?"}]
    rows = [{"prompt": chat, "answer": "42"}] * 16
    asked = dict(prompts=16, minibatch=16, sandbox="best-effort", eval_data="")
    for model, told in ((world / "model", 1), (finished, 0), (finished / "step_000004", 0)):
        said = said_of(world, tmp_path, capsys, rows, model=model, cold_start="", **asked)
        assert sum("no question tells of <python>, <search>: " in x for x in said) == told, model
        run = evaluation.EvalConfig(model=str(model), data=(str(tmp_path / "asked.jsonl"),))
        evaluation.load_file(run, run.data[0])
        assert capsys.readouterr().out.count("no question tells of <python>, <search>") == told


@pytest.mark.parametrize("held_out", [True, False])
def test_a_run_without_held_out_questions_says_so(world, tmp_path, capsys, held_out):
    rows = [{"question": "?", "answer": "5"}] * 16
    asked = dict(prompts=16, minibatch=16, sandbox="best-effort")
    asked |= {} if held_out else {"eval_data": ""}
    said = said_of(world, tmp_path, capsys, rows, **asked)
    assert ("no --eval_data: nothing held out is evaluated" in said) is not held_out


@pytest.mark.parametrize("flags", [["--prompts", "64"], ["--minibatch", "64"]])
def test_a_step_that_was_asked_for_is_not_made_smaller(tmp_path, flags):
    with pytest.raises(ValueError, match=f"holds 40 questions, fewer than {' '.join(flags)}"):
        first_run(tmp_path, 40, *flags)
