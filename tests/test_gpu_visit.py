"""extras/gpu_visit.py: limits, what is left of a part that dies, and a dry run of both calls."""

import json
import os
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import pytest
from conftest import run_forked

from extras import gpu_visit
from extras.bench import __main__ as bench
from extras.bench import gpu, runs
from extras.gpu_visit import CALLS, DEADLINES, Part, run_within, summary, visit

FIGURE = {"value": 2.0, "low": 1.0, "high": 3.0, "n": 3, "unit": "ms"}


def test_every_check_is_in_a_call_and_the_limits_fit():
    named = [check for parts in CALLS.values() for part in parts for check in part.checks]
    assert sorted(named) == sorted(gpu.CHECKS)
    limits = {call: sum(part.limit for part in parts) for call, parts in CALLS.items()}
    assert limits["truth"] <= DEADLINES["truth"] <= 300
    assert limits["figures"] <= DEADLINES["figures"] <= 400


def test_a_part_that_hangs_is_ended_with_its_processes(tmp_path):
    """The child ignores the polite end, and has a child of its own."""
    child = f"{sys.executable} -c 'import time; time.sleep(60)' & echo $! > {tmp_path}/pid; wait"
    command = ["bash", "-c", f"trap '' TERM; {child}"]
    started = time.perf_counter()
    with open(tmp_path / "log", "w") as log:
        assert run_within(command, 0.5, log) == "ended at its limit"
    assert time.perf_counter() - started < 30
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not alive(pid):
            return
        time.sleep(0.1)
    raise AssertionError("its child goes on")


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_one_that_fails_takes_nothing_from_the_others(tmp_path, monkeypatch, capsys):
    """Also what it had measured before is kept."""

    def run(command, limit, log):
        check, file = command[command.index("--only") + 1], command[command.index("--json") + 1]
        log.write(f"{check} ran")
        if check != "silent":
            open(file, "w").write(json.dumps({f"speed of {check}": FIGURE}))
        return "ok" if check == "good" else "failed"

    monkeypatch.setattr(gpu_visit, "run_within", run)
    parts = tuple(Part((name,), 9) for name in ("silent", "late", "good"))
    assert visit("truth", parts, tmp_path, []) == ["silent", "late"]
    assert set(json.loads((tmp_path / "truth.json").read_text())) == {
        "speed of late",
        "speed of good",
    }
    shown = (tmp_path / "truth.md").read_text()
    assert "| late | failed |" in shown and "| speed of good | 2 ms | 1 | 3 | 3 |" in shown
    assert shown in capsys.readouterr().out
    assert "good ran" in (tmp_path / "truth.log").read_text()


def test_a_call_ends_in_time(tmp_path, monkeypatch):
    """Parts get what is left; where nothing is left they do not begin."""
    monkeypatch.setitem(gpu_visit.DEADLINES, "truth", 2 * gpu_visit.GRACE + 1)
    limits = []

    def run(command, limit, log):
        limits.append(limit)
        time.sleep(1.1)
        return "ended at its limit"

    monkeypatch.setattr(gpu_visit, "run_within", run)
    parts = (Part(("slow",), 9), Part(("late",), 9))
    assert visit("truth", parts, tmp_path, []) == ["slow", "late"]
    assert len(limits) == 1 and 0 < limits[0] <= 1
    assert "| late | no time left |" in (tmp_path / "truth.md").read_text()


def test_a_visit_that_is_ended_ends_its_part(tmp_path):
    slow = f"['bash', '-c', 'echo $$ > {tmp_path}/pid; sleep 60']"
    code = f"""
from extras import gpu_visit
run = gpu_visit.run_within
gpu_visit.run_within = lambda command, limit, log: run({slow}, limit, log)
gpu_visit.main(['truth', '--out', '{tmp_path}/out'])
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=gpu_visit.HERE)
    pid = tmp_path / "pid"
    while not (pid.exists() and pid.read_text().strip()):
        time.sleep(0.05)
    process.terminate()
    assert process.wait(30) == 143 and not alive(int(pid.read_text()))


def test_a_failure_is_its_exit(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_visit, "visit", lambda *_: ["numbers_agree"])
    with pytest.raises(SystemExit, match="failed: numbers_agree"):
        gpu_visit.main(["truth", "--out", str(tmp_path)])


def test_a_summary_without_figures():
    lines = summary("truth", [(Part(("kernels",), 40), "failed", 3.2, {})]).splitlines()
    assert lines[4] == "| kernels | failed | 3 | 40 |" and len(lines) == 8


def test_the_flags_of_a_part_are_the_benchs():
    args = bench.read_flags(["gpu", "--only", *CALLS["truth"][1].checks, "--light"])
    assert args.light and args.only == ["numbers_agree", "equals_generate"]


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_a_dry_run(call, tmp_path, monkeypatch):
    """On a CPU with a small model every part passes, within the limits of a GPU.

    The first part of each call is a process of its own; the others are spared its imports.
    """
    first = " ".join(CALLS[call][0].checks)

    def here(command, limit, log):
        if first in " ".join(command):
            return run_within(command, limit, log)
        started = time.perf_counter()
        with redirect_stdout(log), redirect_stderr(log):
            try:
                bench.main(command[3:])
            except SystemExit as problem:
                print(problem)
                return "failed"
        return "ok" if time.perf_counter() - started < limit else "ended at its limit"

    monkeypatch.setattr(gpu_visit, "run_within", here)
    monkeypatch.setattr(runs, "subprocess", SimpleNamespace(run=run_forked))
    failed = visit(call, CALLS[call], tmp_path, ["--light"])
    assert not failed, (tmp_path / f"{call}.log").read_text()[-3000:]
    figures = json.loads((tmp_path / f"{call}.json").read_text())
    assert all(f["low"] <= f.get("value", f.get("ratio")) <= f["high"] for f in figures.values())
    ends = {
        "truth": [
            "fork - fresh pass, log-prob (<= 0.0001)",
            "reward, last of 3 steps",
            "3 layers: update",
        ],
        "figures": ["ours / generate", "3 layers: update", "reward, last of 2 steps"],
    }
    for end in ends[call]:
        assert any(name.endswith(end) for name in figures), (end, sorted(figures))
    assert "smollm2: left out" in (tmp_path / f"{call}.log").read_text() or call == "truth"
    assert sorted(os.listdir(tmp_path)) == [f"{call}.{end}" for end in ("json", "log", "md")]
