"""PythonTool: what it survives, what it leaves behind, and a SandboxFusion server in its place."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from tool_parts import alive, children_of, status

from support import http, sandbox
from support.python_worker import SPARES
from tools import PythonTool


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        (
            "import signal\n"
            "for s in range(1, 32):\n"
            "    try: signal.signal(s, signal.SIG_IGN)\n"
            "    except Exception: pass\n"
            "while True: pass"
        ),
        "import os\nos.close(1); os.close(2)\nimport time; time.sleep(60)",
        "10**10**8",
    ],
)
def test_python_timeout(code):
    tool = PythonTool(0.5, "best-effort")
    # its worker is up: how long that takes depends on the machine
    assert tool.run("1").status == "ok"
    started = time.monotonic()
    result = tool.run("print('kept', flush=True)\n" + code)
    assert (
        result.status == "timeout"
        and "timed out after 0.5 s" in result.text
        and time.monotonic() - started < 5
    )
    assert "kept" in result.text
    assert tool.run("1").text == "1"
    tool.close()


def test_python_kills_the_whole_group_without_a_jail(tmp_path):
    flag, tool = tmp_path / "alive", PythonTool(timeout=2.0, sandbox="off")
    code = (
        f"import os, time\n"
        f"if os.fork() == 0:\n"
        f"    time.sleep(1.0)\n"
        f"    open({str(flag)!r}, 'w')\n"
        f"else:\n"
        f"    print('parent')"
    )
    assert tool.run(code).text == "parent"
    time.sleep(1.3)
    assert not flag.exists()
    tool.close()


@pytest.mark.slow
def test_python_cannot_leave_its_session_for_the_workers(python, tmp_path):
    flag = tmp_path / "alive"
    tool = PythonTool(0.4, "off")
    result = tool.run(
        (
            f"import os, time\n"
            f"try: os.setpgid(0, os.getppid())\n"
            f"except OSError as e: print('refused')\n"
            f"time.sleep(1)\n"
            f"open({str(flag)!r}, 'w')"
        )
    )
    assert result.status == "timeout" and "refused" in result.text
    time.sleep(1)
    assert not flag.exists()
    tool.close()


@pytest.mark.slow
def test_python_stopped_worker_is_replaced(python):
    tool = PythonTool(0.5, "best-effort")
    tool.run("1")
    os.kill(tool.backend.worker.pid, signal.SIGSTOP)
    started = time.monotonic()
    result = tool.run("2")
    assert (result.status, result.text) == ("ok", "2") and time.monotonic() - started < 20, (
        "our delay is not the model's timeout"
    )
    tool.close()


def test_python_without_room_for_files_is_infra(python, monkeypatch):
    monkeypatch.setattr(
        sandbox,
        "_unnamed_file",
        lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    assert python.run("1").status == "infra"


def test_python_with_many_open_files(python):
    resource = __import__("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        assert python.run("3").text == "3"
    finally:
        [os.close(fd) for fd in held]
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_python_from_many_threads(python):
    results = {}
    threads = [
        threading.Thread(
            target=lambda i=i: results.update({i: python.run(f"print({i} * 1001)").text})
        )
        for i in range(40)
    ]
    [t.start() for t in threads], [t.join() for t in threads]
    assert results == {i: str(i * 1001) for i in range(40)}


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks into /proc")
def test_python_leaves_no_process_and_no_file_behind():
    tool = PythonTool(0.3, "best-effort")
    tool.run("1")
    files, worker = len(os.listdir("/proc/self/fd")), tool.backend.worker.pid
    for i in range(300):
        tool.run("1" if i % 60 else "while True: pass")
    time.sleep(0.1)
    assert len(os.listdir("/proc/self/fd")) == files
    assert len(children_of(worker)) <= SPARES, "children that wait for a call"
    spares = [int(line.split()[0]) for line in children_of(worker)]
    tool.close()
    time.sleep(0.1)
    assert not [pid for pid in (worker, *spares) if alive(pid)]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks into /proc")
def test_python_output_does_not_fill_the_trainers_memory(python):
    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    python.run("print('x' * 10**6)")
    before = resident()
    for code in (
        "while True: print('x' * 10**6)",
        "import os\nwhile True: os.write(2, b'y' * 65536)",
        "print('z' * 10**8)",
        "raise ValueError('e' * 10**7)",
    ):
        assert (
            python.run(code).status in ("output_limit", "error") and resident() - before < 10 << 20
        ), code


@pytest.mark.slow
def test_python_many_timeouts_at_once():
    tool, late = PythonTool(1.0, "best-effort"), []
    tool.run("1")
    threads = [
        threading.Thread(target=lambda: late.append(tool.run("while True: pass")))
        for _ in range(50)
    ]
    [t.start() for t in threads], [t.join() for t in threads]
    assert {r.status for r in late} == {"timeout"} and len(late) == 50
    assert tool.run("1").text == "1"
    tool.close()


def test_python_waiting_children_may_die(python):
    python.run("1")
    time.sleep(0.3)
    for line in children_of(python.backend.worker.pid):
        os.kill(int(line.split()[0]), signal.SIGKILL)
    time.sleep(0.1)
    assert [python.run("1").text for _ in range(5)] == ["1"] * 5


def test_python_close_ends_the_calls_under_way():
    tool, results = PythonTool(20.0, "best-effort"), []
    tool.run("1")
    thread = threading.Thread(
        target=lambda: results.append(tool.run("import time; time.sleep(15)"))
    )
    thread.start()
    time.sleep(0.3)
    tool.close()
    thread.join(5)
    assert [r.status for r in results] == ["infra"] and tool.backend.worker is None


def test_python_interrupted_calls_leave_nothing_behind(monkeypatch):
    """Ctrl-C while a call is watched: its process is dead, the next call gets its own answer."""
    tool = PythonTool(20.0, "best-effort")
    tool.run("1")
    monkeypatch.setattr(sandbox, "_threads", lambda pid: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tool.run("while True: pass")
    monkeypatch.undo()
    assert tool.run("2").text == "2"
    time.sleep(0.2)
    assert len(children_of(tool.backend.worker.pid)) <= SPARES
    tool.close()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks into /proc")
def test_python_without_file_handles_is_infra_and_leaks_none(python):
    resource = __import__("resource")
    python.run("1")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before, statuses = sorted(os.listdir("/proc/self/fd")), set()
    try:
        for spare in range(6):
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) - 1 + spare, hard))
            statuses.add(python.run("1").status)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert statuses <= {"ok", "infra"}, "never the model's fault"
    assert len(os.listdir("/proc/self/fd")) <= len(before) and python.run("1").text == "1"


def run_code(_, payload):
    """What SandboxFusion answers, by running the program it was sent."""
    assert payload["language"] == "python"
    try:
        done = subprocess.run(
            [sys.executable, "-c", payload["code"]],
            capture_output=True,
            text=True,
            timeout=payload["run_timeout"],
        )
    except subprocess.TimeoutExpired as late:
        return {
            "status": "Failed",
            "message": "",
            "run_result": {
                "status": "TimeLimitExceeded",
                "stdout": (late.stdout or b"").decode(),
                "stderr": "",
                "return_code": None,
            },
        }
    return {
        "status": "Failed" if done.returncode else "Success",
        "run_result": {
            "status": "Finished",
            "return_code": done.returncode,
            "stdout": done.stdout,
            "stderr": done.stderr,
        },
    }


@pytest.mark.parametrize(
    "code",
    [
        "print(1+1)",
        "64 * 3",
        "x = 1",
        "print('before')\n1/0",
        "def f(:",
        "exit(3)",
        'print(\'é """ \\\\ 数\')',
        "'a' * 9000",
    ],
)
def test_sandbox_fusion_answers_as_the_jail_does(serve, python, code):
    remote, here = (
        PythonTool(2.0, serve(run_code).url.replace("/retrieve", "")).run(code),
        python.run(code),
    )
    assert (remote.status, remote.text) == (here.status, here.text)


def raw(text):
    return lambda handler, _: handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + text) and None


@pytest.mark.parametrize(
    "trouble",
    [status(429), status(500), status(503), raw(b"<html>busy</html>"), raw(b""), lambda *_: {}],
)
def test_sandbox_fusion_is_asked_again_after_passing_trouble(serve, trouble, monkeypatch):
    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)
    asked = []

    def answer(handler, payload):
        asked.append(payload)
        return trouble(handler, payload) if len(asked) == 1 else run_code(handler, payload)

    result = PythonTool(2.0, serve(answer).url).run("print(6 * 7)")
    assert (result.status, result.text) == ("ok", "42") and len(asked) == 2
    assert asked[0] == asked[1], "the same program"


def test_sandbox_fusion_is_not_asked_for_ever(serve):
    server = serve(status(500))
    assert PythonTool(2.0, server.url).run("1").status == "infra" and len(server.asked) == 3
    server = serve(status(401))
    assert PythonTool(2.0, server.url).run("1").status == "infra" and len(server.asked) == 1


def test_sandbox_fusion_troubles(serve):
    def tool(answer):
        return PythonTool(0.5, serve(answer).url.replace("/retrieve", "/run_code"))

    late = tool(run_code).run("print('kept')\nwhile True: pass")
    assert late.status == "timeout" and late.text == "kept\nError: timed out after 0.5 s"
    sick = serve(lambda *_: {"status": "SandboxError", "run_result": None})
    assert PythonTool(0.5, sick.url).run("1").status == "infra" and len(sick.asked) == 2, (
        "the server's own trouble: asked once more"
    )
    assert (
        tool(lambda *_: {"oops": 1}).run("1").status == "infra"
        and tool(lambda *_: [1]).run("1").status == "infra"
    )
    secret = PythonTool(0.5, "http://user:hush@127.0.0.1:9/")
    with pytest.raises(ValueError, match="python does not answer") as problem:
        secret.probe()
    assert "hush" not in str(problem.value) + secret.level + secret.run("1").text
