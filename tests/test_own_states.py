"""support/own_tools.py: what a user's code may do without harm; how states fail, fork, close."""

import threading

import pytest
from tool_parts import COUNTER, call

from protocol import Asked
from rollout import Call, Rollout, close_all
from tools import call_tools

# ---- what a tool returns and raises

RESULT = "from support.tool_result import ToolResult\n    return ToolResult"


@pytest.mark.parametrize(
    "body, said",
    [
        # what it returns cannot be shown
        ("return 9 ** 9999", "ValueError: Exceeds the limit"),
        ("x = []\n    for _ in range(100_000): x = [x]\n    return x", "RecursionError: "),
        (
            "class Odd:\n        def __str__(self): 1 / 0\n    return Odd()",
            "ZeroDivisionError: division by zero",
        ),
        (f"{RESULT}('fine', '', 0.0)", "TypeError: a ToolResult needs a status of ok, "),
        (f"{RESULT}('ok', None, 0.0)", "TypeError: a ToolResult needs a status of ok, "),
        # what it raises has no text
        ("raise ValueError(9 ** 9999)", "ValueError"),
        # and is no Exception
        ("import asyncio\n    raise asyncio.CancelledError()", "CancelledError"),
        ("raise GeneratorExit", "GeneratorExit"),
    ],
)
def test_whatever_a_tool_does_is_text_for_the_model(own, body, said):
    result = own(f'def tool(text: str):\n    """T."""\n    {body}\n').run("x")
    assert result.status == "error" and result.text.startswith(f"Error: {said}")
    assert result.seconds >= 0


def in_thread(work):
    """What work returns in a thread, or what it raised."""
    given = []

    def run():
        try:
            given.append(work())
        except BaseException as problem:
            given.append(problem)

    thread = threading.Thread(target=run)
    thread.start(), thread.join()
    return given[0]


INTERRUPTED = """
class Tool:
    '''T.'''
    def open(self, question): return 1
    def run(self, argument, state): raise KeyboardInterrupt
    def close(self, state): raise KeyboardInterrupt
"""


def test_ctrl_c_ends_the_run_and_what_a_tool_raises_itself_does_not(own):
    """Ctrl-C is raised in the main thread only."""
    tool, r = own(INTERRUPTED, "Tool"), Rollout([1], 0)
    assert in_thread(lambda: call(tool, r, "1")) == "Error: KeyboardInterrupt"
    assert in_thread(r.family.close) is None and not tool.states
    with pytest.raises(KeyboardInterrupt):
        call(tool, r, "1")
    with pytest.raises(KeyboardInterrupt):
        r.family.close()


def test_a_file_that_raises_what_is_no_exception_is_refused(own):
    with pytest.raises(ValueError, match="cannot be loaded: GeneratorExit"):
        own("raise GeneratorExit\n")
    with pytest.raises(ValueError, match="cannot be made: CancelledError"):
        own(
            "from asyncio import CancelledError\n"
            "class tool:\n    'T.'\n    def __init__(self): raise CancelledError\n"
        )


# ---- states

FLAKY = """
class Tool:
    '''Count the calls; the first open, and the second fork, fail.'''
    opens = forks = 0
    def open(self, question):
        Tool.opens += 1
        if Tool.opens == 1:
            raise ConnectionError("busy")
        return []
    def run(self, argument, state):
        state.append(argument)
        return len(state)
"""
FORKS = """    def fork(self, state):
        Tool.forks += 1
        if Tool.forks == 2:
            raise OSError("disk busy")
        return list(state)
"""


@pytest.mark.parametrize(
    "more, given",
    [
        # every call forks: the second one fails
        (FORKS, ["infra", "1", "infra", "2", "3"]),
        ("", ["infra", "1", "2", "3", "4"]),
        ('    fork = "replay"\n', ["infra", "1", "2", "3", "4"]),
    ],
)
def test_after_a_failed_open_or_fork_the_next_call_goes_on(own, more, given):
    tool, r = own(FLAKY + more, "Tool"), Rollout([1], 0)
    told = [call(tool, r, letter) for letter in "abcde"]
    refused = "Error: the tool tool is not available"
    assert told == [refused if text == "infra" else text for text in given]
    assert [c.status for c in r.calls] == ["infra" if t == "infra" else "ok" for t in given]
    seen = [letter for letter, text in zip("abcde", given) if text != "infra"]
    assert r.state("tool") == seen
    # a branch finds what the tool has seen, and nothing else
    branch = r.fork(len(r.ids))
    assert call(tool, branch, "f") == str(len(seen) + 1)
    assert branch.state("tool") == [*seen, "f"]


@pytest.mark.parametrize("how", ["deepcopy", "replay"])
def test_a_fork_behind_a_turn_with_several_calls(own, how):
    """Both results are one block of tokens; the branches begin at the first one behind it."""
    replay = '    fork = "replay"\n' if how == "replay" else ""
    tool = own(COUNTER.replace("    made = closed", replay + "    made = closed"), "Tool")
    parent = Rollout([1], 0)
    parent.append([7], True, [0.0], [0.0])
    asked = [Asked("tool", "1"), Asked("tool", "10")]
    parent.calls += [Call(a.name, a.argument, "", 0.0, 1, 1) for a in asked]
    results = call_tools({"tool": tool}, parent, asked)
    parent.append([8] * 3, False, [0.0] * 3, [0.0] * 3)
    parent.answered(results)
    assert [result.text for result in results] == ["1", "11"]
    first, second = parent.fork(4), parent.fork(4)
    assert not any(map(parent.inherits, parent.calls)) and all(map(first.inherits, first.calls))
    assert call(tool, first, "100") == "111" and call(tool, second, "200") == "211"
    assert parent.state("tool") == [11] and call(tool, parent, "5") == "16"
    # its own last call is no inherited one
    assert call(tool, first, "1") == "112" and not first.inherits(first.calls[-1])


SHARED = """
class Tool:
    '''T.'''
    opened = closed = 0
    state = STATE
    def open(self, question):
        Tool.opened += 1
        return Tool.state
    def fork(self, state):
        return self.open(None)
    def run(self, argument, state):
        return "ok"
    def close(self, state):
        assert state is Tool.state
        Tool.closed += 1
"""


@pytest.mark.parametrize("state", ["None", "'session'", "object()", "[]"])
def test_each_state_is_closed_once_whatever_it_is(own, state):
    """None, equal ones, or one client for all."""
    tool = own(SHARED.replace("STATE", state), "Tool")
    first, second = Rollout([1], 0), Rollout([1], 1)
    for r in (first, second, first):
        call(tool, r, "1")
    # the first state of each, and one for each call
    assert tool.made.opened == 5
    close_all([first])
    assert tool.made.closed == 3 and call(tool, second, "2") == "ok"
    close_all([first, second])
    tool.close()
    assert tool.made.opened == tool.made.closed == 6 and not tool.problem


def test_a_close_that_exits_leaves_none_open(own):
    tool, r = own(COUNTER + "        raise SystemExit('bye')\n", "Tool"), Rollout([1], 0)
    call(tool, r, "1"), call(tool, r, "2")
    assert len(tool.states) == 3
    close_all([r])
    assert not tool.states and tool.made.closed == 3 and "SystemExit: bye" in tool.problem
