"""support/phases.py: seconds by phase, as a clock of the test says."""

from types import SimpleNamespace

import pytest

from support import phases
from support.phases import Phases, in_phase


@pytest.fixture
def clock(monkeypatch):
    """Moves on by what is added to it."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(phases, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    yield clock
    Phases.listening = None


def test_seconds_belong_to_the_innermost_function(clock):
    begun = []

    @in_phase("sample")
    def inner():
        clock.now += 2

    @in_phase("update")
    def outer():
        clock.now += 1
        inner()
        clock.now += 4

    listening = Phases(begun.append)
    clock.now += 8
    outer()
    inner()
    clock.now += 16
    listening.close()
    assert listening.seconds == {"other": 24, "update": 5, "sample": 4}
    assert begun == ["update", "sample", "update", "sample"]


def test_an_exception_ends_a_phase_too(clock):
    @in_phase("branch")
    def fails():
        clock.now += 3
        raise ValueError("why")

    listening = Phases()
    with pytest.raises(ValueError, match="why"):
        fails()
    clock.now += 1
    listening.close()
    assert listening.seconds == {"other": 1, "branch": 3}


def test_without_anybody_who_listens_nothing_is_counted(clock):
    @in_phase("score")
    def work(x):
        return x + 1

    assert work(1) == 2 and work.__name__ == "work"
    listening = Phases()
    listening.close()
    assert work(2) == 3 and listening.seconds == {"other": 0}
