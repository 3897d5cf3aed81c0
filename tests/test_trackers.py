"""support/trackers.py: each package only when asked for; the real ones where they are installed."""

import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

import config
from config import Config
from support import trackers
from support.runfiles import Log
from support.trackers import missing_trackers, open_trackers

ROWS = [{"step": 1, "reward": 0.25, "alarms": ["no number"]}, {"step": 2, "reward": 0.5}]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's folder, and no network for its trackers."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    (tmp_path / "run").mkdir()
    return Config(out=str(tmp_path / "run"), lr=0.5)


def logged(run, rows, done=0):
    """What Trainer does with a run's log."""
    log = Log(run.out, done)
    log.trackers = open_trackers(run, done)
    for row in rows:
        log.write("metrics", row)
    log.close()


def test_an_unknown_or_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    run = types.SimpleNamespace(log="wandb, mlflow,trackio,wandb")
    assert missing_trackers(run) == [
        "--log wandb needs a package: pip install wandb",
        "--log: unknown 'mlflow', not one of tensorboard, wandb, trackio",
        "--log trackio needs a package: pip install trackio",
    ]
    assert missing_trackers(types.SimpleNamespace(log="")) == []


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    """W&B leaves one beside the program; Python takes it for a package without a file."""
    (tmp_path / "left_behind").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not trackers.is_installed("left_behind") and trackers.is_installed("json")


def test_no_package_is_imported_unasked():
    code = (
        "import sys, support.trackers; print({'wandb', 'trackio', 'tensorboard'} & {*sys.modules})"
    )
    root = Path(config.__file__).parent
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert shown.stdout == "set()\n", shown


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_what_a_package_is_told(run, monkeypatch, name):
    """A stub in its place: numbers only, by step; the run that goes on is the same one."""
    told, begun = [], []
    stub = types.SimpleNamespace(
        log=lambda numbers, step: told.append((step, numbers)), finish=lambda: told.append("end")
    )
    package = types.SimpleNamespace(init=lambda **how: begun.append(how) or stub, Settings=dict)
    monkeypatch.setitem(sys.modules, name, package)
    run = dataclasses.replace(run, log=name)
    logged(run, ROWS)
    numbers = [(1, {"step": 1, "reward": 0.25}), (2, {"step": 2, "reward": 0.5})]
    if name == "trackio":
        # its own name for the step
        numbers = [(1, {"reward": 0.25}), (2, {"reward": 0.5})]
    assert told == [*numbers, "end"]
    logged(run, [], done=2)
    assert begun[0] == begun[1] and begun[0]["config"]["lr"] == 0.5
    assert (begun[0]["name"], begun[0]["resume"]) == ("run", "allow")
    if name == "wandb":
        assert begun[0]["id"] == (Path(run.out) / "wandb_id").read_text()


def test_tensorboard(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = dataclasses.replace(run, log="tensorboard")
    logged(run, ROWS)
    # step 2 was not saved: it is made again
    logged(run, [{"step": 2, "reward": 0.75}], done=1)
    found = EventAccumulator(str(Path(run.out) / "tensorboard")).Reload()
    assert [(x.step, x.value) for x in found.Scalars("reward")] == [(1, 0.25), (2, 0.75)]


def test_wandb_without_a_network(run):
    pytest.importorskip("wandb")
    logged(dataclasses.replace(run, log="wandb"), ROWS)
    kept = list(Path(run.out).glob("wandb/offline-run-*"))
    assert len(kept) == 1 and (Path(run.out) / "wandb_id").read_text() in kept[0].name


def test_trackio_on_this_machine(run):
    pytest.importorskip("trackio")
    logged(dataclasses.replace(run, log="trackio"), ROWS)
    assert list(Path(run.out).parent.glob("trackio/*.db"))


def test_the_log_knows_its_latest_numbers(tmp_path):
    rows = [{"step": 1, "tokens_total": 5}, {"step": 1, "eval_greedy": 0.5}]
    rows += [{"step": 2, "tokens_total": 9}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = Log(str(tmp_path), 1)
    assert log.latest == {"step": 1, "tokens_total": 5, "eval_greedy": 0.5}
    log.write("metrics", {"step": 2, "tokens_total": 8})
    assert log.latest["tokens_total"] == 8
    log.close()
