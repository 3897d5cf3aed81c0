"""What the agent may call: a Python interpreter, a search engine, and how a call is read from the model's text.

    parse_call    the last complete <python>..</python> or <search>..</search>
    PythonTool    runs code in a fresh, jailed process forked from a clean, single-threaded worker
    SearchTool    a local corpus by BM25, a /retrieve server or Google, behind a cache
    defuse        makes tool text harmless: it can never open or close a tag

A tool never raises for what the model wrote: every failure is a ToolResult, whose text the model reads and whose status the log counts.

The jail of PythonTool, enforced by the kernel (Landlock, seccomp, resource limits, no_new_privs) on x86-64 and aarch64 Linux, for root and others alike:
    reading    | no file but those of the Python installation and the system's libraries
    writing    | no file and no folder, anywhere
    metadata   | of no file can it be changed
    network    | no socket of any kind
    processes  | none can be started, by fork or exec; threads can, but more than 64 are noticed within 50 ms and the call is killed
    others     | no signal to another process, no look into it; where own namespaces are allowed /proc is empty too
    secrets    | nothing of the trainer's environment, memory and open files
    privileges | none can be gained, no limit raised, root or not
    kernel     | system calls that a computation does not need are refused, unknown ones too
    time       | SIGKILL at a monotonic deadline, whatever is ignored or blocked
    memory     | an allocation above the limit is a MemoryError
    output     | capped while it is read; a flood is killed
    state      | the next call finds everything as if this one had not been
Not covered: bugs of the kernel, timing channels, use of CPU time up to the deadline, the existence, size and times of files (stat is not governed by
Landlock), the contents of the Python installation, and the status: code may claim that it ended well. Run it in a container that holds nothing you cannot lose.

Standard library only; this file imports no sibling. By hand: python tools.py python 'print(1+1)', python tools.py search 'query' --source corpus.jsonl
"""

import argparse
import ast
import base64
import collections
import contextlib
import ctypes
import errno
import fcntl
import gc
import hashlib
import http.client
import inspect
import io
import json
import linecache
import os
import platform
import random
import re
import resource
import select
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import types
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

TOOL_TAGS = ("python", "search")
TAGS = ("think", "answer", "result") + TOOL_TAGS
STATUSES = ("ok", "error", "timeout", "output_limit", "crashed", "infra")
SANDBOXES = ("require", "best-effort", "off")
# children of the Python worker that wait in the jail for their code
SPARES = 3
# of a Python call; looked at every 50 ms
THREADS = 64


@dataclass(frozen=True)
class ToolResult:
    """What a call returned. status: one of STATUSES ("error": the model's mistake, "infra": ours); text: for the model; seconds: wall clock."""

    status: str
    text: str
    seconds: float


class Unavailable(OSError):
    """A server or worker does not do its part. The message is its name and the cause: of a URL scheme, host, port and path, never a key or a password."""

    def __init__(self, server: str, cause: str):
        super().__init__(f"{server}: {cause}")
        self.cause = cause


def parse_call(text: str) -> tuple[str, str] | None:
    """The last complete call in the model's own text: (tool name, argument), or None.

    A closing tag belongs to the nearest opening one before it. The argument is stripped of surrounding white space and may be empty; code that begins on
    a line of its own is freed of common indentation.
    """
    for close in reversed(list(re.finditer(rf"</({'|'.join(TOOL_TAGS)})>", text))):
        name, start = close[1], text.rfind(f"<{close[1]}>", 0, close.start())
        argument = text[start + len(name) + 2 : close.start()]
        if start >= 0 and f"</{name}>" not in argument:
            own_line = not argument.split("\n", 1)[0].strip()
            return name, (textwrap.dedent(argument) if own_line else argument).strip()
    return None


def defuse(text: str) -> str:
    """Tool text in which no tag is left: the "<" of every <tag> and </tag> of this protocol becomes "‹" (U+2039), whatever its case."""
    return re.sub(
        rf"<(?=\s{{0,9}}/?\s{{0,9}}(?:{'|'.join(TAGS)})\s{{0,9}}>)", "‹", text, flags=re.IGNORECASE
    )


class PythonTool:
    """Runs model code: each call in a fresh process, forked from a clean worker and locked into the jail before it sees the code.

    Calls share nothing: no variable, no import, no file handle survives, and each starts with the same random state. What is printed comes back, then the
    value of a last bare expression, then the last lines of the traceback; "(no output)" if there is nothing. numpy and sympy are imported beforehand where
    they are installed. Safe to call from several threads. Start it before CUDA.

    Args:    timeout: wall-clock seconds per call, up to an hour. memory_mb: address space of a call. output_limit: characters that the model gets to read.
             sandbox: "require" refuses to start without the whole jail (see the top of this file); "best-effort" takes what this kernel offers; "off" has
             limits alone; the http(s):// URL of a SandboxFusion server sends the code there. The attribute `level` says in words what was achieved.
    Raises:  ValueError for an unknown or unavailable sandbox, or a timeout out of range; OSError if the worker does not start.
    """

    # bytes after which a printing child is killed
    KILL_OUTPUT = 1 << 22

    def __init__(
        self,
        timeout: float = 5.0,
        sandbox: str = "require",
        memory_mb: int = 1024,
        output_limit: int = 4000,
    ):
        remote = sandbox.startswith(("http://", "https://"))
        if sandbox not in SANDBOXES and not remote:
            raise ValueError(
                f"sandbox must be {', '.join(SANDBOXES)} or the http:// URL of a SandboxFusion server, got {sandbox!r}"
            )
        for name, value, low, high in (
            ("timeout", timeout, 1e-3, 3600),
            ("memory_mb", memory_mb, 64, 1 << 20),
            ("output_limit", output_limit, 100, 1 << 20),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} must be between {low} and {high}, got {value}")
        self.timeout, self.sandbox, self.memory_mb, self.output_limit = (
            timeout,
            sandbox,
            memory_mb,
            output_limit,
        )
        self.lock, self.worker, self.channel, self.closed, self.problem = (
            threading.Lock(),
            None,
            None,
            0,
            "",
        )
        self.level = f"SandboxFusion at {split_url(sandbox)[0]}" if remote else ""
        self._execute = self._remote if remote else self._local
        if not remote:
            self._start()

    def run(self, code: str) -> ToolResult:
        """Run code and return what it printed. Never raises for what the code is or does; what fails for another reason has the status "infra"."""
        started = time.monotonic()
        if not code.strip():
            return ToolResult("error", "Error: the python block is empty", 0.0)
        try:
            status, data, size = self._execute(code)
        # no memory, no file handle left, no server: not the model's doing
        except OSError as problem:
            status, data, size, self.problem = "infra", b"", 0, str(problem)
        return ToolResult(status, self._text(status, data, size), time.monotonic() - started)

    def probe(self) -> str:
        """Run one line; what confines code, what came back and how fast. Raises ValueError if nothing comes back."""
        result = self.run("6 * 7")
        if result.text != "42":
            raise ValueError(
                f"python does not answer ({self.level}): {self.problem or result.text}"
            )
        return f"python, {self.level}: 6 * 7 -> 42 ({1000 * result.seconds:.0f} ms)"

    def close(self) -> None:
        """Stop the worker and with it the calls under way, whose status is "infra"; a later call starts a new one."""
        with self.lock:
            self.closed += 1
            self._stop()

    def _text(self, status: str, data: bytes, size: int) -> str:
        """The output for the model: if it is too long its beginning and its end, where the traceback is, with a mark between."""
        text, tail = data.decode("utf-8", "replace").rstrip(), self.output_limit // 4
        if size > len(data) or len(text) > self.output_limit:
            text = f"{text[: self.output_limit - tail]}\n... [truncated, {size} bytes in all] ...\n{text[-tail:]}"
        ending = {
            "timeout": f"Error: timed out after {self.timeout:g} s",
            "crashed": "Error: the interpreter was killed (out of memory, too many threads, CPU limit or a crash)",
            "output_limit": "Error: killed for printing too much",
            "infra": "Error: the python tool is not available",
        }.get(status, "")
        return "\n".join(part for part in (text, ending) if part) or "(no output)"

    def _remote(self, code: str) -> tuple[str, bytes, int]:
        """Run code on a SandboxFusion server, by the same rules for what is printed: (status, output, bytes printed)."""
        program = f"import ast, io, linecache, os, sys, traceback, types\n{inspect.getsource(_execute)}\nsys.exit(0 if _execute({code!r}) == b'ok' else 1)"
        url = f"{self.sandbox.rstrip('/').removesuffix('/run_code')}/run_code"
        # "SandboxError" is the server's own trouble: once more
        for _ in range(2):
            try:
                answer = post_json(
                    url,
                    {"code": program, "language": "python", "run_timeout": self.timeout},
                    timeout=self.timeout + 10,
                    retries=0,
                )
            except Unavailable as problem:
                if problem.cause == TOO_LONG:
                    return "output_limit", b"", MAX_ANSWER
                raise
            try:
                run = answer["run_result"] or {}
                failed = "timeout" if run.get("status") == "TimeLimitExceeded" else "error"
                status = {"Success": "ok", "Failed": failed}.get(answer["status"], "infra")
                data = f"{run.get('stdout') or ''}{run.get('stderr') or ''}".encode(
                    "utf-8", "replace"
                )
            except (KeyError, TypeError, AttributeError):
                raise Unavailable(self.level, "the answer is not that of /run_code") from None
            if status != "infra":
                break
        return status, data, len(data)

    def _local(self, code: str) -> tuple[str, bytes, int]:
        """Run code in a child of the worker, and once more if the worker dies under it: (status, kept output, bytes printed)."""
        # closes what is opened here
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(_unnamed_file())
            source.write(code.encode("utf-8", "replace"))
            source.flush()
            closed = self.closed
            for _ in range(2):
                source.seek(0)
                ends = []
                # output, verdict
                for _ in range(2):
                    ends += os.pipe()
                    stack.callback(os.close, ends[-2])
                    writer = stack.enter_context(os.fdopen(ends[-1], "wb", 0))
                    ends[-1] = writer
                output, output_child, verdict, verdict_child = ends
                pid, worker = self._fork(
                    source.fileno(), output_child.fileno(), verdict_child.fileno()
                )
                output_child.close(), verdict_child.close()
                try:
                    result = self._watch(pid, output, verdict, time.monotonic() + self.timeout)
                finally:
                    self._kill(pid, worker)
                if result[0] != "crashed" or not _ended(worker, 0.05):
                    return result
                if closed != self.closed:
                    break
        return "infra", b"", 0

    def _fork(self, *fds: int) -> tuple[int, subprocess.Popen]:
        """Have the worker's next child read its code from fds[0], print to fds[1] and write its verdict to fds[2]: (its pid, the worker)."""
        with self.lock:
            for _ in range(2):
                answer = b""
                try:
                    self._start()
                    socket.send_fds(self.channel, [struct.pack("=ci", b"F", 0)], fds)
                    answer = self.channel.recv(4)
                    # after its first answer, which waits for its imports, it takes milliseconds
                    self.channel.settimeout(5)
                except OSError:
                    pass
                finally:
                    # also when Ctrl-C came between: a late answer would be taken for the next one
                    if len(answer) < 4:
                        self._stop()
                if len(answer) == 4:
                    return struct.unpack("=i", answer)[0], self.worker
        raise Unavailable("the python worker", "does not answer")

    def _kill(self, pid: int, worker: subprocess.Popen) -> None:
        """Kill a child and its group, then let the worker reap it: until then the pid cannot come to name another process."""
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
        with self.lock, contextlib.suppress(OSError):
            if worker is self.worker:
                self.channel.sendall(struct.pack("=ci", b"R", pid))

    def _start(self) -> None:
        """Start the worker if there is none and learn which parts of the jail hold."""
        if self.worker is not None and self.worker.poll() is None:
            return
        self._stop()
        self.channel, theirs = socket.socketpair()
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": "/nonexistent",
            "LANG": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        command = [
            sys.executable,
            "-s",
            os.path.abspath(__file__),
            "--worker",
            self.sandbox,
            str(self.timeout),
            str(self.memory_mb),
        ]
        with theirs, _unnamed_file() as errors:
            self.worker = subprocess.Popen(
                command,
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
            theirs.close()
            self.channel.settimeout(120)
            hello = self.channel.recv(4096)
            if not hello:
                self._stop()
                errors.seek(0)
                raise Unavailable(
                    "the python worker",
                    f"did not start: {errors.read().decode('utf-8', 'replace').strip()[-500:]}",
                )
        self.level, missing = json.loads(hello)
        if missing and self.sandbox == "require":
            self._stop()
            raise ValueError(
                f"sandbox 'require': model code cannot be jailed here, for want of {' and '.join(missing)}. Take sandbox 'best-effort' in a "
                "container that holds nothing you cannot lose, or the URL of a SandboxFusion server"
            )

    def _stop(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()
            self.channel.close()
        self.worker = self.channel = None

    def _watch(
        self, pid: int, output: int, verdict: int, deadline: float
    ) -> tuple[str, bytes, int]:
        """Read the child's output until it ends, prints too much or runs out of time: (status, the beginning and the end of what it printed, bytes printed)."""
        head, tail, size, status, poll, room = (
            b"",
            b"",
            0,
            None,
            select.poll(),
            4 * self.output_limit,
        )
        poll.register(output), poll.register(verdict)
        while status is None:
            ready = [
                fd for fd, _ in poll.poll(max(0.0, min(50.0, 1000 * (deadline - time.monotonic()))))
            ]
            if output in ready:
                chunk = os.read(output, 1 << 16)
                size += len(chunk)
                head, tail = (
                    head + chunk[: room - len(head)],
                    (tail + chunk[max(0, room - len(head)) :])[-room:],
                )
                if not chunk:
                    poll.unregister(output)
                if size > self.KILL_OUTPUT:
                    status = "output_limit"
            # everything that was printed before has been read
            elif verdict in ready and output not in [fd for fd, _ in poll.poll(0)]:
                status = {b"ok": "ok", b"error": "error"}.get(os.read(verdict, 16), "crashed")
            elif not ready and _threads(pid) > THREADS:
                status = "crashed"
            if status is None and time.monotonic() >= deadline:
                status = "timeout"
        return status, head + tail, size


def _threads(pid: int) -> int:
    """Threads of a process; 0 where there is no /proc to tell."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def _unnamed_file():
    return (
        os.fdopen(os.memfd_create("code"), "w+b")
        if hasattr(os, "memfd_create")
        else tempfile.TemporaryFile()
    )


def _ended(process: subprocess.Popen, seconds: float) -> bool:
    """Has a process ended, or does it within some seconds?"""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return True
    return False


def _worker(sandbox: str, timeout: float, memory_mb: int) -> None:
    """The worker's loop, a single-threaded process with nothing of the trainer in it but the channel, its stdin.

    It first says which jail holds. Request "F" with three files: hand them to a child, answer its pid. "R" and a pid: reap that dead child. Children are forked
    and jailed in advance, when no request waits.
    """
    here, spares = os.path.dirname(os.path.abspath(__file__)), collections.deque()
    # kept free: a child's line to the worker, the Landlock rules
    os.dup2(1, 3), os.dup2(1, 4)
    channel = socket.socket(fileno=os.dup(0))
    # model code does not import the project's files
    sys.path[:] = [p for p in sys.path if os.path.abspath(p) != here]
    parts, level, missing = _build_jail(sandbox)
    channel.sendall(json.dumps([level, missing]).encode())
    _preload()
    while True:
        if len(spares) < SPARES and not select.select([channel], [], [], 0)[0]:
            spares.append(_spare(parts, timeout, memory_mb))
            continue
        request, fds, _, _ = socket.recv_fds(channel, 5, 3)
        if len(request) < 5:
            # the trainer is gone; the children die with their parent
            os._exit(0)
        action, pid = struct.unpack("=ci", request)
        if action == b"R":
            os.waitpid(pid, 0)
        else:
            pid = 0
            while not pid:
                pid = _hand_over(
                    spares.popleft() if spares else _spare(parts, timeout, memory_mb), fds
                )
            channel.sendall(struct.pack("=i", pid))
            for fd in fds:
                os.close(fd)


def _spare(parts: dict, timeout: float, memory_mb: int) -> tuple[int, socket.socket]:
    """A jailed child that waits for its files: (pid, the line to it)."""
    line, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            _child(theirs.fileno(), parts, timeout, memory_mb)
        finally:
            os._exit(1)
    theirs.close()
    return pid, line


def _hand_over(spare: tuple[int, socket.socket], fds: list[int]) -> int:
    """Give a waiting child its files: its pid, or 0 if it has died while it waited, killed for want of memory, say."""
    pid, line = spare
    with line:
        try:
            socket.send_fds(line, [b"!"], fds)
            return pid
        except OSError:
            os.waitpid(pid, 0)
            return 0


def _preload() -> None:
    """Import once what model code uses most, and use it, so that no call pays for it."""
    with contextlib.suppress(ImportError):
        import numpy.random

        numpy.random.seed(0)
    with contextlib.suppress(ImportError):
        import sympy.core.random
        from sympy.parsing import sympy_parser

        sympy.solve(sympy_parser.parse_expr("x**2 - 2"))
        sympy.core.random.seed(0)
    gc.collect()
    # a child that collects garbage does not copy these pages
    gc.freeze()


def _child(line: int, parts: dict, timeout: float, memory_mb: int) -> None:
    """One call: its own process group, limits, the jail; then wait for the files, run the code, write "ok" or "error" as the verdict."""
    # the jail lets nobody leave the group
    os.setpgid(0, 0) if parts["seccomp"] else os.setsid()
    # the worker and those that wait in the jail go first
    os.nice(5)
    # its own: the flags of an inherited one would be shared
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0), os.dup2(line, 3)
    os.closerange(5, 256)
    seconds = int(timeout) + 1
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: memory_mb << 20,
        resource.RLIMIT_FSIZE: 1 << 24,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        most = resource.getrlimit(limit)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        with contextlib.suppress(*[] if sys.platform == "linux" else [ValueError, OSError]):
            resource.setrlimit(limit, (value, value))
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=3)
    _confine(parts)
    _, (source, output, verdict), _, _ = socket.recv_fds(channel, 1, 3)
    # should nobody be left to kill it
    signal.alarm(seconds + 1)
    code = open(source, "rb", closefd=False).read().decode("utf-8", "replace")
    os.dup2(output, 1), os.dup2(output, 2), os.dup2(verdict, 9)
    for fd in {3, 4, source, output, verdict} - {9}:
        with contextlib.suppress(OSError):
            os.close(fd)
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    os.write(9, _execute(code))


def _execute(code: str) -> bytes:
    """Run code as __main__ and print its traceback, or the value of its last line if that is a bare expression.

    The traceback is short: the last two of the code's own lines and, if it was raised in a library, the last line there. What the code may have replaced,
    print and sys.stdout among it, is not used afterwards.
    """
    write, fill, report, summary = (
        os.write,
        memoryview,
        traceback.TracebackException,
        traceback.StackSummary,
    )

    def show(text):
        rest = fill((text + "\n").encode("utf-8", "backslashreplace"))
        while rest:
            rest = rest[write(1, rest) :]

    sys.stdout = sys.stderr = io.TextIOWrapper(
        io.FileIO(1, "w", closefd=False),
        encoding="utf-8",
        errors="backslashreplace",
        write_through=True,
    )
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    linecache.cache["<python>"] = len(code), None, code.splitlines(True), "<python>"
    try:
        body = ast.parse(code, "<python>")
        last = (
            ast.Expression(body.body.pop().value)
            if body.body and isinstance(body.body[-1], ast.Expr)
            else None
        )
        exec(compile(body, "<python>", "exec"), main.__dict__)
        value = eval(compile(last, "<python>", "eval"), main.__dict__) if last else None
        if value is not None:
            show(value if isinstance(value, str) else repr(value))
        return b"ok"
    except SystemExit as stop:
        if isinstance(stop.code, str):
            show(stop.code)
        return b"ok" if stop.code in (None, 0) else b"error"
    # whatever the model's code raises is text for the model
    except BaseException as problem:
        problem.__cause__ = problem.__context__ = None
        told = report.from_exception(problem)
        own = [frame for frame in told.stack if frame.filename == "<python>"][-2:]
        library = [frame for frame in told.stack[-1:] if own and frame.filename != "<python>"]
        told.stack = summary.from_list(own + library)
        show("".join(told.format()).rstrip())
        return b"error"


def _build_jail(sandbox: str) -> tuple[dict, str, list[str]]:
    """Prepare in the worker what its children enter: (parts for _confine, the level in words, what is missing of the whole jail).

    A part counts only if a trial child found itself confined by it.
    """
    parts, hidden, abi = {"landlock": False, "seccomp": False}, False, 0
    if sandbox != "off" and sys.platform == "linux":
        with contextlib.suppress(OSError):
            _private_view()
            hidden = True
        with contextlib.suppress(OSError):
            abi, rules = _landlock_rules()
            os.dup2(rules, 4)
            os.close(rules)
            parts["landlock"] = True
        parts["seccomp"] = platform.machine() in _MACHINES and sys.maxsize > 1 << 32
        parts = {name: wanted and _holds(name) for name, wanted in parts.items()}
    names = (
        [f"Landlock ABI {abi}"] * parts["landlock"]
        + ["seccomp"] * parts["seccomp"]
        + ["own namespaces"] * hidden
    )
    wants = {
        "landlock": "Landlock (Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK, and allowed by the container's seccomp profile)",
        "seccomp": "a seccomp filter (Linux on x86-64 or aarch64)",
    }
    missing = [wants[name] for name, held in parts.items() if not held]
    return (
        parts,
        f"{'no jail' if missing else 'jail'}: {', '.join(names + ['process limits'])}",
        missing,
    )


def _holds(part: str) -> bool:
    """Does a child that enters this part of the jail find a door shut that is open without it?"""

    def trial():
        _confine({"landlock": False, "seccomp": False} | {part: True})
        socket.socket() if part == "seccomp" else os.open("/", os.O_RDONLY)

    pid = os.fork()
    if pid == 0:
        try:
            trial()
        except PermissionError:
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _confine(parts: dict) -> None:
    """Enter the jail, for good: die with the worker, have and gain no privileges, then Landlock and seccomp if they are among the parts. OSError if one fails."""
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG
        _libc("prctl", 1, signal.SIGKILL, 0, 0, 0)
        # PR_SET_NO_NEW_PRIVS
        _libc("prctl", 38, 1, 0, 0, 0)
        _drop_capabilities()
    if parts["landlock"]:
        # landlock_restrict_self
        _libc("syscall", 446, 4, 0)
    if parts["seccomp"]:
        program = ctypes.create_string_buffer(_filter(platform.machine(), os.getpid()))
        arguments = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(program))
        # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        _libc("prctl", 22, 2, arguments, 0, 0)


def _libc(name: str, *arguments) -> int:
    """Call a function of the C library; OSError if it says -1."""
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = getattr(ctypes.CDLL(None, use_errno=True), name)(*values)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return result


def _private_view() -> None:
    """Give this process its own mount, network and IPC namespaces and an empty /proc. OSError where the kernel or a container forbids it."""
    # CLONE_NEWNS, NEWNET, NEWIPC
    uid, gid, spaces = os.getuid(), os.getgid(), 0x00020000 | 0x40000000 | 0x08000000
    try:
        _libc("unshare", spaces)
    # a user namespace gives the right; in it files of other users stay theirs
    except PermissionError:
        # CLONE_NEWUSER
        _libc("unshare", spaces | 0x10000000)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            Path(f"/proc/self/{name}").write_text(text)
    # MS_REC, MS_PRIVATE
    _libc("mount", None, b"/", None, 0x4000 | 0x40000, None)
    # MS_RDONLY, NOSUID, NODEV, NOEXEC
    _libc("mount", b"none", b"/proc", b"tmpfs", 1 | 2 | 4 | 8, None)


def _drop_capabilities() -> None:
    """Keep of root's rights only that of reading what belongs to others, which a Python installed by another user may need."""
    header, held = struct.pack("=Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    _libc("capget", header, held)
    # CAP_DAC_READ_SEARCH
    kept = struct.unpack_from("=II", held)[1] & 0b100
    _libc("capset", header, struct.pack("=6I", kept, kept, 0, 0, 0, 0))


def _landlock_rules() -> tuple[int, int]:
    """The kernel's Landlock ABI and a ruleset that lets the libraries be read and nothing else. OSError where there is no Landlock."""
    abi = _libc("syscall", 444, None, 0, 1)
    # every right of that ABI is taken away ..
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    rules = _libc("syscall", 444, struct.pack("=QQQ", files, 3 * (abi >= 4), 3 * (abi >= 6)), 24, 0)
    read, list_, write, cut = 1 << 2, 1 << 3, 1 << 1, 1 << 14
    roots = {
        f"{prefix}/{lib}"
        for prefix in (sys.prefix, sys.base_prefix, "/usr", "/usr/local", "")
        for lib in ("lib", "lib64")
    }
    allowed = {root: read | list_ for root in roots | {"/usr/share/zoneinfo"}}
    allowed |= dict.fromkeys(
        ("/etc/ld.so.cache", "/etc/localtime", "/dev/zero", "/dev/urandom", "/dev/random"), read
    ) | {"/dev/null": read | write | cut}
    # .. and these are given back
    for path, rights in allowed.items():
        with contextlib.suppress(FileNotFoundError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            _libc("syscall", 445, rules, 1, struct.pack("=Qi", rights & files, place), 0)
            os.close(place)
    return abi, rules


# column of the table below, AUDIT_ARCH
_MACHINES = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}
# What the jail lets through, "name:x86-64:aarch64", "-" where a machine does not have it: reading what Landlock allows, memory, threads, time, own signals.
_SYSCALLS = """
read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 close:3:57 lseek:8:62 open:2:- openat:257:56 getdents64:217:61 fstat:5:80 stat:4:-
lstat:6:- newfstatat:262:79 statx:332:291 access:21:- faccessat:269:48 faccessat2:439:439 getcwd:79:17 ioctl:16:29 fcntl:72:25 dup:32:23 dup2:33:- dup3:292:24
pipe:22:- pipe2:293:59 poll:7:- ppoll:271:73 select:23:- pselect6:270:72 epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:- epoll_pwait:281:22
eventfd2:290:19 recvmsg:47:212 ftruncate:77:46 fsync:74:82 umask:95:166
mmap:9:222 munmap:11:215 mprotect:10:226 mremap:25:216 madvise:28:233 mincore:27:232 brk:12:214 membarrier:324:283 arch_prctl:158:-
clone:56:220 clone3:435:435 exit:60:93 exit_group:231:94 futex:202:98 set_robust_list:273:99 get_robust_list:274:100 rseq:334:293 set_tid_address:218:96
sched_yield:24:124 sched_getaffinity:204:123 getcpu:309:168 prctl:157:167 prlimit64:302:261 getrlimit:97:163 getrusage:98:165 restart_syscall:219:128
rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigtimedwait:128:137 rt_sigsuspend:130:133 sigaltstack:131:132
kill:62:129 tgkill:234:131 pause:34:- alarm:37:- setitimer:38:103 getitimer:36:102 timer_create:222:107 timer_settime:223:110 timer_gettime:224:108
timer_delete:226:111 nanosleep:35:101 clock_nanosleep:230:115 clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201:- times:100:153
getpid:39:172 gettid:186:178 getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177 getgroups:115:158 uname:63:160 sysinfo:99:179 getrandom:318:278
"""


def _filter(machine: str, pid: int) -> bytes:
    """The seccomp filter of the process `pid`, a BPF program (8 bytes per instruction): what is in _SYSCALLS passes, some of it by its arguments; the rest is
    EPERM. clone3 answers ENOSYS, so that the C library makes its threads by clone, whose flags a filter can read."""
    column, arch = _MACHINES[machine]
    load, equal, bits, give = 0x20, 0x15, 0x45, 0x06
    allow, refuse, absent, kill = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
    # per call: conditions (test, 32-bit word of the arguments, values of which one must pass); argument i is words 2i (low) and 2i + 1
    # CLONE_THREAD; itself
    conditions = {
        "clone": [(bits, 0, [0x10000])],
        "kill": [(equal, 0, [pid])],
        "tgkill": [(equal, 0, [pid])],
        # reads its own limits; its name
        "prlimit64": [(equal, 0, [0, pid]), (equal, 4, [0]), (equal, 5, [0])],
        "prctl": [(equal, 0, [15])],
        # copies and flags: F_SETOWN would send signals
        "fcntl": [(equal, 2, [0, 1, 2, 3, 4, 1030])],
        "ioctl": [(equal, 2, [0x5401, 0x541B, 0x5421, 0x5450, 0x5451])],
        "sched_getaffinity": [(equal, 0, [0, pid])],
    }
    program = [(load, 0, 0, 4), (equal, 1, 0, arch), (give, 0, 0, kill), (load, 0, 0, 0)]
    for name, *numbers in (call.split(":") for call in _SYSCALLS.split()):
        if numbers[column - 1] != "-":
            body = []
            for test, word, values in conditions.get(name, []):
                body += (
                    [(load, 0, 0, 16 + 4 * word)]
                    + [(test, len(values) - k, 0, value) for k, value in enumerate(values)]
                    + [(give, 0, 0, refuse)]
                )
            body.append((give, 0, 0, absent if name == "clone3" else allow))
            program += [(equal, 0, len(body), int(numbers[column - 1]))] + body
    return b"".join(struct.pack("=HBBI", *line) for line in program + [(give, 0, 0, refuse)])


class SearchTool:
    """The best `topk` documents for a query: one as its bare text, several as "Page 1: ...\\nPage 2: ...". Safe to call from several threads.

    Args:    source: where to search, one of
                 a local corpus, by BM25 (see Corpus): a .jsonl, a .json or a folder;
                 http(s)://host:port/retrieve, a server that speaks Search-R1's protocol (see Retriever);
                 "serper", Google by serper.dev (see Serper), with the key in the environment variable SERPER_API_KEY.
             topk: documents per query, >= 1. max_chars: of one document. cache: files of earlier answers, comma-separated (see SearchCache).
             timeout, retries: of a request to a server, see post_json.
    Fields:  hits, misses: searches answered from the cache, and those that were not. problem: the last failure in full, for a log.
             index: the file of a local corpus' index, else None.
    Raises:  FileNotFoundError, OSError, ValueError, naming what cannot be opened or read. Opening asks no server: probe() does.
    """

    def __init__(
        self,
        source: str,
        topk: int = 3,
        max_chars: int = 1000,
        cache: str = "",
        timeout: float = 30.0,
        retries: int = 3,
    ):
        for name, value in (("topk", topk), ("max_chars", max_chars)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number >= 1, got {value}")
        if source == "serper":
            self.source = Serper(topk, timeout, retries)
        elif source.startswith(("http://", "https://")):
            self.source = Retriever(source, topk, timeout, retries)
        else:
            self.source = Corpus(source, topk)
        self.ask = (
            Batches(self.source)
            if isinstance(self.source, Retriever)
            else lambda query: self.source([query])[0]
        )
        self.index = getattr(self.source, "index", None)
        self.cache, self.max_chars = SearchCache(cache, self.source.key, topk), max_chars
        self.hits, self.misses, self.problem, self.lock, self.flying = (
            0,
            0,
            "",
            threading.Lock(),
            {},
        )

    def run(self, query: str) -> ToolResult:
        """The best documents for a query; "No results" (status ok) when there are none. Never raises for what the query is or what a server does."""
        started, query = time.monotonic(), clean_query(query)
        if not split_words(query):
            return ToolResult("error", "Error: the search query is empty", 0.0)
        try:
            documents = self._look_up(query)
        except Unavailable as problem:
            self.problem = str(problem)
            return ToolResult(
                "infra",
                f"Error: the search engine is not available ({problem.cause})",
                time.monotonic() - started,
            )
        pages = [_utf8(document[: self.max_chars]) for document in documents if document.strip()]
        text = (
            pages[0]
            if len(pages) == 1
            else "\n".join(f"Page {i}: {page}" for i, page in enumerate(pages, 1))
        )
        return ToolResult("ok", text or "No results", time.monotonic() - started)

    def _look_up(self, query: str) -> list[str]:
        """The documents from the cache, from a thread that is asking the same at this moment, or from the source."""
        documents = self.cache.get(query)
        with self.lock:
            self.hits, self.misses = (
                self.hits + (documents is not None),
                self.misses + (documents is None),
            )
            mine = (
                None
                if documents is not None or query in self.flying
                else self.flying.setdefault(query, Future())
            )
            answer = self.flying.get(query)
        if mine:
            try:
                documents = self.ask(query)
                self.cache.put(query, documents)
                mine.set_result(documents)
            # those who wait for this answer get the same
            except BaseException as problem:
                mine.set_exception(problem)
            with self.lock:
                del self.flying[query]
        return answer.result() if documents is None else documents

    def probe(self) -> str:
        """Run one query; a line that says what came back and how fast. Raises ValueError, with cause and advice, if the source does not answer."""
        result = self.run(self.source.probe)
        if result.status != "ok":
            raise ValueError(
                f"search does not answer: {self.problem or result.text}. {self.source.advice}"
            )
        first = " ".join(result.text.split())[:60]
        return f'search {self.source.name}: "{self.source.probe}" -> {first} ({1000 * result.seconds:.0f} ms)'

    def close(self) -> None:
        """Close the cache and the index; call it when no search is under way."""
        self.cache.close()
        while idle := getattr(self.source, "idle", []):
            idle.pop().close()


def clean_query(text: str) -> str:
    """A query as it is asked and remembered: white space collapsed, surrounding quotes removed, cut to 2000 characters, fit for UTF-8."""
    return " ".join(_utf8(text).split()).strip("\"'`“”‘’ ")[:2000]


class SearchCache:
    """Answers given before, so that a run can be repeated offline and no search is paid for twice.

    Args:    files: comma-separated, "" for no cache. A .json is the authors' search cache (query -> "Page 1: ...\\nPage 2: ..."): read whole, looked
             up first and by the query alone, never written. Another name is a SQLite file, created if missing, shared by processes of one machine:
             a row for each source, topk and query, written after each answered search. In a place that is read-only it is read as it is.
             key: names the source. topk: documents per query.
    Raises:  ValueError naming the file that is neither.
    """

    # of the SQLite file, in its user_version
    VERSION = 1

    def __init__(self, files: str, key: str, topk: int):
        self.key, self.topk, self.seed, self.db, self.lock, self.failed = (
            key,
            topk,
            {},
            None,
            threading.Lock(),
            False,
        )
        for file in filter(None, map(str.strip, files.split(","))):
            if file.endswith(".json"):
                self.seed.update(
                    (clean_query(query), text) for query, text in _read_json(Path(file)).items()
                )
            elif self.db is not None:
                raise ValueError(
                    f"search cache {files}: only one of these can be written; the others must be .json"
                )
            else:
                self.db = self._open(Path(file).resolve())

    def _open(self, file: Path) -> sqlite3.Connection:
        writable = os.access(file.parent, os.W_OK) and (
            not file.exists() or os.access(file, os.W_OK)
        )
        # the files that go with a WAL cannot be made there
        mode = "" if writable else "?mode=ro&immutable=1"
        try:
            db = sqlite3.connect(
                file.as_uri() + mode,
                uri=True,
                timeout=10,
                isolation_level=None,
                check_same_thread=False,
            )
            version = db.execute("PRAGMA user_version").fetchone()[0]
            empty = not db.execute("SELECT 1 FROM sqlite_schema").fetchone()
            if version != self.VERSION and not (version == 0 and empty):
                raise ValueError(
                    f"search cache {file} is another program's database, or of another version than {self.VERSION}"
                )
            if writable:
                # another process may be switching to WAL at this moment
                with contextlib.suppress(sqlite3.OperationalError):
                    db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=NORMAL")
                db.execute(
                    "CREATE TABLE IF NOT EXISTS searches (source, topk, query, documents, PRIMARY KEY (source, topk, query)) WITHOUT ROWID"
                )
                version or db.execute(f"PRAGMA user_version={self.VERSION}")
            db.execute("SELECT documents FROM searches LIMIT 1")
        except sqlite3.Error as problem:
            raise ValueError(
                f"search cache {file}: {problem}; a cache is a SQLite file of this program's or a .json"
            ) from None
        return db

    def get(self, query: str) -> list[str] | None:
        """The documents remembered for a cleaned query, None if there are none. A cache that cannot be read remembers nothing."""
        # "" is what a failed search left there
        if self.seed.get(query):
            return _split_pages(self.seed[query])[: self.topk]
        find = "SELECT documents FROM searches WHERE source = ? AND topk = ? AND query = ?"
        with self.lock, contextlib.suppress(sqlite3.Error, ValueError, TypeError):
            row = self.db and self.db.execute(find, (self.key, self.topk, query)).fetchone()
            documents = json.loads(row[0]) if row else None
            return (
                documents
                if isinstance(documents, list) and all(isinstance(text, str) for text in documents)
                else None
            )
        return None

    def put(self, query: str, documents: list[str]) -> None:
        """Remember an answer. If that fails (full disk, read-only place), the search does not: one line on stderr says so."""
        with self.lock:
            try:
                if self.db:
                    self.db.execute(
                        "INSERT OR REPLACE INTO searches VALUES (?, ?, ?, ?)",
                        (self.key, self.topk, query, json.dumps(documents)),
                    )
            except sqlite3.Error as problem:
                if not self.failed:
                    print(
                        f"search cache: cannot be written ({problem}); the searches go on without",
                        file=sys.stderr,
                    )
                self.failed = True

    def close(self) -> None:
        """Write the cache out into its one file."""
        with self.lock, contextlib.suppress(sqlite3.Error):
            if self.db:
                self.db.close()


# bytes
MAX_ANSWER = 1 << 24
TOO_LONG = "the answer is too long"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        """A redirect is an error: the headers, with their keys, would go to whatever host it names."""


def post_json(
    url: str,
    payload: object,
    headers: dict | None = None,
    timeout: float = 30.0,
    retries: int = 3,
    backoff: float = 0.5,
) -> object:
    """POST JSON, return the JSON that is answered.

    Args:    url: http or https; user:password@ becomes basic authentication. timeout: seconds for the whole of one attempt.
             retries: further attempts after HTTP 429, 500, 502, 503, 504, a connection that fails or breaks, a timeout, or an answer of more than
             16 MB; before the k-th of them a pause of backoff * 2^(k-1) seconds.
    Raises:  Unavailable for what is left after the retries and for everything else a server can do: another status, an answer that is not JSON.
             ValueError for another kind of URL.
    """
    server, target, credentials = split_url(url)
    if retries < 0 or timeout <= 0:
        raise ValueError(
            f"retries must be >= 0 and timeout > 0 seconds, got {retries} and {timeout}"
        )
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "appo",
        **credentials,
        **(headers or {}),
    }
    for attempt in range(retries + 1):
        try:
            data = _attempt(
                urllib.request.Request(target, json.dumps(payload).encode(), headers), timeout
            )
            break
        except (OSError, http.client.HTTPException, ValueError) as problem:
            lasting = isinstance(problem, ValueError) or getattr(problem, "code", 503) not in (
                429,
                500,
                502,
                503,
                504,
            )
            if lasting or attempt == retries:
                raise Unavailable(server, _cause(problem, timeout)) from None
        time.sleep(backoff * 2**attempt)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Unavailable(server, "the answer is not JSON") from None


def split_url(url: str) -> tuple[str, str, dict]:
    """(what may be shown of a URL, the URL to open, the headers for its user:password).

    Raises: ValueError if it is not an http(s) URL; it quotes nothing that may be a password.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        fine = (
            parts.scheme in ("http", "https")
            and parts.hostname
            and not re.search(r"\s", url)
            and (parts.port or True)
        )
    except ValueError:
        fine = False
    if not fine or "@" in parts.path + parts.query + parts.fragment:
        raise ValueError(
            "not a URL of the form http(s)://host:port/path (in user:password@ the characters / ? # @ are written %2F %3F %23 %40)"
        )
    user, _, host = parts.netloc.rpartition("@")
    shown = f"{parts.scheme}://{host}{parts.path}"
    basic = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
    return (
        shown,
        parts._replace(netloc=host).geturl(),
        {"Authorization": f"Basic {basic}"} if user else {},
    )


def _attempt(request: urllib.request.Request, timeout: float) -> bytes:
    """One POST and its whole answer. In a thread of its own, since no socket timeout bounds the look-up of a name or headers that trickle."""
    deadline, box = time.monotonic() + timeout, []

    def work():
        try:
            with urllib.request.build_opener(_NoRedirect).open(
                request, timeout=timeout
            ) as response:
                data = bytearray()
                while piece := response.read1(1 << 16):
                    data += piece
                    if len(data) > MAX_ANSWER or time.monotonic() > deadline:
                        raise (
                            OSError(errno.EFBIG, TOO_LONG)
                            if len(data) > MAX_ANSWER
                            else TimeoutError
                        )
                if response.length:
                    raise ConnectionError(errno.ECONNRESET, "the answer broke off")
                box.append(bytes(data))
        except (OSError, http.client.HTTPException, ValueError) as problem:
            if isinstance(problem, urllib.error.HTTPError):
                problem.close()
            box.append(problem)

    thread = threading.Thread(target=work, daemon=True)
    try:
        thread.start()
    except RuntimeError as problem:
        raise OSError(errno.EAGAIN, str(problem)) from None
    thread.join(timeout)
    if not box:
        raise TimeoutError
    if isinstance(box[0], bytes):
        return box[0]
    raise box[0]


def _cause(problem: Exception, timeout: float) -> str:
    """What went wrong, in words that hold nothing of the URL and the headers (messages of urllib may quote both)."""
    if isinstance(problem, urllib.error.HTTPError):
        return f"HTTP {problem.code} {http.client.responses.get(problem.code, '')}".strip()
    reason = problem.reason if isinstance(getattr(problem, "reason", None), OSError) else problem
    if isinstance(reason, TimeoutError):
        return f"no answer within {timeout:g} s"
    return getattr(reason, "strerror", None) or type(reason).__name__


class Retriever:
    """Search-R1's protocol: POST {"queries": [..], "topk": k, "return_scores": true} -> {"result": [[hit, ..], ..]}.

    There is one list of hits for each query; a hit is {"document": {"contents": text}, "score": x} or {"contents": text}.
    """

    probe, advice = (
        "capital of France",
        "Start the server, or check the address; python tools.py search 'query' --source URL tries it by hand",
    )

    def __init__(self, url: str, topk: int, timeout: float, retries: int):
        self.url, self.topk, self.limits = url, topk, (timeout, retries)
        self.name = split_url(url)[0]
        # what follows "?" may hold a secret
        self.key = f"{self.name} {_digest(url)}" if "?" in url else self.name

    def __call__(self, queries: list[str]) -> list[list[str]]:
        answer = post_json(
            self.url,
            {"queries": queries, "topk": self.topk, "return_scores": True},
            None,
            *self.limits,
        )
        try:
            found = [
                [hit.get("document", hit)["contents"] for hit in hits][: self.topk]
                for hits in answer["result"]
            ]
            fine = len(found) == len(queries) and all(
                isinstance(text, str) for texts in found for text in texts
            )
        except (KeyError, TypeError, AttributeError):
            fine = False
        if not fine:
            raise Unavailable(
                self.name,
                'the answer is not {"result": a list of {"contents": text} for each query}',
            )
        return found


class Serper:
    """Google by serper.dev: POST {"q": query, ..} -> {"organic": [{"title", "snippet"}, ..]}, perhaps an "answerBox" and a "knowledgeGraph".

    A document is title and snippet, one a line; the answer box and the knowledge graph go first.
    The key comes from the environment variable SERPER_API_KEY, another address (a proxy, a test) from SERPER_URL.
    """

    name = key = "serper"
    probe, advice = "capital of France", "Check SERPER_API_KEY, its credit and the network"

    def __init__(self, topk: int, timeout: float, retries: int):
        self.url, self.topk, self.limits = (
            os.environ.get("SERPER_URL", "https://google.serper.dev/search"),
            topk,
            (timeout, retries),
        )
        self.headers = {"X-API-KEY": os.environ.get("SERPER_API_KEY", "").strip()}
        if not self.headers["X-API-KEY"]:
            raise ValueError(
                "search by serper needs a key: set the environment variable SERPER_API_KEY (to anything if the cache holds all answers)"
            )
        split_url(self.url)

    def __call__(self, queries: list[str]) -> list[list[str]]:
        return list(map(self._documents, queries))

    def _documents(self, query: str) -> list[str]:
        answer = post_json(
            self.url,
            {"q": query, "gl": "us", "hl": "en", "num": self.topk},
            self.headers,
            *self.limits,
        )
        try:
            box, graph = answer.get("answerBox") or {}, answer.get("knowledgeGraph") or {}
            hits = [
                (box.get("title"), box.get("answer") or box.get("snippet")),
                (graph.get("title"), graph.get("description")),
            ]
            hits += [(hit.get("title"), hit.get("snippet")) for hit in answer["organic"]]
            return ["\n".join(filter(None, hit)) for hit in hits if hit[1]][: self.topk]
        except (KeyError, TypeError, AttributeError):
            raise Unavailable(
                split_url(self.url)[0],
                'the answer is not {"organic": a list of {"title", "snippet"}}',
            ) from None


class Batches:
    """Calls that come one by one from many threads, handed on together: what waits while a request is in flight goes into the next.

    Whoever gets the turn leads: it asks for all that wait, `most` at a time, until its own answer is there. A failure is one of its own queries only.
    """

    def __init__(self, source, most: int = 64):
        self.source, self.most, self.waiting, self.lock, self.turn = (
            source,
            most,
            [],
            threading.Lock(),
            threading.Lock(),
        )

    def __call__(self, query: str) -> list[str]:
        mine = Future()
        with self.lock:
            self.waiting.append((query, mine))
        with self.turn:
            while not mine.done():
                with self.lock:
                    batch, self.waiting = self.waiting[: self.most], self.waiting[self.most :]
                try:
                    for (_, future), documents in zip(
                        batch, self.source([query for query, _ in batch]), strict=True
                    ):
                        future.set_result(documents)
                # whatever it is, nobody may wait for ever
                except BaseException as problem:
                    [future.set_exception(problem) for _, future in batch if not future.done()]
        return mine.result()


# rows that one query may rank, about a microsecond each
POSTINGS = 20_000
# documents between two commits of a build
BATCH = 10_000
# seconds until the first line about a build, and between two lines where stderr is not a terminal
PROGRESS = (1.0, 10.0)
INDEX = """
    BEGIN;
    CREATE TABLE pages (text);
    CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize='ascii');
    INSERT INTO words (words, rank) VALUES ('hashsize', 33554432);
    CREATE TABLE common (word PRIMARY KEY, documents) WITHOUT ROWID;
    CREATE TABLE built (stamp, file, position, documents);
    COMMIT;
"""


class Corpus:
    """BM25 over a local corpus: documents with all words of the query first, then those with some, each by rank, ties in the corpus' order.

    The corpus is indexed once into SQLite FTS5 beside it (<source>.fts5; in the temporary folder if that is read-only) and again when it changes.
    Where words are too frequent for a fast answer the rarest decide: those that stand in at most POSTINGS documents together (20 times as many while
    documents with all of them are sought), and one word in any case, by its first POSTINGS documents.

    Args:    source: a .jsonl file (rows with "contents", or "text" and perhaps "title"), a .json file (the authors' search cache: query ->
             "Page 1: ...\\nPage 2: ..."; every page is a document), or a folder of .jsonl, .txt and .md files. topk: documents per query.
    Raises:  FileNotFoundError, ValueError naming the file and row that cannot be read, OSError naming the index that cannot be written.
    """

    advice = "Remove the index beside the corpus, it is built again"

    def __init__(self, source: str, topk: int):
        self.index, stamp = build_index(Path(source))
        self.name, self.key, self.topk, self.idle = (
            source,
            f"{Path(source).resolve()} {_digest(stamp)}",
            topk,
            [],
        )
        # an index that cannot be read fails here, not at every call of a run
        try:
            with contextlib.closing(_read_only(self.index)) as db:
                words = (
                    split_words(text) for (text,) in db.execute("SELECT text FROM pages LIMIT 1000")
                )
                self.probe = max(next(filter(None, words), ["?"]), key=len)
            self([self.probe])
        except (sqlite3.Error, Unavailable) as problem:
            raise ValueError(
                f"search index {self.index}: {getattr(problem, 'cause', problem)}. {self.advice}"
            ) from None

    def __call__(self, queries: list[str]) -> list[list[str]]:
        try:
            db = self.idle.pop()
        except IndexError:
            db = _read_only(self.index)
        try:
            found = [
                self._match(db, list(dict.fromkeys(split_words(query)))[:64]) for query in queries
            ]
        except sqlite3.Error as problem:
            raise Unavailable(str(self.index), str(problem)) from None
        self.idle.append(db)
        return found

    def _match(self, db: sqlite3.Connection, words: list[str]) -> list[str]:
        common = dict(
            db.execute(
                f"SELECT word, documents FROM common WHERE word IN ({', '.join('?' * len(words))})",
                words,
            )
        )
        words = sorted(words, key=lambda word: common.get(word, 0))
        totals, found = list(accumulate(common.get(word, 0) for word in words)), {}
        # FTS5: juxtaposed strings are a conjunction
        for join, budget in ((" ", 20 * POSTINGS), (" OR ", POSTINGS)):
            if len(found) < self.topk:
                used = words[: max(1, sum(total <= budget for total in totals))]
                rows = db.execute(
                    "SELECT rowid FROM (SELECT rowid, rank FROM words WHERE words MATCH ? LIMIT ?) ORDER BY rank, rowid LIMIT ?",
                    (join.join(f'"{word}"' for word in used), POSTINGS, self.topk),
                )
                found.update(dict.fromkeys(row for (row,) in rows))
        return [
            db.execute("SELECT text FROM pages WHERE rowid = ?", (row,)).fetchone()[0]
            for row in list(found)[: self.topk]
        ]


IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{IDEOGRAPHS}]|[^\W_{IDEOGRAPHS}]+")


def split_words(text: str) -> list[str]:
    """The words of a text as they are indexed: runs of letters and digits, lower case, no accents; each Chinese or Japanese character is a word."""
    text = text.casefold()
    if not text.isascii():
        text = unicodedata.normalize(
            "NFC", re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", text))
        )
    return WORD.findall(text)


def _utf8(text: str) -> str:
    # a lone surrogate can be neither stored nor tokenised
    return text.encode("utf-8", "replace").decode()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def corpus_files(source: Path) -> list[Path]:
    """The files of a corpus in the order in which they are read. Raises FileNotFoundError, ValueError if there are none."""
    if not source.exists():
        raise FileNotFoundError(
            f"search corpus {source} does not exist (a server is http://host:port/retrieve)"
        )
    files = (
        sorted(
            p for p in source.rglob("*") if p.suffix in (".jsonl", ".txt", ".md") and p.is_file()
        )
        if source.is_dir()
        else [source]
    )
    if not files:
        raise ValueError(f"{source}: no .jsonl, .txt or .md file in this folder")
    if files[0].suffix not in (".jsonl", ".json", ".txt", ".md"):
        raise ValueError(
            f"search corpus {source}: a corpus is a .jsonl, .json, .txt or .md file or a folder of them"
        )
    return files


def read_corpus(file: Path, start: int = 0):
    """Yield (document, position behind it) for each document of a file that ends behind position `start`.

    Positions are bytes in a .jsonl, else characters of all documents so far. Formats and errors: see Corpus.
    """
    pages = []
    if file.suffix == ".jsonl":
        with open(file, "rb") as lines:
            lines.seek(start)
            for line in lines:
                start += len(line)
                if line.strip():
                    yield _document(file, start, line), start
    elif file.suffix == ".json":
        pages = [page for text in _read_json(file).values() for page in _split_pages(text)]
    else:
        pages = [file.read_text("utf-8", "replace")]
    for page, position in zip(pages, accumulate(map(len, pages))):
        if position > start:
            yield _utf8(page), position


def _document(file: Path, end: int, line: bytes) -> str:
    try:
        row = json.loads(line.decode("utf-8", "replace").removeprefix("\ufeff"))
        text = (
            row["contents"]
            if "contents" in row
            else "\n".join(filter(None, [row.get("title"), row["text"]]))
        )
        return _utf8(text)
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        with open(file, "rb") as lines:
            number = next(
                n for n, position in enumerate(accumulate(map(len, lines)), 1) if position >= end
            )
        raise ValueError(
            f'{file}, row {number}: a document needs the string "contents" or "text" ({problem!r})'
        ) from None


def _read_json(file: Path) -> dict[str, str]:
    """The authors' search cache. Raises ValueError if it is something else."""
    try:
        texts = json.loads(file.read_text("utf-8", "replace"))
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("not all of its values are strings")
        return texts
    except (OSError, ValueError, AttributeError) as problem:
        raise ValueError(
            f"{file}: a .json corpus is, like a .json cache, an object from queries to strings ({problem})"
        ) from None


def _split_pages(text: str) -> list[str]:
    return [page.strip() for page in re.split(r"(?:^|\n)Page \d+: ", text) if page.strip()]


def build_index(source: Path) -> tuple[Path, str]:
    """The corpus as an FTS5 index, and the stamp of its files' names, sizes and times, by which an index is reused.

    It is built aside (.part, with which a later call goes on if this one is killed) and renamed. Processes that want one at the same time wait.
    """
    source, files = source.resolve(), corpus_files(source.resolve())
    stamp = repr(
        (INDEX, [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files])
    )
    beside, aside = (
        source.with_name(f"{source.name}.fts5"),
        Path(tempfile.gettempdir(), f"{_digest(str(source))}-{source.name}.fts5"),
    )
    index = beside if os.access(source.parent, os.W_OK) else aside
    for made in (beside, index):
        if _stamp_of(made) == stamp:
            return made, stamp
    with _alone(index.with_name(f"{index.name}.lock")):
        part = index.with_name(f"{index.name}.part")
        try:
            if _stamp_of(index) != stamp:
                _fill(part, files, stamp, source)
                os.replace(part, index)
        except (ValueError, sqlite3.Error) as problem:
            # after a full disk, say, what is done is kept
            if not isinstance(problem, sqlite3.OperationalError):
                part.unlink(missing_ok=True)
            if isinstance(problem, sqlite3.Error):
                raise OSError(f"{part}: the search index cannot be written ({problem})") from None
            raise
    return index, stamp


def _stamp_of(index: Path) -> str | None:
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_read_only(index)) as db:
        return db.execute("SELECT stamp FROM built").fetchone()[0]


def _read_only(index: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{index.as_uri()}?mode=ro", uri=True, check_same_thread=False)


@contextlib.contextmanager
def _alone(path: Path):
    """Hold a lock file, which its holder removes: who has waited for a removed one takes the next."""
    held = False
    while not held:
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            held = os.fstat(file.fileno()).st_nlink > 0
            if held:
                try:
                    yield
                finally:
                    path.unlink()


def _fill(part: Path, files: list[Path], stamp: str, source: Path) -> None:
    """Index the documents into `part`, from the last commit of an interrupted build of the same corpus on."""
    sizes = [0, *accumulate(file.stat().st_size for file in files)]
    report = _progress(source.name, sizes[-1])
    with contextlib.closing(_open_part(part, stamp)) as db:
        first, position, count = db.execute(
            "SELECT file, position, documents FROM built"
        ).fetchone()
        db.execute("BEGIN")
        for number in range(first, len(files)):
            for text, position in read_corpus(files[number], position):
                count += 1
                db.execute("INSERT INTO pages (rowid, text) VALUES (?, ?)", (count, text))
                db.execute(
                    "INSERT INTO words (rowid, text) VALUES (?, ?)",
                    (count, " ".join(split_words(text))),
                )
                report(sizes[number] + position, count)
                if count % BATCH == 0:
                    _commit(db, number, position, count), db.execute("BEGIN")
            position = 0
        if count == 0:
            raise ValueError(f"search corpus {source} holds no document")
        _commit(db, len(files), 0, count)
        db.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, words, row)")
        # 64 rarer ones fit
        db.execute(
            "INSERT OR REPLACE INTO common SELECT term, doc FROM temp.vocabulary WHERE doc > ?",
            (POSTINGS // 64,),
        )
        report(sizes[-1], count, True)


def _open_part(part: Path, stamp: str) -> sqlite3.Connection:
    """A half-made index of this stamp, the one that is there or a new one."""
    made = None
    with (
        contextlib.suppress(sqlite3.DatabaseError),
        contextlib.closing(sqlite3.connect(part)) as db,
    ):
        made = db.execute("SELECT stamp FROM built").fetchone()
    if made != (stamp,):
        for stale in (part, part.with_name(f"{part.name}-journal")):
            stale.unlink(missing_ok=True)
    db = sqlite3.connect(part, isolation_level=None)
    db.execute("PRAGMA synchronous=NORMAL"), db.execute("PRAGMA cache_size=-65536")
    if made != (stamp,):
        db.executescript(INDEX), db.execute("INSERT INTO built VALUES (?, 0, 0, 0)", (stamp,))
    return db


def _commit(db: sqlite3.Connection, number: int, position: int, count: int) -> None:
    db.execute("UPDATE built SET file = ?, position = ?, documents = ?", (number, position, count))
    db.execute("COMMIT")


def _progress(name: str, total: int):
    """A function of (bytes, documents, finished?) that says on stderr how a build goes, if it lasts: on a terminal in one line that changes."""
    started, live, shown = time.monotonic(), sys.stderr.isatty(), False
    due = started + PROGRESS[0]

    def report(done: int, documents: int, finished: bool = False) -> None:
        nonlocal due, shown
        now = time.monotonic()
        if now >= due or (finished and shown):
            due, shown = now + (0.2 if live else PROGRESS[1]), True
            line = f"search index of {name}: {100 * done / max(1, total):.0f}%, {documents:,} documents, {now - started:.0f} s"
            print(
                f"\r{line}" if live else line,
                end="\n" if finished or not live else "",
                file=sys.stderr,
                flush=True,
            )

    return report


def open_tools(
    names: str, corpus: str, topk: int, timeout: float, sandbox: str, cache: str = ""
) -> dict:
    """The tools named in a comma-separated list, ready to run: name -> tool.

    Raises: ValueError for an unknown name or search without a corpus, and what the tools raise.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in TOOL_TAGS]
    if unknown:
        raise ValueError(f"unknown tool {unknown[0]!r}: --tools takes {', '.join(TOOL_TAGS)}")
    if "search" in wanted and not corpus:
        raise ValueError(
            "the search tool needs --corpus: a .jsonl, .json or folder of documents, http://host:port/retrieve, or serper"
        )
    make = {
        "python": lambda: PythonTool(timeout, sandbox),
        "search": lambda: SearchTool(corpus, topk, cache=cache),
    }
    return {name: make[name]() for name in wanted}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Try a tool by hand.")
    parser.add_argument("tool", choices=TOOL_TAGS)
    parser.add_argument("argument", help="code or query")
    parser.add_argument(
        "--source",
        help="search: a corpus (.jsonl, .json, folder), http://host:port/retrieve, or serper",
    )
    parser.add_argument("--topk", type=int, default=3, help="search: documents, >= 1 (default 3)")
    parser.add_argument(
        "--cache",
        default="",
        help="search: files of earlier answers, comma-separated: one SQLite file, search_cache.json",
    )
    parser.add_argument("--timeout", type=float, default=5.0, help="python: seconds (default 5)")
    parser.add_argument(
        "--sandbox",
        default="require",
        help=f"python: {', '.join(SANDBOXES)} or the URL of a SandboxFusion server (default require)",
    )
    args = parser.parse_args(argv)
    if args.tool == "search" and not args.source:
        parser.error("search needs --source")
    tool = (
        PythonTool(args.timeout, args.sandbox)
        if args.tool == "python"
        else SearchTool(args.source, args.topk, cache=args.cache)
    )
    result = tool.run(args.argument)
    tool.close()
    print(result.text)
    backend = tool.level if args.tool == "python" else tool.source.name
    print(f"[{result.status}, {1000 * result.seconds:.1f} ms, {backend}]", file=sys.stderr)
    if result.status != "ok":
        sys.exit(getattr(tool, "problem", "") or 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _worker(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as problem:
        sys.exit(f"tools.py: {problem}")
