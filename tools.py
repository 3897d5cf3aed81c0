"""What the agent may call: a Python interpreter and a search engine.

    PythonTool    runs code in a fresh, jailed process forked from a clean, single-threaded worker (support/jail.py: what it may do)
    SearchTool    a local corpus by BM25, a /retrieve server or Google, behind a cache

A tool never raises for what the model wrote: every failure is a ToolResult, whose text the model reads and whose status the log counts.
By hand: python tools.py python 'print(1+1)', python tools.py search 'query' --source corpus.jsonl
"""

import argparse
import contextlib
import inspect
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from protocol import TOOL_TAGS, parse_call  # noqa: F401
from support.corpus import Corpus, split_words, utf8
from support.http import MAX_ANSWER, TOO_LONG, Unavailable, post_json, split_url
from support.python_worker import run_code
from support.search import Batches, Retriever, SearchCache, Serper, clean_query

STATUSES = ("ok", "error", "timeout", "output_limit", "crashed", "infra")


SANDBOXES = ("require", "best-effort", "off")


# of a Python call; looked at every 50 ms
THREADS = 64


@dataclass(frozen=True)
class ToolResult:
    """What a call returned. status: one of STATUSES ("error": the model's mistake, "infra": ours); text: for the model; seconds: wall clock."""

    status: str
    text: str
    seconds: float


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
        program = f"import ast, io, linecache, os, sys, traceback, types\n{inspect.getsource(run_code)}\nsys.exit(0 if run_code({code!r}) == b'ok' else 1)"
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
            "-m",
            "support.python_worker",
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
                cwd=Path(__file__).resolve().parent,
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
        pages = [utf8(document[: self.max_chars]) for document in documents if document.strip()]
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
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as problem:
        sys.exit(f"tools.py: {problem}")
