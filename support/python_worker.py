"""The worker of the Python tool: a clean, single-threaded process that forks a child per call.

1. `main` says which parts of the jail hold. Told to preload, it then imports numpy and sympy.
2. It forks a few children in advance. Each enters the jail and waits for its files.
3. On request it hands one of them the files of a call; the child runs the code (`run_code`).
4. On another request it reaps a child that support/sandbox.py has killed.

The worker inherits nothing of the trainer but a socket. Started by support/sandbox.py as
`python -m support.python_worker SANDBOX TIMEOUT MEMORY_MB [preload]`. Standard library only, so
that it starts fast and holds nothing that model code could misuse.
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
import select
import signal
import socket
import struct
import sys
import traceback
import types

from support.jail import RULES, build_jail, confine, limit

# children that wait in the jail for their code
SPARES = 3
# descriptors that a child keeps while it waits, and that of its verdict
LINE, VERDICT = 3, 9


def main(sandbox: str, timeout: float, memory_mb: int, preload: bool) -> None:
    """Serve requests on stdin, a socket, until the trainer is gone.

    Request "F" with three files (code, output, verdict): hand them to a child, answer its pid.
    Request "R" with a pid: reap that dead child.
    """
    # kept free for the children's line and the Landlock rules
    os.dup2(1, LINE)
    os.dup2(1, RULES)
    channel = socket.socket(fileno=os.dup(0))
    _forget_project()
    parts, level, missing = build_jail(sandbox)
    channel.sendall(json.dumps([level, missing]).encode())
    if preload:
        _preload()
    gc.collect()
    # a child that collects garbage then does not copy these pages
    gc.freeze()
    spares = collections.deque()
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
            continue
        pid = 0
        while not pid:
            spare = spares.popleft() if spares else _spare(parts, timeout, memory_mb)
            pid = _hand_over(spare, fds)
        channel.sendall(struct.pack("=i", pid))
        for fd in fds:
            os.close(fd)


def _forget_project() -> None:
    """Model code can import no file of this project, whether from the path or already loaded."""
    # `python -m` has put the folder it was started in on the path
    project = os.getcwd()
    sys.path[:] = [place for place in sys.path if os.path.abspath(place) != project]
    for name in [name for name in sys.modules if name.split(".")[0] == "support"]:
        del sys.modules[name]
    os.chdir("/")


def _preload() -> None:
    """Import once the libraries that model code uses most, and use them: no call pays for it."""
    with contextlib.suppress(ImportError):
        import numpy.random

        numpy.random.seed(0)
    with contextlib.suppress(ImportError):
        import sympy.core.random
        from sympy.parsing import sympy_parser

        sympy.solve(sympy_parser.parse_expr("x**2 - 2"))
        sympy.core.random.seed(0)


def _spare(parts: dict[str, bool], timeout: float, memory_mb: int) -> tuple[int, socket.socket]:
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
    """Give a waiting child its files: its pid, or 0 if it has died, for want of memory, say."""
    pid, line = spare
    with line:
        try:
            socket.send_fds(line, [b"!"], fds)
            return pid
        except OSError:
            os.waitpid(pid, 0)
            return 0


def _child(line: int, parts: dict[str, bool], timeout: float, memory_mb: int) -> None:
    """One call: enter the jail, wait for the files, run the code, write the verdict."""
    # a process group of its own; the jail lets nobody leave it, without it a session does
    os.setpgid(0, 0) if parts["seccomp"] else os.setsid()
    # the worker and those that enter the jail go first
    os.nice(5)
    # opened here, since an inherited file would share its flags with other children
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(line, LINE)
    os.closerange(RULES + 1, 256)
    limit(timeout, memory_mb)
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=LINE)
    confine(parts)
    _, (source, output, verdict), _, _ = socket.recv_fds(channel, 1, 3)
    # should nobody be left to kill it
    signal.alarm(int(timeout) + 2)
    code = open(source, "rb", closefd=False).read().decode("utf-8", "replace")
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(verdict, VERDICT)
    for fd in {LINE, RULES, source, output, verdict} - {VERDICT}:
        with contextlib.suppress(OSError):
            os.close(fd)
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    os.write(VERDICT, run_code(code))


def run_code(code: str) -> bytes:
    """Run code as __main__; print its traceback, or the value of a last bare expression.

    The traceback is short: the last two of the code's own lines and the last of a library that
    raised it. A SandboxFusion server gets this function as source: it stands alone.
    """
    # the code may replace these; whatever it raises is text for the model
    write, fill, stack_of = os.write, memoryview, traceback.StackSummary.from_list
    report = traceback.TracebackException.from_exception

    def show(text):
        rest = fill((text + "\n").encode("utf-8", "backslashreplace"))
        while rest:
            rest = rest[write(1, rest) :]

    settings = dict(encoding="utf-8", errors="backslashreplace", write_through=True)
    sys.stdout = sys.stderr = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), **settings)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    linecache.cache["<python>"] = len(code), None, code.splitlines(True), "<python>"
    try:
        body, last = ast.parse(code, "<python>"), None
        if body.body and isinstance(body.body[-1], ast.Expr):
            last = ast.Expression(body.body.pop().value)
        exec(compile(body, "<python>", "exec"), main.__dict__)
        value = eval(compile(last, "<python>", "eval"), main.__dict__) if last else None
        if value is not None:
            show(value if isinstance(value, str) else repr(value))
        return b"ok"
    except SystemExit as stop:
        if isinstance(stop.code, str):
            show(stop.code)
        return b"ok" if stop.code in (None, 0) else b"error"
    except BaseException as problem:
        problem.__cause__ = problem.__context__ = None
        told = report(problem)
        own = [frame for frame in told.stack if frame.filename == "<python>"][-2:]
        library = [frame for frame in told.stack[-1:] if own and frame.filename != "<python>"]
        told.stack = stack_of(own + library)
        show("".join(told.format()).rstrip())
        return b"error"


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), "preload" in sys.argv[4:])
