"""support/search.py, Batches: a query fails alone, and a server that is down is left alone."""

import threading
import time
from concurrent.futures import Future

import pytest
from tool_parts import status, with_scores

from support import http, search
from support.http import Unavailable
from support.search import Batches, Retriever
from tools import SearchTool


def settled(url, queries, timeout=5.0) -> list[Future]:
    """The answers to queries that travelled in one batch."""
    batches, waiting = Batches(Retriever(url, 1, timeout, 0)), [(q, Future()) for q in queries]
    batches.waiting = list(waiting)
    batches._ask()
    return [future for _, future in waiting]


def asleep(handler, payload):
    time.sleep(2)


UNCLEAR = [403, 404, 429, 451, 501, 502, 503, 504, 507, 520]
# a second is long enough for a busy machine to answer the other queries
UNCLEAR += [pytest.param(asleep, marks=pytest.mark.slow)]
PATIENCE = 1.0


def test_retrieve_batches_what_waits(serve):
    server = serve(lambda handler, payload: time.sleep(0.1) or with_scores(handler, payload))
    tool, results = SearchTool(server.url, topk=1), {}
    threads = [
        threading.Thread(target=lambda i=i: results.update({i: tool.run(f"query {i}").text}))
        for i in range(40)
    ]
    [t.start() for t in threads], [t.join(10) for t in threads]
    assert results == {i: f"Title 0\nquery {i}" for i in range(40)}
    sizes = [len(payload["queries"]) for payload, _ in server.asked]
    assert sum(sizes) == 40 and len(sizes) <= 6


@pytest.mark.parametrize(
    "refusal",
    [{"result": [None]}, {"result": [[None]]}, {"result": [[{"contents": None}]]}, 422, 500],
)
@pytest.mark.parametrize("place", [0, 3, 7])
def test_a_query_that_the_server_refuses_fails_alone(serve, monkeypatch, refusal, place):
    """Others of its batch are answered."""
    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)
    queries = [f"query {k}" for k in range(8)]

    def answer(handler, payload):
        asked = payload["queries"]
        if queries[place] not in asked:
            return {"result": [[{"contents": f"about {q}"}] for q in asked]}
        if isinstance(refusal, int):
            return status(refusal)(handler, payload)
        rest = [[{"contents": "x"}]] * (len(asked) - 1)
        return {"result": refusal["result"] + rest}

    server = serve(answer)
    source = Retriever(server.url, 1, 5.0, 3)
    batches, gate = Batches(source), [(q, Future()) for q in queries]
    batches.waiting = list(gate)
    batches._ask()
    for k, (query, future) in enumerate(gate):
        if k == place:
            with pytest.raises(Unavailable):
                future.result(0)
        else:
            assert future.result(0) == [f"about {query}"]
    alone = [p["queries"] for p, _ in server.asked if p["queries"] == [queries[place]]]
    assert len(alone) == (2 if refusal == 500 else 1)
    # the batch (an error of the server is tried again), its halves, and so on
    first = 4 if refusal == 500 else 1
    assert len(server.asked) - len(alone) == first + 2 * 3 - 1


@pytest.mark.parametrize("code", [401, 405, None])
def test_a_server_that_is_down_is_not_asked_query_by_query(serve, monkeypatch, code):
    """None: nothing listens."""
    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)
    server = serve(status(code or 503))
    url = server.url if code else "http://127.0.0.1:9/retrieve"
    sizes, post = set(), search.post_json
    monkeypatch.setattr(
        search,
        "post_json",
        lambda url, load, *a, **k: sizes.add(len(load["queries"])) or post(url, load, *a, **k),
    )
    waiting = settled(url, [str(k) for k in range(5)])
    assert len(waiting) == 5 and all(isinstance(f.exception(0), Unavailable) for f in waiting)
    assert sizes == {5}


@pytest.mark.parametrize("trouble", UNCLEAR)
def test_a_server_that_may_be_down_gets_three_requests(serve, trouble):
    """All 64 queries fail, and no request is sent for each of them."""
    server = serve(status(trouble) if isinstance(trouble, int) else trouble)
    waiting = settled(server.url, [str(k) for k in range(64)], PATIENCE)
    assert all(isinstance(f.exception(0), Unavailable) for f in waiting)
    assert [len(payload["queries"]) for payload, _ in server.asked] == [64, 32, 32]


@pytest.mark.parametrize("trouble", UNCLEAR)
@pytest.mark.parametrize("place", [0, 4, 7])
def test_a_query_that_is_barred_fails_alone(serve, monkeypatch, trouble, place):
    """A firewall's 403, a query that takes too long: the other queries are answered."""
    queries = [f"query {k}" for k in range(8)]

    def answer(handler, payload):
        if queries[place] in payload["queries"]:
            return (status(trouble) if isinstance(trouble, int) else trouble)(handler, payload)
        return {"result": [[{"contents": f"about {q}"}] for q in payload["queries"]]}

    server = serve(answer)
    waiting = settled(server.url, queries, PATIENCE)
    failed = [k for k, future in enumerate(waiting) if future.exception(0)]
    assert failed == [place] and isinstance(waiting[place].exception(0), Unavailable)
    assert waiting[place - 1].result(0) == [f"about {queries[place - 1]}"]
    assert len(server.asked) <= 8


@pytest.mark.parametrize(
    "trouble",
    [
        lambda handler, _: handler.connection.close(),
        lambda handler, _: handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n<html>") and None,
        lambda h, _: h.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n{}") and None,
    ],
)
def test_an_answer_that_breaks_off_is_blamed_on_its_query(serve, monkeypatch, trouble):
    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)

    def answer(handler, payload):
        if "bad" in payload["queries"]:
            return trouble(handler, payload)
        return {"result": [[{"contents": f"about {q}"}] for q in payload["queries"]]}

    batches = Batches(Retriever(serve(answer).url, 1, 5.0, 0))
    waiting = [(q, Future()) for q in ("a", "b", "bad", "c")]
    batches.waiting = list(waiting)
    batches._ask()
    assert [f.exception(0) is None for _, f in waiting] == [True, True, False, True]


def test_a_query_alone_survives_a_passing_error(serve, monkeypatch):
    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)
    seen = []

    def answer(handler, payload):
        asked = payload["queries"]
        seen.append(asked)
        if "bad" in asked or (asked == ["good"] and seen.count(asked) == 1):
            return status(500)(handler, payload)
        return {"result": [[{"contents": f"about {q}"}] for q in asked]}

    batches = Batches(Retriever(serve(answer).url, 1, 5.0, 0))
    waiting = [(q, Future()) for q in ("bad", "good")]
    batches.waiting = list(waiting)
    batches._ask()
    assert waiting[1][1].result(0) == ["about good"]


def test_batches_fail_alone_and_never_hang():
    sizes, gate = [], threading.Event()

    def source(queries):
        gate.wait(5)
        sizes.append(len(queries))
        if "bad" in queries:
            raise Unavailable("s", "broken")
        if "boom" in queries:
            raise MemoryError("a bug")
        return [[query] for query in queries]

    batches, results = Batches(source, most=4), {}

    def ask(i, query):
        try:
            results[i] = batches(query)
        except (OSError, MemoryError) as problem:
            results[i] = problem

    threads = []
    for i, query in enumerate(["first", "bad", *"abc", "boom", *"defghij"]):
        threads.append(threading.Thread(target=ask, args=(i, query)))
        threads[-1].start()
        # so that they queue in this order
        time.sleep(0.02)
    gate.set()
    [t.join(5) for t in threads]
    # the batch with "bad" in it, its halves, and the queries of one half
    assert sizes == [1, 4, 2, 2, 1, 1, 4, 4] and len(results) == 13
    assert (
        results[0] == ["first"]
        and "broken" in str(results[1])
        and [results[i] for i in range(2, 5)] == [["a"], ["b"], ["c"]]
        and all(isinstance(results[i], MemoryError) for i in range(5, 9))
    )
    assert [results[i] for i in range(9, 13)] == [["g"], ["h"], ["i"], ["j"]] and batches(
        "after"
    ) == ["after"]
