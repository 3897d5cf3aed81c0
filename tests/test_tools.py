"""tools.py: calls are read right, code runs confined and never hurts the caller, search finds and ranks, tool text is harmless."""

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import tools
from tools import PythonTool, SearchTool, defuse, open_tools, parse_call


@pytest.fixture(scope="module")
def python():
    tool = PythonTool(timeout=2.0, sandbox="best-effort")
    yield tool
    tool.close()


# ---- calls


@pytest.mark.parametrize(
    "text, call",
    [
        ("<search> a b </search>", ("search", "a b")),
        ("<search>a</search> x <python>1+1</python>", ("python", "1+1")),
        ("<python>1</python><search>q</search> tail", ("search", "q")),
        ("<python> <python> 2 </python>", ("python", "2")),
        (
            "<search> x <python>\nfor i in [1]:\n    print(i)\n</python>",
            ("python", "for i in [1]:\n    print(i)"),
        ),
        ("<python>\n    a = 1\n    a\n</python>", ("python", "a = 1\na")),
        ("<python> a = 1\nb = 2</python>", ("python", "a = 1\nb = 2")),
        ("<search></search>", ("search", "")),
        ("<search>a</search> x </python>", ("search", "a")),
        ("<python> x </python> y </python>", ("python", "x")),
        ("<search>never closed", None),
        ("</search>", None),
        ("", None),
        ("<search>a</python>", None),
        ("<result>1</result>", None),
        ("<search>a</search", None),
        ("<answer>1</answer>", None),
    ],
)
def test_parse_call(text, call):
    assert parse_call(text) == call


@pytest.mark.parametrize("tag", tools.TAGS)
def test_defuse_leaves_no_tag(tag):
    for text in (f"<{tag}>", f"</{tag}>", f"</ {tag} >", f"<{tag.upper()}>", f"a</{tag}><{tag}>b"):
        out = defuse(text)
        assert "<" not in out and tag in out.lower()
    assert defuse("1 < 2 and <b>bold</b> a<think") == "1 < 2 and <b>bold</b> a<think"


# ---- python: what it answers


@pytest.mark.parametrize(
    "code, status, text",
    [
        ("print(1+1)", "ok", "2"),
        ("64 * 3", "ok", "192"),
        ("x = 3\nx ** 2", "ok", "9"),
        ("print('a')\n'b'", "ok", "a\nb"),
        ("x = 1", "ok", "(no output)"),
        ("None", "ok", "(no output)"),
        ("import math; math.pi", "ok", "3.141592653589793"),
        ("print('é ‹ 数')", "ok", "é ‹ 数"),
        ("print('\\ud800')", "ok", "\\ud800"),
        ("def f(n):\n    return n and f(n-1)\nf(5)", "ok", "0"),
        ("exit()", "ok", "(no output)"),
        ("print('x'); exit(3)", "error", "x"),
        ("   ", "error", "Error: the python block is empty"),
    ],
)
def test_python_answers(python, code, status, text):
    result = python.run(code)
    assert (result.status, result.text) == (status, text)
    assert 0 <= result.seconds < 2


@pytest.mark.parametrize(
    "code, last",
    [
        ("print('before')\n1/0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("input()", "EOFError: EOF when reading a line"),
        ("raise KeyError('k')", "KeyError: 'k'"),
        ("def f(): return f()\nf()", "RecursionError: maximum recursion depth exceeded"),
        ("'a' * 10**11", "MemoryError"),
        (
            "import nothing_of_the_kind",
            "ModuleNotFoundError: No module named 'nothing_of_the_kind'",
        ),
    ],
)
def test_python_errors_are_short_text(python, code, last):
    result = python.run(code)
    assert result.status == "error" and result.text.split("\n")[-1] == last
    assert str(Path(tools.__file__).parent) not in result.text and len(result.text.split("\n")) < 12
    assert result.text.startswith("before") == ("before" in code)


def test_python_calls_share_nothing(python):
    assert python.run("import builtins; builtins.leak = 1; leaked = 2").status == "ok"
    assert "NameError" in python.run("leaked").text and "NameError" in python.run("leak").text


# ---- python: what it survives


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\nwhile True: pass",
        "import os\nos.close(1); os.close(2)\nimport time; time.sleep(60)",
        "10**10**8",
    ],
)
def test_python_timeout(code):
    tool = PythonTool(0.5, "best-effort")
    # its worker is up: how long that takes depends on the machine
    assert tool.run("1").status == "ok"
    started = time.monotonic()
    result = tool.run("print('kept', flush=True)\n" + code)
    assert (
        result.status == "timeout"
        and "timed out after 0.5 s" in result.text
        and time.monotonic() - started < 1.5
    )
    assert "kept" in result.text
    assert tool.run("1").text == "1"
    tool.close()


def test_python_kills_the_whole_group_without_a_jail(tmp_path):
    flag, tool = tmp_path / "alive", PythonTool(timeout=2.0, sandbox="off")
    code = f"import os, time\nif os.fork() == 0:\n    time.sleep(1.0)\n    open({str(flag)!r}, 'w')\nelse:\n    print('parent')"
    assert tool.run(code).text == "parent"
    time.sleep(1.3)
    assert not flag.exists()
    tool.close()


def test_python_output_is_capped(python):
    result = python.run("while True: print('x' * 1000)")
    assert (
        result.status == "output_limit"
        and len(result.text) < python.output_limit + 200
        and "truncated" in result.text
    )
    result = python.run("print('y' * 10000)")
    assert result.status == "ok" and "truncated, 10001 bytes" in result.text


def test_python_crashes_and_exits(python):
    assert python.run("import os; print('x', flush=True); os._exit(7)").status == "crashed"
    assert python.run("import ctypes; ctypes.string_at(0)").status == "crashed"
    assert python.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").status == "crashed"
    assert python.run("2").text == "2"


def test_python_clean_environment(python, monkeypatch):
    monkeypatch.setenv("SECRET_API_KEY", "hush")
    fresh = PythonTool(sandbox="best-effort")
    result = fresh.run(
        "import os; print(sorted(os.environ)); print(os.environ.get('SECRET_API_KEY'))"
    )
    assert "None" in result.text and "SECRET" not in result.text
    held = "import os\nfor fd in range(3, 64):\n    try: os.fstat(fd); print(fd)\n    except OSError: pass"
    assert python.run(held).text == "9", "no file of the trainer is inherited; 9 is the verdict"
    assert (
        fresh.run(
            "import importlib.util as u; [u.find_spec(name) for name in ('appo', 'branching', 'tools')]"
        ).text
        == "[None, None, None]"
    )
    fresh.close()


def test_python_sets_print_in_the_same_order_in_every_worker():
    texts = set()
    for _ in range(3):
        tool = PythonTool(sandbox="best-effort")
        texts.add(tool.run("set('abcdefgh')").text)
        tool.close()
    assert len(texts) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.stdout = None; 5",
        "import sys\nclass X:\n    def write(self, t): pass\nsys.stdout = X()\n5",
    ],
)
def test_python_code_that_takes_its_output_away(python, code):
    assert python.run(code).status == "ok" and python.run(code).text == "5"


def test_python_cannot_leave_its_session_for_the_workers(python, tmp_path):
    flag = tmp_path / "alive"
    tool = PythonTool(0.4, "off")
    result = tool.run(
        f"import os, time\ntry: os.setpgid(0, os.getppid())\nexcept OSError as e: print('refused')\ntime.sleep(1)\nopen({str(flag)!r}, 'w')"
    )
    assert result.status == "timeout" and "refused" in result.text
    time.sleep(1)
    assert not flag.exists()
    tool.close()


def test_python_stopped_worker_is_replaced(python):
    tool = PythonTool(0.5, "best-effort")
    tool.run("1")
    os.kill(tool.worker.pid, signal.SIGSTOP)
    started = time.monotonic()
    result = tool.run("2")
    assert (result.status, result.text) == ("ok", "2") and time.monotonic() - started < 8, (
        "our delay is not the model's timeout"
    )
    tool.close()


def test_python_without_room_for_files_is_infra(python, monkeypatch):
    monkeypatch.setattr(
        tools,
        "_unnamed_file",
        lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    assert python.run("1").status == "infra"


def test_python_with_many_open_files(python):
    resource = __import__("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        assert python.run("3").text == "3"
    finally:
        [os.close(fd) for fd in held]
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_python_strange_code(python):
    assert python.run("x = 1\0").status == "error"
    assert python.run("#" + "a" * 10_000_000 + "\n5").text == "5"
    assert python.run("'\\x00'").status == "ok"


def test_python_worker_dies_and_comes_back(python):
    assert python.run("1").text == "1"
    python.worker.send_signal(signal.SIGKILL)
    python.worker.wait()
    assert python.run("2").text == "2"


def test_python_from_many_threads(python):
    results = {}
    threads = [
        threading.Thread(
            target=lambda i=i: results.update({i: python.run(f"print({i} * 1001)").text})
        )
        for i in range(40)
    ]
    [t.start() for t in threads], [t.join() for t in threads]
    assert results == {i: str(i * 1001) for i in range(40)}


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


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks into /proc")
def test_python_leaves_no_process_and_no_file_behind():
    tool = PythonTool(0.3, "best-effort")
    tool.run("1")
    files, worker = len(os.listdir("/proc/self/fd")), tool.worker.pid
    for i in range(300):
        tool.run("1" if i % 60 else "while True: pass")
    time.sleep(0.1)
    assert len(os.listdir("/proc/self/fd")) == files
    assert len(children_of(worker)) <= tools.SPARES, "children that wait for a call"
    spares = [int(line.split()[0]) for line in children_of(worker)]
    tool.close()
    time.sleep(0.1)
    assert not [pid for pid in (worker, *spares) if alive(pid)]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks into /proc")
def test_python_output_does_not_fill_the_trainers_memory(python):
    resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    python.run("print('x' * 10**6)")
    before = resident()
    for code in (
        "while True: print('x' * 10**6)",
        "import os\nwhile True: os.write(2, b'y' * 65536)",
        "print('z' * 10**8)",
        "raise ValueError('e' * 10**7)",
    ):
        assert (
            python.run(code).status in ("output_limit", "error") and resident() - before < 10 << 20
        ), code


def test_python_many_timeouts_at_once():
    tool, late = PythonTool(1.0, "best-effort"), []
    tool.run("1")
    threads = [
        threading.Thread(target=lambda: late.append(tool.run("while True: pass")))
        for _ in range(50)
    ]
    [t.start() for t in threads], [t.join() for t in threads]
    assert {r.status for r in late} == {"timeout"} and len(late) == 50
    assert tool.run("1").text == "1"
    tool.close()


def test_python_worker_dies_under_a_call():
    """Killed in mid-call: the call is made again with a new worker, whichever of several calls notices first."""
    tool, results = PythonTool(5.0, "best-effort"), []
    tool.run("1")
    first = tool.worker.pid
    threads = [
        threading.Thread(
            target=lambda i=i: results.append(tool.run(f"import time; time.sleep(0.5); {i}").text)
        )
        for i in range(6)
    ]
    [t.start() for t in threads]
    time.sleep(0.25)
    os.kill(first, signal.SIGKILL)
    [t.join() for t in threads]
    assert sorted(results) == [str(i) for i in range(6)] and tool.worker.pid != first
    tool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal")
def test_python_children_die_with_a_killed_trainer(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(Path(tools.__file__).parent)!r})\nfrom tools import PythonTool\nt = PythonTool(60, 'best-effort'); print(t.worker.pid, flush=True); t.run('while True: pass')"
    trainer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(trainer.stdout.readline())
    time.sleep(1.0)
    children = [int(line.split()[0]) for line in children_of(worker)]
    trainer.kill(), trainer.wait(), trainer.stdout.close()
    time.sleep(0.5)
    assert children and not [pid for pid in (worker, *children) if alive(pid)]


@pytest.mark.parametrize(
    "code, status, text",
    [
        ("import builtins; builtins.print = None\n5", "ok", "5"),
        ("import sys; sys.stdout.close()\n5", "ok", "5"),
        ("import sys; sys.stderr.close()\n1/0", "error", "ZeroDivisionError: division by zero"),
        (
            "import traceback; traceback.format_exception = traceback.TracebackException = None\n1/0",
            "error",
            "ZeroDivisionError: division by zero",
        ),
        ("import os; os.write = None\n5", "ok", "5"),
        ("import sys; sys.exit('enough')", "error", "enough"),
        ("print(' ' * 100000 + 'x')", "ok", "x"),
        (
            "try:\n    1/0\nexcept Exception as e:\n    raise KeyError('k') from e",
            "error",
            "KeyError: 'k'",
        ),
        (
            "import json\njson.loads('{')",
            "error",
            "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
    ],
)
def test_python_keeps_its_word_whatever_the_code_replaces(python, code, status, text):
    result = python.run(code)
    assert (
        result.status == status and result.text.endswith(text) and len(result.text.split("\n")) < 9
    )


def test_python_long_output_keeps_its_beginning_and_its_end(python):
    text = python.run("for i in range(10**5): print(i)\n1/0").text
    assert (
        text.startswith("0\n1\n2\n")
        and text.endswith("ZeroDivisionError: division by zero")
        and "truncated, 589" in text
        and len(text) < python.output_limit + 60
    )
    assert "truncated, 100002 bytes" in python.run("print(' ' * 100000 + 'x')").text
    assert "def" in python.run("def deep(n): return deep(n + 1)\ndeep(0)").text, (
        "the code's own lines are shown"
    )


def test_python_waiting_children_may_die(python):
    python.run("1")
    time.sleep(0.3)
    for line in children_of(python.worker.pid):
        os.kill(int(line.split()[0]), signal.SIGKILL)
    time.sleep(0.1)
    assert [python.run("1").text for _ in range(5)] == ["1"] * 5


def test_python_close_ends_the_calls_under_way():
    tool, results = PythonTool(20.0, "best-effort"), []
    tool.run("1")
    thread = threading.Thread(
        target=lambda: results.append(tool.run("import time; time.sleep(15)"))
    )
    thread.start()
    time.sleep(0.3)
    tool.close()
    thread.join(5)
    assert [r.status for r in results] == ["infra"] and tool.worker is None


def test_python_interrupted_calls_leave_nothing_behind(monkeypatch):
    """Ctrl-C while a call is watched: its process is dead, and the next call gets its own answer."""
    tool = PythonTool(20.0, "best-effort")
    tool.run("1")
    monkeypatch.setattr(tools, "_threads", lambda pid: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tool.run("while True: pass")
    monkeypatch.undo()
    assert tool.run("2").text == "2"
    time.sleep(0.2)
    assert len(children_of(tool.worker.pid)) <= tools.SPARES
    tool.close()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks into /proc")
def test_python_without_file_handles_is_infra_and_leaks_none(python):
    resource = __import__("resource")
    python.run("1")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = sorted(os.listdir("/proc/self/fd"))
    try:
        for spare in range(6):
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) - 1 + spare, hard))
            python.run("1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) <= len(before) and python.run("1").text == "1"


def test_python_random_numbers_are_the_same_in_every_worker():
    pytest.importorskip("sympy")
    code = "import random, numpy, sympy, sympy.core.random as r\nprint(random.random(), numpy.random.rand(), r.rng.random())"
    texts = set()
    for _ in range(2):
        tool = PythonTool(5.0, "best-effort")
        texts |= {tool.run(code).text for _ in range(2)}
        tool.close()
    assert len(texts) == 1


def test_python_memory_limit():
    tool = PythonTool(5.0, "best-effort", memory_mb=600)
    assert (
        "MemoryError" in tool.run("x = bytearray(10**9)").text
        and tool.run("len(bytearray(10**6))").text == "1000000"
    )
    tool.close()
    for settings, name in (
        (dict(memory_mb=-1), "memory_mb"),
        (dict(output_limit=-5), "output_limit"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be between"):
            PythonTool(**settings)


def test_python_settings():
    with pytest.raises(ValueError, match="timeout must be between 0.001 and 3600, got 0"):
        PythonTool(timeout=0)
    with pytest.raises(ValueError, match="between 0.001 and 3600"):
        PythonTool(timeout=float("inf"))


# ---- search


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
    assert SearchTool(str(corpus)).index == index and index.stat().st_mtime_ns == made
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
    assert not list(tmp_path.glob("*.fts5*")), "nothing half-made stays behind"
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
    monkeypatch.setattr(tools.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(tools.os, "access", lambda path, mode: False)
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
    monkeypatch.setattr(tools, "POSTINGS", 64)
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
    monkeypatch.setattr(tools, "POSTINGS", 10)
    assert tool.run("of the").text == "Page 1: the of plain w0\nPage 2: the of plain w1", (
        "even if that word is above every budget"
    )
    monkeypatch.setattr(tools, "POSTINGS", 20_000)
    assert tool.run("the rare of").text == "Page 1: the of rare w700\nPage 2: the of plain w0", (
        "below the budget every word counts"
    )


BUILD = "import sys, tools\ntools.BATCH = 50\ntool = tools.SearchTool(sys.argv[1])\n"


def start(code, *args):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=Path(tools.__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
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


@pytest.mark.parametrize("killed_at", [1, 49, 130, 305, 600, "the end"])
def test_search_killed_build_goes_on(tmp_path, killed_at):
    once, again = write_folder(tmp_path / "once"), write_folder(tmp_path / "again")
    kill = f"import os, signal, tools\nsplit, n = tools.split_words, 0\ndef words(text):\n    global n\n    n += 1\n    n == {killed_at!r} and os.kill(os.getpid(), signal.SIGKILL)\n    return split(text)\ntools.split_words = words\ntools.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    child = start(kill + BUILD, again)
    assert child.wait() == -signal.SIGKILL, child.stderr.read()
    assert (tmp_path / "again.fts5.part").exists() and not (tmp_path / "again.fts5").exists()
    count = start(
        "import tools\nsplit, n = tools.split_words, 0\ndef words(text):\n    global n\n    n += 1\n    return split(text)\ntools.split_words = words\n"
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
        sqlite3.connect(tool.index)
        .execute(
            "SELECT (SELECT count(*) FROM pages), (SELECT count(*) FROM words), (SELECT count(DISTINCT text) FROM pages)"
        )
        .fetchone()
        for tool in (one, two)
    ]
    assert rows == [(601, 601, 601)] * 2
    assert sorted(p.name for p in tmp_path.glob("again*")) == ["again", "again.fts5"]


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
        f"import time, tools\nfill = tools._fill\ndef slow(*a):\n    open({str(log)!r}, 'a').write('built\\n')\n    time.sleep(0.5)\n    fill(*a)\ntools._fill = slow\n"
        + BUILD
        + "print(tool.run('number7').text)"
    )
    children = [start(code, folder) for _ in range(4)]
    texts = [child.communicate() for child in children]
    assert [out for out, _ in texts] == ["w0 x7 数据 number7\n"] * 4, texts
    assert log.read_text() == "built\n" and sorted(p.name for p in tmp_path.iterdir()) == [
        "docs",
        "docs.fts5",
        "log",
    ]


def test_search_tells_how_a_build_goes(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path / "docs")
    SearchTool(str(folder))
    assert capsys.readouterr().err == "", "quick builds are silent"
    monkeypatch.setattr(tools, "PROGRESS", (0.0, 0.0))
    (folder / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    SearchTool(str(folder))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("search index of docs: 0%, 1 documents, ") and lines[-1].startswith(
        "search index of docs: 100%, 303 documents, "
    )
    monkeypatch.setattr(tools.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(tools, "PROGRESS", (0.0, 10.0))
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
    assert (tmp_path / "docs.fts5.part").exists() and not (tmp_path / "docs.fts5.lock").exists()
    assert SearchTool(str(folder), topk=1).run("number5999").text.endswith("number5999")


# ---- search: servers


class Server(ThreadingHTTPServer):
    """A server on loopback: answer(handler, payload) returns what is sent as JSON, or None if it has seen to that itself."""

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
    monkeypatch.setattr(tools.post_json, "__defaults__", (*tools.post_json.__defaults__[:-1], 0.01))
    servers = []
    yield lambda answer: servers.append(Server(answer)) or servers[-1]
    for server in servers:
        server.shutdown(), server.server_close()


def run_code(_, payload):
    """What SandboxFusion answers, by running the program it was sent."""
    assert payload["language"] == "python"
    try:
        done = subprocess.run(
            [sys.executable, "-c", payload["code"]],
            capture_output=True,
            text=True,
            timeout=payload["run_timeout"],
        )
    except subprocess.TimeoutExpired as late:
        return {
            "status": "Failed",
            "message": "",
            "run_result": {
                "status": "TimeLimitExceeded",
                "stdout": (late.stdout or b"").decode(),
                "stderr": "",
                "return_code": None,
            },
        }
    return {
        "status": "Failed" if done.returncode else "Success",
        "run_result": {
            "status": "Finished",
            "return_code": done.returncode,
            "stdout": done.stdout,
            "stderr": done.stderr,
        },
    }


@pytest.mark.parametrize(
    "code",
    [
        "print(1+1)",
        "64 * 3",
        "x = 1",
        "print('before')\n1/0",
        "def f(:",
        "exit(3)",
        'print(\'é """ \\\\ 数\')',
        "'a' * 9000",
    ],
)
def test_sandbox_fusion_answers_as_the_jail_does(serve, python, code):
    remote, here = (
        PythonTool(2.0, serve(run_code).url.replace("/retrieve", "")).run(code),
        python.run(code),
    )
    assert (remote.status, remote.text) == (here.status, here.text)


def test_sandbox_fusion_troubles(serve):
    tool = lambda answer: PythonTool(0.5, serve(answer).url.replace("/retrieve", "/run_code"))
    late = tool(run_code).run("print('kept')\nwhile True: pass")
    assert late.status == "timeout" and late.text == "kept\nError: timed out after 0.5 s"
    sick = serve(lambda *_: {"status": "SandboxError", "run_result": None})
    assert PythonTool(0.5, sick.url).run("1").status == "infra" and len(sick.asked) == 2, (
        "the server's own trouble: asked once more"
    )
    assert (
        tool(lambda *_: {"oops": 1}).run("1").status == "infra"
        and tool(lambda *_: [1]).run("1").status == "infra"
    )
    secret = PythonTool(0.5, "http://user:hush@127.0.0.1:9/")
    with pytest.raises(ValueError, match="python does not answer") as problem:
        secret.probe()
    assert "hush" not in str(problem.value) + secret.level + secret.run("1").text


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


def test_retrieve_nothing_found_and_strange_text(serve):
    assert SearchTool(serve(lambda *_: {"result": [[]]}).url).run("q").text == "No results"
    server = serve(
        lambda *_: {"result": [[{"contents": "lone \ud800 surrogate"}, {"contents": " "}]]}
    )
    result = SearchTool(server.url).run("\ud800 q \0" + "x" * 5000)
    assert (result.status, result.text) == ("ok", "lone ? surrogate") and len(
        server.asked[0][0]["queries"][0]
    ) == 2000


@pytest.mark.parametrize(
    "answer, cause, posts",
    [
        (lambda *_: {"result": [[], []]}, "the answer is not", 1),
        (lambda *_: {"result": []}, "the answer is not", 1),
        (lambda *_: {"error": "x"}, "the answer is not", 1),
        (lambda *_: [1], "the answer is not", 1),
        (lambda *_: {"result": [["text"]]}, "the answer is not", 1),
        (lambda *_: {"result": [[{"contents": 5}]]}, "the answer is not", 1),
        (lambda *_: {"result": [None]}, "the answer is not", 1),
        (
            lambda h, _: h.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n<html>") and None,
            "the answer is not JSON",
            1,
        ),
        (
            lambda h, _: h.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 100_000) and None,
            "not JSON",
            1,
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
        and time.monotonic() - started < 2.0
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


def test_post_json_credentials_and_urls(serve):
    server = serve(lambda *_: {"result": 1})
    assert tools.post_json(server.url.replace("//", "//me:p%40ss@"), {}) == {"result": 1}
    assert server.asked[0][1]["Authorization"] == "Basic bWU6cEBzcw=="
    for url in ("ftp://x/y", "file:///etc/passwd", "http://", "http://a b/", "x"):
        with pytest.raises(ValueError, match="not a URL of the form"):
            tools.post_json(url, {})
    with pytest.raises(ValueError):
        SearchTool("http://[bad/retrieve")
    with pytest.raises(tools.Unavailable) as caught:
        tools.post_json(server.url, {}, {"X-API-KEY": "K3Y\nK3Y"})
    assert "K3Y" not in str(caught.value)


def test_post_json_follows_nobody_with_a_key(serve):
    other = serve(lambda *_: {"stolen": True})

    def send_away(handler, _):
        (
            handler.send_response(302),
            handler.send_header("Location", other.url),
            handler.end_headers(),
        )

    with pytest.raises(tools.Unavailable, match="HTTP 302 Found"):
        tools.post_json(serve(send_away).url, {}, {"X-API-KEY": "K3Y"})
    assert not other.asked


def test_post_json_leaves_no_thread_to_a_server_that_trickles(serve):
    server, before = serve(trickle(False)), threading.enumerate()
    with pytest.raises(tools.Unavailable, match="no answer within 0.1 s"):
        tools.post_json(server.url, {}, timeout=0.1, retries=0)
    time.sleep(0.3)
    assert not [
        thread
        for thread in threading.enumerate()
        if "(work)" in thread.name and thread not in before
    ]


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


def test_batches_fail_alone_and_never_hang():
    sizes, gate = [], threading.Event()

    def source(queries):
        gate.wait(5)
        sizes.append(len(queries))
        if "bad" in queries:
            raise tools.Unavailable("s", "broken")
        if "boom" in queries:
            raise MemoryError("a bug")
        return [[query] for query in queries]

    batches, results = tools.Batches(source, most=4), {}

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
    assert sizes == [1, 4, 4, 4] and len(results) == 13
    assert (
        results[0] == ["first"]
        and all("broken" in str(results[i]) for i in range(1, 5))
        and all(isinstance(results[i], MemoryError) for i in range(5, 9))
    )
    assert [results[i] for i in range(9, 13)] == [["g"], ["h"], ["i"], ["j"]] and batches(
        "after"
    ) == ["after"]


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
    for query, cause in (("denied", "HTTP 403 Forbidden"), ("odd", "the answer is not")):
        result = tool.run(query)
        assert (
            result.status == "infra"
            and cause in result.text
            and "K3Y" not in result.text + tool.problem + repr(result)
        )
    assert "K3Y" not in tool.probe()


# ---- search: cache


def test_cache_answers_when_the_server_is_gone(serve, tmp_path):
    server, cache = serve(with_scores), str(tmp_path / "searches.sqlite")
    tool = SearchTool(server.url, topk=2, cache=cache)
    first, line = tool.run("q one").text, tool.probe()
    assert (
        tool.run('  "q  one" ').text == first
        and len(server.asked) == 2
        and (tool.hits, tool.misses) == (1, 2)
    )
    tool.close()
    server.shutdown(), server.server_close()
    assert os.listdir(tmp_path) == ["searches.sqlite"], "one file, closed"
    warm = SearchTool(server.url, topk=2, cache=cache, retries=0)
    assert (
        warm.run("q one").text == first
        and warm.probe().split(" (")[0] == line.split(" (")[0]
        and (warm.hits, warm.misses) == (2, 0)
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
    assert again.run("port").text == "The port of Durnex is Salvik." and again.hits == 1
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
    assert seed.read_bytes() == before and (tool.hits, tool.misses) == (2, 1)


def test_cache_shared_by_processes(serve, tmp_path):
    server, cache = serve(with_scores), tmp_path / "c.sqlite"
    code = "import sys, tools\ntool = tools.SearchTool(sys.argv[1], cache=sys.argv[2])\nprint([tool.run(f'q{i} {sys.argv[3] if i % 2 else 0}').status for i in range(60)].count('ok'), tool.cache.failed)\ntool.close()"
    children = [start(code, server.url, cache, rank) for rank in range(3)]
    texts = [child.communicate() for child in children]
    assert [out for out, _ in texts] == ["60 False\n"] * 3, texts
    assert sqlite3.connect(cache).execute("SELECT count(*) FROM searches").fetchone() == (
        30 + 3 * 30,
    )


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
    monkeypatch.setattr(tools.os, "access", lambda path, mode: Path(path) not in (cache, tmp_path))
    tool = SearchTool(str(corpus), topk=1, cache=str(cache))
    assert tool.run("port").text == "The port of Durnex is Salvik." and tool.hits == 1, (
        "read-only, read as it is"
    )
    assert (
        tool.run("capital").status == "ok"
        and tool.run("height").status == "ok"
        and tool.misses == 2
    )
    assert (
        capsys.readouterr().err.count("cannot be written") == 1
        and os.listdir(tmp_path).count("c.sqlite-wal") == 0
    )


# ---- both


def test_open_tools(corpus):
    assert set(open_tools("python, search", str(corpus), 1, 1.0, "off")) == {"python", "search"}
    with pytest.raises(ValueError, match="unknown tool 'browser'"):
        open_tools("python,browser", "", 1, 1.0, "off")
    opened = open_tools(
        "search", str(corpus), 1, 1.0, "off", cache=str(corpus.with_name("c.sqlite"))
    )
    assert (
        opened["search"].run("port").status == "ok"
        and opened["search"].run("port").status == "ok"
        and opened["search"].hits == 1
    )
    with pytest.raises(
        ValueError, match="needs --corpus: .*jsonl, .json or folder.*/retrieve, or serper"
    ):
        open_tools("search", "", 1, 1.0, "off")


def test_by_hand(corpus):
    run = lambda *args: subprocess.run(
        [sys.executable, tools.__file__, *args], capture_output=True, text=True
    )
    done = run("python", "print(1+1)")
    assert done.stdout == "2\n" and "ok" in done.stderr
    assert (
        run("search", "capital Durnex", "--source", str(corpus), "--topk", "1").stdout
        == "The capital of Durnex is Belmor.\n"
    )
    assert run("search", "x").returncode == 2
    done = run("search", " ", "--source", str(corpus), "--cache", str(corpus.with_name("c.sqlite")))
    assert (
        done.returncode == 1
        and "[error, " in done.stderr
        and corpus.name in done.stderr
        and corpus.with_name("c.sqlite").exists()
    )
