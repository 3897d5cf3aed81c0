"""Tools of your own. Copy one, change it, and name it beside the others:

    python train.py --tools python,examples/own_tool.py:days_between ...
    python tools.py examples/own_tool.py:Guess 50

A tool is a function with type hints and a docstring, or a class with run(argument). The model
writes <days_between> ... </days_between>; prompt, format check and defusing follow from the name.
What the tool raises is text for the model.

A class with open(question) has a state for each rollout: run(argument, state). A branch finds the
state of its parent at the fork; fork(state) makes the copy, copy.deepcopy without it. close(state)
frees what a state holds. Calls of different rollouts run at once, in threads.
"""

import datetime
import os
import random
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path


def days_between(first: str, second: str) -> int:
    """Count the days from one date to another, 2024-02-28 and the like.

    Args:
        first: the earlier date
        second: the later date
    """
    return (datetime.date.fromisoformat(second) - datetime.date.fromisoformat(first)).days


class Guess:
    """A game: guess a number from 1 to 100; the answer is higher, lower or right."""

    usage = "number"

    def open(self, question) -> dict:
        """The hidden number: of the row's "number", or drawn, the same whenever it is asked."""
        hidden = question.row.get("number") if question else None
        drawn = random.Random(str(question and question.messages)).randint(1, 100)
        return {"hidden": hidden or drawn, "guesses": []}

    def run(self, argument: str, state: dict) -> str:
        guess = int(argument)
        state["guesses"].append(guess)
        if guess == state["hidden"]:
            return f"right after {len(state['guesses'])} guesses"
        return "higher" if guess < state["hidden"] else "lower"


class Database:
    """An SQLite database of your own: one SQL statement, rows come back."""

    name = "sql"
    usage = "statement"

    def open(self, question) -> Path:
        """A file: empty, or made by the row's "schema"."""
        file = empty_file()
        with closing(sqlite3.connect(file)) as base:
            base.executescript(question.row.get("schema", "") if question else "")
        return file

    def run(self, argument: str, state: Path) -> list:
        with closing(sqlite3.connect(state)) as base, base:
            return base.execute(argument).fetchmany(20)

    def fork(self, state: Path) -> Path:
        return Path(shutil.copy(state, empty_file()))

    def close(self, state: Path) -> None:
        state.unlink()


def empty_file() -> Path:
    """A new file that nobody else has."""
    handle, file = tempfile.mkstemp(prefix="database_")
    os.close(handle)
    return Path(file)


class Files:
    """A folder of your own: "write NAME TEXT", "read NAME" or "list"."""

    usage = "write NAME TEXT | read NAME | list"

    def open(self, question) -> Path:
        return Path(tempfile.mkdtemp(prefix="files_"))

    def run(self, argument: str, state: Path) -> str:
        order, *rest = argument.split(maxsplit=2)
        # the last part only: no way out of the folder
        file = state / Path(rest[0]).name if rest else state
        if order == "write":
            file.write_text(rest[1])
            return "written"
        if order == "read":
            return file.read_text()
        return ", ".join(sorted(found.name for found in state.iterdir())) or "no file"

    def fork(self, state: Path) -> Path:
        copied = self.open(None)
        shutil.copytree(state, copied, dirs_exist_ok=True)
        return copied

    def close(self, state: Path) -> None:
        shutil.rmtree(state, ignore_errors=True)
