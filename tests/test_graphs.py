"""support/graphs.py: the first call of a key runs, the second records, later ones replay."""

from support.graphs import Graphs


class Recording:
    """Replays by calling; says how often."""

    def __init__(self, function):
        self.function, self.replays = function, 0

    def replay(self):
        self.replays += 1
        self.function()


def test_a_key_is_recorded_once_and_then_replayed():
    made, calls = [], []

    def record(function):
        made.append(Recording(function))
        return made[-1]

    graphs = Graphs(record)
    for key in ("a", "a", "b", "a", "a"):
        graphs(key, lambda key=key: calls.append(key))
    assert calls == ["a", "a", "b", "a", "a"], "every call does its work once"
    assert [m.replays for m in made] == [3], "b was called once only: it warmed up"


def test_without_a_recorder_every_call_is_plain():
    calls, graphs = [], Graphs(None)
    for _ in range(3):
        graphs("a", lambda: calls.append(1))
    assert len(calls) == 3 and not graphs.graphs
