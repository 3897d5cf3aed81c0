"""support/latex.py: what stands in \\boxed{}."""

import time

import pytest

from support.latex import last_boxed, number, plain_math


@pytest.mark.parametrize(
    "text, inside",
    [
        ("\\boxed{1}", "1"),
        ("a \\boxed{1} b \\boxed{\\frac{1}{2}} c", "\\frac{1}{2}"),
        ("\\boxed{a{b}c}", "a{b}c"),
        ("\\boxed{1} \\boxed{2", "1"),
        ("\\boxed", None),
        ("", None),
        ("\\boxed{}", ""),
        ("\\boxed {42}", "42"),
        ("\\boxed\n{42}", "42"),
        ("\\boxed 42", "42"),
        ("so \\boxed 42.", "42"),
        ("\\boxed-1/2", "-1/2"),
        ("\\boxed\\pi", "\\pi"),
        ("\\boxed B", "B"),
        # more than one token is meant, and none is a word of a sentence
        ("\\boxed 2x", None),
        ("\\boxed 3.5x", None),
        ("\\boxed 5 or 6", None),
        ("\\boxed A or B", None),
        ("\\boxed 5, 6", None),
        ("\\boxed 10:30", None),
        ("\\boxed 3-4", None),
        ("\\boxed 3!", None),
        ("\\boxed 3...", None),
        ("\\boxed x=5", None),
        ("\\boxed \\pi/2", None),
        ("\\boxed 5 \\times 10^3", None),
        ("\\boxed (1,2) or (3,4)", None),
        ("\\boxed $5$ or $6$", None),
        ("\\boxed\\frac12x", None),
        ("\\boxed{1} and \\boxed 5 or 6", None),
        ("\\boxed 5 or \\boxed 6", "6"),
        # the line or the sentence ends
        ("\\boxed 1.5. So", "1.5"),
        ("$\\boxed 42 $ is", "42"),
        ("\\[ \\boxed 42.\\]", "42"),
        ("\\(\\boxed A\\) it is", "A"),
        ("\\boxed 42 </answer>", "42"),
        ("\\boxed 42 \nor so", "42"),
        ("\\boxed 42。", "42"),
        ("\\boxed (1,2)", "(1,2)"),
        ("\\boxed $42$.", "42"),
        ("\\boxed\\frac12", "\\frac12"),
        ("\\boxed -\\dfrac{1}{2}$", "-\\dfrac{1}{2}"),
        # full-width braces
        ("\\boxed｛42｝", "42"),
        ("\\boxed ｛\\frac{1}{2}｝ or so", "\\frac{1}{2}"),
        ("\\boxed｛42", None),
        ("my \\boxed answer", None),
        ("\\boxed{1} and \\boxed", "1"),
        ("\\boxedx{1}", None),
        ("\\fbox{42}", "42"),
        ("\\boxed{1} then \\fbox{2}", "2"),
        # escaped braces group nothing
        ("\\boxed{a\\}b}", "a\\}b"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed{\\left\\{ 1 \\\\ 2 \\right.}", "\\left\\{ 1 \\\\ 2 \\right."),
        ("\\boxed{1\\\\}", "1\\\\"),
    ],
)
def test_last_boxed(text, inside):
    assert last_boxed(text) == inside


def test_last_boxed_is_linear():
    started = time.process_time()
    assert (
        last_boxed("\\boxed{" * 200_000) is None
        and last_boxed("\\boxed{" * 100_000 + "}" * 100_000) == ""
        and last_boxed("\\boxed" + " " * 200_000) is None
        and last_boxed("\\boxed " * 100_000) is None
        and last_boxed("\\boxed" + "1," * 100_000 + "1x") is None
        and last_boxed("\\boxed $" + "1 " * 100_000) is None
        and last_boxed("\\boxed (" * 100_000) is None
        and last_boxed("\\boxed｛" * 100_000) is None
        and last_boxed("\\boxed 1 " * 100_000 + "x") is None
        and last_boxed("\\{" * 200_000) is None
    )
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    "text, plain",
    [
        ("\\text{$\\frac12$}", "\\frac{1}{2}"),
        ("{\\bf 73}\\\\", "73"),
        ("\\textcolor{red}{73}", "73"),
        ("{-}5", "-5"),
        ("x_{1}", "x_1"),
        ("1 and 2 or 3", "1∧2∨3"),
        ("1,2,\\ldots,n", "1,2,…,n"),
        ("0.1666\\ldots", "\\frac{15}{90}"),
        ("0.25\\ldots", "0.25…"),
        ("2 fifths", "\\frac{2}{5}"),
        ("3\\text{ bn}", "3\\times10^{9}"),
        ("5\\text{ min}", "5«min»"),
        ("{5 \\choose 2}", "\\binom{5}{2}"),
        ("3 \\pmod 7", "3\\pmod{7}"),
        ("5厘米", "5«厘米»"),
        ("1和2", "1∧2"),
        ("\\begin{bmatrix}1\\\\[2pt]2\\end{bmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ],
)
def test_plain_math(text, plain):
    assert plain_math(text) == plain


def test_numbers():
    assert number("-2\\frac{1}{4}") == -2.25 and number("5\\times10^{3}") == 5000
    assert number("1/0") is None and number("x") is None
