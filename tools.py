"""What the agent may call: a Python interpreter, a search engine, and how a call is read from the model's text.

    parse_call    the last complete <python>..</python> or <search>..</search>
    PythonTool    runs code in a fresh process forked from a clean, single-threaded worker
    SearchTool    BM25 over a local corpus, by SQLite's FTS5
    defuse        makes tool text harmless: it can never open or close a tag

A tool never raises for what the model wrote: every failure is a ToolResult, whose text the model reads and whose status the log counts.

What PythonTool covers: a clean environment and no inherited files; limits on CPU seconds, memory, file size and open files; output capped while it is
read; SIGKILL to the call's session at a monotonic deadline. What it does not cover: reading and writing whatever this user may read and write, the
environment of other processes under /proc, the network, signals to other processes of this user, sessions that the code starts itself, a status that the
code forges. There is no kernel-enforced jail here, so sandbox="require" refuses: train in a container that holds nothing you cannot lose.

Standard library only; this file imports no sibling. By hand: python tools.py python 'print(1+1)', python tools.py search 'query' --source corpus.jsonl
"""
import argparse
import ast
import contextlib
import hashlib
import io
import json
import os
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
from dataclasses import dataclass
from pathlib import Path

TOOL_TAGS = ("python", "search")
TAGS = ("think", "answer", "result") + TOOL_TAGS
STATUSES = ("ok", "error", "timeout", "output_limit", "crashed", "infra")


@dataclass(frozen=True)
class ToolResult:
    """What a call returned. status: one of STATUSES ("error": the model's mistake, "infra": ours); text: for the model; seconds: wall clock."""
    status: str
    text: str
    seconds: float


def parse_call(text: str) -> tuple[str, str] | None:
    """The last complete call in the model's own text: (tool name, argument), or None.

    A closing tag belongs to the nearest opening one before it. The argument is stripped of surrounding white space and may be empty; code that begins on
    a line of its own is freed of common indentation.
    """
    for close in reversed(list(re.finditer(rf"</({'|'.join(TOOL_TAGS)})>", text))):
        name, start = close[1], text.rfind(f"<{close[1]}>", 0, close.start())
        argument = text[start + len(name) + 2:close.start()]
        if start >= 0 and f"</{name}>" not in argument:
            own_line = not argument.split("\n", 1)[0].strip()
            return name, (textwrap.dedent(argument) if own_line else argument).strip()
    return None


def defuse(text: str) -> str:
    """Tool text in which no tag is left: the "<" of every <tag> and </tag> of this protocol becomes "‹" (U+2039), whatever its case."""
    return re.sub(rf"<(?=\s*/?\s*(?:{'|'.join(TAGS)})\s*>)", "‹", text, flags=re.IGNORECASE)


# ------------------------------------------------------------------------------------------------------------------------------------------------ python

class PythonTool:
    """Runs model code: each call in a fresh child, forked from a worker that was started by exec with a clean environment.

    Calls share nothing: no variable, no import, no file handle survives. What is printed comes back, then the value of a last bare expression, then the
    last lines of the traceback; "(no output)" if there is nothing. Safe to call from several threads. Start it before CUDA.

    Args:    timeout: wall-clock seconds per call, up to an hour. sandbox: "best-effort" or "off", which do the same as long as there is no jail (see the
             top of this file); "require" refuses. memory_mb: address space of a call. output_limit: characters of output that the model gets to read.
    Raises:  ValueError for an unknown or unavailable sandbox level, or a timeout out of range.
    """
    KILL_OUTPUT = 1 << 22       # bytes after which a printing child is killed

    def __init__(self, timeout: float = 5.0, sandbox: str = "best-effort", memory_mb: int = 1024, output_limit: int = 4000):
        if sandbox == "require":
            raise ValueError("sandbox='require' needs a kernel-enforced jail, which this version does not have; use sandbox='best-effort' inside a container")
        if sandbox not in ("best-effort", "off"):
            raise ValueError(f"sandbox must be 'require', 'best-effort' or 'off', got {sandbox!r}")
        if not 0 < timeout <= 3600:
            raise ValueError(f"timeout must be > 0 and at most 3600 seconds, got {timeout}")
        self.timeout, self.memory_mb, self.output_limit = timeout, memory_mb, output_limit
        self.lock, self.worker, self.channel = threading.Lock(), None, None

    def run(self, code: str) -> ToolResult:
        """Run code and return what it printed. Never raises for what the code is or does; a dead worker is restarted once, then the status is "infra"."""
        started = time.monotonic()
        if not code.strip():
            return ToolResult("error", "Error: the python block is empty", 0.0)
        try:
            with contextlib.ExitStack() as stack:
                status, data, size = self._call(code, stack)
        except OSError:                                                   # no room for a temporary file, no file handle left: not the model's doing
            status, data, size = "infra", b"", 0
        return ToolResult(status, self._text(status, data.decode("utf-8", "replace"), size), time.monotonic() - started)

    def _call(self, code: str, stack: contextlib.ExitStack) -> tuple[str, bytes, int]:
        """Hand the code to a child in an unnamed file and watch it; the stack closes what was opened."""
        source = stack.enter_context(tempfile.TemporaryFile())
        source.write(code.encode("utf-8", "replace"))
        source.seek(0)
        (output, output_child), (verdict, verdict_child) = os.pipe(), os.pipe()
        stack.callback(os.close, output), stack.callback(os.close, verdict)
        try:
            pid = self._fork(source.fileno(), output_child, verdict_child)
        finally:
            os.close(output_child), os.close(verdict_child)
        return ("infra", b"", 0) if pid is None else self._watch(pid, output, verdict, time.monotonic() + self.timeout)

    def close(self) -> None:
        """Stop the worker; a later call starts a new one."""
        with self.lock:
            self._stop()

    def _fork(self, *fds: int) -> int | None:
        """Ask the worker for a child that reads its code from fds[0], prints to fds[1] and writes its verdict to fds[2]; its pid, None if that fails twice."""
        with self.lock:
            for _ in range(2):
                try:
                    self._start()
                    socket.send_fds(self.channel, [struct.pack("=di", self.timeout, self.memory_mb)], fds)
                    answer = self.channel.recv(4)
                    if len(answer) == 4:
                        return struct.unpack("=i", answer)[0]
                except OSError:
                    pass
                self._stop()
        return None

    def _start(self) -> None:
        if self.worker is not None and self.worker.poll() is None:
            return
        self._stop()
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(3)                                        # the worker forks in milliseconds, or has been stopped
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
                       "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self.worker = subprocess.Popen([sys.executable, "-s", os.path.abspath(__file__), "--worker", str(theirs.fileno())], pass_fds=[theirs.fileno()],
                                           env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
                                           start_new_session=True)

    def _stop(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()
            self.channel.close()
        self.worker = self.channel = None

    def _watch(self, pid: int, output: int, verdict: int, deadline: float) -> tuple[str, bytes, int]:
        """Read the child's output until it ends, prints too much or runs out of time, then kill its group: (status, kept bytes, bytes printed)."""
        kept, size, status, poll = [], 0, None, select.poll()
        poll.register(output), poll.register(verdict)
        while status is None:
            ready = [fd for fd, _ in poll.poll(max(0.0, 1000 * (deadline - time.monotonic())))]
            if output in ready:
                chunk = os.read(output, 1 << 16)
                size += len(chunk)
                kept.append(chunk if size <= 4 * self.output_limit + (1 << 16) else b"")
                if not chunk:
                    poll.unregister(output)
                if size > self.KILL_OUTPUT:
                    status = "output_limit"
            elif verdict in ready:      # output is empty now, so everything that was printed before has been read
                status = {b"ok": "ok", b"error": "error"}.get(os.read(verdict, 16), "crashed")
            if status is None and time.monotonic() >= deadline:
                status = "timeout"
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
        return status, b"".join(kept), size

    def _text(self, status: str, text: str, size: int) -> str:
        text = text.rstrip()
        if len(text) > self.output_limit:
            text = f"{text[:self.output_limit]}... [truncated, {size} bytes in all]"
        ending = {"timeout": f"Error: timed out after {self.timeout:g} s",
                  "crashed": "Error: the interpreter was killed (out of memory, CPU limit or a crash)",
                  "output_limit": "Error: killed for printing too much", "infra": "Error: the python tool is not available"}.get(status, "")
        return "\n".join(part for part in (text, ending) if part) or "(no output)"


def _worker(channel: socket.socket) -> None:
    """The worker's loop: for each request fork a child, answer with its pid. A process of its own, single-threaded, with nothing of the trainer in it."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p) != here]    # model code does not import the project's files
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)                         # children are reaped by the kernel
    size = struct.calcsize("=di")
    while True:
        request, fds, _, _ = socket.recv_fds(channel, size, 3)
        if len(request) < size:
            os._exit(0)                                                   # the trainer is gone
        pid = os.fork()
        if pid == 0:
            try:
                channel.close()
                _child(*struct.unpack("=di", request), *fds)
            finally:
                os._exit(1)
        for fd in fds:
            os.close(fd)
        channel.sendall(struct.pack("=i", pid))


def _child(timeout: float, memory_mb: int, source: int, output: int, verdict: int) -> None:
    """One call: its own session, limits, then the code, then "ok" or "error" into the verdict pipe."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = open(source, "rb", closefd=False).read().decode("utf-8", "replace")
    os.dup2(output, 1), os.dup2(output, 2)
    os.dup2(verdict, 9)
    os.closerange(3, 9), os.closerange(10, 256)
    seconds = int(timeout) + 1
    signal.alarm(seconds + 1)                                             # should the trainer die, the child does not stay behind
    limits = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_AS: memory_mb << 20, resource.RLIMIT_FSIZE: 1 << 24, resource.RLIMIT_NOFILE: 64, resource.RLIMIT_CORE: 0}
    for limit, value in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))
    os.write(9, _execute(code))


def _execute(code: str) -> bytes:
    """Run code as __main__ and print its traceback, or the value of its last line if that is a bare expression."""
    out = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True)
    sys.stdout = sys.stderr = out
    space = {"__name__": "__main__", "__builtins__": __builtins__}
    try:
        body = ast.parse(code, "<python>")
        last = ast.Expression(body.body.pop().value) if body.body and isinstance(body.body[-1], ast.Expr) else None
        exec(compile(body, "<python>", "exec"), space)
        value = eval(compile(last, "<python>", "eval"), space) if last else None
        if value is not None:
            print(value if isinstance(value, str) else repr(value), file=out)
        return b"ok"
    except SystemExit as stop:
        return b"ok" if stop.code in (None, 0) else b"error"
    except BaseException as problem:                                      # whatever the model's code raises is text for the model
        frames = problem.__traceback__
        while frames and frames.tb_frame.f_code.co_filename != "<python>":
            frames = frames.tb_next
        print("".join(traceback.format_exception(type(problem), problem, frames, limit=-2)).rstrip(), file=out)
        return b"error"


# ------------------------------------------------------------------------------------------------------------------------------------------------ search

class SearchTool:
    """BM25 over a local corpus: documents with all words of the query first, then those with some, each by rank, the best `topk`.

    The corpus is indexed once into SQLite FTS5 beside it (<source>.fts5; in the temporary folder if that place is read-only) and again when it changes.
    One hit is returned as its bare text, several as "Page 1: ...\\nPage 2: ...". Safe to call from several threads.

    Args:    source: a .jsonl file (rows with "contents", or "text" and perhaps "title"), a .json file (the authors' search cache: query -> "Page 1: ...
             Page 2: ..."; every snippet is a document), or a folder of .jsonl, .txt and .md files. topk: documents per query, >= 1. max_chars: of one.
    Raises:  FileNotFoundError, ValueError naming the file and row that cannot be read.
    """

    def __init__(self, source: str, topk: int = 3, max_chars: int = 1000):
        if topk < 1:
            raise ValueError(f"topk must be >= 1 documents, got {topk}")
        self.topk, self.max_chars, self.local = topk, max_chars, threading.local()
        self.index = _build_index(Path(source))
        self._match(["probe"])                                            # an index that cannot be read fails here, not at every call of a run

    def run(self, query: str) -> ToolResult:
        """The best documents for a query; "No results" (status ok) when nothing matches. Never raises for what the query is."""
        started = time.monotonic()
        words = re.findall(r"\w+", query)[:64]
        if not words:
            return ToolResult("error", "Error: the search query is empty", 0.0)
        try:
            hits = self._match(words)
        except sqlite3.Error as problem:
            return ToolResult("infra", f"Error: the search engine failed ({problem})", time.monotonic() - started)
        hits = [hit[:self.max_chars] for hit in hits]
        text = hits[0] if len(hits) == 1 else "\n".join(f"Page {i}: {hit}" for i, hit in enumerate(hits, 1))
        return ToolResult("ok", text or "No results", time.monotonic() - started)

    def close(self) -> None:
        """Nothing to release: connections are read-only and belong to their threads."""

    def _match(self, words: list[str]) -> list[str]:
        if not hasattr(self.local, "db"):
            self.local.db = sqlite3.connect(f"{self.index.as_uri()}?mode=ro", uri=True)
        found = {}
        for join in (" ", " OR "):                                        # FTS5: juxtaposed strings are a conjunction
            if len(found) < self.topk:
                match = join.join(f'"{word}"' for word in words)
                rows = self.local.db.execute("SELECT rowid, text FROM docs WHERE docs MATCH ? ORDER BY rank, rowid LIMIT ?", (match, self.topk))
                for row, text in rows.fetchall():
                    found.setdefault(row, text)
        return list(found.values())[:self.topk]


def read_corpus(source: Path):
    """Yield the documents of a corpus as strings. Formats and errors: see SearchTool."""
    if source.is_dir():
        files = sorted(p for p in source.rglob("*") if p.suffix in (".jsonl", ".txt", ".md"))
        if not files:
            raise ValueError(f"{source}: no .jsonl, .txt or .md file in this folder")
        for file in files:
            yield from read_corpus(file)
    elif source.suffix == ".json":
        try:
            pages = list(json.loads(source.read_text("utf-8", "replace")).values())
            yield from (page.strip() for text in pages for page in re.split(r"(?:^|\n)Page \d+: ", text) if page.strip())
        except (ValueError, AttributeError, TypeError) as problem:
            raise ValueError(f"{source}: a .json corpus is an object from queries to strings ({problem!r})") from None
    elif source.suffix == ".jsonl":
        with open(source, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _document(source, number, line)
    else:
        yield source.read_text("utf-8", "replace")


def _document(source: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
        text = row["contents"] if "contents" in row else "\n".join(filter(None, [row.get("title"), row["text"]]))
        return text.encode("utf-8", "replace").decode()                   # a lone surrogate cannot be stored
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"{source}, row {number}: a document needs the string \"contents\" or \"text\" ({problem!r})") from None


def _build_index(source: Path) -> Path:
    """The corpus as an FTS5 table, written aside and renamed; reused while the corpus' files keep their sizes and times."""
    if not source.exists():
        raise FileNotFoundError(f"search corpus {source} does not exist")
    source = source.resolve()
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    stamp = repr([(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.suffix != ".fts5"])
    index = source.with_name(f"{source.name}.fts5")
    if not os.access(source.parent, os.W_OK):
        index = Path(tempfile.gettempdir()) / f"{hashlib.sha256(str(source).encode()).hexdigest()[:16]}-{source.name}.fts5"
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(f"{index.as_uri()}?mode=ro", uri=True)) as db:
        if db.execute("SELECT stamp FROM made").fetchone() == (stamp,):
            return index
    aside = index.with_name(f"{index.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(aside)) as db:
            db.execute("CREATE VIRTUAL TABLE docs USING fts5(text)")
            db.executemany("INSERT INTO docs VALUES (?)", ((text,) for text in read_corpus(source)))
            if db.execute("SELECT count(*) FROM docs").fetchone() == (0,):
                raise ValueError(f"search corpus {source} holds no document")
            db.execute("CREATE TABLE made (stamp)")
            db.execute("INSERT INTO made VALUES (?)", (stamp,))
            db.commit()
        os.replace(aside, index)
    finally:
        aside.unlink(missing_ok=True)
    return index


def open_tools(names: str, corpus: str, topk: int, timeout: float, sandbox: str) -> dict:
    """The tools named in a comma-separated list, ready to run: name -> tool.

    Raises: ValueError for an unknown name or search without a corpus, and what the tools raise.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in TOOL_TAGS]
    if unknown:
        raise ValueError(f"unknown tool {unknown[0]!r}: --tools takes {', '.join(TOOL_TAGS)}")
    if "search" in wanted and not corpus:
        raise ValueError("the search tool needs --corpus: a .jsonl, a .json search cache or a folder")
    make = {"python": lambda: PythonTool(timeout, sandbox), "search": lambda: SearchTool(corpus, topk)}
    return {name: make[name]() for name in wanted}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Try a tool by hand.")
    parser.add_argument("tool", choices=TOOL_TAGS)
    parser.add_argument("argument", help="code or query")
    parser.add_argument("--source", help="search: the corpus, a .jsonl, .json or folder")
    parser.add_argument("--topk", type=int, default=3, help="search: documents, >= 1 (default 3)")
    parser.add_argument("--timeout", type=float, default=5.0, help="python: seconds (default 5)")
    args = parser.parse_args(argv)
    if args.tool == "search" and not args.source:
        parser.error("search needs --source")
    tool = PythonTool(args.timeout) if args.tool == "python" else SearchTool(args.source, args.topk)
    result = tool.run(args.argument)
    tool.close()
    print(result.text)
    print(f"[{result.status}, {1000 * result.seconds:.1f} ms]", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _worker(socket.socket(fileno=int(sys.argv[2])))
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as problem:
        sys.exit(f"tools.py: {problem}")
