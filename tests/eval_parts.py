"""What tests of evaluation share: hand-made rollouts, rows and files, a server that judges."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rollout import Call, Rollout
from support.questions import Question
from support.scores import row_of


def answered(boxed, think="<think> t </think>", tools=""):
    return f"{think}{tools}<answer> The answer is \\[ \\boxed{{{boxed}}} \\] </answer>"


def rollout(*pieces, finish="stop", calls=()):
    """pieces: the policy's text and tool results in turn."""
    r = Rollout([1], 0, finish=finish, pieces=[(k % 2 == 0, text) for k, text in enumerate(pieces)])
    r.calls = [Call(name, "", status, 0.0, 0, 0) for name, status in calls]
    return r


SEARCHED = "<search> q </search> <result>\nr\n</result>"
COMPUTED = "<python> 1 </python> <result>\n1\n</result>"


def write(path, *rows):
    path.write_text(
        "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    )
    return str(path)


def settings(agent_folder, world, tmp_path, *data, **changes):
    flags = (
        dict(
            model=agent_folder,
            corpus=world / "corpus.jsonl",
            topk=1,
            max_tokens=128,
            max_calls=4,
            max_result_tokens=48,
            sandbox="best-effort",
            out=tmp_path / "out",
        )
        | changes
    )
    return [
        "--data",
        *map(str, data),
        *[x for name, value in flags.items() for x in (f"--{name}", str(value))],
    ]


def result_of(tmp_path, data):
    return json.loads((tmp_path / "out" / f"eval_{data}_model.json").read_text())


def column(rows, name):
    return [[s[name] for s in row["samples"]] for row in rows]


def made_row(name, *samples, level=None, answers=("5",)):
    """samples: (the policy's answer or None for a broken format, calls)."""
    store = [
        {
            "pieces": [[True, answered(a) if a is not None else "nothing"]],
            "finish": "stop",
            "calls": calls,
            "tokens": 10,
            "length": 20,
        }
        for a, calls in samples
    ]
    return row_of(
        Question(
            name,
            [{"role": "user", "content": f"Q {name}?"}],
            list(answers),
            "math",
            {"level": level},
        ),
        store,
    )


def made_file(path, rows, **more):
    path.write_text(json.dumps({"numbers": {}, "rows": rows} | more))
    return str(path)


class JudgeServer(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint.

    Its model replies reply(prompt) to a chat and the choice reply(request) to a completion; None
    is an HTTP 400.
    """

    def __init__(self, reply):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.server.asked.append((self.path, asked, dict(self.headers)))
                answer = reply(asked["messages"][0]["content"] if "messages" in asked else asked)
                choice = (
                    {"message": {"role": "assistant", "content": answer}}
                    if "messages" in asked
                    else answer
                )
                body = json.dumps({"choices": [choice]}).encode()
                self.send_response(200 if answer is not None else 400)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.url = [], f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()


@pytest.fixture
def judging(monkeypatch):
    """Starts a JudgeServer for a reply function."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(reply):
        servers.append(JudgeServer(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fields(prompt):
    return [
        json.loads(re.search(rf"^{name}: (.*)$", prompt, re.MULTILINE)[1])
        for name in ("QUESTION", "REFERENCE ANSWERS", "STUDENT'S ANSWER")
    ]


def model_folder(tmp_path, weights=b"0" * 100):
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model" / "model.safetensors").write_bytes(weights)
    return tmp_path / "model"


@pytest.fixture(scope="module")
def asked(world):
    return [json.loads(line) for line in open(world / "test.jsonl")][:12]
