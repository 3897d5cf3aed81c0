"""support/http.py: credentials, redirects, deadlines."""

import threading
import time

import pytest
from tool_parts import trickle

from support.http import Unavailable, post_json
from tools import SearchTool


def test_post_json_credentials_and_urls(serve):
    server = serve(lambda *_: {"result": 1})
    assert post_json(server.url.replace("//", "//me:p%40ss@"), {}) == {"result": 1}
    assert server.asked[0][1]["Authorization"] == "Basic bWU6cEBzcw=="
    for url in ("ftp://x/y", "file:///etc/passwd", "http://", "http://a b/", "x"):
        with pytest.raises(ValueError, match="not a URL of the form"):
            post_json(url, {})
    with pytest.raises(ValueError):
        SearchTool("http://[bad/retrieve")
    with pytest.raises(Unavailable) as caught:
        post_json(server.url, {}, {"X-API-KEY": "K3Y\nK3Y"})
    assert "K3Y" not in str(caught.value)


def test_post_json_follows_nobody_with_a_key(serve):
    other = serve(lambda *_: {"stolen": True})

    def send_away(handler, _):
        (
            handler.send_response(302),
            handler.send_header("Location", other.url),
            handler.end_headers(),
        )

    with pytest.raises(Unavailable, match="HTTP 302 Found"):
        post_json(serve(send_away).url, {}, {"X-API-KEY": "K3Y"})
    assert not other.asked


def test_post_json_leaves_no_thread_to_a_server_that_trickles(serve):
    server, before = serve(trickle(False)), threading.enumerate()
    with pytest.raises(Unavailable, match="no answer within 0.1 s"):
        post_json(server.url, {}, timeout=0.1, retries=0)
    time.sleep(0.3)
    assert not [
        thread
        for thread in threading.enumerate()
        if "(work)" in thread.name and thread not in before
    ]
