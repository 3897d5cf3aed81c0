"""The Python jail: latency, deadlines, throughput, and what is left behind."""

import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from extras.bench.measure import figure, ratio
from support.python_worker import SPARES
from tools import PythonTool


def python_tool(args) -> dict:
    """PythonTool: latency, deadlines, throughput and what is left behind."""
    tool = PythonTool(5.0, "best-effort")
    print(f"python, {tool.level}")
    figures = (
        latency(tool, *((30, 2) if args.light else (500, 15)))
        | deadlines(10 if args.light else 50)
        | throughput(100 if args.light else 10_000)
    )
    before = resident()
    for code in (
        "while True: print('x' * 10**6)",
        "import os\nwhile True: os.write(2, b'y' * 65536)",
        "print('z' * 10**8)",
    ):
        tool.run(code)
    tool.close()
    return figures | {
        "python: memory of the caller after floods of output": figure(
            [(resident() - before) / 2**20], "MiB more"
        )
    }


def latency(tool: PythonTool, calls: int, fresh: int) -> dict:
    """A trivial call, one that imports libraries, and in turn with them a fresh interpreter."""
    warm, loaded, cold, code = [], [], [], "import numpy, sympy; print(1 + 1)"
    tool.run("1"), tool.run(code)
    for k in range(calls):
        warm.append(1000 * tool.run("print(1 + 1)").seconds)
        loaded.append(1000 * tool.run(code).seconds)
        if k % (calls // fresh) == 0 and len(cold) < fresh:
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            cold.append(1000 * (time.perf_counter() - started))
    cuts, middle = statistics.quantiles(warm, n=100), statistics.median(loaded)
    return {
        "python: trivial call, p50": figure([cuts[49]], "ms"),
        "python: trivial call, p95": figure([cuts[94]], "ms"),
        "python: fresh interpreter with numpy and sympy": figure(cold, "ms"),
        "python: call that imports numpy and sympy, p50": figure([middle], "ms"),
        "python: fresh interpreter / such a call (p50)": ratio([(c, middle) for c in cold]),
    }


def deadlines(many: int) -> dict:
    """How late an endless loop is answered, alone and among many at once."""
    tool = PythonTool(0.5, "best-effort")
    tool.run("1")
    alone = [lateness(tool, 0.5)[0] for _ in range(10)]
    with ThreadPoolExecutor(many) as pool:
        crowd = list(pool.map(lambda _: lateness(tool, 0.5), range(many)))
    tool.close()
    return {
        "python: lateness of a timeout": figure(alone, "ms"),
        f"python: lateness of {many} timeouts at once": figure([late for late, _ in crowd], "ms"),
        f"python: wait of {many} calls at once for their turn": figure(
            [wait for _, wait in crowd], "ms"
        ),
    }


def throughput(calls: int) -> dict:
    """Trivial calls on one core, and the processes left after them but for those kept ready."""
    cores = os.sched_getaffinity(0)
    # a worker that starts now stays on this core with its children
    os.sched_setaffinity(0, {min(cores)})
    tool = PythonTool(5.0, "best-effort")
    tool.run("1")
    started = time.perf_counter()
    wrong = sum(tool.run("print(1 + 1)").text != "2" for _ in range(calls))
    rate = calls / (time.perf_counter() - started)
    os.sched_setaffinity(0, cores)
    time.sleep(0.2)
    children = (
        Path(f"/proc/{tool.backend.worker.pid}/task/{tool.backend.worker.pid}/children")
        .read_text()
        .split()
    )
    tool.close()
    return {
        "python: calls per second on one core": figure([rate], "1/s"),
        f"python: wrong answers of {calls} calls": figure([wrong], ""),
        f"python: processes left after {calls} calls": figure([max(0, len(children) - SPARES)], ""),
    }


def lateness(tool: PythonTool, timeout: float) -> tuple[float, float]:
    """Milliseconds of an endless loop: (from its deadline to the answer, from the call to it)."""
    called = time.monotonic()
    began = float(
        tool.run("import time\nprint(time.monotonic(), flush=True)\nwhile True: pass").text.split()[
            0
        ]
    )
    return 1000 * (time.monotonic() - began - timeout), 1000 * (began - called)


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
