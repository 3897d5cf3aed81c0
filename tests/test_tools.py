"""tools.py: calls are read right, code runs confined and never hurts the caller, search finds and ranks, tool text is harmless."""
import json
import os
import signal
import subprocess
import sys
import threading
import time
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

@pytest.mark.parametrize("text, call", [
    ("<search> a b </search>", ("search", "a b")),
    ("<search>a</search> x <python>1+1</python>", ("python", "1+1")),
    ("<python>1</python><search>q</search> tail", ("search", "q")),
    ("<python> <python> 2 </python>", ("python", "2")),
    ("<search> x <python>\nfor i in [1]:\n    print(i)\n</python>", ("python", "for i in [1]:\n    print(i)")),
    ("<python>\n    a = 1\n    a\n</python>", ("python", "a = 1\na")),
    ("<python> a = 1\nb = 2</python>", ("python", "a = 1\nb = 2")),
    ("<search></search>", ("search", "")), ("<search>a</search> x </python>", ("search", "a")), ("<python> x </python> y </python>", ("python", "x")),
    ("<search>never closed", None), ("</search>", None), ("", None), ("<search>a</python>", None), ("<result>1</result>", None),
    ("<search>a</search", None), ("<answer>1</answer>", None)])
def test_parse_call(text, call):
    assert parse_call(text) == call


@pytest.mark.parametrize("tag", tools.TAGS)
def test_defuse_leaves_no_tag(tag):
    for text in (f"<{tag}>", f"</{tag}>", f"</ {tag} >", f"<{tag.upper()}>", f"a</{tag}><{tag}>b"):
        out = defuse(text)
        assert "<" not in out and tag in out.lower()
    assert defuse("1 < 2 and <b>bold</b> a<think") == "1 < 2 and <b>bold</b> a<think"


# ---- python: what it answers

@pytest.mark.parametrize("code, status, text", [
    ("print(1+1)", "ok", "2"), ("64 * 3", "ok", "192"), ("x = 3\nx ** 2", "ok", "9"), ("print('a')\n'b'", "ok", "a\nb"), ("x = 1", "ok", "(no output)"), ("None", "ok", "(no output)"),
    ("import math; math.pi", "ok", "3.141592653589793"), ("print('é ‹ 数')", "ok", "é ‹ 数"), ("print('\\ud800')", "ok", "\\ud800"), ("def f(n):\n    return n and f(n-1)\nf(5)", "ok", "0"),
    ("exit()", "ok", "(no output)"), ("print('x'); exit(3)", "error", "x"), ("   ", "error", "Error: the python block is empty")])
def test_python_answers(python, code, status, text):
    result = python.run(code)
    assert (result.status, result.text) == (status, text)
    assert 0 <= result.seconds < 2


@pytest.mark.parametrize("code, last", [("print('before')\n1/0", "ZeroDivisionError: division by zero"), ("def f(:", "SyntaxError: invalid syntax"), ("input()", "EOFError: EOF when reading a line"), ("raise KeyError('k')", "KeyError: 'k'"),
                                        ("def f(): return f()\nf()", "RecursionError: maximum recursion depth exceeded"), ("'a' * 10**11", "MemoryError"), ("import nothing_of_the_kind", "ModuleNotFoundError: No module named 'nothing_of_the_kind'")])
def test_python_errors_are_short_text(python, code, last):
    result = python.run(code)
    assert result.status == "error" and result.text.split("\n")[-1] == last
    assert str(Path(tools.__file__).parent) not in result.text and len(result.text.split("\n")) < 12
    assert result.text.startswith("before") == ("before" in code)


def test_python_calls_share_nothing(python):
    assert python.run("import builtins; builtins.leak = 1; leaked = 2").status == "ok"
    assert "NameError" in python.run("leaked").text and "NameError" in python.run("leak").text


# ---- python: what it survives

@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(60)", "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\nwhile True: pass",
                                  "import os\nos.close(1); os.close(2)\nimport time; time.sleep(60)", "10**10**8"])
def test_python_timeout(code):
    tool = PythonTool(0.5, "best-effort")
    started = time.monotonic()
    result = tool.run("print('kept', flush=True)\n" + code)
    assert result.status == "timeout" and "timed out after 0.5 s" in result.text and time.monotonic() - started < 1.5
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
    assert result.status == "output_limit" and len(result.text) < python.output_limit + 200 and "truncated" in result.text
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
    result = fresh.run("import os; print(sorted(os.environ)); print(os.environ.get('SECRET_API_KEY'))")
    assert "None" in result.text and "SECRET" not in result.text
    held = "import os\nfor fd in range(3, 64):\n    try: os.fstat(fd); print(fd)\n    except OSError: pass"
    assert python.run(held).text == "9", "no file of the trainer is inherited; 9 is the verdict"
    assert fresh.run("import importlib.util as u; [u.find_spec(name) for name in ('appo', 'branching', 'tools')]").text == "[None, None, None]"
    fresh.close()


def test_python_sets_print_in_the_same_order_in_every_worker():
    texts = set()
    for _ in range(3):
        tool = PythonTool(sandbox="best-effort")
        texts.add(tool.run("set('abcdefgh')").text)
        tool.close()
    assert len(texts) == 1


@pytest.mark.parametrize("code", ["import sys; sys.stdout = None; 5", "import sys\nclass X:\n    def write(self, t): pass\nsys.stdout = X()\n5"])
def test_python_code_that_takes_its_output_away(python, code):
    assert python.run(code).status == "ok" and python.run(code).text == "5"


def test_python_cannot_leave_its_session_for_the_workers(python, tmp_path):
    flag = tmp_path / "alive"
    tool = PythonTool(0.4, "off")
    result = tool.run(f"import os, time\ntry: os.setpgid(0, os.getppid())\nexcept OSError as e: print('refused')\ntime.sleep(1)\nopen({str(flag)!r}, 'w')")
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
    assert (result.status, result.text) == ("ok", "2") and time.monotonic() - started < 8, "our delay is not the model's timeout"
    tool.close()


def test_python_without_room_for_files_is_infra(python, monkeypatch):
    monkeypatch.setattr(tools, "_unnamed_file", lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")))
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
    threads = [threading.Thread(target=lambda i=i: results.update({i: python.run(f"print({i} * 1001)").text})) for i in range(40)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert results == {i: str(i * 1001) for i in range(40)}


def children_of(pid):
    return subprocess.run(["ps", "-o", "pid=,stat=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split("\n")[:-1]


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
    for code in ("while True: print('x' * 10**6)", "import os\nwhile True: os.write(2, b'y' * 65536)", "print('z' * 10**8)", "raise ValueError('e' * 10**7)"):
        assert python.run(code).status in ("output_limit", "error") and resident() - before < 10 << 20, code


def test_python_many_timeouts_at_once():
    tool, late = PythonTool(1.0, "best-effort"), []
    tool.run("1")
    threads = [threading.Thread(target=lambda: late.append(tool.run("while True: pass"))) for _ in range(50)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert {r.status for r in late} == {"timeout"} and len(late) == 50
    assert tool.run("1").text == "1"
    tool.close()


def test_python_worker_dies_under_a_call():
    """Killed in mid-call: the call is made again with a new worker, whichever of several calls notices first."""
    tool, results = PythonTool(5.0, "best-effort"), []
    tool.run("1")
    first = tool.worker.pid
    threads = [threading.Thread(target=lambda i=i: results.append(tool.run(f"import time; time.sleep(0.5); {i}").text)) for i in range(6)]
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


def test_python_settings():
    with pytest.raises(ValueError, match="timeout must be > 0"):
        PythonTool(timeout=0)
    with pytest.raises(ValueError, match="at most 3600"):
        PythonTool(timeout=float("inf"))


# ---- search

@pytest.fixture
def corpus(tmp_path):
    rows = [{"contents": "The capital of Durnex is Belmor."}, {"contents": "The port of Durnex is Salvik."}, {"title": "Belmor", "text": "The new height of Belmor is 64."}, {"text": "Nothing to see."}]
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def test_search_all_words_first_then_some(corpus):
    one, three = SearchTool(str(corpus), topk=1), SearchTool(str(corpus), topk=3)
    assert one.run("capital of Durnex").text == "The capital of Durnex is Belmor."
    assert one.run("height of Belmor").text == "Belmor\nThe new height of Belmor is 64."
    pages = three.run("capital of Durnex").text.split("\nPage ")
    assert pages[0] == "Page 1: The capital of Durnex is Belmor." and len(pages) == 3 and "port" in three.run("capital of Durnex").text
    assert one.run("zzz qqq").text == "No results" and one.run("zzz qqq").status == "ok"


@pytest.mark.parametrize("query", ['"', "a AND (b OR", "NEAR(x", "-x", "col:val", "*", "'; DROP TABLE docs; --", "\0", "x" * 100_000, "数 é", "Durnex " * 500])
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
    cache.write_text(json.dumps({"q": "Page 1: alpha beta\nsecond line\nPage 2: gamma delta", "r": ""}))
    assert SearchTool(str(cache), topk=1).run("gamma").text == "gamma delta"
    assert SearchTool(str(cache), topk=1).run("alpha").text == "alpha beta\nsecond line"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("omega text")
    (folder / "b.jsonl").write_text('{"text": "sigma row"}\n')
    assert SearchTool(str(folder), topk=1).run("omega").text == "omega text" and SearchTool(str(folder), topk=1).run("sigma").text == "sigma row"


def test_search_bad_corpora(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        SearchTool(str(tmp_path / "no.jsonl"))
    bad = tmp_path / "bad.jsonl"
    for content in ('{"contents": "fine"}\n{"title": "no text"}\n', '{"contents": "fine"}\nnot json\n', '{"contents": "fine"}\n{"contents": 42}\n', '{"contents": "fine"}\n[1, 2]\n', '{"text": "fine"}\n"abc"\n'):
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
    with pytest.raises(ValueError, match="topk must be >= 1"):
        SearchTool(str(bad), topk=0)


def test_search_strange_places_and_bytes(tmp_path):
    folder = tmp_path / "my#dir %20?x"
    folder.mkdir()
    (folder / "c.jsonl").write_bytes(b'{"contents": "alpha \xff beta"}\n{"contents": "lone \\ud800 surrogate"}\n')
    tool = SearchTool(str(folder / "c.jsonl"), topk=1)
    assert "alpha" in tool.run("alpha").text and "surrogate" in tool.run("surrogate").text


def test_search_read_only_corpora_of_one_name(tmp_path, monkeypatch):
    monkeypatch.setattr(tools.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(tools.os, "access", lambda path, mode: False)
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "corpus.jsonl").write_text(json.dumps({"contents": f"from {name}"}) + "\n")
        made.append(SearchTool(str(tmp_path / name / "corpus.jsonl"), topk=1))
    assert [t.run("from").text for t in made] == ["from a", "from b"]


def test_search_from_many_threads(corpus):
    tool, results = SearchTool(str(corpus), topk=1), []
    threads = [threading.Thread(target=lambda: results.append(tool.run("port of Durnex").text)) for _ in range(20)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert results == ["The port of Durnex is Salvik."] * 20


# ---- both

def test_open_tools(corpus):
    assert set(open_tools("python, search", str(corpus), 1, 1.0, "off")) == {"python", "search"}
    with pytest.raises(ValueError, match="unknown tool 'browser'"):
        open_tools("python,browser", "", 1, 1.0, "off")
    with pytest.raises(ValueError, match="needs --corpus"):
        open_tools("search", "", 1, 1.0, "off")


def test_by_hand(corpus):
    run = lambda *args: subprocess.run([sys.executable, tools.__file__, *args], capture_output=True, text=True)
    done = run("python", "print(1+1)")
    assert done.stdout == "2\n" and "ok" in done.stderr
    assert run("search", "capital Durnex", "--source", str(corpus), "--topk", "1").stdout == "The capital of Durnex is Belmor.\n"
    assert run("search", "x").returncode == 2
