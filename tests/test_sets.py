"""support/sets.py: intervals and inequalities."""

import pytest

from support.sets import condition_region, region_tree, set_region, split_outside, unite

UP_TO_2 = ("(", "-\\infty", "2", ")")


@pytest.mark.parametrize(
    "text, region",
    [
        ("x<2", ("x", [UP_TO_2])),
        ("2>x", ("x", [UP_TO_2])),
        ("1<x≤2", ("x", [("(", "1", "2", "]")])),
        ("2≥x>1", ("x", [("(", "1", "2", "]")])),
        ("x\\ne2", ("x", [UP_TO_2, ("(", "2", "\\infty", ")")])),
        ("|x-1|<2", ("x", [("(", "-1", "3", ")")])),
        ("|x|≥2", ("x", [("(", "-\\infty", "-2", "]"), ("[", "2", "\\infty", ")")])),
        ("\\theta>0", ("\\theta", [("(", "0", "\\infty", ")")])),
        ("x\\in(1,2)", ("x", [("(", "1", "2", ")")])),
        # no bounds of one letter
        ("x+1<2", None),
        ("x<y", None),
        ("|2x|<4", None),
        ("P(X≤2)", None),
        ("1<x>2", None),
        ("x", None),
    ],
)
def test_what_an_inequality_allows(text, region):
    assert condition_region(text) == region


@pytest.mark.parametrize(
    "text, tree",
    [
        ("(1,5)\\cap(2,7)", ("()", ["2", "5"])),
        ("(1,2)\\cap[2,3)", "\\emptyset"),
        ("[1,2]\\cap[2,3]", "2"),
        ("[1,2]\\cup[2,3]", ("[]", ["1", "3"])),
        ("[1,2)\\cup(2,3]", ("set", [("[)", ["1", "2"]), ("(]", ["2", "3"])])),
        (
            "\\mathbb{R}\\setminus\\{0\\}",
            ("set", [("()", ["-\\infty", "0"]), ("()", ["0", "\\infty"])]),
        ),
        ("\\{1,2,3\\}\\setminus\\{2\\}", ("set", ["1", "3"])),
    ],
)
def test_sets_that_are_joined(text, tree):
    assert region_tree(set_region(text)) == tree


def test_bounds_in_no_known_order_are_left_alone():
    root = ("(", "\\sqrt{2}", "3", ")")
    assert unite([root, UP_TO_2]) == [root, UP_TO_2]
    assert set_region("(\\sqrt{2},3)\\cap(1,2)") is None


def test_splitting_outside_brackets():
    assert split_outside("(1,2),3", ",") == ["(1,2)", "3"]
    assert split_outside("1,(2", ",") == ["1,(2"]
    assert split_outside("]1,2[,3", ",") == ["]1,2[", "3"]
