"""support/names.py: what names a result, and what is still to be solved."""

import re

import pytest

from support.names import (
    bound_letters,
    has_equals,
    is_name,
    is_variable,
    names_itself,
    names_value,
    split_equation,
)

# a space ends a command in front of a letter
NAMES = r"""
x, AB, S_n, a_{n+1}, x_{«max»}, f(x), f(x+1), f(-1), p(-1), f', f'(x), f^{-1}(x), A^{-1}, A^T,
P(X≤2), P(A\mid B), E[X], \mathbb{E}[X], «Area», «Area␣of␣ABC», \det A, \hat{y}, \vec{v},
|AB|, |\vec{a}|, [ABC], \cos\theta, \tan\alpha, \cos C, \angle ABC, \Delta, \frac{dy}{dx},
\frac{AB}{CD}, \lim_{x\to0}f(x), \vec{a}\cdot\vec{b}, |A\cup B|, n(A\cup B), x_{«a,b»}, \Pr[X],
\|v\|, \#S, f^{(3)}(0)
""".strip()
NO_NAMES = r"""
2x, x+1, x/2, \frac{x}{2}, \frac{2x}{3}, \sqrt{x}, \sqrt[3]{x}, sqrt(x), \ln x, lnx, ln(x),
\log_2x, e^x, x^2, 3^x, |x|, x(y-1), p(p+1), x!, \binom{n}{2}, \sin x, sinx, \pi, pi, 5, -x, x^{-1},
1/x, {x+1}, \lfloor x\rfloor, 2+3, x\cdot2
""".strip()


@pytest.mark.parametrize("text", [*re.split(r",\s", NAMES), "(m,n)", "«lcm»(4,6)", "\\gcd(12,18)"])
def test_names(text):
    assert is_name(text)


@pytest.mark.parametrize("text", re.split(r",\s", NO_NAMES))
def test_unsolved_sides(text):
    assert not is_name(text)


@pytest.mark.parametrize(
    "text, parts",
    [
        ("x=5", ("x", "5")),
        ("5=x", ("x", "5")),
        ("e=x", ("x", "e")),
        ("2x+1=y", ("y", "2x+1")),
        ("x=y", ("x", "y")),
        ("x/2=3", ("x/2", "3")),
        ("P(X=2)=0.5", ("P(X=2)", "0.5")),
        ("a=b=3", ("", "a=b=3")),
        ("x=2y=6", ("", "x=2y=6")),
        ("7=m+n", ("m+n", "7")),
        # what is left to check is whether it is true
        ("m+n=24+89=113", ("24+89", "113")),
        ("7", ("", "7")),
    ],
)
def test_the_sides_of_an_equation(text, parts):
    assert split_equation(text) == parts


def test_an_equals_sign_inside_brackets_is_none():
    assert has_equals("x=1") and not has_equals("\\sum_{k=1}^{3}k")


def test_a_sum_of_letters_names_a_number():
    for text in ("m+n", "a+b+c", "p-q", "A+B"):
        assert names_value(text, "7") and not names_value(text, "c") and not is_name(text)
    # a line, a number, an equation to solve
    assert not any(names_value(text, "7") for text in ("x+y", "a+e", "m+m", "m+3", "2m+n"))


@pytest.mark.parametrize(
    "name, expected",
    [
        ("f(x)", ("f", ["x"])),
        ("f_1(s,t)", ("f_1", ["s", "t"])),
        ("\\phi(t)", ("phi", ["t"])),
        ("a_n", ("a_", ["n"])),
        # an event, a point, a number, twice the same
        ("P(A)", None),
        ("f(2)", None),
        ("f(e)", None),
        ("f(x,x)", None),
        ("x", None),
        ("a_1", None),
    ],
)
def test_letters_that_a_name_binds(name, expected):
    assert bound_letters(name) == expected


def test_variables():
    assert all(map(is_variable, ("x", "a_n", "\\theta", "x_{10}")))
    assert not any(map(is_variable, ("e", "\\pi", "xy", "2", "f(x)", "")))


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("x", "6-x", True),
        ("x", "\\cos x", True),
        ("2x+1", "x", True),
        ("AB", "BA", True),
        ("T(n)", "2T(n/2)+n", True),
        ("x", "6-y", False),
        # what a function is given may stand in its value
        ("f(x)", "2x+1", False),
        ("f^{-1}(x)", "x-1", False),
        ("(f\\circ g)(x)", "x^2", False),
        ("a_n", "a_1+2n", False),
        ("\\frac{dy}{dx}", "2x", False),
        ("«Area»", "ar^2", False),
        ("x", "\\exp(2)", False),
        ("", "x", False),
    ],
)
def test_a_value_that_holds_its_name(name, value, expected):
    assert names_itself(name, value) is expected
