"""Where a search goes: a local corpus, a /retrieve server or Google; batched, and cached.

1. `open_source` opens what a user named: a Corpus, a Retriever or Serper. Each is called with a
   list of queries and gives the documents of each, and has
       name, key        for a log; for the cache, where it holds no secret
       probe, advice    a query that has an answer; what to do if none comes
2. `Batches` sends the queries that wait for a server together.
3. `CachedSearch` asks the SearchCache first, and asks no source the same twice at once.
"""

import contextlib
import json
import os
import sqlite3
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

from support.corpus import Corpus, digest, read_json, split_pages, utf8
from support.http import Unavailable, post_json, split_url


def open_source(source: str, topk: int, timeout: float, retries: int):
    """The source that a user named, see tools.SearchTool."""
    if source == "serper":
        return Serper(topk, timeout, retries)
    if source.startswith(("http://", "https://")):
        return Retriever(source, topk, timeout, retries)
    return Corpus(source, topk)


def clean_query(text: str) -> str:
    """A query as it is asked and remembered: one line, no quotes around it, <= 2000 characters."""
    return " ".join(utf8(text).split()).strip("\"'`“”‘’ ")[:2000]


def items(value) -> list:
    """A list as it is. TypeError for anything else: an object would give its keys, or none."""
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


class Retriever:
    """A server of Search-R1's protocol.

        POST {"queries": [..], "topk": k, "return_scores": true} -> {"result": [[hit, ..], ..]}

    There is one list of hits for each query. A hit is {"document": {"contents": text}, "score": x}
    or {"contents": text}.
    """

    probe = "capital of France"
    advice = (
        "Start the server, or check the address; "
        "python tools.py search 'query' --source URL tries it by hand"
    )

    def __init__(self, url: str, topk: int, timeout: float, retries: int):
        self.url = url
        self.topk = topk
        self.limits = {"timeout": timeout, "retries": retries}
        self.name = split_url(url)[0]
        # what follows "?" may hold a secret
        self.key = f"{self.name} {digest(url)}" if "?" in url else self.name

    def __call__(self, queries: list[str]) -> list[list[str]]:
        """The documents of each query. Raises Unavailable."""
        return self._documents(queries, self.limits)

    def once(self, queries: list[str]) -> list[list[str]]:
        """The same in one attempt; a query alone has two."""
        return self._documents(queries, self.limits | {"retries": int(len(queries) == 1)})

    def _documents(self, queries: list[str], limits: dict) -> list[list[str]]:
        request = {"queries": queries, "topk": self.topk, "return_scores": True}
        answer = post_json(self.url, request, **limits)
        try:
            found = [
                [hit.get("document", hit)["contents"] for hit in items(hits)][: self.topk]
                for hits in items(answer["result"])
            ]
        except (KeyError, TypeError, AttributeError):
            found = []
        strings = all(isinstance(text, str) for texts in found for text in texts)
        if len(found) != len(queries) or not strings:
            raise Unavailable(
                self.name,
                'the answer is not {"result": a list of {"contents": text} for each query}',
            )
        return found


class Serper:
    """Google by serper.dev.

        POST {"q": query, ..} -> {"organic": [{"title", "snippet"}, ..]}

    There may be an "answerBox" and a "knowledgeGraph", which go first. A document is title and
    snippet, one a line. The key comes from the environment variable SERPER_API_KEY, another
    address (a proxy, a test) from SERPER_URL.
    """

    name = key = "serper"
    probe = "capital of France"
    advice = "Check SERPER_API_KEY, its credit and the network"

    def __init__(self, topk: int, timeout: float, retries: int):
        self.url = os.environ.get("SERPER_URL", "https://google.serper.dev/search")
        self.topk = topk
        self.limits = {"timeout": timeout, "retries": retries}
        self.headers = {"X-API-KEY": os.environ.get("SERPER_API_KEY", "").strip()}
        if not self.headers["X-API-KEY"]:
            raise ValueError(
                "search by serper needs a key: set the environment variable SERPER_API_KEY "
                "(to anything if the cache holds all answers)"
            )
        split_url(self.url)

    def __call__(self, queries: list[str]) -> list[list[str]]:
        """The documents of each query. Raises Unavailable."""
        return [self._documents(query) for query in queries]

    def _documents(self, query: str) -> list[str]:
        """The documents of one query: a request is paid for each."""
        request = {"q": query, "gl": "us", "hl": "en", "num": self.topk}
        answer = post_json(self.url, request, self.headers, **self.limits)
        try:
            box, graph = answer.get("answerBox") or {}, answer.get("knowledgeGraph") or {}
            hits = [
                (box.get("title"), box.get("answer") or box.get("snippet")),
                (graph.get("title"), graph.get("description")),
            ]
            hits += [(hit.get("title"), hit.get("snippet")) for hit in items(answer["organic"])]
            return ["\n".join(filter(None, hit)) for hit in hits if hit[1]][: self.topk]
        except (KeyError, TypeError, AttributeError):
            server, shape = split_url(self.url)[0], '{"organic": a list of {"title", "snippet"}}'
            raise Unavailable(server, f"the answer is not {shape}") from None


class Batches:
    """Queries of many threads, handed on together: what waits during a request goes into the next.

    Whoever gets the turn leads: it asks for all that wait, `most` at a time, until its own answer
    is there. A query that the server refuses fails alone, whatever it travelled with. A server that
    is down gets three requests for a batch, not one for each query.
    """

    def __init__(self, source, most: int = 64):
        self.source = source
        self.most = most
        self.waiting = []
        self.lock = threading.Lock()
        self.turn = threading.Lock()

    def __call__(self, query: str) -> list[str]:
        """The documents of one query. Raises what the source raises."""
        mine = Future()
        with self.lock:
            self.waiting.append((query, mine))
        with self.turn:
            while not mine.done():
                self._ask()
        return mine.result()

    def _ask(self) -> None:
        """Answer the queries that have waited longest."""
        with self.lock:
            batch, self.waiting = self.waiting[: self.most], self.waiting[self.most :]
        self._settle(batch, self._tried(batch, self.source))

    def _tried(self, batch: list[tuple[str, Future]], source) -> BaseException | None:
        """Ask for some queries at once. Returns: why that failed, None if they are answered."""
        try:
            found = source([query for query, _ in batch])
            for (_, future), documents in zip(batch, found, strict=True):
                future.set_result(documents)
        # whatever it is, nobody may wait for ever
        except BaseException as problem:
            return problem
        return None

    def _settle(self, batch: list[tuple[str, Future]], failed: BaseException | None) -> None:
        """Find the queries that a request failed by: each half is asked alone, and so on.

        Where it is not clear whose fault it was, two halves that fail like the whole end this.
        """
        if not failed:
            return
        if len(batch) > 1 and getattr(failed, "down", True) is not True:
            half, once = len(batch) // 2, getattr(self.source, "once", self.source)
            halves = batch[:half], batch[half:]
            problems = [self._tried(part, once) for part in halves]
            if not all(map(_may_be_down, (failed, *problems))):
                for part, problem in zip(halves, problems):
                    self._settle(part, problem)
                return
        for _, future in batch:
            if not future.done():
                future.set_exception(failed)


def _may_be_down(problem: BaseException | None) -> bool:
    """May a request have failed whatever it asked?"""
    return problem is not None and getattr(problem, "down", True) is not False


class CachedSearch:
    """The documents of a query: from the cache, from a thread that asks the same, or the source.

    Args:    source: see open_source. files, topk: see SearchCache.
    Fields:  hits, misses: searches answered from the cache, and those that were not.
    """

    def __init__(self, source, files: str, topk: int):
        self.source = source
        self.batches = Batches(source) if isinstance(source, Retriever) else None
        self.cache = SearchCache(files, source.key, topk)
        self.hits = self.misses = 0
        self.lock = threading.Lock()
        # query -> the answer that is on its way
        self.flying = {}

    def __call__(self, query: str) -> list[str]:
        """Documents of a cleaned query. Raises Unavailable."""
        documents = self.cache.get(query)
        if documents is not None:
            with self.lock:
                self.hits += 1
            return documents
        with self.lock:
            self.misses += 1
            first = query not in self.flying
            answer = self.flying.setdefault(query, Future())
        if first:
            self._fetch(query, answer)
        return answer.result()

    def close(self) -> None:
        """Close the cache and the connections to the index of a corpus."""
        self.cache.close()
        idle = getattr(self.source, "idle", [])
        while idle:
            idle.pop().close()

    def _fetch(self, query: str, answer: Future) -> None:
        """Ask the source, remember what it says."""
        try:
            documents = self.batches(query) if self.batches else self.source([query])[0]
            self.cache.put(query, documents)
            answer.set_result(documents)
        # those who wait for this answer get the same
        except BaseException as problem:
            answer.set_exception(problem)
        with self.lock:
            del self.flying[query]


class SearchCache:
    """Answers given before: a run can be repeated offline, and no search is paid for twice.

    Args:    files: comma-separated, "" for no cache. A .json is the authors' search cache (query ->
             "Page 1: ...\\nPage 2: ..."): looked up first and by the query alone, never written.
             Another name is a SQLite file, created if missing, shared by processes of one machine:
             a row per source, topk and query. Where it cannot be written it is read as it is.
             key: names the source. topk: documents per query.
    Raises:  ValueError naming the file that is neither.
    """

    # of the SQLite file, in its user_version
    VERSION = 1
    TABLE = (
        "CREATE TABLE IF NOT EXISTS searches "
        "(source, topk, query, documents, PRIMARY KEY (source, topk, query)) WITHOUT ROWID"
    )
    FIND = "SELECT documents FROM searches WHERE source = ? AND topk = ? AND query = ?"

    def __init__(self, files: str, key: str, topk: int):
        self.key = key
        self.topk = topk
        # query -> text, of the .json files
        self.seed = {}
        self.db = None
        self.lock = threading.Lock()
        # has a failed write been told
        self.failed = False
        for file in filter(None, map(str.strip, files.split(","))):
            if file.endswith(".json"):
                texts = read_json(Path(file))
                self.seed.update((clean_query(query), text) for query, text in texts.items())
            elif self.db is not None:
                raise ValueError(
                    f"search cache {files}: only one of these can be written; "
                    "the others must be .json"
                )
            else:
                self.db = self._open(Path(file).resolve())

    def get(self, query: str) -> list[str] | None:
        """The documents remembered for a cleaned query, or None; None too if it cannot be read."""
        # "" is what a failed search left there
        if self.seed.get(query):
            return split_pages(self.seed[query])[: self.topk]
        with self.lock, contextlib.suppress(sqlite3.Error, ValueError, TypeError):
            row = self.db and self.db.execute(self.FIND, (self.key, self.topk, query)).fetchone()
            documents = json.loads(row[0]) if row else None
            if isinstance(documents, list) and all(isinstance(text, str) for text in documents):
                return documents
        return None

    def put(self, query: str, documents: list[str]) -> None:
        """Remember an answer. If that fails, the search does not: one line on stderr says so."""
        row = (self.key, self.topk, query, json.dumps(documents))
        with self.lock:
            try:
                if self.db:
                    self.db.execute("INSERT OR REPLACE INTO searches VALUES (?, ?, ?, ?)", row)
            # a full disk, a place that is read-only
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

    def _open(self, file: Path) -> sqlite3.Connection:
        """The SQLite file, new if it is missing; ValueError if it is another program's."""
        writable = os.access(file.parent, os.W_OK)
        writable = writable and (not file.exists() or os.access(file, os.W_OK))
        # the files that go with a WAL cannot be made in a read-only place
        uri = file.as_uri() + ("" if writable else "?mode=ro&immutable=1")
        settings = dict(uri=True, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            db = sqlite3.connect(uri, **settings)
            # in one transaction: another process may be making the table at this moment
            db.execute("BEGIN IMMEDIATE" if writable else "BEGIN")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            empty = not db.execute("SELECT 1 FROM sqlite_schema").fetchone()
            if version != self.VERSION and not (version == 0 and empty):
                raise ValueError(
                    f"search cache {file} is another program's database, "
                    f"or of another version than {self.VERSION}"
                )
            if writable and version == 0:
                db.execute(self.TABLE)
                db.execute(f"PRAGMA user_version={self.VERSION}")
            db.execute("COMMIT")
            if writable:
                # another process may be switching to WAL at this moment
                with contextlib.suppress(sqlite3.OperationalError):
                    db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=NORMAL")
            db.execute("SELECT documents FROM searches LIMIT 1")
        except sqlite3.Error as problem:
            raise ValueError(
                f"search cache {file}: {problem}; "
                "a cache is a SQLite file of this program's or a .json"
            ) from None
        return db
