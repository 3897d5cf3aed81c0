"""Where a search goes: a /retrieve server or Google, requests batched, answers cached."""

import contextlib
import json
import os
import sqlite3
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

from support.corpus import digest, read_json, split_pages, utf8
from support.http import Unavailable, post_json, split_url


def clean_query(text: str) -> str:
    """A query as it is asked and remembered: white space collapsed, surrounding quotes removed, cut to 2000 characters, fit for UTF-8."""
    return " ".join(utf8(text).split()).strip("\"'`“”‘’ ")[:2000]


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
                    (clean_query(query), text) for query, text in read_json(Path(file)).items()
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
            return split_pages(self.seed[query])[: self.topk]
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
        self.key = f"{self.name} {digest(url)}" if "?" in url else self.name

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
