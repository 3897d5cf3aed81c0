"""Tools of a user, --tools FILE.py:NAME: a function, or a class with a state for each rollout.

1. own_tool          the tool of that name, checked; made once
2. arguments_of      what the model wrote, as arguments of a function
3. OwnTool.run       one call; whatever it raises is text for the model
4. OwnTool.run_for   the same with a state, which a branch shares up to its fork
5. OwnTool.release   closes a state; each is closed once

A state is never changed once a call has ended: the next call works on a copy. So a branch finds
its parent's state at the fork, whatever the parent did later. Copies are made by the tool's
`fork(state)`, else by copy.deepcopy. With `fork = "replay"` nothing is copied: a branch opens a new
state and runs the calls of its prefix again.

A state that cannot be opened or copied is an infra failure of that call. The tool has not seen the
call then, so the next one goes on from the state before it.
"""

import copy
import functools
import inspect
import json
import re
import threading
import time
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from support.plugins import is_ctrl_c, load_name, message_of, told
from support.tool_result import STATUSES, ToolResult

RESERVED = ("think", "answer", "result", "python", "search")
REPLAY = "replay"


@functools.cache
def own_tool(place: str) -> "OwnTool":
    """The tool FILE.py:NAME, made once a process.

    Raises: ValueError if it cannot be loaded, is no tool, or has no name, docstring or type hints.
    """
    made = load_name(place, "tools")
    what = f"--tools {place}"
    try:
        made = made() if inspect.isclass(made) else made
    # a user's class may raise anything
    except BaseException as problem:
        if is_ctrl_c(problem):
            raise
        file = str(Path(place.rpartition(":")[0]).resolve())
        raise ValueError(f"{what}: it cannot be made: {told(problem, file)}") from None
    run = made if inspect.isfunction(made) else getattr(made, "run", None)
    if not callable(run) or inspect.iscoroutinefunction(run):
        raise ValueError(f"{what} is neither a function nor a class with run(argument), not async")
    name = str(getattr(made, "name", "") or place.rpartition(":")[2]).lower()
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED:
        wrong = "a name is of small letters, digits and _, and none of"
        raise ValueError(f"{what} would be called {name!r}: {wrong} {', '.join(RESERVED)}")
    described = getattr(made, "description", "") or inspect.getdoc(made) or ""
    if not described.strip():
        raise ValueError(f"{what} needs a docstring: the model is told what the tool does")
    check_parameters(what, made, run)
    return OwnTool(made, name, described, place)


def check_parameters(what: str, made: Any, run: Callable) -> None:
    """ValueError if a function or a method run does not take what a tool must."""
    parameters = inspect.signature(run).parameters.values()
    try:
        unknown = [name for name, hint in _hints(run).items() if hint is None]
    except ValueError as problem:
        raise ValueError(f"{what}: {problem}") from None
    if not inspect.isfunction(made):
        stateful = hasattr(made, "open")
        if len(parameters) != 1 + stateful:
            wanted = "argument, state), since it has open(question)" if stateful else "argument)"
            raise ValueError(f"{what} must have run({wanted}; its run takes {len(parameters)}")
        check_state(what, made)
    elif any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise ValueError(f"{what} takes * or **: name each parameter")
    elif unknown:
        example = f"{unknown[0]}: str"
        raise ValueError(f"{what}: {', '.join(unknown)} needs a type hint, such as {example}")


def check_state(what: str, made: Any) -> None:
    """ValueError if open, fork or close of a tool cannot be called as they will be."""
    for name, argument in (("open", "question"), ("fork", "state"), ("close", "state")):
        method = getattr(made, name, None)
        if method is None or (name == "fork" and method == REPLAY):
            continue
        other = f', or the text "{REPLAY}"' if name == "fork" else ""
        try:
            inspect.signature(method).bind(argument)
        # no function, or one of other parameters
        except TypeError:
            wanted = f"{what}: {name} must be a function of one argument, the {argument}{other}"
            raise ValueError(wanted) from None


@dataclass(eq=False)
class Held:
    """A state as a tool holds it. Two of them are two, even if their states are equal or one."""

    state: Any


class OwnTool:
    """A user's function or object as a tool (support/tool_result.py).

    run_for is there for a tool with state only.
    """

    def __init__(self, made: Any, name: str, described: str, place: str):
        self.made, self.name, self.place = made, name, place
        self.summary = " ".join(described.strip().split("\n\n")[0].split())
        self.file, self.problem = str(Path(place.rpartition(":")[0]).resolve()), ""
        self.states: set[Held] = set()
        self.lock = threading.Lock()
        if hasattr(made, "open"):
            self.run_for = self._run_for

    @property
    def usage(self) -> str:
        """What stands between the tags, for a prompt."""
        if not inspect.isfunction(self.made):
            return str(getattr(self.made, "usage", "argument"))
        hints = _hints(self.made)
        names = list(hints)
        written = names[0] if len(names) == 1 else example_of(hints)
        meanings = [f"{name}: {text}" for name, text in meanings_of(self.made).items()]
        return written + (f" ({'; '.join(meanings)})" if meanings else "")

    def run(self, argument: str | dict) -> ToolResult:
        """One call. What it raises for what the model wrote is text for the model."""
        if not inspect.isfunction(self.made):
            return self._timed(lambda: self.made.run(argument))
        return self._timed(lambda: self.made(**arguments_of(self.made, argument)))

    def probe(self) -> str:
        """A line about the tool. It is not called: a call may cost something."""
        return f"{self.name}, own tool {self.place}: {self.summary[:60]}"

    def close(self) -> None:
        """Close all states."""
        for held in list(self.states):
            self.release(held)

    # ---- state

    def _run_for(self, rollout, call) -> ToolResult:
        """One call of a rollout, in its state.

        call: the last of rollout.calls; `state_after` becomes the state after it.
        """
        try:
            call.state_after = held = self._state_for(rollout, call)
        # a user's open or fork may raise anything: it is not the model's doing
        except BaseException as problem:
            if is_ctrl_c(problem):
                raise
            self.problem = told(problem, self.file)
            return ToolResult("infra", f"Error: the {self.name} tool is not available", 0.0)
        call.ran = True
        return self._timed(lambda: self.made.run(call.argument, held.state))

    def _state_for(self, rollout, call) -> Held:
        """A state as the calls before have left it, that this call may change."""
        family = rollout.family
        before = [c for c in rollout.calls if c.name == self.name and c is not call and c.ran]
        if getattr(self.made, "fork", None) != REPLAY:
            with family.lock:
                # of a rollout and its branches, so that all begin alike
                if self.name not in family.first:
                    family.first[self.name] = self._opened(family)
            last = before[-1].state_after if before else family.first[self.name]
            copied = getattr(self.made, "fork", copy.deepcopy)(last.state)
            return self._kept(copied, family)
        if before and not rollout.inherits(before[-1]):
            # it moves on: what it was after the call before is gone
            held, before[-1].state_after = before[-1].state_after, None
            return held
        held = self._opened(family)
        for earlier in before:
            self._timed(lambda earlier=earlier: self.made.run(earlier.argument, held.state))
        return held

    def _opened(self, family) -> Held:
        """A new state."""
        return self._kept(self.made.open(family.question), family)

    def _kept(self, state: Any, family) -> Held:
        """A state, to be closed with its family at the latest."""
        held = Held(state)
        with self.lock:
            self.states.add(held)
        family.closers.append(functools.partial(self.release, held))
        return held

    def release(self, held: Held) -> None:
        """Close a state, if it is still open."""
        with self.lock:
            if held not in self.states:
                return
            self.states.remove(held)
        close = getattr(self.made, "close", None)
        if close:
            try:
                close(held.state)
            # the others are still to be closed
            except BaseException as problem:
                if is_ctrl_c(problem):
                    raise
                self.problem = told(problem, self.file)

    def _timed(self, work: Callable) -> ToolResult:
        """What a call gives, as text with a status."""
        begun = time.monotonic()
        try:
            # what it returns may be without text: too many digits, too deep
            return _result(work(), begun)
        # a user's tool may raise anything, and sys.exit() is no end of the run
        except BaseException as problem:
            if is_ctrl_c(problem):
                raise
            # for `python tools.py`
            self.problem = told(problem, self.file)
            said = f"Error: {type(problem).__name__}: {message_of(problem)}"
            return ToolResult("error", said.strip().removesuffix(":"), time.monotonic() - begun)


def arguments_of(function: Callable, written: str | dict) -> dict[str, Any]:
    """The arguments of a function, from an object or from text between tags.

    Text is the value of the only parameter, or of the only one without a default; else it is a
    JSON object.
    Raises: ValueError in words for the model.
    """
    hints = _hints(function)
    signature = inspect.signature(function)
    needed = [n for n, p in signature.parameters.items() if p.default is inspect.Parameter.empty]
    given = written if isinstance(written, dict) else _object_in(written, hints)
    if given is None:
        alone = needed if len(needed) == 1 else list(hints)
        if len(alone) > 1:
            raise ValueError(f"the argument must be a JSON object such as {example_of(hints)}")
        given = {name: _value_in(written, hints[name]) for name in alone}
    unknown = [name for name in given if name not in hints]
    missing = [name for name in needed if name not in given]
    if unknown or missing:
        lines = [f"there is no argument {name!r}" for name in unknown]
        lines += [f"the argument {name!r} is missing" for name in missing]
        raise ValueError("; ".join([*lines, f"known are {', '.join(hints)}"]))
    # a number in quotes is one
    given = {
        name: value if _fits(hints[name], value) else _value_in(value, hints[name])
        for name, value in given.items()
    }
    for name, value in given.items():
        if not _fits(hints[name], value):
            kind = getattr(hints[name], "__name__", str(hints[name]))
            raise ValueError(f"{name} must be of type {kind}, got {value!r:.60}")
    return given


def example_of(hints: dict[str, Any]) -> str:
    """A JSON object with a value of each type."""
    values = {int: 1, float: 1.5, bool: True, list: [], dict: {}}

    def example(hint: Any) -> Any:
        first = _alternatives(hint)[0]
        origin = typing.get_origin(first)
        return (
            typing.get_args(first)[0] if origin is Literal else values.get(origin or first, "...")
        )

    return json.dumps({name: example(hint) for name, hint in hints.items()})


def meanings_of(function: Callable) -> dict[str, str]:
    """Parameter -> what the docstring says of it under Args:."""
    _, _, args = (inspect.getdoc(function) or "").partition("Args:\n")
    lines = re.findall(r"^ +(\w+)(?: *\([^)]*\))?: *(.+)$", args, flags=re.MULTILINE)
    return {name: text for name, text in lines if name in inspect.signature(function).parameters}


def _hints(function: Callable) -> dict[str, Any]:
    """Parameter -> type hint, None where there is none."""
    try:
        hints = typing.get_type_hints(function)
    # a hint may name what is not there
    except (NameError, TypeError) as problem:
        raise ValueError(f"a type hint of {function.__name__} is unknown: {problem}") from None
    return {name: hints.get(name) for name in inspect.signature(function).parameters}


def _object_in(text: str, hints: dict) -> dict | None:
    """The JSON object that a text is, None if it is none or the function wants one as it is."""
    if len(hints) == 1 and next(iter(hints.values())) is str:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _value_in(text: Any, hint: Any) -> Any:
    """Text as a value of a type: itself, or what it writes in JSON. No text stays what it is."""
    if str in _alternatives(hint) or not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _fits(hint: Any, value: Any) -> bool:
    """Is a value of JSON of that type? Of types that JSON does not know nothing is checked."""
    alternatives = _alternatives(hint)
    if len(alternatives) > 1:
        return any(_fits(alternative, value) for alternative in alternatives)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    kind = typing.get_origin(hint) or hint
    return isinstance(value, kind) if kind in (str, bool, list, dict) else True


def _alternatives(hint: Any) -> tuple:
    """The types of int | None, Optional[int] and the like; of any other hint itself."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _result(given: Any, begun: float) -> ToolResult:
    """What a tool gave, as a result. TypeError for a ToolResult that is none; see _shown too."""
    if not isinstance(given, ToolResult):
        text = given if isinstance(given, str) else _shown(given)
        return ToolResult("ok", text, time.monotonic() - begun)
    told_well = isinstance(given.text, str) and isinstance(given.seconds, (int, float))
    if given.status not in STATUSES or not told_well:
        wanted = f"a status of {', '.join(STATUSES)}, a text and seconds"
        raise TypeError(f"a ToolResult needs {wanted}, got {given!r:.80}")
    return given


def _shown(value: Any) -> str:
    """A value as text: JSON where that can be. ValueError or RecursionError if it has none."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)
