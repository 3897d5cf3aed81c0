"""What the agent may call: a Python interpreter and a search engine.

    PythonTool    runs code in a fresh, jailed process (support/jail.py says what it can do)
    SearchTool    asks a local corpus, a /retrieve server or Google, behind a cache

A tool never raises for what the model wrote: every failure is a ToolResult, whose text the model
reads and whose status the log counts. How a model writes a call is in protocol.py. By hand:

    python tools.py python 'print(1+1)'
    python tools.py search 'query' --source corpus.jsonl
    python tools.py FILE.py:NAME 'argument' --row questions.jsonl:3
"""

import argparse
import sys
import time
from collections import Counter
from functools import partial

from protocol import Asked, parse_call, split_tools
from support.corpus import split_words, utf8
from support.http import Unavailable
from support.own_tools import own_tool
from support.questions import Question, load_questions
from support.sandbox import SANDBOXES, STATUSES, Outcome, open_sandbox
from support.search import CachedSearch, clean_query, open_source
from support.tool_result import Tool, ToolResult

# whoever takes the tools takes the calls
__all__ = ["STATUSES", "PythonTool", "SearchTool", "Tool", "ToolResult", "open_tools", "parse_call"]
__all__ += ["Unavailable", "call_tool", "call_tools", "main"]


class PythonTool:
    """Runs model code: each call in a fresh process, jailed before it sees the code.

    Calls share nothing. Each starts with the same random state, numpy's too if the code names it.
    What is printed comes back, then the value of a last bare expression or the last lines of the
    traceback. Start it before CUDA: it forks. The first call that names numpy, sympy or the like
    waits for their import.

    Args:    timeout: wall-clock seconds per call. sandbox: "require" refuses to start without the
             whole jail, "best-effort" takes what this kernel offers, "off" has limits alone, the
             URL of a SandboxFusion server sends the code there. memory_mb: address space of a
             call. output_limit: characters that the model gets to read.
    Raises:  ValueError for a setting; OSError if the worker does not start.
    """

    def __init__(
        self,
        timeout: float = 5.0,
        sandbox: str = "require",
        memory_mb: int = 1024,
        output_limit: int = 4000,
    ):
        self.backend = open_sandbox(sandbox, timeout, memory_mb, output_limit)
        self.timeout = timeout
        self.output_limit = output_limit
        self.problem = ""

    @property
    def level(self) -> str:
        """What confines the code, in words."""
        return self.backend.level

    def run(self, code: str) -> ToolResult:
        """Run code and return what it printed. Failures that are not the code's are "infra"."""
        started = time.monotonic()
        if not code.strip():
            return ToolResult("error", "Error: the python block is empty", 0.0)
        try:
            outcome = self.backend.execute(code)
        # no memory, no file handle left, no server: not the model's doing
        except OSError as problem:
            outcome = Outcome("infra")
            self.problem = str(problem)
        text = outcome.text(self.output_limit, self.timeout)
        return ToolResult(outcome.status, text, time.monotonic() - started)

    def probe(self) -> str:
        """Run one line. Raises ValueError if nothing comes back."""
        result = self.run("6 * 7")
        if result.text != "42":
            raise ValueError(
                f"python does not answer ({self.level}): {self.problem or result.text}"
            )
        return f"python, {self.level}: 6 * 7 -> 42 ({1000 * result.seconds:.0f} ms)"

    def close(self) -> None:
        """Stop the worker and the calls under way, which become "infra"; a later call restarts."""
        self.backend.close()


class SearchTool:
    """The best documents for a query: one as bare text, several as "Page 1: ...\\nPage 2: ...".

    Args:    source: a local corpus (support/corpus.py), the http://host:port/retrieve of a server,
             or "serper" (support/search.py). topk: documents per query, >= 1. max_chars: of one
             document. cache: files of earlier answers, comma-separated (search.SearchCache).
             timeout, retries: of a request to a server, see http.post_json.
    Raises:  FileNotFoundError, OSError, ValueError, naming what cannot be opened or read. Opening
             asks no server: probe() does.
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
        self.source = open_source(source, topk, timeout=timeout, retries=retries)
        self.lookups = CachedSearch(self.source, cache, topk)
        self.max_chars = max_chars
        self.problem = ""

    def run(self, query: str) -> ToolResult:
        """The best documents, or "No results" (status ok). A server's failure is "infra"."""
        started, query = time.monotonic(), clean_query(query)
        if not split_words(query):
            return ToolResult("error", "Error: the search query is empty", 0.0)
        try:
            documents = self.lookups(query)
        except Unavailable as problem:
            self.problem = str(problem)
            text = f"Error: the search engine is not available ({problem.cause})"
            return ToolResult("infra", text, time.monotonic() - started)
        pages = [utf8(document[: self.max_chars]) for document in documents if document.strip()]
        if len(pages) > 1:
            pages = [f"Page {i}: {page}" for i, page in enumerate(pages, 1)]
        return ToolResult("ok", "\n".join(pages) or "No results", time.monotonic() - started)

    def probe(self) -> str:
        """Run one query. Raises ValueError with cause and advice if nothing comes back."""
        result = self.run(self.source.probe)
        if result.status != "ok":
            cause = self.problem or result.text
            raise ValueError(f"search does not answer: {cause}. {self.source.advice}")
        first = " ".join(result.text.split())[:60]
        milliseconds = 1000 * result.seconds
        return (
            f'search {self.source.name}: "{self.source.probe}" -> {first} ({milliseconds:.0f} ms)'
        )

    def close(self) -> None:
        """Close the cache and the index; call it when no search is under way."""
        self.lookups.close()


def open_tools(
    names: str, corpus: str, topk: int, timeout: float, sandbox: str, cache: str = ""
) -> dict[str, Tool]:
    """The tools named in a comma-separated list, ready to run: name -> tool.

    One of a user is FILE.py:NAME (support/own_tools.py).

    Raises: ValueError with a line for every tool that is unknown, stands twice or does not open.
    """
    make = {
        "python": lambda: PythonTool(timeout, sandbox),
        "search": lambda: _search_tool(corpus, topk, cache),
    }
    known, places = split_tools(names)
    make |= {place: partial(own_tool, place) for place in places}
    opened: dict[str, Tool] = {}
    lines = []
    for name, count in Counter(known + places).items():
        if name not in make:
            lines.append(
                f'unknown tool {name!r}: --tools takes python, search and FILE.py:NAME, or "" '
                "for no tool"
            )
        elif count > 1:
            lines.append(f"--tools names {name} twice")
        else:
            try:
                tool = make[name]()
                opened[getattr(tool, "name", name)] = tool
            except (ValueError, OSError) as problem:
                lines.append(str(problem))
    if lines:
        for tool in opened.values():
            tool.close()
        raise ValueError("\n".join(lines))
    return opened


def call_tool(tools: dict[str, Tool], rollout, call) -> ToolResult:
    """Run a call, the last of rollout.calls, in the state of that rollout if the tool has one."""
    if call.name not in tools:
        return ToolResult("error", f"Error: there is no {call.name} tool here", 0.0)
    tool = tools[call.name]
    if hasattr(tool, "run_for"):
        return tool.run_for(rollout, call)
    call.ran = True
    return tool.run(call.argument)


def call_tools(tools: dict[str, Tool], rollout, asked: list[Asked]) -> list[ToolResult]:
    """Run the calls of a turn, the last of rollout.calls, one after the other."""
    calls = rollout.calls[-len(asked) :]
    return [
        ToolResult("error", f"Error: {wrong.fault}", 0.0)
        if wrong.fault
        else call_tool(tools, rollout, call)
        for call, wrong in zip(calls, asked)
    ]


def _search_tool(corpus: str, topk: int, cache: str) -> SearchTool:
    """The search tool. ValueError without a corpus."""
    if not corpus:
        raise ValueError(
            "the search tool needs --corpus: a .jsonl, .json or folder of documents, "
            "http://host:port/retrieve, or serper; --tools python does without it"
        )
    return SearchTool(corpus, topk, cache=cache)


def _parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Try a tool by hand.")
    parser.add_argument("tool", help="python, search, or a tool of your own, FILE.py:NAME")
    parser.add_argument("argument", help="code, query, or what stands between the tags")
    parser.add_argument("--source", help="search: a corpus, http://host:port/retrieve, or serper")
    parser.add_argument("--topk", type=int, default=3, help="search: documents (default 3)")
    parser.add_argument("--cache", default="", help="search: files of earlier answers")
    parser.add_argument("--timeout", type=float, default=5.0, help="python: seconds (default 5)")
    parser.add_argument(
        "--sandbox",
        default="require",
        help=f"python: {', '.join(SANDBOXES)} or the URL of a SandboxFusion server",
    )
    parser.add_argument("--row", default="", help="own tool with a state: its question, FILE:N")
    return parser


def question_at(row: str) -> Question | None:
    """The question of --row FILE:N, rows counted from 1; None of "". ValueError if it is none."""
    file, _, number = row.rpartition(":")
    if not row:
        return None
    if not file or not number.isdecimal():
        raise ValueError(f"--row must be FILE:N, such as questions.jsonl:3, got {row}")
    questions = load_questions(file, skip_bad=True, answered=False)
    found = [q for q in questions if q.meta["row"] == int(number)]
    if not found:
        raise ValueError(f"--row {row}: the file has {len(questions)} questions and no such row")
    return found[0]


def one_call(name: str, tool: Tool, argument: str, question: Question | None) -> ToolResult:
    """A call outside any run. question: what a state is opened with."""
    if not hasattr(tool, "run_for"):
        return tool.run(argument)
    # imported here: it brings torch, which takes seconds
    from rollout import Call, Family, Rollout

    called = Call(name, argument, "", 0.0, 0, 0)
    rollout = Rollout([], 0, calls=[called], family=Family(question))
    return call_tool({name: tool}, rollout, called)


def main(argv: list[str]) -> None:
    """Make one call and print its result; status, time and backend on stderr."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.tool == "search" and not args.source:
        parser.error("search needs --source")
    if "," in args.tool or not args.tool.strip():
        parser.error(f"give one tool: python, search or FILE.py:NAME, got {args.tool!r}")
    question = question_at(args.row)
    how = args.source, args.topk, args.timeout, args.sandbox, args.cache
    ((name, tool),) = open_tools(args.tool, *how).items()
    backend = {"python": "level", "search": "source"}.get(name, "place")
    try:
        if question and not hasattr(tool, "run_for"):
            raise ValueError(f"--row: {name} has no state, only a class with open(question) has")
        result = one_call(name, tool, args.argument, question)
        problem = tool.problem
    finally:
        tool.close()
    print(result.text)
    where = getattr(getattr(tool, backend), "name", getattr(tool, backend))
    print(f"[{result.status}, {1000 * result.seconds:.1f} ms, {where}]", file=sys.stderr)
    if result.status != "ok":
        sys.exit(problem or 1)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as problem:
        sys.exit(f"tools.py: {problem}")
    except KeyboardInterrupt:
        print("tools.py: interrupted", file=sys.stderr)
        # as a shell says it of Ctrl-C
        sys.exit(130)
