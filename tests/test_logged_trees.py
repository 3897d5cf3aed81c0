"""support/logged_trees.py: trees found, shortened and counted, against hand-made rollouts."""

import json
import math

import pytest
from report_parts import HOSTILE, branch, initial, made_tree, step_row, write_run

from support import logged_trees
from support.logged_trees import (
    branch_points,
    clean,
    count_points,
    count_words,
    find_trees,
    is_filler,
    parsed,
    percentile,
    read_tree,
    short_tree,
    tell_trees,
    thin,
)


def told(tmp_path, rollouts):
    return tell_trees(write_run(tmp_path / "run", [step_row(1, 0.5)], rollouts) / "rollouts.jsonl")


def test_trees_are_found_where_they_lie(tmp_path):
    trees = [made_tree(1, 0), made_tree(1, 3), made_tree(2, 0)]
    folder = write_run(tmp_path, [], [row for tree in trees for row in tree])
    places = find_trees(folder / "rollouts.jsonl")
    assert [place.key for place in places] == [(1, 0), (1, 3), (2, 0)]
    file = folder / "rollouts.jsonl"
    assert [read_tree(file, place) for place in places] == trees
    assert sum(place.size for place in places) == file.stat().st_size
    assert find_trees(tmp_path / "none.jsonl") == []


def test_rows_in_another_order_of_keys_are_found(tmp_path):
    rows = [dict(reversed(row.items())) for row in made_tree(7, 2)]
    places = find_trees(write_run(tmp_path, [], rows) / "rollouts.jsonl")
    assert [place.key for place in places] == [(7, 2)]


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_cut_last_line_is_left_out(tmp_path, cut):
    file = write_run(tmp_path, [], made_tree()) / "rollouts.jsonl"
    file.write_text(file.read_text()[:-cut])
    tree = tell_trees(file)["trees"][0]
    assert [row["index"] for row in tree["rows"]] == ([0, 1, 2, 3, 4] if cut == 1 else [0, 1, 2, 3])


def test_a_branch_without_its_parent_is_left_out(tmp_path):
    assert [row["index"] for row in told(tmp_path, made_tree()[1:])["trees"][0]["rows"]] == [1]


@pytest.mark.parametrize("name", ["index", "parent", "pieces", "mask", "fork_at", "prompt"])
def test_rows_that_lack_something_are_no_error(tmp_path, name):
    rows = [row | {name: None} for row in made_tree()]
    del rows[1][name]
    trees = told(tmp_path, rows)["trees"]
    assert [len(tree["rows"]) for tree in trees] == {"parent": [4], "prompt": [5]}.get(name, [])


def test_branch_points():
    points = branch_points(made_tree())
    first = {"step": 1, "group": 0, "index": 2, "fork_at": 1, "before": " So", "after": " Well"}
    first |= {"same": False, "filler": True, "reward": 0, "earned": 1}
    assert points[0] == first | {"entropy": 0.1, "omega": 1.01, "score": -1.0}
    rest = [(p["before"], p["after"], p["same"], p["filler"]) for p in points[1:]]
    assert rest == [(" old", " old", True, False), (" old", " new", False, False)]
    fillers = {"branches": 1, "same": 0, "changed": 1}
    content = {"branches": 2, "same": 1, "changed": 0}
    assert count_points(points) == {"filler": fillers, "content": content}
    assert count_words(points) == [("old", 2, False), ("So", 1, True)]


def test_tokens_of_one_text_and_two_ids_are_not_the_same():
    parent = initial(0, ["a", "\ufffd"], 0.0, ids=[1, 2])
    points = branch_points([parent, branch(1, parent, 1, ["\ufffd"], 0.0, ids=[1, 3])])
    assert points[0]["before"] == points[0]["after"] and not points[0]["same"]


def test_rows_without_later_keys_still_make_a_table():
    """Numbers, ids and calls are younger than the file."""
    rows = made_tree()
    for row in rows:
        for key in ("ids", "entropy", "future_value", "branching_score", "advantage", "calls"):
            row.pop(key, None)
    points = branch_points(rows)
    assert [p["same"] for p in points] == [False, True, False] and points[0]["entropy"] is None
    assert "entropy" not in short_tree(rows, {})["rows"][0]


@pytest.mark.parametrize("text", [" So", "So", "OKAY", " the", ",", " ", "\n", "...", "let's"])
def test_fillers(text):
    assert is_filler(text)


@pytest.mark.parametrize("text", [" old", "7", " -", " *", "<search>", " \\", "However", "因此"])
def test_content(text):
    assert not is_filler(text)


def test_a_short_tree_holds_a_branch_from_its_fork_on():
    texts = {}
    first, second, well, same, new = short_tree(made_tree(), texts)["rows"]
    words = list(texts)
    assert [words[k] for k in first["tokens"]] == ["<think>", " So", " 7", " old", "</think>"]
    assert [words[k] for k in well["tokens"]] == [" Well", " 7"]
    assert [words[k] for k in second["tokens"]] == ["<think>", HOSTILE, "\n"]
    assert second["mask"] == "110" and well["mask"] == "11" and len(well["entropy"]) == 2
    assert first["omega"] == [1, 1.01, 1.02, 1.03, 1.04] and "omega" not in well
    assert first["calls"] == [["search", "x", "ok", 0.5]] and same["calls"] == []


def test_calls_of_one_turn_are_the_parents_up_to_its_end():
    """Several calls have one block of results: all but the first call begin at its end."""
    turn = [{"name": "f", "start": 1, "end": 4}, {"name": "f", "start": 4, "end": 4}]
    later = {"name": "f", "start": 6, "end": 8}
    calls = [*turn, later]
    for at, own in ((4, [later]), (5, [later]), (8, [])):
        assert logged_trees.own_calls({"parent": 0, "fork_at": at, "calls": calls}) == own
    assert logged_trees.own_calls({"parent": None, "fork_at": 0, "calls": calls}) == calls


def test_calls_of_a_parent_count_once(tmp_path):
    """The branch that forks behind the parent's call holds a copy of it."""
    python, search = told(tmp_path, made_tree())["tools"]
    assert python["calls"] == 1 and python["status"] == {"timeout": 1.0} and python["p95"] == 5.0
    assert (search["calls"], search["p50"], search["p95"]) == (2, 0.1, 0.5)


def test_percentiles_are_nearest_ranks():
    values = [float(x) for x in range(1, 21)]
    assert (percentile(values, 50), percentile(values, 95)) == (10.0, 19.0)
    assert percentile([], 50) is None and percentile([3.0], 95) == 3.0


def test_numbers_that_are_not_finite_become_none():
    assert [clean(x) for x in (math.nan, math.inf, None, "nan", 1.23456, -0.0)] == [
        None, None, None, None, 1.2346, 0
    ]  # fmt: skip
    assert parsed('{"a": NaN, "b": -Infinity}') == {"a": "NaN", "b": "-Infinity"}
    assert parsed('{"a": 1') == parsed("[1]") == parsed("") == {}


def test_thin_keeps_the_ends_and_the_limit():
    kept = thin(list(range(100)), 10)
    assert len(kept) == 10 and kept[0] == 0 and kept[-1] == 99
    gaps = [b - a for a, b in zip(kept, kept[1:])]
    assert set(gaps) == {11}
    assert thin([5, 6], 2) == [5, 6] and thin([], 3) == [] and thin([5, 6, 7], 0) == [7]
    sizes = thin([1, 50, 1, 50, 1], 60, lambda x: x)
    assert sum(sizes) <= 60 and sizes[-1] == 1


def test_a_long_run_is_thinned_and_says_so(tmp_path, monkeypatch):
    rows = [row for step in range(1, 41) for row in made_tree(step)]
    size = sum(len(json.dumps(row)) + 1 for row in rows) / 40
    monkeypatch.setattr(logged_trees, "READ_BYTES", 20 * size)
    monkeypatch.setattr(logged_trees, "POINTS", 10)
    file = write_run(tmp_path, [], rows) / "rollouts.jsonl"
    short = tell_trees(file, shown_bytes=5 * size)
    assert short["counts"]["logged"] == 40 and 15 <= short["counts"]["read"] <= 20
    assert 3 <= len(short["trees"]) <= 5 and short["trees"][-1]["step"] == 40
    assert short["counts"]["points"] == 3 * short["counts"]["read"]
    assert len(short["points"]) == 10
    total = sum(part["branches"] for part in short["classes"].values())
    assert total == short["counts"]["points"], "shares are of all that was read"


def test_arguments_of_a_function_are_shown_as_text():
    """A tool of one's own gets its arguments by name."""
    called = {"name": "f", "argument": {"x": "a" * 300}, "status": "ok", "seconds": 0.1}
    row = initial(0, ["a"], 0.0, calls=[called])
    name, argument, *_ = short_tree([row], {})["rows"][0]["calls"][0]
    assert name == "f" and argument.startswith("{'x': 'aaa") and len(argument) == 200
