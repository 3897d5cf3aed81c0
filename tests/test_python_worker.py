"""support/python_worker.py: it dies and comes back, and its children die with the trainer."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tool_parts import alive, children_of

from support.math_equal import MATH_VERIFY, SAME_VALUES
from support.sandbox import LIBRARIES
from tools import PythonTool


def test_python_worker_dies_and_comes_back(python):
    assert python.run("1").text == "1"
    python.backend.worker.send_signal(signal.SIGKILL)
    python.backend.worker.wait()
    assert python.run("2").text == "2"


def test_a_second_worker_is_for_code_that_names_a_library():
    """It starts with the first such call, once for many threads. close() ends both."""
    pytest.importorskip("sympy")
    tool, results = PythonTool(5.0, "best-effort"), []
    loaded = "import sys; print({'numpy', 'sympy'} <= set(sys.modules))"
    assert (
        tool.run(loaded.replace("numpy", "num' 'py").replace("sympy", "sym' 'py")).text == "False"
    )
    assert tool.backend.loaded is None
    threads = [threading.Thread(target=lambda: results.append(tool.run(loaded))) for _ in range(6)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert [r.text for r in results] == ["True"] * 6
    first, second = tool.backend.worker, tool.backend.loaded.worker
    assert tool.run("1").text == "1" and tool.backend.worker is first
    tool.close()
    assert first.poll() is not None and second.poll() is not None
    assert tool.run("import numpy; int(numpy.arange(3).sum())").text == "3", "both come back"
    tool.close()


def test_the_graders_code_finds_its_libraries_imported():
    assert LIBRARIES.search(MATH_VERIFY) and LIBRARIES.search(SAME_VALUES)


@pytest.mark.slow
@pytest.mark.parametrize("named", ["", " # numpy"])
def test_python_worker_dies_under_a_call(named):
    """Killed in mid-call: each call is made again with a new worker."""
    tool, results = PythonTool(5.0, "best-effort"), []
    tool.run(f"1{named}")
    backend = tool.backend.loaded if named else tool.backend
    first = backend.worker.pid
    threads = [
        threading.Thread(
            target=lambda i=i: results.append(
                tool.run(f"import time; time.sleep(0.5); {i}{named}").text
            )
        )
        for i in range(6)
    ]
    [t.start() for t in threads]
    time.sleep(0.25)
    os.kill(first, signal.SIGKILL)
    [t.join() for t in threads]
    assert sorted(results) == [str(i) for i in range(6)] and backend.worker.pid != first
    tool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal")
def test_python_children_die_with_a_killed_trainer(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent.parent)!r})\n"
        f"from tools import PythonTool\n"
        f"t = PythonTool(60, 'best-effort'); print(t.backend.worker.pid, flush=True); "
        f"t.run('while True: pass')"
    )
    trainer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(trainer.stdout.readline())
    deadline, children = time.monotonic() + 30, []
    # they come after the worker has said hello
    while not children and time.monotonic() < deadline:
        time.sleep(0.2)
        children = [int(line.split()[0]) for line in children_of(worker)]
    trainer.kill(), trainer.wait(), trainer.stdout.close()
    time.sleep(0.5)
    assert children and not [pid for pid in (worker, *children) if alive(pid)]
