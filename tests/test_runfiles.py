"""support/runfiles.py: what a run's folder holds, who may write, what makes it another run."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import SMALL, arguments

import eval as evaluation
import train
from config import Config
from support import sft
from support.config_file import write_config
from support.ranks import Ranks
from support.runfiles import locked, shown_settings


def test_what_a_kill_has_left_is_deleted(finished, world, agent_folder, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    for name in ("step_000004.tmp", "cold_000008.tmp"):
        (tmp_path / "run" / name).mkdir()
    shutil.copytree(finished / "step_000002", tmp_path / "run" / "cold_000008")
    train.main(
        arguments(
            world,
            tmp_path,
            model=agent_folder,
            out=tmp_path / "run",
            **SMALL | dict(keep_checkpoints=1),
        )
    )
    assert {p.name for p in (tmp_path / "run").iterdir() if p.is_dir()} == {"step_000004"}


def test_a_damaged_config_is_named(finished, world, agent_folder, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text('{"steps": 4, "pro')
    with pytest.raises(
        ValueError, match=r"run/config.json cannot be read: .*mend it; a new run may begin with"
    ):
        train.main(arguments(world, tmp_path, model=agent_folder, out=tmp_path / "run", **SMALL))


def test_no_file_of_a_run_holds_a_password(tmp_path):
    run = Config(out=str(tmp_path), corpus="http://me:hush@host:8000/retrieve")
    write_config(run, "whole")
    assert [x.name for x in tmp_path.iterdir()] == ["config.json"]
    assert "hush" not in (tmp_path / "config.json").read_text()
    for config in (
        Config(corpus="http://me:hush@host:8000/retrieve", sandbox="https://me:hush@host/"),
        evaluation.EvalConfig(model="m", data=("d",), corpus="http://me:hush@host:8000/retrieve"),
    ):
        shown = shown_settings(config)
        assert (
            "hush" not in json.dumps(shown)
            and shown["corpus"] == "http://host:8000/retrieve"
            and set(shown) == set(dataclasses.asdict(config))
        )


@pytest.mark.slow
def test_another_run_in_the_same_folder_is_refused(finished, world, agent_folder, tmp_path):
    args = arguments(world, tmp_path, model=agent_folder, out=finished, **SMALL)
    before = (finished / "config.json").read_text()
    for flag, value in (("--seed", "5"), ("--branches", "1"), ("--lr", "0.1"), ("--algo", "grpo")):
        with pytest.raises(ValueError, match="holds a run with another"):
            train.main(args + [flag, value])
    other = tmp_path / "train.jsonl"
    other.write_text((world / "train.jsonl").read_text().replace("height", "weight"))
    with pytest.raises(ValueError, match="holds a run with another --data"):
        train.main(args + ["--data", str(other)])
    assert (finished / "config.json").read_text() == before


def test_two_runs_in_one_folder_at_once_are_refused(finished, world, agent_folder):
    code = f"""
import fcntl, time
file = open({str(finished / "lock")!r}, "w")
file.write("4711")
file.flush()
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    holder.stdout.readline()
    try:
        with pytest.raises(
            ValueError,
            match=r"another run \(process 4711\) is writing to .*straight: give another --out",
        ):
            train.main(arguments(world, finished.parent, model=agent_folder, out=finished, **SMALL))
    finally:
        holder.kill(), holder.wait()


def test_an_evaluation_takes_over_the_runs_tools_and_limits(finished, world, capsys):
    inherited = evaluation.settings_of_run(str(finished))
    assert (
        inherited["corpus"] == str(world / "corpus.jsonl")
        and inherited["topk"] == 1
        and inherited["max_tokens"] == 96
        and "temperature" not in inherited
    )
    assert (
        evaluation.settings_of_run(str(finished / "step_000004"))
        == {}
        == evaluation.settings_of_run("")
    )
    told = f"--model {finished}/step_000004: weights alone, without the run's tools and limits\n"
    assert capsys.readouterr().out == told


@pytest.mark.slow
def test_other_examples_of_a_stopped_cold_start_are_refused(world, tmp_path, monkeypatch):
    (tmp_path / "traces.jsonl").write_bytes((world / "traces.jsonl").read_bytes())
    settings = SMALL | dict(
        steps=1, eval_questions=0, cold_steps=6, cold_batch=4, cold_start=tmp_path / "traces.jsonl"
    )
    imitate = sft.imitate
    monkeypatch.setattr(
        sft, "imitate", lambda *a: (os.kill(os.getpid(), signal.SIGTERM), imitate(*a))[1]
    )
    train.main(arguments(world, tmp_path, **settings))
    monkeypatch.undo()
    (tmp_path / "traces.jsonl").write_text(
        "".join((tmp_path / "traces.jsonl").read_text().splitlines(True)[1:])
    )
    with pytest.raises(
        ValueError, match="holds a run with another --cold_start .the file's content differs"
    ):
        train.main(arguments(world, tmp_path, **settings))


def test_a_lock_is_free_again_and_names_its_holder(tmp_path):
    with locked(tmp_path / "run", Ranks()):
        assert (tmp_path / "run" / "lock").read_text() == str(os.getpid())
        with pytest.raises(ValueError, match=rf"another run \(process {os.getpid()}\) is writing"):
            with locked(tmp_path / "run", Ranks()):
                pass
    with locked(tmp_path / "run", Ranks()):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--out .*file cannot be written"):
        with locked(tmp_path / "file", Ranks()):
            pass
