"""support/corpus.py: what is found and in which order, and an index that survives being killed."""

import contextlib
import json
import random
import signal
import sqlite3
import threading

import pytest
from tool_parts import start

from support import corpus as corpora
from tools import SearchTool

BUILD = (
    "import sys, tools\n"
    "from support import corpus\n"
    "corpus.BATCH = 50\n"
    "tool = tools.SearchTool(sys.argv[1])\n"
)


def write_folder(folder, documents=600):
    folder.mkdir()
    rows = [f"w{i % 7} x{i % 11} {'数据' if i % 3 else 'data'} number{i}" for i in range(documents)]
    (folder / "a.jsonl").write_text(
        "\n".join(json.dumps({"text": row}) for row in rows[: documents // 2]) + "\n\n"
    )
    (folder / "b.txt").write_text("a text between")
    (folder / "c.jsonl").write_text(
        "\n".join(json.dumps({"text": row}) for row in rows[documents // 2 :])
    )
    return folder


def test_search_all_words_first_then_some(corpus):
    one, three = SearchTool(str(corpus), topk=1), SearchTool(str(corpus), topk=3)
    assert one.run("capital of Durnex").text == "The capital of Durnex is Belmor."
    assert one.run("height of Belmor").text == "Belmor\nThe new height of Belmor is 64."
    pages = three.run("capital of Durnex").text.split("\nPage ")
    assert (
        pages[0] == "Page 1: The capital of Durnex is Belmor."
        and len(pages) == 3
        and "port" in three.run("capital of Durnex").text
    )
    assert one.run("zzz qqq").text == "No results" and one.run("zzz qqq").status == "ok"


@pytest.mark.parametrize(
    "query",
    [
        '"',
        "a AND (b OR",
        "NEAR(x",
        "-x",
        "col:val",
        "*",
        "'; DROP TABLE docs; --",
        "\0",
        "x" * 100_000,
        "数 é",
        "Durnex " * 500,
    ],
)
def test_search_never_raises_for_a_query(corpus, query):
    assert SearchTool(str(corpus)).run(query).status in ("ok", "error")


def test_search_empty_query_is_the_models_error(corpus):
    assert SearchTool(str(corpus)).run(" ?! ").status == "error"


def test_search_index_is_kept_and_follows_the_corpus(corpus):
    SearchTool(str(corpus))
    index = corpus.with_name("corpus.jsonl.fts5")
    made = index.stat().st_mtime_ns
    assert SearchTool(str(corpus)).source.index == index and index.stat().st_mtime_ns == made
    corpus.write_text(json.dumps({"contents": "Only this."}) + "\n")
    assert SearchTool(str(corpus), topk=1).run("only").text == "Only this."


def test_search_sources(tmp_path, corpus):
    cache = tmp_path / "cache.json"
    cache.write_text(
        json.dumps({"q": "Page 1: alpha beta\nsecond line\nPage 2: gamma delta", "r": ""})
    )
    assert SearchTool(str(cache), topk=1).run("gamma").text == "gamma delta"
    assert SearchTool(str(cache), topk=1).run("alpha").text == "alpha beta\nsecond line"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("omega text")
    (folder / "b.jsonl").write_text('{"text": "sigma row"}\n')
    assert (
        SearchTool(str(folder), topk=1).run("omega").text == "omega text"
        and SearchTool(str(folder), topk=1).run("sigma").text == "sigma row"
    )


def test_search_bad_corpora(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        SearchTool(str(tmp_path / "no.jsonl"))
    bad = tmp_path / "bad.jsonl"
    for content in (
        '{"contents": "fine"}\n{"title": "no text"}\n',
        '{"contents": "fine"}\nnot json\n',
        '{"contents": "fine"}\n{"contents": 42}\n',
        '{"contents": "fine"}\n[1, 2]\n',
        '{"text": "fine"}\n"abc"\n',
    ):
        bad.write_text(content)
        with pytest.raises(ValueError, match="bad.jsonl, row 2"):
            SearchTool(str(bad))
    left = [p.name for p in tmp_path.glob("*.fts5*")]
    assert left == ["bad.jsonl.fts5.lock"], "nothing half-made stays behind"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no .jsonl"):
        SearchTool(str(tmp_path / "empty"))
    for content in ("[1]", "oops", '{"q": 5}'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match="bad.json: a .json corpus is"):
            SearchTool(str(tmp_path / "bad.json"))
    bad.write_text("\n")
    with pytest.raises(ValueError, match="holds no document"):
        SearchTool(str(bad))
    with pytest.raises(ValueError, match="topk must be a whole number >= 1"):
        SearchTool(str(bad), topk=0)


def test_search_strange_places_and_bytes(tmp_path):
    folder = tmp_path / "my#dir %20?x"
    folder.mkdir()
    (folder / "c.jsonl").write_bytes(
        b'{"contents": "alpha \xff beta"}\n{"contents": "lone \\ud800 surrogate"}\n'
    )
    tool = SearchTool(str(folder / "c.jsonl"), topk=1)
    assert "alpha" in tool.run("alpha").text and "surrogate" in tool.run("surrogate").text


def test_search_read_only_corpora_of_one_name(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(corpora.os, "access", lambda path, mode: False)
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "corpus.jsonl").write_text(
            json.dumps({"contents": f"from {name}"}) + "\n"
        )
        made.append(SearchTool(str(tmp_path / name / "corpus.jsonl"), topk=1))
    assert [t.run("from").text for t in made] == ["from a", "from b"]


def test_search_from_many_threads(corpus):
    tool, results = SearchTool(str(corpus), topk=1), []
    threads = [
        threading.Thread(target=lambda: results.append(tool.run("port of Durnex").text))
        for _ in range(20)
    ]
    [t.start() for t in threads], [t.join() for t in threads]
    assert results == ["The port of Durnex is Salvik."] * 20


@pytest.mark.parametrize(
    "query, text",
    [
        ("首都", "法国的首都是巴黎"),
        ("巴黎 France", "法国的首都是巴黎"),
        ("snake_case", "def snake_case(x)"),
        ("snake", "def snake_case(x)"),
        ("_", None),
        ("ÉCOLE", "une école"),
        ("cafe\u0301", "Le café"),
        ("とうきょう", "とうきょうタワー"),
        ("서울", "서울 타워"),
    ],
)
def test_search_words_of_every_script(tmp_path, query, text):
    texts = [
        "法国的首都是巴黎",
        "日本",
        "def snake_case(x)",
        "une école",
        "Le café",
        "とうきょうタワー",
        "서울 타워",
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    result = SearchTool(str(tmp_path / "c.jsonl"), topk=1).run(query)
    assert (result.status, result.text) == (
        ("ok", text) if text else ("error", "Error: the search query is empty")
    )


def test_search_ranks_like_plain_fts5(tmp_path):
    rng = random.Random(0)
    words = [f"w{i}" for i in range(40)] + ["don't", "École", "U.S."]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 25))) for _ in range(300)]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    db, tool = sqlite3.connect(":memory:"), SearchTool(str(tmp_path / "c.jsonl"), topk=5)
    (
        db.execute("CREATE VIRTUAL TABLE docs USING fts5(text)"),
        db.executemany("INSERT INTO docs VALUES (?)", ((text,) for text in texts)),
    )
    for _ in range(100):
        query, found = rng.sample(words, rng.randint(1, 5)), {}
        for join in (" ", " OR "):
            match = join.join(
                f'"{word}"' for word in " ".join(query).replace("'", " ").replace(".", " ").split()
            )
            found.update(
                dict.fromkeys(
                    text
                    for (text,) in db.execute(
                        "SELECT text FROM docs WHERE docs MATCH ? ORDER BY rank, rowid LIMIT 5",
                        (match,),
                    ).fetchall()
                    if len(found) < 5
                )
            )
        assert tool.source([" ".join(query)]) == [list(found)[:5]]


def test_search_frequent_words_do_not_slow_a_query(tmp_path, monkeypatch):
    rows = [{"text": f"the of {'rare' if i == 700 else 'plain'} w{i}"} for i in range(800)]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(corpora, "POSTINGS", 64)
    tool, asked = SearchTool(str(tmp_path / "c.jsonl"), topk=2), []
    tool.source.idle[-1].set_trace_callback(asked.append)
    assert tool.run("the rare of").text == "the of rare w700", "the frequent words are left out"
    assert tool.run("the of").text.startswith("Page 1: the of plain w0"), (
        "one word is used in any case, a part of its documents is ranked"
    )
    assert tool.run("w5 the w6").text == "Page 1: the of plain w5\nPage 2: the of plain w6"
    matched = [line.split("MATCH ")[1].split(" LIMIT")[0] for line in asked if "MATCH" in line]
    assert matched == [
        '\'"rare" "the"\'',
        "'\"rare\"'",
        "'\"the\"'",
        '\'"w5" "w6" "the"\'',
        '\'"w5" OR "w6"\'',
    ] and "LIMIT 64)" in " ".join(asked)
    monkeypatch.setattr(corpora, "POSTINGS", 10)
    assert tool.run("of the").text == "Page 1: the of plain w0\nPage 2: the of plain w1", (
        "even if that word is above every budget"
    )
    monkeypatch.setattr(corpora, "POSTINGS", 20_000)
    assert tool.run("the rare of").text == "Page 1: the of rare w700\nPage 2: the of plain w0", (
        "below the budget every word counts"
    )


@pytest.mark.parametrize("killed_at", [1, 49, 130, 305, 600, "the end"])
def test_search_killed_build_goes_on(tmp_path, killed_at):
    once, again = write_folder(tmp_path / "once"), write_folder(tmp_path / "again")
    kill = (
        f"import os, signal\n"
        f"from support import corpus\n"
        f"split, n = corpus.split_words, 0\n"
        f"def words(text):\n"
        f"    global n\n"
        f"    n += 1\n"
        f"    n == {killed_at!r} and os.kill(os.getpid(), signal.SIGKILL)\n"
        f"    return split(text)\n"
        f"corpus.split_words = words\n"
        f"corpus.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    child = start(kill + BUILD, again)
    assert child.wait() == -signal.SIGKILL, child.stderr.read()
    assert (tmp_path / "again.fts5.part").exists() and not (tmp_path / "again.fts5").exists()
    count = start(
        (
            "from support import corpus\n"
            "split, n = corpus.split_words, 0\n"
            "def words(text):\n"
            "    global n\n"
            "    n += 1\n"
            "    return split(text)\n"
            "corpus.split_words = words\n"
        )
        + BUILD
        + "print(n)",
        again,
    )
    out, err = count.communicate()
    assert int(out) == 2 + (0 if killed_at == "the end" else 601 - (killed_at - 1) // 50 * 50), (
        f"only what was not committed is read again (and two words to try) {err}"
    )
    one, two = SearchTool(str(once), topk=20), SearchTool(str(again), topk=20)
    for query in (
        "w3 x4",
        "data",
        "数",
        "number299 number301 number599",
        "text between",
        "w1 number4",
    ):
        assert one.run(query).text == two.run(query).text != "No results"
    rows = [
        sqlite3.connect(tool.source.index)
        .execute(
            (
                "SELECT (SELECT count(*) FROM pages), (SELECT count(*) FROM words), (SELECT "
                "count(DISTINCT text) FROM pages)"
            )
        )
        .fetchone()
        for tool in (one, two)
    ]
    assert rows == [(601, 601, 601)] * 2
    left = sorted(p.name for p in tmp_path.glob("again*"))
    assert left == ["again", "again.fts5", "again.fts5.lock"]


def test_search_half_an_index_of_another_corpus_or_of_nothing_is_dropped(tmp_path, corpus):
    for junk in (b"not a database " * 1000, b""):
        corpus.with_name("corpus.jsonl.fts5.part").write_bytes(junk)
        corpus.with_name("corpus.jsonl.fts5").write_bytes(junk)
        assert SearchTool(str(corpus), topk=1).run("port").text == "The port of Durnex is Salvik."
    index = corpus.with_name("corpus.jsonl.fts5")
    index.rename(f"{index}.part")
    corpus.write_text('{"text": "all new"}\n')
    tool = SearchTool(str(corpus))
    assert tool.run("new").text == "all new" and tool.run("port").text == "No results"


def test_search_opened_by_several_at_once_is_built_once(tmp_path):
    folder, log = write_folder(tmp_path / "docs"), tmp_path / "log"
    code = (
        (
            f"import time\n"
            f"from support import corpus\n"
            f"fill = corpus._fill\n"
            f"def slow(*a):\n"
            f"    open({str(log)!r}, 'a').write('built\\n')\n"
            f"    time.sleep(0.5)\n"
            f"    fill(*a)\n"
            f"corpus._fill = slow\n"
        )
        + BUILD
        + "print(tool.run('number7').text)"
    )
    children = [start(code, folder) for _ in range(4)]
    texts = [child.communicate() for child in children]
    assert [out for out, _ in texts] == ["w0 x7 数据 number7\n"] * 4, texts
    left = sorted(p.name for p in tmp_path.iterdir())
    assert log.read_text() == "built\n"
    assert left == ["docs", "docs.fts5", "docs.fts5.lock", "log"]


def test_search_tells_how_a_build_goes(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path / "docs")
    SearchTool(str(folder))
    assert capsys.readouterr().err == "", "quick builds are silent"
    monkeypatch.setattr(corpora, "PROGRESS", (0.0, 0.0))
    (folder / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    SearchTool(str(folder))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("search index of docs: 0%, 1 documents, ") and lines[-1].startswith(
        "search index of docs: 100%, 303 documents, "
    )
    monkeypatch.setattr(corpora.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(corpora, "PROGRESS", (0.0, 10.0))
    (folder / "a.jsonl").write_text('{"text": "three"}\n')
    SearchTool(str(folder))
    text = capsys.readouterr().err
    assert text.count("\r") >= 2 and text.count("\n") == 1 and text.endswith("s\n"), (
        "one line on a terminal"
    )


def test_search_full_disk_is_named_and_what_was_done_is_kept(tmp_path):
    folder = write_folder(tmp_path / "docs", 6000)
    child = start(
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n" + BUILD,
        folder,
    )
    _, err = child.communicate()
    assert "OSError" in err and "docs.fts5.part: the search index cannot be written" in err
    with contextlib.closing(sqlite3.connect(tmp_path / "docs.fts5.part")) as part:
        [done] = part.execute("SELECT documents FROM built").fetchone()
    assert 0 < done < 6000
    assert SearchTool(str(folder), topk=1).run("number5999").text.endswith("number5999")
