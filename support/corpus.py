"""Search in a local corpus: BM25, by an SQLite FTS5 index that is built once beside it.

1. `Corpus` answers queries. It opens the index of `build_index`.
2. `build_index` reuses an index with the stamp of these files, or builds one.
3. `read_corpus` reads the documents of a file; `split_words` says what a word is.

A build that is killed goes on from its last commit.
"""

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from support.files import lock_file, replace
from support.http import Unavailable

# rows that one query may rank, about a microsecond each
POSTINGS = 20_000
# documents between two commits of a build
BATCH = 10_000
# seconds until the first line about a build, and between two where stderr is no terminal
PROGRESS = (1.0, 10.0)
SUFFIXES = (".jsonl", ".json", ".txt", ".md")
# a .json is a cache of searches, and in a folder more likely something else
FOLDER_SUFFIXES = (".jsonl", ".txt", ".md")
# pages: the texts. words: their words, without the texts. common: how many documents a frequent
# word is in. built: what is indexed, and how far.
INDEX = """
    BEGIN;
    CREATE TABLE pages (text);
    CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize='ascii');
    INSERT INTO words (words, rank) VALUES ('hashsize', 33554432);
    CREATE TABLE common (word PRIMARY KEY, documents) WITHOUT ROWID;
    CREATE TABLE built (stamp, file, position, documents);
    COMMIT;
"""
# the inner query takes the first documents that match, the outer one ranks them
RANK = (
    "SELECT rowid FROM (SELECT rowid, rank FROM words WHERE words MATCH ? LIMIT ?) "
    "ORDER BY rank, rowid LIMIT ?"
)


class Corpus:
    """BM25: documents with all words of the query first, then those with some, each by rank.

    Where words are too frequent for a fast answer the rarest decide: those that stand in at most
    POSTINGS documents together, 20 times as many while documents with all of them are sought. One
    word is used in any case, by its first POSTINGS documents.

    Args:    source: a .jsonl (rows with "contents", or "text" and perhaps "title"), a .json (the
             authors' search cache: query -> "Page 1: ...\\nPage 2: ...", a document per page), or a
             folder of .jsonl, .txt and .md. topk: documents per query.
    Raises:  FileNotFoundError, ValueError naming the file and row, OSError naming the index.
    """

    advice = "Remove the index beside the corpus, it is built again"

    def __init__(self, source: str, topk: int):
        self.index, stamp = build_index(Path(source))
        self.name = source
        self.key = f"{Path(source).resolve()} {digest(stamp)}"
        self.topk = topk
        # connections that no query uses at this moment
        self.idle = []
        # an index that cannot be read fails here, not at every call of a run
        try:
            with contextlib.closing(_read_only(self.index)) as db:
                rows = db.execute("SELECT text FROM pages LIMIT 1000")
                words = (split_words(text) for (text,) in rows)
                self.probe = max(next(filter(None, words), ["?"]), key=len)
            self([self.probe])
        except (sqlite3.Error, Unavailable) as problem:
            cause = getattr(problem, "cause", problem)
            raise ValueError(f"search index {self.index}: {cause}. {self.advice}") from None

    def __call__(self, queries: list[str]) -> list[list[str]]:
        """The documents of each query. Raises Unavailable. Safe to call from several threads."""
        try:
            db = self.idle.pop()
        except IndexError:
            db = _read_only(self.index)
        try:
            found = [self._match(db, query) for query in queries]
        except sqlite3.Error as problem:
            raise Unavailable(str(self.index), str(problem)) from None
        self.idle.append(db)
        return found

    def _match(self, db: sqlite3.Connection, query: str) -> list[str]:
        """The documents of one query; its first 64 words count."""
        words = list(dict.fromkeys(split_words(query)))[:64]
        marks = ", ".join("?" * len(words))
        common = dict(
            db.execute(f"SELECT word, documents FROM common WHERE word IN ({marks})", words)
        )
        words = sorted(words, key=lambda word: common.get(word, 0))
        totals = list(accumulate(common.get(word, 0) for word in words))
        found = {}
        # FTS5: juxtaposed strings are a conjunction
        for join, budget in ((" ", 20 * POSTINGS), (" OR ", POSTINGS)):
            if len(found) < self.topk:
                used = words[: max(1, sum(total <= budget for total in totals))]
                match = join.join(f'"{word}"' for word in used)
                rows = db.execute(RANK, (match, POSTINGS, self.topk))
                found.update(dict.fromkeys(row for (row,) in rows))
        return [
            db.execute("SELECT text FROM pages WHERE rowid = ?", (row,)).fetchone()[0]
            for row in list(found)[: self.topk]
        ]


# ---- words and texts

IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{IDEOGRAPHS}]|[^\W_{IDEOGRAPHS}]+")


def split_words(text: str) -> list[str]:
    """The words of a text as they are indexed: letters and digits, lower case, no accents.

    Each Chinese or Japanese character is a word.
    """
    text = text.casefold()
    if not text.isascii():
        bare = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", text))
        text = unicodedata.normalize("NFC", bare)
    return WORD.findall(text)


def utf8(text: str) -> str:
    """The text without lone surrogates, which can be neither stored nor tokenised."""
    return text.encode("utf-8", "replace").decode()


def digest(text: str) -> str:
    """A short name for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def split_pages(text: str) -> list[str]:
    """The documents of "Page 1: ...\\nPage 2: ..."."""
    return [page.strip() for page in re.split(r"(?:^|\n)Page \d+: ", text) if page.strip()]


# ---- the documents


def corpus_files(source: Path) -> list[Path]:
    """The files of a corpus in the order in which they are read.

    Raises: FileNotFoundError, ValueError if there are none.
    """
    if not source.exists():
        raise FileNotFoundError(
            f"search corpus {source} does not exist (a server is http://host:port/retrieve)"
        )
    files = [source]
    if source.is_dir():
        found = (p for p in source.rglob("*") if p.suffix in FOLDER_SUFFIXES and p.is_file())
        files = sorted(found)
    if not files:
        raise ValueError(f"{source}: no .jsonl, .txt or .md file in this folder")
    if files[0].suffix not in SUFFIXES:
        raise ValueError(
            f"search corpus {source}: a corpus is a .jsonl, .json, .txt or .md file "
            "or a folder of them"
        )
    return files


def read_corpus(file: Path, start: int = 0) -> Iterator[tuple[str, int]]:
    """Yield (document, position behind it) for each document that ends behind `start`.

    Positions are bytes in a .jsonl, else characters of all documents so far. Formats and errors:
    see Corpus.
    """
    if file.suffix == ".jsonl":
        with open(file, "rb") as lines:
            lines.seek(start)
            for line in lines:
                start += len(line)
                if line.strip():
                    yield _document(file, start, line), start
        return
    if file.suffix == ".json":
        pages = [page for text in read_json(file).values() for page in split_pages(text)]
    else:
        pages = [file.read_text("utf-8", "replace")]
    for page, position in zip(pages, accumulate(map(len, pages))):
        if position > start:
            yield utf8(page), position


def _document(file: Path, end: int, line: bytes) -> str:
    """The document of a row that ends at byte `end`. ValueError names file and row."""
    try:
        row = json.loads(line.decode("utf-8", "replace").removeprefix("\ufeff"))
        if "contents" in row:
            return utf8(row["contents"])
        return utf8("\n".join(filter(None, [row.get("title"), row["text"]])))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        with open(file, "rb") as lines:
            ends = accumulate(map(len, lines))
            number = next(n for n, position in enumerate(ends, 1) if position >= end)
        raise ValueError(
            f'{file}, row {number}: a document needs the string "contents" or "text" ({problem!r})'
        ) from None


def read_json(file: Path) -> dict[str, str]:
    """The authors' search cache. Raises ValueError if it is something else."""
    try:
        texts = json.loads(file.read_text("utf-8", "replace"))
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("not all of its values are strings")
        return texts
    except (OSError, ValueError, AttributeError, RecursionError) as problem:
        raise ValueError(
            f"{file}: a .json corpus is, like a .json cache, an object from queries to strings "
            f"({problem})"
        ) from None


# ---- the index


def build_index(source: Path) -> tuple[Path, str]:
    """The corpus as an FTS5 index, and the stamp by which an index is reused.

    The stamp holds the files' names, sizes and times. The index stands beside the corpus, as
    <source>.fts5, or in the temporary folder if that place is read-only. It is built in a .part,
    with which a later call goes on if this one is killed. Processes that want one at the same time
    wait.
    """
    source = source.resolve()
    files = corpus_files(source)
    named = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    stamp = repr((INDEX, named))
    beside = source.with_name(f"{source.name}.fts5")
    aside = Path(tempfile.gettempdir(), f"{digest(str(source))}-{source.name}.fts5")
    index = beside if os.access(source.parent, os.W_OK) else aside
    for made in (beside, index):
        if _stamp_of(made) == stamp:
            return made, stamp
    with lock_file(Path(f"{index}.lock")):
        if _stamp_of(index) != stamp:
            _build(index, files, stamp, source)
    return index, stamp


def _build(index: Path, files: list[Path], stamp: str, source: Path) -> None:
    """Build the index in a .part and rename it."""
    part = index.with_name(f"{index.name}.part")
    try:
        _fill(part, files, stamp, source)
        replace(part, index)
    except (ValueError, sqlite3.Error) as problem:
        # what is done is kept after a full disk, say
        if not isinstance(problem, sqlite3.OperationalError):
            part.unlink(missing_ok=True)
        if isinstance(problem, sqlite3.Error):
            raise OSError(f"{part}: the search index cannot be written ({problem})") from None
        raise


def _stamp_of(index: Path) -> str | None:
    """The stamp of an index, None if there is none or it cannot be read."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_read_only(index)) as db:
        return db.execute("SELECT stamp FROM built").fetchone()[0]


def _read_only(index: Path) -> sqlite3.Connection:
    """A connection that several threads may use in turn."""
    return sqlite3.connect(f"{index.as_uri()}?mode=ro", uri=True, check_same_thread=False)


def _fill(part: Path, files: list[Path], stamp: str, source: Path) -> None:
    """Index the documents into `part`, from the last commit of an interrupted build on."""
    sizes = [0, *accumulate(file.stat().st_size for file in files)]
    tell = _progress(source.name, sizes[-1])
    with contextlib.closing(_open_part(part, stamp)) as db:
        row = db.execute("SELECT file, position, documents FROM built").fetchone()
        first, start, count = row
        db.execute("BEGIN")
        for number in range(first, len(files)):
            for text, position in read_corpus(files[number], start):
                count += 1
                words = " ".join(split_words(text))
                db.execute("INSERT INTO pages (rowid, text) VALUES (?, ?)", (count, text))
                db.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (count, words))
                tell(sizes[number] + position, count)
                if count % BATCH == 0:
                    _commit(db, number, position, count)
                    db.execute("BEGIN")
            start = 0
        if count == 0:
            raise ValueError(f"search corpus {source} holds no document")
        _commit(db, len(files), 0, count)
        _count_common(db)
        tell(sizes[-1], count, True)


def _count_common(db: sqlite3.Connection) -> None:
    """Fill the table of frequent words. A query has at most 64: of rarer ones all may be used."""
    db.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, words, row)")
    db.execute(
        "INSERT OR REPLACE INTO common SELECT term, doc FROM temp.vocabulary WHERE doc > ?",
        (POSTINGS // 64,),
    )


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
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute("PRAGMA cache_size=-65536")
    if made != (stamp,):
        db.executescript(INDEX)
        db.execute("INSERT INTO built VALUES (?, 0, 0, 0)", (stamp,))
    return db


def _commit(db: sqlite3.Connection, number: int, position: int, count: int) -> None:
    """Commit the documents so far together with where a later build goes on."""
    db.execute("UPDATE built SET file = ?, position = ?, documents = ?", (number, position, count))
    db.execute("COMMIT")


def _progress(name: str, total: int):
    """A function of (bytes, documents, finished?) that tells on stderr how a lasting build goes.

    On a terminal it is one line that changes.
    """
    started, live, shown = time.monotonic(), sys.stderr.isatty(), False
    due = started + PROGRESS[0]

    def tell(done: int, documents: int, finished: bool = False) -> None:
        nonlocal due, shown
        now = time.monotonic()
        if now < due and not (finished and shown):
            return
        due, shown = now + (0.2 if live else PROGRESS[1]), True
        percent = 100 * done / max(1, total)
        line = f"search index of {name}: {percent:.0f}%, {documents:,} documents"
        line += f", {now - started:.0f} s"
        end = "\n" if finished or not live else ""
        print(f"\r{line}" if live else line, end=end, file=sys.stderr, flush=True)

    return tell
