"""The Python tool's worker: a clean, single-threaded process that forks jailed children, one for each call.

Started as `python -m support.python_worker SANDBOX TIMEOUT MEMORY_MB`. Standard library only.
"""

import ast
import collections
import contextlib
import gc
import io
import json
import linecache
import os
import random
import resource
import select
import signal
import socket
import struct
import sys
import traceback
import types

from support.jail import build_jail, confine

# children of the Python worker that wait in the jail for their code
SPARES = 3


def _worker(sandbox: str, timeout: float, memory_mb: int) -> None:
    """The worker's loop, a single-threaded process with nothing of the trainer in it but the channel, its stdin.

    It first says which jail holds. Request "F" with three files: hand them to a child, answer its pid. "R" and a pid: reap that dead child. Children are forked
    and jailed in advance, when no request waits.
    """
    spares = collections.deque()
    # kept free: a child's line to the worker, the Landlock rules
    os.dup2(1, 3), os.dup2(1, 4)
    channel = socket.socket(fileno=os.dup(0))
    _forget_project()
    parts, level, missing = build_jail(sandbox)
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


def _forget_project() -> None:
    """Model code does not import the project's files: neither by the path, which holds the folder of `python -m`, nor those already loaded."""
    project = os.getcwd()
    sys.path[:] = [place for place in sys.path if os.path.abspath(place) != project]
    for name in [name for name in sys.modules if name.split(".")[0] == "support"]:
        del sys.modules[name]
    os.chdir("/")


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
    confine(parts)
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
    os.write(9, run_code(code))


def run_code(code: str) -> bytes:
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


if __name__ == "__main__":
    _worker(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
