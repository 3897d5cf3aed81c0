"""What a user names as FILE.py:NAME: a reward or a tool of their own. Imports no torch.

1. load_name     the object of that name in that file
2. open_reward   a reward, checked
3. is_ctrl_c     what ends the run, whoever's code it met
4. told          an exception in one line
"""

import functools
import importlib.util
import inspect
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# frames of these files say nothing to the user
HERE = Path(__file__).parent


def load_name(place: str, flag: str) -> Any:
    """The object NAME of a Python file, given as FILE.py:NAME.

    The file is run once however often it is named. It may import its neighbours and this project.

    Raises: ValueError naming the flag: no such form, file or name, or what the file raised where.
    """
    path, _, name = place.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise ValueError(f"--{flag} must be FILE.py:NAME, got {place!r}")
    if not Path(path).is_file():
        raise ValueError(f"--{flag} {place}: there is no file {path}")
    module = _module(Path(path).resolve(), f"--{flag} {place}")
    if not hasattr(module, name):
        own = [n for n, value in vars(module).items() if callable(value) and n[0] != "_"]
        # not what it imports
        known = [n for n in own if getattr(vars(module)[n], "__module__", "") == module.__name__]
        has = f"; it has {', '.join(known)}" if known else ""
        raise ValueError(f"--{flag} {place}: the file has no {name}{has}")
    return getattr(module, name)


def open_reward(place: str) -> Callable | None:
    """The function that --reward_fn names, None for "".

    Raises: ValueError if it cannot be loaded or does not take (rollout, question).
    """
    if not place:
        return None
    function = load_name(place, "reward_fn")
    if not is_plain(function):
        wanted = "a function, or an object with __call__; no class, not async, no generator"
        raise ValueError(f"--reward_fn {place} is no plain function: give {wanted}")
    try:
        inspect.signature(function).bind("rollout", "question")
    except TypeError:
        takes = inspect.signature(function)
        wanted = f"(rollout, question), this one takes {takes}"
        raise ValueError(f"--reward_fn {place}: the function must take {wanted}") from None
    except ValueError:
        # of some built-in functions nothing is known
        pass
    return function


def is_plain(function: Any) -> bool:
    """Can it be called for a value: no class, nothing async, no generator?"""
    while isinstance(function, functools.partial):
        function = function.func
    if not callable(function) or inspect.isclass(function):
        return False
    kinds = inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction
    bodies = function, type(function).__call__
    return not any(kind(body) for kind in kinds for body in bodies)


def _module(path: Path, what: str):
    """The module of a file, run unless it has been; ValueError if it does not run through."""
    # its own name space: a user's tools.py is not the project's
    name = f"user_file_{path.stem}_{abs(hash(str(path)))}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        # last: the project's own modules win
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up while it runs
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    # a user's file may raise anything
    except BaseException as problem:
        del sys.modules[name]
        if is_ctrl_c(problem):
            raise
        raise ValueError(f"{what} cannot be loaded: {told(problem, str(path))}") from None
    return module


def is_ctrl_c(problem: BaseException) -> bool:
    """Is it Ctrl-C? That reaches the main thread only: elsewhere a user's code has raised it."""
    main = threading.current_thread() is threading.main_thread()
    return main and isinstance(problem, KeyboardInterrupt)


def message_of(problem: BaseException) -> str:
    """What an exception says; "" if it cannot say it, as of a number with too many digits."""
    try:
        return str(problem)
    # a user's exception may raise anything
    except Exception:
        return ""


def told(problem: BaseException, path: str = "") -> str:
    """An exception in one line: kind, message, file and line.

    The place: of the file `path` if it passed there, else the last one that is none of ours.
    """
    frames = traceback.extract_tb(problem.__traceback__)
    if isinstance(problem, SyntaxError) and Path(str(problem.filename)).is_file():
        return f"SyntaxError: {problem.msg} ({Path(problem.filename).name}, line {problem.lineno})"
    inside = [frame for frame in frames if frame.filename == path]
    inside = inside or [frame for frame in frames if Path(frame.filename).parent != HERE]
    where = f" ({Path(inside[-1].filename).name}, line {inside[-1].lineno})" if inside else ""
    return f"{type(problem).__name__}: {' '.join(message_of(problem).split())}{where}"


def shown(thing: Any) -> str:
    """A user's object in at most 200 characters, whatever its own repr does."""
    try:
        return f"{thing!r:.200}"
    except Exception:
        return f"a {type(thing).__name__} that cannot be shown"
