"""config.py: defaults, precedence, names, what is refused, and that it answers without torch."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import config
from config import ALGOS, LAPTOP, PRESETS, Config, read_settings, today
from extras.world.modes import MODES
from methods import INF
from rewards import REWARDS
from support.settings import free_names, parser_for


def test_defaults_are_the_papers_and_come_from_one_place():
    run = Config()
    assert (
        run.initial,
        run.branches,
        run.future_weight,
        run.half_life,
        run.score_clip,
        run.future_clip,
        run.prompts,
        run.minibatch,
        run.kl_coef,
    ) == (4, 3, 0.5, 32, (0.8, 1.2), (1.0, 1.2), 128, 16, 0)
    assert read_settings(["--model", "m", "--data", "d"]) == dataclasses.replace(
        run, model="m", data="d", out="runs/m-d", date=today()
    )
    laptop = json.loads(LAPTOP.read_text())
    assert read_settings([]) == Config(**laptop, out="runs/laptop", date=today()) and not set(
        laptop
    ) & {
        "initial",
        "branches",
        "future_weight",
        "half_life",
    }, "the laptop run keeps the paper's N, B, b, half-life"


def test_flags_may_be_written_with_dashes():
    assert read_settings(["--kl-coef", "0.1", "--half-life", "inf"]) == read_settings(
        ["--kl_coef", "0.1", "--half_life", "inf"]
    )


def test_precedence(tmp_path):
    file = tmp_path / "c.json"
    file.write_text(
        json.dumps(
            {"preset": "released", "b": 0.7, "branches": 2, "score_clip": [0.9, 1.1], "clip_c": 5}
        )
    )
    run = read_settings(
        [
            "--config",
            str(file),
            "--branches",
            "4",
            "--future_clip",
            "0.9",
            "1.3",
            "--prefer_positive",
            "false",
        ]
    )
    assert (
        run.half_life,
        run.future_weight,
        run.branches,
        run.score_clip,
        run.future_clip,
        run.prefer_positive,
        run.clip_c,
    ) == (64, 0.7, 4, (0.9, 1.1), (0.9, 1.3), False, 5)
    released = read_settings(["--preset", "released", "--model", "m", "--data", "d"])
    assert released.score_half_life == math.inf and released.reward == "released"
    grpo = read_settings(["--algo", "grpo", "--config", str(file)])
    assert (grpo.branches, grpo.future_weight) == (0, 0)


def test_grpo_with_branches_is_refused():
    """It would be called GRPO and be something else."""
    for flags in (["--branches", "3"], ["--b", "0.5"]):
        with pytest.raises(ValueError, match="--algo grpo has neither branches nor a future term"):
            read_settings(["--algo", "grpo", *flags])


def test_what_a_method_has_no_use_for_is_refused():
    flags = ["--model", "m", "--data", "d", "--algo"]
    for name, setting, value in (
        ("dr_grpo", "aggregate", "token-mean"),
        ("dr_grpo", "std_correction", "1"),
        ("cispo", "clip_c", "3"),
    ):
        with pytest.raises(ValueError, match=f"--algo {name} has no use for --{setting}, got"):
            read_settings([*flags, name, f"--{setting}", value])
        assert getattr(read_settings([*flags, name]), setting) == ALGOS[name][setting]


def test_a_file_may_choose_what_a_method_leaves_open(tmp_path):
    """And says nothing about what the method has no use for; a run goes on with its own values."""
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"clip_c": 5, "clip_low": 0.4, "branches": 2}))
    run = read_settings(["--config", str(file), "--algo", "cispo"])
    assert (run.clip_c, run.clip_low, run.aggregate, run.branches) == (INF, 0.4, "token-mean", 0)
    assert read_settings(["--algo", "cispo"]).clip_low == 1
    released = ["--preset", "released", "--model", "m", "--data", "d", "--algo"]
    assert read_settings([*released, "dr_grpo"]).aggregate == "seq-mean"
    step = tmp_path / "x" / "step_000020"
    step.mkdir(parents=True)
    (step / "manifest.json").write_text("{}")
    saved = dataclasses.asdict(dataclasses.replace(run, model="m", data="d"))
    (tmp_path / "x" / "config.json").write_text(json.dumps(saved))
    assert read_settings(["--from", str(step)]).clip_low == 0.4
    assert read_settings(["--from", str(step), "--algo", "gppo"]).clip_low == 0.4


def test_a_retired_setting_is_read_where_it_still_means_the_same(tmp_path):
    (tmp_path / "c.json").write_text('{"surrogate": "ppo", "lr": 0.5}')
    assert read_settings(["--config", str(tmp_path / "c.json")]).lr == 0.5
    step = tmp_path / "x" / "step_000020"
    step.mkdir(parents=True)
    (step / "manifest.json").write_text("{}")
    line = "surrogate = 'gppo' is no setting any more: begin a run of its own with --algo gppo"
    for path, flag, value in (
        (tmp_path / "c.json", "--config", tmp_path / "c.json"),
        (tmp_path / "x" / "config.json", "--from", step),
    ):
        path.write_text('{"surrogate": "gppo", "model": "m", "data": "d"}')
        with pytest.raises(ValueError, match=line):
            read_settings([flag, str(value)])
    (tmp_path / "x" / "config.json").write_text('{"surrogate": "ppo", "model": "m", "data": "d"}')
    assert read_settings(["--from", str(step)]).data == "d"


def test_every_flag_has_help_with_its_default(capsys):
    with pytest.raises(SystemExit):
        read_settings(["--help"])
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    helps = {action.dest: action.help for action in parser_for(Config)._actions}
    for f in dataclasses.fields(Config):
        assert re.search(rf"--{f.name}[ ,]", text) and f.metadata["help"], f.name
        default = f"default {f.default}" if f.default != "" else ""
        ends = [word for word in (default, "free" if f.metadata["free"] else "") if word]
        shown = f.metadata["help"].replace("%", "%%") + (f" ({', '.join(ends)})" if ends else "")
        assert helps[f.name] == shown
    assert "--threads N CPU threads; 0: PyTorch's choice (default 0, free)" in text


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"brunches": 3}', "unknown key 'brunches'"),
        ('{"b": "half"}', "--b must be a number, got 'half'.*c.json"),
        ('{"branches": 1.5}', "--branches must be a whole number"),
        ('{"prefer_positive": 1}', "--prefer_positive must be true or false"),
        ('{"initial": true}', "--initial must be a whole number"),
        ("[]", "not an object"),
        ("5", "not an object"),
        ('{"score_clip": [0.9]}', "--score_clip must be two numbers"),
        ('{"score_clip": ["a", "b"]}', "--score_clip must be two numbers"),
        ('{"score_clip": [0.8, 1.2, 7]}', "--score_clip must be two numbers"),
        ('{"preset": "papers"}', "--preset must be one of paper, released"),
        ("{oops", "is not JSON"),
        ('{"dual": "mean"}', "--dual must be one of"),
        ('{"score_clip": 3}', "--score_clip must be two numbers"),
    ],
)
def test_bad_config_files(tmp_path, content, message):
    file = tmp_path / "c.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_settings(["--config", str(file)])


def test_bad_flags():
    for flags, message in (
        (["--brunches", "3"], "unknown flag --brunches; did you mean --branches?"),
        (["--bran", "3"], "unknown flag --bran"),
        (["--dual", "mean"], "--dual must be one of avg, sum, literal, off, got 'mean'"),
        (["--branches", "x"], "--branches must be a whole number, got 'x'"),
        (["--prefer_positive", "yes"], "--prefer_positive must be true or false, got 'yes'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            read_settings(flags)
    with pytest.raises(FileNotFoundError, match="no.json"):
        read_settings(["--config", "no.json"])
    with pytest.raises(ValueError, match="--initial must be >= 1"):
        read_settings(["--initial", "0"])


def test_bfloat16_needs_shards():
    with pytest.raises(ValueError, match="--dtype bfloat16 needs --shard"):
        read_settings(["--dtype", "bfloat16"])


def test_all_problems_are_named_in_one_message(tmp_path):
    """Flags, keys, rules between settings; no rule speaks of a value that is wrong itself."""
    (tmp_path / "c.json").write_text('{"brunches": 3, "wings": 2, "lr": "fast", "prompts": 24}')
    flags = "--initial 0 --bran=2 --score_clip 2 1 --minibatch x --cold_warmup 1".split()
    with pytest.raises(ValueError) as refused:
        read_settings(["--config", str(tmp_path / "c.json"), *flags])
    lines = str(refused.value).splitlines()
    for text in (
        "unknown key 'brunches'",
        "unknown key 'wings'",
        "unknown flag --bran=2",
        "--initial must be >= 1, got 0",
        "--lr must be a number, got 'fast'",
        "--minibatch must be a whole number, got 'x'",
        "--score_clip must be two numbers 0 < low <= high",
        "--cold_warmup is a share of the steps, below 1",
    ):
        assert sum(text in line for line in lines) == 1, text
    assert len(lines) == 8 and lines[-1].endswith("c.json)")


OLD = {
    "b": "future_weight",
    "rows": "decode_rows",
    "chunk": "prefill_chunk",
    "patience": "rank_timeout",
    "show": "print_branches",
    "keep": "keep_checkpoints",
}


def test_old_names_are_understood(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(dict.fromkeys(OLD, 3)))
    by_file = read_settings(["--config", str(tmp_path / "c.json")])
    by_flag = read_settings([word for old in OLD for word in (f"--{old}", "3")])
    assert all(getattr(run, new) == 3 for run in (by_file, by_flag) for new in OLD.values())
    assert {
        f.metadata["old"]: f.name for f in dataclasses.fields(Config) if f.metadata["old"]
    } == OLD | {"from": "from_run"}
    (tmp_path / "c.json").write_text('{"b": 1, "future_weight": 2}')
    with pytest.raises(ValueError, match="two names of one setting"):
        read_settings(["--config", str(tmp_path / "c.json")])


def test_the_folder_is_named_after_model_and_data():
    def out(*flags):
        return read_settings(list(flags)).out

    assert out() == out("--seed", "3", "--algo", "grpo") == "runs/laptop"
    assert out("--out", "here") == "here"
    flags = ["--model", "Qwen/Qwen2.5-7B", "--data", "/data/hotpot/train.jsonl"]
    assert out(*flags) == "runs/Qwen-Qwen2.5-7B-hotpot-train"
    assert out("--model", "/runs/x/step_000100", "--data", "d.jsonl") == "runs/x-step_000100-d"


def test_choices_are_those_of_their_modules():
    types = {f.name: f.type for f in dataclasses.fields(Config)}
    assert get_args(types["reward"]) == REWARDS and set(get_args(types["world"])) == set(MODES)
    assert get_args(types["preset"]) == tuple(PRESETS) and get_args(types["algo"]) == tuple(ALGOS)


def test_what_may_change_on_resume_decides_no_sample():
    free = (
        "steps max_sampled save_every keep_checkpoints eval_questions eval_samples eval_every log "
    )
    free += "log_trees print_branches out allow_change threads device rank_timeout tool_timeout "
    free += "sandbox search_cache cold_save_every decode_rows prefill_chunk constant_rows "
    free += "micro_tokens fork_tokens checkpointing max_skipped"
    assert free_names(Config) == set(free.split())


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--max_tokens", "4"], "--max_tokens 4 leaves no room for a branch"),
        (["--clip_low", "1.5"], "--clip_low must be in [0, 1], got 1.5"),
        (["--preset", "released", "--ppo_epochs", "2"], "it needs --ppo_epochs 1, got 2"),
    ],
)
def test_settings_that_cannot_work_are_refused(flags, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        read_settings(["--model", "m", "--data", "d", *flags])


def test_settings_are_read_without_torch():
    code = "import sys, config; config.read_settings([]); print('torch' in sys.modules)"
    root = Path(config.__file__).parent
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert shown.stdout == "False\n", shown


@pytest.mark.parametrize("path", sorted(LAPTOP.parent.glob("*.json")), ids=lambda path: path.stem)
def test_configs_hold_only_what_differs(path):
    values = json.loads(path.read_text())
    base = {f.name: f.default for f in dataclasses.fields(Config)}
    base |= PRESETS[values.get("preset", "paper")] | {"preset": "paper"}
    values = {name: tuple(x) if isinstance(x, list) else x for name, x in values.items()}
    assert [name for name, value in values.items() if base[name] == value] == []


def test_a_normaliser_that_would_be_ignored_is_refused():
    with pytest.raises(ValueError, match="--norm budget is for --aggregate seq-mean"):
        read_settings(["--norm", "budget", "--aggregate", "token-mean"])
    assert read_settings(["--norm", "budget"]).norm == "budget"


def test_a_run_keeps_the_date_of_its_first_start(tmp_path, monkeypatch):
    """A chat template may name it: prompts are to be the same after midnight."""
    monkeypatch.setattr(config, "today", lambda: "2026-03-04")
    flags = ["--model", "m", "--data", "d", "--out", str(tmp_path)]
    assert read_settings(flags).date == "2026-03-04"
    (tmp_path / "config.json").write_text(json.dumps({"date": "2026-03-03"}))
    assert read_settings(flags).date == "2026-03-03"
    assert read_settings([*flags, "--date", "2025-12-31"]).date == "2025-12-31"
    for broken in ("{", "[]", ""):
        (tmp_path / "config.json").write_text(broken)
        assert read_settings(flags).date == "2026-03-04"


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--date", "yesterday"], "--date must be a day such as 2026-01-31, got 'yesterday'"),
        (["--date", "2026-02-30"], "--date must be a day such as 2026-01-31, got '2026-02-30'"),
        (["--out", ""], "--out is empty: name a folder, or leave it out"),
        (["--out", " "], "--out is empty: name a folder, or leave it out"),
        (["--out", "\t\n"], "--out is empty: name a folder, or leave it out"),
        (["--device", "tpu"], "--device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        (["--clip_grad", "-1"], "--clip_grad must be >= 0, got -1.0"),
        (["--clip_grad", "nan"], "--clip_grad must be >= 0, got nan"),
    ],
)
def test_values_that_would_train_something_else_are_refused(flags, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        read_settings(["--model", "m", "--data", "d", *flags])


def test_a_gradient_need_not_be_clipped():
    for text in ("0", "inf"):
        run = read_settings(["--model", "m", "--data", "d", "--clip_grad", text])
        assert run.clip_grad == float(text)


PAPER = ["--preset", "paper", "--algo", "appo"]


@pytest.fixture
def earlier(tmp_path):
    """A run with checkpoints after steps 20 and 40."""
    run = tmp_path / "x"
    for step in (20, 40):
        (run / f"step_0000{step}").mkdir(parents=True)
        (run / f"step_0000{step}" / "manifest.json").write_text("{}")
    (run / "latest").write_text("step_000040")
    saved = {"model": "m", "data": "d.jsonl", "cold_start": "c.jsonl", "lr": 0.5, "prompts": 32}
    (run / "config.json").write_text(json.dumps(saved | {"out": str(run), "date": "2026-03-03"}))
    return run


def test_a_run_from_a_step_of_another(earlier, tmp_path):
    """Its weights and settings, but for flags; no cold start; a folder is its newest checkpoint."""
    run = read_settings(["--from", str(earlier / "step_000020"), "--prompts", "64"])
    assert run.model == run.from_run == str(earlier / "step_000020")
    assert (run.lr, run.prompts, run.data, run.date) == (0.5, 64, "d.jsonl", "2026-03-03")
    assert run.cold_start == "" and run.out == "runs/x-step_000020-d"
    out = tmp_path / "y"
    flags = ["--from", str(earlier), "--out", str(out)]
    run = read_settings(flags)
    assert run.from_run == run.model == str(earlier / "step_000040")
    # once begun it keeps its beginning, though the other run goes on
    out.mkdir()
    (out / "config.json").write_text(json.dumps(dataclasses.asdict(run)))
    (earlier / "latest").write_text("step_000020")
    assert read_settings(flags).model == str(earlier / "step_000040")
    again = read_settings(["--config", str(out / "config.json"), "--out", str(tmp_path / "z")])
    assert dataclasses.replace(again, out=run.out) == run


@pytest.mark.parametrize("algo, flags", [("grpo", ["--algo", "appo"]), ("released", PAPER)])
def test_another_method_than_that_of_the_run_brings_its_own_numbers(earlier, algo, flags):
    """What the old method or preset had set does not stay, what the user had set does."""
    old = PRESETS["released"] | {"preset": "released"} if algo == "released" else ALGOS["grpo"]
    saved = json.loads((earlier / "config.json").read_text()) | {"algo": algo} | old
    (earlier / "config.json").write_text(json.dumps(saved))
    run, plain = read_settings(["--from", str(earlier), *flags]), Config()
    for name in old.keys() | {"algo", "preset"}:
        assert getattr(run, name) == getattr(plain, name), name
    assert run.lr == 0.5
    kept = read_settings(["--from", str(earlier), "--lr", "0.1"])
    assert kept.algo == algo and kept.branches == old["branches"]


@pytest.mark.parametrize(
    "flags, sizes",
    [
        (["--minibatch", "10"], (120, 10)),
        (["--minibatch", "200"], (200, 200)),
        (["--prompts", "8"], (8, 8)),
        (["--prompts", "20"], (20, 10)),
        (["--prompts", "7"], (7, 7)),
        ([], (128, 16)),
    ],
)
def test_one_of_prompts_and_minibatch_fits_the_other(flags, sizes):
    run = read_settings(["--model", "m", "--data", "d", *flags])
    assert (run.prompts, run.minibatch) == sizes


def test_a_bad_start_is_the_only_thing_said(tmp_path):
    with pytest.raises(ValueError) as said:
        read_settings(["--from", str(tmp_path / "none")], lambda c, given: ["there is no model"])
    assert str(said.value).count("\n") == 0 and "is no checkpoint of a run" in str(said.value)


def test_a_run_s_folder_in_other_words_is_the_same(earlier, tmp_path, monkeypatch):
    """Its beginning stays, though the folder has a newer step by now."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "y"
    flags = ["--data", "d", "--out", str(out)]
    (earlier / "latest").write_text("step_000020")
    run = read_settings(["--model", "x", *flags])
    out.mkdir()
    (out / "config.json").write_text(json.dumps(dataclasses.asdict(run)))
    (earlier / "latest").write_text("step_000040")
    for model in ("x", str(earlier), "./x", str(earlier / "step_000020")):
        assert read_settings(["--model", model, *flags]).model == run.model


def test_a_run_s_folder_as_model(earlier, tmp_path):
    run = read_settings(["--model", str(earlier), "--data", "d", "--out", str(tmp_path / "y")])
    assert run.model == str(earlier / "step_000040") and (run.lr, run.from_run) == (1e-6, "")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "lock").write_text("")
    with pytest.raises(ValueError, match="is the folder of a run that has no checkpoint yet"):
        read_settings(["--model", str(tmp_path / "empty"), "--data", "d"])


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--model", "m"], "--from brings the model and needs no cold start: leave --model m out"),
        (["--cold_start", "c"], "needs no cold start: leave --cold_start c out"),
        (["--from", "nowhere"], "--from nowhere is no checkpoint of a run"),
    ],
)
def test_what_does_not_go_with_from(earlier, flags, line):
    with pytest.raises(ValueError, match=line):
        read_settings(["--from", str(earlier), *flags])
