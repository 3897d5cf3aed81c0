"""support/own_tools.py: functions and classes as tools, and states that branches share."""

import random
import sys
import threading
from pathlib import Path

import pytest
from tool_parts import COUNTER, call

from rollout import Family, Rollout, close_all
from support.own_tools import arguments_of, own_tool
from support.questions import Question
from support.tool_result import ToolResult

EXAMPLES = Path(__file__).parent.parent / "examples" / "own_tool.py"


# ---- functions


def test_a_function_of_one_text(own):
    tool = own('def tool(text: str) -> str:\n    """Repeat."""\n    return text * 2\n')
    assert (tool.name, tool.usage, tool.summary) == ("tool", "text", "Repeat.")
    result = tool.run('{"text": 1}')
    assert (result.status, result.text) == ("ok", '{"text": 1}{"text": 1}')


@pytest.mark.parametrize(
    "written, given",
    [
        ('{"a": 1, "b": "x"}', dict(a=1, b="x")),
        ('{"a": "1", "b": "x"}', dict(a=1, b="x")),
        ({"a": 1, "b": "x", "c": 2.5}, dict(a=1, b="x", c=2.5)),
        ('{"a": 1, "b": "x", "c": 2}', dict(a=1, b="x", c=2)),
    ],
)
def test_arguments(written, given):
    def f(a: int, b: str, c: float = 0.5): ...

    assert arguments_of(f, written) == given


@pytest.mark.parametrize(
    "written, said",
    [
        ("just text", r"must be a JSON object such as \{\"a\": 1, \"b\": \"...\"\}"),
        ("[1]", "must be a JSON object"),
        ('{"a": 1}', "the argument 'b' is missing; known are a, b"),
        ('{"a": 1, "b": "x", "d": 2}', "there is no argument 'd'; known are a, b"),
        ('{"a": "one", "b": "x"}', "a must be of type int, got 'one'"),
        ('{"a": true, "b": "x"}', "a must be of type int, got True"),
        ('{"a": 1, "b": 2}', "b must be of type str, got 2"),
        ("{" * 100_000, "must be a JSON object"),
    ],
)
def test_arguments_that_do_not_fit(written, said):
    def f(a: int, b: str): ...

    with pytest.raises(ValueError, match=said):
        arguments_of(f, written)


def test_the_only_parameter_without_a_default():
    def one(n: int): ...

    def some(query: str, top: int = 3): ...

    assert arguments_of(one, "41") == {"n": 41}
    assert arguments_of(some, "a query") == {"query": "a query"}
    assert arguments_of(some, '{"query": "q", "top": 5}') == {"query": "q", "top": 5}
    with pytest.raises(ValueError, match="n must be of type int, got 'x'"):
        arguments_of(one, "x")


@pytest.mark.parametrize(
    "body, status, text",
    [
        ("return [1, 'ä']", "ok", '[1, "ä"]'),
        ("return None", "ok", "null"),
        ("return {1, 2}.__class__", "ok", "<class 'set'>"),
        ("raise KeyError('no such row')", "error", "Error: KeyError: 'no such row'"),
        ("raise ValueError", "error", "Error: ValueError"),
        (
            "return int(text)",
            "error",
            "Error: ValueError: invalid literal for int() with base 10: 'x'",
        ),
    ],
)
def test_what_a_call_gives(own, body, status, text):
    tool = own(f'def tool(text: str):\n    """A tool."""\n    {body}\n')
    result = tool.run("x")
    assert (result.status, result.text) == (status, text) and result.seconds >= 0


def test_a_tool_may_give_a_result_itself(own):
    tool = own(
        "from support.tool_result import ToolResult\n"
        'def tool(text: str):\n    """A tool."""\n    return ToolResult("timeout", "late", 1.0)\n'
    )
    assert tool.run("x") == ToolResult("timeout", "late", 1.0)


@pytest.mark.parametrize(
    "text, said",
    [
        ("def tool(text: str): pass", "needs a docstring"),
        ('def tool(text):\n    "A tool."', "text needs a type hint, such as text: str"),
        ("def tool(text: 'Nothing'):\n    'A tool.'", "a type hint of tool is unknown"),
        ('async def tool(text: str):\n    "A tool."', "neither a function nor a class"),
        ("tool = 3", "neither a function nor a class"),
        ('class tool:\n    "A tool."\n    def run(self): pass', r"must have run\(argument\)"),
        (
            'class tool:\n    "A tool."\n    def open(self, q): pass\n    def run(self, a): pass',
            r"must have run\(argument, state\), since it has open",
        ),
        ("def tool(*all: str):\n    'A tool.'", r"takes \* or \*\*: name each parameter"),
        (
            'class tool:\n    "A tool."\n    def __init__(self): 1 / 0',
            "cannot be made: ZeroDivision",
        ),
        (
            'class tool:\n    "A."\n    name = "answer"\n    def run(self, a): pass',
            "called 'answer'",
        ),
        ('class tool:\n    "A."\n    name = "a b"\n    def run(self, a): pass', "called 'a b'"),
    ],
)
def test_what_is_no_tool(own, text, said):
    with pytest.raises(ValueError, match=f"--tools .*{said}"):
        own(text + "\n")


OPTIONAL = (
    "from typing import Optional\n"
    "def tool(n: int | None = None, m: Optional[float] = None, s: str | int = 0):\n"
    '    """A tool."""\n    return repr((n, m, s))\n'
)


@pytest.mark.parametrize(
    "written, text",
    [
        ('{"n": 3}', "(3, None, 0)"),
        ('{"n": "3", "m": 2}', "(3, 2, 0)"),
        ('{"n": null, "s": "4"}', "(None, None, '4')"),
        ('{"n": "x"}', "n must be of type int | None, got 'x'"),
        ('{"n": 1.5}', "n must be of type int | None, got 1.5"),
        ('{"m": true}', "m must be of type"),
    ],
)
def test_types_with_alternatives(own, written, text):
    result = own(OPTIONAL).run(written)
    assert text in result.text and (result.status == "ok") == text.startswith("(")


@pytest.mark.parametrize(
    "body, said",
    [
        (
            "    fork = 'reply'\n",
            'fork must be a function of one argument, the state, or the text "r',
        ),
        ("    def open(self): return 1\n", "open must be a function of one argument, the question"),
        ("    def close(self): pass\n", "close must be a function of one argument, the state"),
    ],
)
def test_parts_of_a_state_are_checked_at_the_start(own, body, said):
    opens = "" if "open" in body else "    def open(self, question): return 1\n"
    text = 'class tool:\n    """A tool."""\n    def run(self, argument, state): return 1\n'
    with pytest.raises(ValueError, match=said):
        own(text + opens + body)


def test_what_a_prompt_says_of_arguments(own):
    tool = own(
        "from typing import Literal\n"
        "def tool(value: float, unit: Literal['km', 'mile'] = 'km') -> float:\n"
        '    """Convert.\n\n    Args:\n        value: how much\n        unit: of it\n    """\n'
        "    return value\n"
    )
    assert tool.usage == '{"value": 1.5, "unit": "km"} (value: how much; unit: of it)'
    assert tool.run('{"value": "3", "unit": "mile"}').text == "3"
    assert "unit must be of type" in tool.run('{"value": 3, "unit": "inch"}').text


def test_a_tool_that_exits_ends_a_call_only(own):
    tool = own('import sys\ndef tool(text: str):\n    """T."""\n    sys.exit(3)\n')
    assert tool.run("x").text == "Error: SystemExit: 3"


# ---- states


def family_of(seed=0, **row):
    return Rollout([1], seed, family=Family(Question("1", [], [], "qa", row=row)))


def test_a_guessing_game():
    tool = own_tool(f"{EXAMPLES}:Guess")
    parent = family_of(number=40)
    assert [call(tool, parent, n) for n in ("50", "30", "40")] == [
        "lower",
        "higher",
        "right after 3 guesses",
    ]
    # inside the second result, before any call, and behind all of them
    inside, first, last = (
        parent.fork(at) for at in (parent.calls[1].start + 1, 0, len(parent.ids))
    )
    assert call(tool, inside, "40") == "right after 2 guesses"
    assert call(tool, first, "40") == "right after 1 guesses"
    assert call(tool, last, "40") == "right after 4 guesses"
    assert parent.state("guess")["guesses"] == [50, 30, 40]
    assert call(tool, family_of(number=60), "50") == "higher"


def test_a_state_that_is_drawn_is_the_same_for_all_branches():
    tool = own_tool(f"{EXAMPLES}:Guess")
    parent = Rollout([1], 0)
    early = parent.fork(0)
    call(tool, parent, "1")
    call(tool, early, "1")
    assert parent.state("guess")["hidden"] == early.state("guess")["hidden"]


@pytest.mark.parametrize("how", ["deepcopy", "replay"])
def test_a_thousand_branches_in_trees(own, how):
    """Each finds what the calls before its fork add up to, in whichever order they run."""
    replay = '    fork = "replay"\n' if how == "replay" else ""
    tool = own(COUNTER.replace("    made = closed", replay + "    made = closed"), "Tool")
    draw = random.Random(0)
    rollouts = [Rollout([1], k) for k in range(8)]
    for _ in range(1000):
        parent = draw.choice(rollouts)
        rollouts.append(parent.fork(draw.randint(0, len(parent.ids))))
        for r in draw.sample(rollouts, 2):
            number = draw.choice(["1", "2", "13", "100"])
            before = sum(int(c.argument) for c in r.calls)
            text = call(tool, r, number, length=draw.randint(1, 4))
            failed = number == "13"
            assert text == ("Error: ValueError: unlucky" if failed else str(before + int(number)))
    for r in rollouts:
        total = sum(int(c.argument) for c in r.calls)
        # of a tool that replays only the newest state is kept
        assert r.state("tool") == [total] or how == "replay" and r.state("tool") is None
    close_all(rollouts)
    assert not tool.states
    assert tool.made.closed >= tool.made.made > 0


def branches_of(roots, count, seed):
    """So many branches, each of any rollout before it, at any token."""
    draw = random.Random(seed)
    rollouts = list(roots)
    for k in range(count):
        parent = draw.choice(rollouts)
        rollouts.append(parent.fork(draw.randint(0, len(parent.ids))))
        yield k, rollouts[-1]


def test_a_thousand_games():
    tool = own_tool(f"{EXAMPLES}:Guess")
    # other tests have played
    tool.close()
    roots = [family_of(k, number=10 * k + 7) for k in range(8)]
    for r in roots:
        for guess in ("50", "20", "77"):
            call(tool, r, guess)
    for k, r in branches_of(roots, 1000, seed=2):
        hidden, before = r.family.question.row["number"], len(r.calls)
        guess = k % 100 + 1
        right = f"right after {before + 1} guesses"
        answer = right if guess == hidden else "higher" if guess < hidden else "lower"
        assert call(tool, r, str(guess)) == answer
        assert r.state("guess")["guesses"] == [int(c.argument) for c in r.calls]
    close_all(roots)
    assert not tool.states


@pytest.mark.slow
def test_a_thousand_databases(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tool = own_tool(f"{EXAMPLES}:Database")
    roots = [family_of(k, schema="create table t (x)") for k in range(4)]
    for k, r in branches_of(roots, 1000, seed=3):
        call(tool, r, f"insert into t values ({k})")
        inserted = [int(c.argument[22:-1]) for c in r.calls if c.argument.startswith("insert")]
        rows = call(tool, r, "select sum(x), count(*) from t")
        assert rows == f"[[{sum(inserted)}, {len(inserted)}]]"
    assert "no such table" in call(tool, roots[0], "select * from missing")
    assert list(tmp_path.iterdir())
    close_all(roots)
    assert not list(tmp_path.iterdir()) and not tool.states


@pytest.mark.slow
def test_a_thousand_folders(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tool = own_tool(f"{EXAMPLES}:Files")
    roots = [family_of(k) for k in range(4)]
    for k, r in branches_of(roots, 1000, seed=4):
        call(tool, r, f"write f{k} text {k}")
        written = [c.argument.split()[1] for c in r.calls if c.argument.startswith("write")]
        assert call(tool, r, "list") == ", ".join(sorted(written))
        assert call(tool, r, f"read {written[0]}") == f"text {written[0][1:]}"
    missing = call(tool, roots[0], "read ../../etc/passwd")
    assert missing.startswith("Error: FileNotFoundError")
    close_all(roots)
    assert not list(tmp_path.iterdir()) and not tool.states


def test_states_of_a_run_that_broke_are_closed_with_the_tool(own):
    tool = own(COUNTER, "Tool")
    call(tool, Rollout([1], 0), "1")
    assert len(tool.states) == 2
    tool.close()
    assert not tool.states and tool.made.closed == 2


def test_rollouts_in_threads_do_not_meet(own):
    tool = own(COUNTER, "Tool")
    parent = Rollout([1], 0)
    call(tool, parent, "5")
    branches = [parent.fork(len(parent.ids)) for _ in range(32)]
    together = threading.Barrier(32, timeout=20)

    def many(r):
        together.wait()
        for _ in range(20):
            call(tool, r, "1")

    threads = [threading.Thread(target=many, args=(r,)) for r in branches]
    [t.start() for t in threads], [t.join() for t in threads]
    assert all(r.state("tool") == [25] for r in branches) and parent.state("tool") == [5]


def test_a_state_that_cannot_be_opened_is_not_the_models_fault(own):
    tool = own(
        "class Tool:\n    '''T.'''\n    def open(self, q): raise OSError('no disk')\n"
        "    def run(self, a, s): return a\n",
        "Tool",
    )
    r = Rollout([1], 0)
    assert call(tool, r, "1") == "Error: the tool tool is not available"
    assert r.calls[0].status == "infra" and "OSError: no disk" in tool.problem


def test_it_is_read_without_torch():
    import subprocess

    code = f"""
import sys
from protocol import system_prompt
text = system_prompt("python,{EXAMPLES}:days_between")
assert "<days_between>" in text and "Two tools are" in text
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=EXAMPLES.parent.parent).returncode == 0
