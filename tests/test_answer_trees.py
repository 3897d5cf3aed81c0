"""support/answer_trees.py: answers as trees, and trees compared."""

import itertools

import pytest

from support.answer_trees import answer_tree, leaves_of, match_trees


@pytest.mark.parametrize(
    "text, tree",
    [
        ("5", "5"),
        ("", ""),
        ("1,2", ("set", ["1", "2"])),
        ("\\{1,2\\}", ("set", ["1", "2"])),
        ("(1,2)", ("()", ["1", "2"])),
        ("]1,2[", ("()", ["1", "2"])),
        ("]1,2]", ("(]", ["1", "2"])),
        ("x>1∧x<5", ("∈x", [("()", ["1", "5"])])),
        ("x<1∨x>5", ("∈x", [("set", [("()", ["-\\infty", "1"]), ("()", ["5", "\\infty"])])])),
        ("x=2∧y=3", ("∧", ["x=2", "y=3"])),
        ("y=3,x=2", ("∧", ["x=2", "y=3"])),
        ("x=2∨y=3", ("∨", ["x=2", "y=3"])),
        ("x=1∨x=2", ("set", ["x=1", "x=2"])),
        ("(m,n)=(3,2)", ("∧", ["m=3", "n=2"])),
        ("\\{x\\mid x>3\\}", ("()", ["3", "\\infty"])),
        ("x>5∨x=5", ("∈x", [("[)", ["5", "\\infty"])])),
        ("a\\equiv b\\pmod{n}", ("∈a", [("≡n", ["b"])])),
        ("1,2,…", ("…", ["1", "2", "…"])),
        ("x\\equiv10\\pmod{7}", ("∈x", [("≡7", ["3"])])),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", ("matrix [1, 1]", ["1", "2"])),
        ("1\\pm a", ("set", ["1+a", "1-a"])),
        ("x\\equiv1,3\\pmod{8}", ("set", [("∈x", [("≡8", ["1"])]), ("∈x", [("≡8", ["3"])])])),
    ],
)
def test_trees(text, tree):
    assert answer_tree(text) == tree


def same(first, second):
    """Do two texts match, if only equal strings and named values are equal?"""
    a, b = answer_tree(first), answer_tree(second)
    pairs = itertools.product(leaves_of(a), leaves_of(b))
    equal = {(x, y): x == y or x.split("=")[-1] == y or y.split("=")[-1] == x for x, y in pairs}
    return match_trees(a, b, equal)


@pytest.mark.parametrize(
    "first, second, verdict",
    [
        ("1,2", "2,1", True),
        ("(1,2)", "(2,1)", False),
        ("(1,2)", "1,2", False),
        ("x=2∧y=3", "(2,3)", True),
        ("x=2∧y=3", "(3,2)", False),
        ("x=2∧y=3", "x=2∨y=3", False),
        ("x>3", "y>3", False),
        ("x>3", "(3,\\infty)", True),
        ("x>1∧y>2", "x>1∨y>2", False),
        ("1,2,…", "2,1,…", False),
        ("3\\pmod{7}", "3\\pmod{5}", False),
        ("\\{5\\}", "5", True),
    ],
)
def test_matching(first, second, verdict):
    assert same(first, second) == verdict and same(second, first) == verdict
