"""What the time of a step goes to. The functions that take it say so, not those that call them.

1. in_phase   marks a function: its time counts for a phase
2. Phases     seconds by phase, as long as it listens
"""

import functools
import time
from collections import Counter
from collections.abc import Callable

import torch

NAMES = ("sample", "score", "branch", "reward", "update", "wait", "other")


class Phases:
    """Seconds by phase, from now until `close`; what no function claims is "other".

    Args: note: told each phase as it begins.
    """

    listening: "Phases | None" = None

    def __init__(self, note: Callable[[str], None] = lambda phase: None):
        self.note = note
        self.seconds = Counter()
        self._phase, self._since = "other", time.perf_counter()
        Phases.listening = self

    def enter(self, name: str) -> str:
        """From here on time counts for this phase. Returns: the one before."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now, before = time.perf_counter(), self._phase
        self.seconds[before] += now - self._since
        self._phase, self._since = name, now
        if name not in (before, "other"):
            self.note(name)
        return before

    def close(self) -> None:
        """Nobody listens any more."""
        self.enter("other")
        if Phases.listening is self:
            Phases.listening = None


def in_phase(name: str) -> Callable:
    """A decorator: the time of a function counts for a phase, whatever it was called in."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def timed(*args, **kwargs):
            phases = Phases.listening
            if phases is None:
                return function(*args, **kwargs)
            before = phases.enter(name)
            try:
                return function(*args, **kwargs)
            finally:
                phases.enter(before)

        return timed

    return decorate
