"""What several tests of the tools use: a corpus, tools, a server and its answers."""

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import tools
from rollout import Call
from support.http import post_json
from support.own_tools import own_tool
from tools import PythonTool, call_tool


@pytest.fixture(scope="module")
def python():
    tool = PythonTool(timeout=2.0, sandbox="best-effort")
    yield tool
    tool.close()


@pytest.fixture
def corpus(tmp_path):
    rows = [
        {"contents": "The capital of Durnex is Belmor."},
        {"contents": "The port of Durnex is Salvik."},
        {"title": "Belmor", "text": "The new height of Belmor is 64."},
        {"text": "Nothing to see."},
    ]
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


@pytest.fixture
def own(tmp_path):
    """The tool that a user's file holds."""
    count = iter(range(100))

    def own(text, name="tool"):
        file = tmp_path / f"own{next(count)}.py"
        file.write_text(text)
        return own_tool(f"{file}:{name}")

    return own


COUNTER = """
import random
class Tool:
    '''Add a number.'''
    made = closed = 0
    def open(self, question):
        Tool.made += 1
        return [0]
    def run(self, argument, state):
        state[0] += int(argument)
        if argument == '13':
            raise ValueError('unlucky')
        return state[0]
    def close(self, state):
        Tool.closed += 1
"""


def call(tool, rollout, argument, length=3):
    """One call, whose result has so many tokens."""
    start = len(rollout.ids) + 1
    rollout.append([7], True, [0.0], [0.0])
    made = Call(tool.name, argument, "", 0.0, start, start)
    rollout.calls.append(made)
    result = call_tool({tool.name: tool}, rollout, made)
    rollout.append([8] * length, False, [0.0] * length, [0.0] * length)
    made.status, made.end = result.status, len(rollout.ids)
    return result.text


def start(code, *args):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=Path(tools.__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Server(ThreadingHTTPServer):
    """A server on loopback. answer(handler, payload) is sent as JSON, None if it has sent."""

    daemon_threads, request_queue_size = True, 128

    def __init__(self, answer):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                payload = json.loads(
                    self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}"
                )
                self.server.asked.append((payload, dict(self.headers)))
                value = answer(self, payload)
                if value is not None:
                    body = json.dumps(value).encode()
                    (
                        self.send_response(200),
                        self.send_header("Content-Length", str(len(body))),
                        self.end_headers(),
                        self.wfile.write(body),
                    )

            do_GET = do_POST

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.url = [], f"http://127.0.0.1:{self.server_address[1]}/retrieve"
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def handle_error(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # the back-off
    monkeypatch.setattr(post_json, "__defaults__", (*post_json.__defaults__[:-1], 0.01))
    servers = []
    yield lambda answer: servers.append(Server(answer)) or servers[-1]
    for server in servers:
        server.shutdown(), server.server_close()


def with_scores(_, payload):
    return {
        "result": [
            [
                {"document": {"id": str(k), "contents": f"Title {k}\n{query}"}, "score": 0.5}
                for k in range(payload["topk"])
            ]
            for query in payload["queries"]
        ]
    }


def without_scores(_, payload):
    return {
        "result": [
            [{"id": str(k), "contents": f"Title {k}\n{query}"} for k in range(payload["topk"] + 2)]
            for query in payload["queries"]
        ]
    }


def status(code):
    return lambda handler, _: (
        handler.send_response(code, "reason with K3Y"),
        handler.end_headers(),
        handler.wfile.write(b'{"result": []}'),
        None,
    )[-1]


def trickle(headers):
    def answer(handler, _):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"" if headers else b"\r\n{"))
        for _ in range(100):
            handler.wfile.write(b"X-A: b\r\n" if headers else b" ")
            time.sleep(0.05)

    return answer


def children_of(pid):
    return subprocess.run(
        ["ps", "-o", "pid=,stat=", "--ppid", str(pid)], capture_output=True, text=True
    ).stdout.split("\n")[:-1]


def alive(pid):
    """Running, not dead and waiting for a lazy init to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
