"""support/search.py: servers and the cache. No failure is an exception or shows a key."""

import json
import os
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tool_parts import start, status, trickle, with_scores, without_scores

from support.search import SearchCache
from tools import SearchTool


@pytest.mark.parametrize("answer", [with_scores, without_scores])
def test_retrieve(serve, answer):
    server = serve(answer)
    assert (
        SearchTool(server.url, topk=2).run(' "Who is it?" ').text
        == "Page 1: Title 0\nWho is it?\nPage 2: Title 1\nWho is it?"
    )
    assert SearchTool(server.url, topk=1, max_chars=9).run("who").text == "Title 0\nw"
    assert server.asked[0][0] == {"queries": ["Who is it?"], "topk": 2, "return_scores": True}
    result = SearchTool(server.url).run(" ?! ")
    assert result.status == "error" and len(server.asked) == 2, "the model's mistake is not sent"


def test_a_query_that_is_on_its_way_is_not_sent_again(serve):
    """Eight ask at once; the server answers when all of them wait."""
    everybody = threading.Event()
    server = serve(lambda head, load: everybody.wait(30) and with_scores(head, load))
    tool = SearchTool(server.url, topk=1)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(tool.run, "q") for _ in range(8)]
        patience = time.monotonic() + 30
        while tool.lookups.misses < 8 and time.monotonic() < patience:
            time.sleep(0.01)
        everybody.set()
        assert [f.result().text for f in waiting] == ["Title 0\nq"] * 8
    assert tool.lookups.misses == 8 and [load["queries"] for load, _ in server.asked] == [["q"]]


def test_retrieve_nothing_found_and_strange_text(serve):
    assert SearchTool(serve(lambda *_: {"result": [[]]}).url).run("q").text == "No results"
    server = serve(
        lambda *_: {"result": [[{"contents": "lone \ud800 surrogate"}, {"contents": " "}]]}
    )
    result = SearchTool(server.url).run("\ud800 q \0" + "x" * 5000)
    assert (result.status, result.text) == ("ok", "lone ? surrogate") and len(
        server.asked[0][0]["queries"][0]
    ) == 2000


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer, cause, posts",
    [
        (lambda *_: {"result": [[], []]}, "the answer is not", 1),
        (lambda *_: {"result": []}, "the answer is not", 1),
        (lambda *_: {"error": "x"}, "the answer is not", 1),
        (lambda *_: [1], "the answer is not", 1),
        (lambda *_: {"result": [["text"]]}, "the answer is not", 1),
        (lambda *_: {"result": [{}]}, "the answer is not", 1),
        (lambda *_: {"result": {}}, "the answer is not", 1),
        (lambda *_: {"result": {"q": []}}, "the answer is not", 1),
        (lambda *_: {"result": [""]}, "the answer is not", 1),
        (lambda *_: {"result": [[{"contents": 5}]]}, "the answer is not", 1),
        (lambda *_: {"result": [None]}, "the answer is not", 1),
        (
            lambda h, _: h.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n<html>") and None,
            "the answer is not JSON",
            3,
        ),
        (
            lambda h, _: h.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 100_000) and None,
            "not JSON",
            3,
        ),
        (
            lambda h, _: (
                h.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + b" " * ((1 << 24) + 1)) and None
            ),
            "too long",
            3,
        ),
        (status(404), "HTTP 404 Not Found", 1),
        (status(500), "HTTP 500 Internal Server Error", 3),
        (status(429), "HTTP 429", 3),
        (status(425), "HTTP 425", 3),
        (status(507), "HTTP 507", 3),
        (status(520), "HTTP 520", 3),
        (status(524), "HTTP 524", 3),
        (status(302), "HTTP 302", 1),
        (status(799), "HTTP 799", 1),
        (lambda h, _: h.wfile.write(b"SSH-2.0 garbage\r\n") and None, "BadStatusLine", 3),
        (
            lambda h, _: h.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n{}") and None,
            "broke off",
            3,
        ),
        (lambda h, _: h.connection.close(), "", 3),
        (lambda *_: time.sleep(1.0), "no answer within 0.2 s", 3),
        (trickle(True), "no answer within 0.2 s", 3),
        (trickle(False), "", 3),
    ],
)
def test_retrieve_from_a_broken_server(serve, answer, cause, posts):
    server = serve(answer)
    tool, started = (
        SearchTool(server.url + "?token=K3Y", timeout=5.0 if "long" in cause else 0.2, retries=2),
        time.monotonic(),
    )
    result = tool.run("q")
    assert (
        result.status == "infra"
        and cause in result.text
        and len(result.text) < 150
        and time.monotonic() - started < 10
    )
    assert (
        len(server.asked) == posts
        and tool.problem.startswith(server.url)
        and "K3Y" not in tool.problem + result.text
    )
    with pytest.raises(
        ValueError, match="search does not answer: http://127.0.0.1.*Start the server"
    ):
        tool.probe()


def test_retrieve_works_after_a_retry_and_probes(serve):
    server = serve(
        lambda handler, payload: (
            status(503)(handler, payload)
            if len(server.asked) < 3
            else with_scores(handler, payload)
        )
    )
    tool = SearchTool(server.url, topk=1)
    assert tool.run("q").text == "Title 0\nq" and len(server.asked) == 3
    line = tool.probe()
    assert line.startswith(
        f'search {server.url}: "capital of France" -> Title 0 capital of France ('
    ) and line.endswith(" ms)")


@pytest.mark.parametrize(
    "url, shown",
    [
        ("http://127.0.0.1:{}/retrieve", "Connection refused"),
        ("http://user:K3Y@127.0.0.1:{}/retrieve?key=K3Y", "Connection refused"),
        ("http://no-such-host.invalid:{}/retrieve?key=K3Y", "http://no-such-host.invalid"),
    ],
)
def test_retrieve_with_nobody_there(url, shown, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tool = SearchTool(url.format(port), timeout=1.0, retries=0)
    result = tool.run("q")
    assert (
        result.status == "infra"
        and shown in tool.problem
        and str(port) in tool.problem
        and "K3Y" not in tool.problem + result.text
    )


def test_serper(serve, monkeypatch):
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    with pytest.raises(ValueError, match="set the environment variable SERPER_API_KEY"):
        SearchTool("serper")
    organic = [
        {"title": "Paris", "link": "x", "snippet": "Paris is the capital."},
        {"title": "France"},
        {"title": "Lyon", "snippet": "Not it."},
    ]
    server = serve(
        lambda handler, payload: (
            status(403)(handler, payload)
            if payload["q"] == "denied"
            else {"organic": organic}
            if payload["q"] == "plain"
            else {}
            if payload["q"] == "odd"
            else {"organic": {}}
            if payload["q"] == "no list"
            else {
                "answerBox": {"answer": "42"},
                "knowledgeGraph": {"title": "KG", "type": "City", "description": "About it."},
                "organic": organic,
            }
        )
    )
    monkeypatch.setenv("SERPER_API_KEY", " K3Y\n"), monkeypatch.setenv("SERPER_URL", server.url)
    tool = SearchTool("serper", topk=3, retries=0)
    assert tool.run("plain").text == "Page 1: Paris\nParis is the capital.\nPage 2: Lyon\nNot it."
    assert (
        tool.run("rich").text
        == "Page 1: 42\nPage 2: KG\nAbout it.\nPage 3: Paris\nParis is the capital."
    )
    assert (
        server.asked[0] == ({"q": "plain", "gl": "us", "hl": "en", "num": 3}, server.asked[0][1])
        and {k.lower(): v for k, v in server.asked[0][1].items()}["x-api-key"] == "K3Y"
    )
    causes = {"denied": "HTTP 403 Forbidden"}
    causes |= dict.fromkeys(("odd", "no list"), "the answer is not")
    for query, cause in causes.items():
        result = tool.run(query)
        assert (
            result.status == "infra"
            and cause in result.text
            and "K3Y" not in result.text + tool.problem + repr(result)
        )
    assert "K3Y" not in tool.probe()


def test_cache_answers_when_the_server_is_gone(serve, tmp_path):
    server, cache = serve(with_scores), str(tmp_path / "searches.sqlite")
    tool = SearchTool(server.url, topk=2, cache=cache)
    first, line = tool.run("q one").text, tool.probe()
    assert (
        tool.run('  "q  one" ').text == first
        and len(server.asked) == 2
        and (tool.lookups.hits, tool.lookups.misses) == (1, 2)
    )
    tool.close()
    server.shutdown(), server.server_close()
    assert os.listdir(tmp_path) == ["searches.sqlite"], "one file, closed"
    warm = SearchTool(server.url, topk=2, cache=cache, retries=0)
    assert (
        warm.run("q one").text == first
        and warm.probe().split(" (")[0] == line.split(" (")[0]
        and (warm.lookups.hits, warm.lookups.misses) == (2, 0)
    )
    assert warm.run("q two").status == "infra"
    for other in (
        SearchTool(server.url, topk=1, cache=cache, retries=0),
        SearchTool(server.url + "2", topk=2, cache=cache, retries=0),
        SearchTool(server.url + "?i=2", topk=2, cache=cache, retries=0),
    ):
        assert other.run("q one").status == "infra", "the key holds topk and the source"


def test_cache_keeps_no_failure(serve, tmp_path):
    server = serve(
        lambda handler, payload: (
            status(400)(handler, payload)
            if len(server.asked) == 1
            else {"result": [[]]}
            if len(server.asked) == 2
            else with_scores(handler, payload)
        )
    )
    tool = SearchTool(server.url, topk=1, cache=str(tmp_path / "c.sqlite"))
    assert (
        [tool.run("q").status for _ in range(3)] == ["infra", "ok", "ok"]
        and len(server.asked) == 2
        and tool.run("q").text == "No results"
    )


def test_cache_of_a_corpus_that_changes(corpus, tmp_path):
    cache = str(tmp_path / "c.sqlite")
    assert (
        SearchTool(str(corpus), topk=1, cache=cache).run("port").text
        == "The port of Durnex is Salvik."
    )
    again = SearchTool(str(corpus), topk=1, cache=cache)
    assert again.run("port").text == "The port of Durnex is Salvik." and again.lookups.hits == 1
    corpus.write_text('{"text": "A new port."}\n')
    assert SearchTool(str(corpus), topk=1, cache=cache).run("port").text == "A new port."


def test_cache_seed_of_the_authors(serve, tmp_path):
    seed, server = tmp_path / "search_cache.json", serve(with_scores)
    seed.write_text(
        json.dumps(
            {' "capital of X"': "Page 1: It is Y.\nsecond line\nPage 2: Or Z.", "failed": ""}
        )
    )
    before = seed.read_bytes()
    tool = SearchTool(server.url, topk=1, cache=f"{tmp_path / 'c.sqlite'}, {seed}")
    assert tool.run("capital of X").text == "It is Y.\nsecond line" and not server.asked
    assert (
        SearchTool(server.url, topk=3, cache=str(seed)).run("'capital of X'").text
        == "Page 1: It is Y.\nsecond line\nPage 2: Or Z."
    )
    assert (
        tool.run("failed").text == "Title 0\nfailed"
        and tool.run("failed").status == "ok"
        and len(server.asked) == 1
    )
    assert seed.read_bytes() == before and (tool.lookups.hits, tool.lookups.misses) == (2, 1)


def test_cache_shared_by_processes(serve, tmp_path):
    server, cache = serve(with_scores), tmp_path / "c.sqlite"
    code = (
        "import sys, tools\n"
        "tool = tools.SearchTool(sys.argv[1], cache=sys.argv[2])\n"
        "print([tool.run(f'q{i} {sys.argv[3] if i % 2 else 0}').status for i in "
        "range(60)].count('ok'), tool.lookups.cache.failed)\n"
        "tool.close()"
    )
    children = [start(code, server.url, cache, rank) for rank in range(3)]
    texts = [child.communicate() for child in children]
    assert [out for out, _ in texts] == ["60 False\n"] * 3, texts
    assert sqlite3.connect(cache).execute("SELECT count(*) FROM searches").fetchone() == (
        30 + 3 * 30,
    )


def test_cache_made_by_many_at_once(tmp_path):
    """Nobody takes a table that another one is just making for another program's."""
    for number in range(10):
        together = threading.Barrier(8)

        def open_one(_, file=str(tmp_path / f"{number}.sqlite"), together=together):
            together.wait()
            SearchCache(file, "key", 3).close()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(open_one, range(8)))


def test_cache_that_cannot_be_opened(tmp_path, corpus):
    (tmp_path / "bad.sqlite").write_bytes(b"this is no database" * 100)
    (tmp_path / "bad.json").write_text("[]")
    other = sqlite3.connect(tmp_path / "later.sqlite")
    other.execute("PRAGMA user_version=9"), other.close()
    for cache, words in (
        ("bad.sqlite", "not a database"),
        ("bad.json", "bad.json"),
        ("no.json", "no.json"),
        ("no/c.sqlite", "unable to open"),
        ("later.sqlite", "of another version than 1"),
        (".", "unable to open"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            SearchTool(str(corpus), cache=str(tmp_path / cache))
        assert str(tmp_path / cache) in str(caught.value)
    with pytest.raises(ValueError, match="only one"):
        SearchTool(str(corpus), cache=f"{tmp_path / 'a.sqlite'},{tmp_path / 'b.sqlite'}")


def test_cache_that_cannot_be_written_fails_no_search(tmp_path, corpus, monkeypatch, capsys):
    cache = tmp_path / "c.sqlite"
    tool = SearchTool(str(corpus), topk=1, cache=str(cache))
    assert tool.run("port").status == "ok"
    tool.close()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in (cache, tmp_path))
    tool = SearchTool(str(corpus), topk=1, cache=str(cache))
    assert tool.run("port").text == "The port of Durnex is Salvik." and tool.lookups.hits == 1, (
        "read-only, read as it is"
    )
    assert (
        tool.run("capital").status == "ok"
        and tool.run("height").status == "ok"
        and tool.lookups.misses == 2
    )
    assert (
        capsys.readouterr().err.count("cannot be written") == 1
        and os.listdir(tmp_path).count("c.sqlite-wal") == 0
    )
