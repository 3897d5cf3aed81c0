"""tests/math_pairs.txt: every pair, in both orders, with Math-Verify and without."""

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path

import math_pairs
import pytest

import support.math_equal as comparing
from support.math_equal import math_equal

PAIRS = math_pairs.read_pairs()
KINDS = sorted({kind for kind, *_ in PAIRS})


def test_every_kind_has_pairs_of_both_verdicts():
    found = Counter((kind, expected) for kind, _, _, expected in PAIRS)
    assert all(found[kind, same] >= 3 for kind in KINDS for same in (True, False)), found
    assert len({frozenset((a, b)) for _, a, b, _ in PAIRS}) == len(PAIRS), "a pair stands twice"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_pairs_without_math_verify(kind, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert wrong_pairs(kind) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_pairs_with_math_verify(kind):
    pytest.importorskip("math_verify")
    assert wrong_pairs(kind) == []


# graded by others, not written beside the grader; the rest needs calculus
GIVEN = json.loads((Path(__file__).parent / "given_math_pairs.json").read_text())
CALCULUS = r"\\int|\\sum|\\prod"


@pytest.mark.parametrize("installed", [True, False])
def test_given_pairs(installed, monkeypatch):
    """Of 371 pairs all are right with Math-Verify and all but three without: none is wrongly
    equal."""
    if installed:
        pytest.importorskip("math_verify")
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    comparing._same_math.cache_clear()
    wrong = []
    for row in GIVEN:
        a, b, expected = row["pred"], row["gold"], row["expected"]
        if {math_equal(a, b), math_equal(b, a)} != {expected}:
            wrong.append((a, b, expected))
    assert len(GIVEN) == 371 and len(wrong) == (0 if installed else 3), wrong
    assert all(expected and re.search(CALCULUS, a + b) for a, b, expected in wrong)


def wrong_pairs(kind):
    """The pairs of a kind that do not get their verdict in both orders."""
    comparing._same_math.cache_clear()
    return [
        (a, b, expected)
        for name, a, b, expected in PAIRS
        if name == kind and {math_equal(a, b), math_equal(b, a)} != {expected}
    ]


def test_the_page_counts_the_pairs():
    page = (Path(__file__).parent.parent / "docs" / "evaluation.md").read_text(encoding="utf-8")
    right = f"| {len(PAIRS)} | 0 | 0 |"
    assert f"the {len(PAIRS)} pairs" in page and page.count(right) == 2


def test_a_measurement_counts_faults_apart():
    row, wrong = math_pairs.measure(
        lambda a, b: True, [("", "1", "1", True), ("", "1", "2", False)]
    )
    assert row.startswith("1 | 1 | 0 |") and wrong == [("1", "2", False)]
