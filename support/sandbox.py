"""Where model code runs, seen from the trainer: in a jail on this machine or on a server.

    Jailed          children of a local worker (support/python_worker.py), each in the jail
    SandboxFusion   a server that speaks POST /run_code

Both have `level`, what confines the code, in words; `execute(code)`, which gives an Outcome; and
`close()`. `open_sandbox` opens the one that a user named.
"""

import contextlib
import inspect
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from support.http import MAX_ANSWER, TOO_LONG, Unavailable, post_json, split_url
from support.python_worker import run_code

SANDBOXES = ("require", "best-effort", "off")
# what has imported them forks more slowly: a worker of its own is for code that names one of these
LIBRARIES = re.compile(
    "numpy|sympy|mpmath|math_verify|scipy|pandas|matplotlib|seaborn|sklearn|statsmodels|networkx"
)
# threads of a call, checked every 50 ms
THREADS = 64
# bytes after which a printing child is killed
KILL_OUTPUT = 1 << 22
# the worker's only environment variables
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LANG": "C.UTF-8",
    # sets print in the same order in every worker
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
# of a tool call, for the log
STATUSES = ("ok", "error", "timeout", "output_limit", "crashed", "infra")


class Outcome(NamedTuple):
    """How code ended (a status of tools.py), what is kept of its output, all bytes it printed."""

    status: str
    output: bytes = b""
    printed: int = 0

    def text(self, limit: int, timeout: float) -> str:
        """What the model reads: the output, of a long one its two ends, and what went wrong."""
        text = self.output.decode("utf-8", "replace").rstrip()
        if self.printed > len(self.output) or len(text) > limit:
            # the end is where the traceback is
            tail = limit // 4
            mark = f"\n... [truncated, {self.printed} bytes in all] ...\n"
            text = f"{text[: limit - tail]}{mark}{text[-tail:]}"
        ending = {
            "timeout": f"Error: timed out after {timeout:g} s",
            "crashed": "Error: the interpreter was killed "
            "(out of memory, too many threads, CPU limit or a crash)",
            "output_limit": "Error: killed for printing too much",
            "infra": "Error: the python tool is not available",
        }.get(self.status, "")
        return "\n".join(part for part in (text, ending) if part) or "(no output)"


def open_sandbox(sandbox: str, timeout: float, memory_mb: int, output_limit: int):
    """The sandbox that a user named, see tools.PythonTool. Raises ValueError for a setting."""
    remote = sandbox.startswith(("http://", "https://"))
    if sandbox not in SANDBOXES and not remote:
        raise ValueError(
            f"sandbox must be {', '.join(SANDBOXES)} or the http:// URL of a SandboxFusion server, "
            f"got {sandbox!r}"
        )
    for name, value, low, high in (
        ("timeout", timeout, 1e-3, 3600),
        ("memory_mb", memory_mb, 64, 1 << 20),
        ("output_limit", output_limit, 100, 1 << 20),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} must be between {low} and {high}, got {value}")
    if remote:
        return SandboxFusion(sandbox, timeout)
    # a character has at most 4 bytes
    return Jailed(sandbox, timeout, memory_mb, keep=4 * output_limit)


class Jailed:
    """Runs code in children that a clean worker forks and jails. Safe to call from many threads.

    Args:    kind: "require", "best-effort" or "off", see tools.PythonTool. timeout: seconds.
             memory_mb: address space of a call. keep: bytes kept of the output's beginning, and
             as many of its end. preload: the worker imports numpy and sympy; without it, code that
             names a library goes to another that does, made for the first such code.
    Raises:  ValueError if "require" finds no whole jail; OSError if the worker does not start.
    """

    def __init__(self, kind: str, timeout: float, memory_mb: int, keep: int, preload: bool = False):
        self.kind = kind
        self.timeout = timeout
        self.memory_mb = memory_mb
        self.keep = keep
        self.preload = preload
        # the one with libraries
        self.loaded: Jailed | None = None
        # held while the worker is spoken to
        self.lock = threading.Lock()
        self.worker = None
        self.channel = None
        # how often close() was called
        self.closed = 0
        self.level = ""
        # the other starts at its first call
        if not preload:
            self._start()

    def execute(self, code: str) -> Outcome:
        """Run code in a child, and once more if the worker dies under it."""
        if not self.preload and LIBRARIES.search(code):
            return self._with_libraries().execute(code)
        with _unnamed_file() as source:
            source.write(code.encode("utf-8", "replace"))
            source.flush()
            closed = self.closed
            for _ in range(2):
                source.seek(0)
                outcome, worker = self._try(source)
                if outcome.status != "crashed" or not _ended(worker, 0.05):
                    return outcome
                if closed != self.closed:
                    break
        return Outcome("infra")

    def close(self) -> None:
        """Stop the worker and the calls under way, which become "infra". execute() restarts it."""
        with self.lock:
            self.closed += 1
            self._stop()
            loaded = self.loaded
        if loaded:
            loaded.close()

    def _with_libraries(self) -> "Jailed":
        """The same with a worker that has imported numpy and sympy."""
        with self.lock:
            if self.loaded is None:
                limits = self.timeout, self.memory_mb, self.keep
                self.loaded = Jailed(self.kind, *limits, preload=True)
            return self.loaded

    def _try(self, source) -> tuple[Outcome, subprocess.Popen]:
        """Run the code of an open file in one child: (how it ended, the child's worker)."""
        with contextlib.ExitStack() as stack:
            output, output_child = _pipe(stack)
            verdict, verdict_child = _pipe(stack)
            pid, worker = self._fork(source.fileno(), output_child.fileno(), verdict_child.fileno())
            # their end of file then means that the child has ended
            output_child.close()
            verdict_child.close()
            try:
                deadline = time.monotonic() + self.timeout
                return _watch(pid, output, verdict, deadline=deadline, keep=self.keep), worker
            finally:
                self._kill(pid, worker)

    def _fork(self, *fds: int) -> tuple[int, subprocess.Popen]:
        """Have the worker's next child take (code, output, verdict): (its pid, the worker)."""
        with self.lock:
            for _ in range(2):
                answer = b""
                try:
                    self._start()
                    socket.send_fds(self.channel, [struct.pack("=ci", b"F", 0)], fds)
                    answer = self.channel.recv(4)
                    # the first answer waits for the worker's imports, the others for milliseconds
                    self.channel.settimeout(5)
                except OSError:
                    pass
                finally:
                    # also after Ctrl-C: a late answer would be taken for the next one
                    if len(answer) < 4:
                        self._stop()
                if len(answer) == 4:
                    return struct.unpack("=i", answer)[0], self.worker
        raise Unavailable("the python worker", "does not answer")

    def _kill(self, pid: int, worker: subprocess.Popen) -> None:
        """Kill a child and its group, then let the worker reap it."""
        # until it is reaped, its pid cannot come to name another process
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
        with self.lock, contextlib.suppress(OSError):
            if worker is self.worker:
                self.channel.sendall(struct.pack("=ci", b"R", pid))

    def _start(self) -> None:
        """Start the worker unless it runs, and learn which parts of the jail hold."""
        if self.worker is not None and self.worker.poll() is None:
            return
        self._stop()
        self.channel, theirs = socket.socketpair()
        with theirs, _unnamed_file() as errors:
            self.worker = self._popen(theirs, errors)
            theirs.close()
            self.channel.settimeout(120)
            hello = self.channel.recv(4096)
            if not hello:
                self._stop()
                errors.seek(0)
                cause = errors.read().decode("utf-8", "replace").strip()[-500:]
                raise Unavailable("the python worker", f"did not start: {cause}")
        self.level, missing = json.loads(hello)
        if missing and self.kind == "require":
            self._stop()
            raise ValueError(
                "--sandbox require: model code cannot be jailed here, for want of "
                f"{' and '.join(missing)}. Give --sandbox best-effort in a container that holds "
                "nothing you cannot lose, or --sandbox URL of a SandboxFusion server"
            )

    def _popen(self, channel: socket.socket, errors) -> subprocess.Popen:
        """The worker's process, with nothing of the trainer's but the channel, its stdin."""
        settings = [self.kind, str(self.timeout), str(self.memory_mb)]
        settings += ["preload"] * self.preload
        return subprocess.Popen(
            [sys.executable, "-s", "-m", "support.python_worker", *settings],
            stdin=channel,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=ENVIRONMENT,
            # the folder of the package support, for -m
            cwd=Path(__file__).resolve().parent.parent,
            start_new_session=True,
        )

    def _stop(self) -> None:
        """End the worker; its children die with it."""
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()
            self.channel.close()
        self.worker = self.channel = None


class SandboxFusion:
    """Runs code on a SandboxFusion server, by the same rules for what is printed.

    Args:    url: the server's, with or without /run_code. timeout: seconds per call.
    """

    def __init__(self, url: str, timeout: float):
        self.url = f"{url.rstrip('/').removesuffix('/run_code')}/run_code"
        self.timeout = timeout
        self.level = f"SandboxFusion at {split_url(url)[0]}"

    def execute(self, code: str) -> Outcome:
        """Run code, and once more if the server reports trouble of its own."""
        # the server runs the same function as a jailed child does
        program = (
            "import ast, io, linecache, os, sys, traceback, types\n"
            f"{inspect.getsource(run_code)}\n"
            f"sys.exit(0 if run_code({code!r}) == b'ok' else 1)"
        )
        outcome = self._ask(program)
        return self._ask(program, last=True) if outcome.status == "infra" else outcome

    def close(self) -> None:
        """There is nothing to close."""

    def _ask(self, program: str, last: bool = False) -> Outcome:
        """One request, tried again as post_json does. Raises Unavailable.

        An answer of another form is "infra"; the last time it is an error that names the server.
        """
        payload = {"code": program, "language": "python", "run_timeout": self.timeout}
        try:
            answer = post_json(self.url, payload, timeout=self.timeout + 10, retries=2)
        except Unavailable as problem:
            if problem.cause == TOO_LONG:
                return Outcome("output_limit", b"", MAX_ANSWER)
            raise
        try:
            run = answer["run_result"] or {}
            lost = not run and answer["status"] != "SandboxError"
            failed = "timeout" if run.get("status") == "TimeLimitExceeded" else "error"
            # "SandboxError" is the server's own trouble
            status = {"Success": "ok", "Failed": failed}.get(answer["status"], "infra")
            status = "infra" if lost else status
            text = f"{run.get('stdout') or ''}{run.get('stderr') or ''}"
        except (KeyError, TypeError, AttributeError):
            if last:
                raise Unavailable(self.level, "the answer is not that of /run_code") from None
            return Outcome("infra")
        output = text.encode("utf-8", "replace")
        return Outcome(status, output, len(output))


def _watch(pid: int, output: int, verdict: int, deadline: float, keep: int) -> Outcome:
    """Read a child's output until it ends, prints too much or runs out of time."""
    head = tail = b""
    size, status = 0, None
    poll = select.poll()
    poll.register(output)
    poll.register(verdict)
    while status is None:
        left = 1000 * (deadline - time.monotonic())
        ready = [fd for fd, _ in poll.poll(max(0.0, min(50.0, left)))]
        if output in ready:
            chunk = os.read(output, 1 << 16)
            size += len(chunk)
            room = keep - len(head)
            head, tail = head + chunk[:room], (tail + chunk[room:])[-keep:]
            if not chunk:
                poll.unregister(output)
            if size > KILL_OUTPUT:
                status = "output_limit"
        # the verdict counts when all that was printed before it has been read
        elif verdict in ready and output not in [fd for fd, _ in poll.poll(0)]:
            status = {b"ok": "ok", b"error": "error"}.get(os.read(verdict, 16), "crashed")
        elif not ready and _threads(pid) > THREADS:
            status = "crashed"
        if status is None and time.monotonic() >= deadline:
            status = "timeout"
    return Outcome(status, head + tail, size)


def _threads(pid: int) -> int:
    """Threads of a process; 0 where no /proc tells."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def _pipe(stack: contextlib.ExitStack) -> tuple[int, object]:
    """A pipe whose ends the stack closes: (the descriptor to read, the file to write)."""
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    return reader, stack.enter_context(os.fdopen(writer, "wb", 0))


def _unnamed_file():
    """A file without a name, in memory where the system offers that."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("code"), "w+b")
    return tempfile.TemporaryFile()


def _ended(process: subprocess.Popen, seconds: float) -> bool:
    """Has a process ended, or does it within some seconds?"""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return True
    return False
