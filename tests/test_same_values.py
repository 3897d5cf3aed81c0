"""support/same_values.py: values at points, over the reals where that is what is meant."""

import pytest

sympy = pytest.importorskip("sympy")
from support import same_values as values  # noqa: E402


def leaf(function, names=("x",), marks=""):
    """An expression without equation and unit."""
    return (function, None, 0, 0, list(names), marks)


def root_of_square(v):
    return values.sqrt(values.power(v("x"), sympy.Integer(2)))


@pytest.mark.parametrize(
    "first, second, equal",
    [
        (leaf(root_of_square), leaf(lambda v: v("x")), False),
        (leaf(root_of_square), leaf(lambda v: abs(v("x")), marks="a"), True),
        # ln x^2 and 2 ln x agree wherever both are real
        (
            leaf(lambda v: values.log(v("x") ** 2)),
            leaf(lambda v: 2 * values.log(v("x"))),
            True,
        ),
        # but ln|x| says that x may be negative
        (
            leaf(lambda v: values.log(abs(v("x"))), marks="a"),
            leaf(lambda v: values.log(v("x"))),
            False,
        ),
        (
            leaf(lambda v: values.sqrt(v("h") / v("g")), "gh"),
            leaf(lambda v: values.sqrt(v("h") * v("g")) / v("g"), "gh"),
            True,
        ),
        (
            leaf(lambda v: values.sqrt(v("x") ** 2 * v("y") ** 2), "xy"),
            leaf(lambda v: v("x") * v("y"), "xy"),
            False,
        ),
        # only at large numbers, only at whole ones
        (leaf(lambda v: sympy.Min(v("x"), 50)), leaf(lambda v: v("x")), False),
        (
            leaf(lambda v: sympy.ceiling(v("x")), marks="r"),
            leaf(lambda v: sympy.floor(v("x")) + 1, marks="r"),
            False,
        ),
        # both real at negative numbers alone
        (leaf(root_of_square), leaf(lambda v: values.sqrt(-v("x")) ** 2), False),
        # nowhere real: compared as complex numbers
        (leaf(lambda v: values.sqrt(-4), ()), leaf(lambda v: 2 * sympy.I, (), "i"), True),
        (
            leaf(lambda v: sympy.Integer(2) ** 99, ()),
            leaf(lambda v: sympy.Integer(2) ** 99 + 1, ()),
            False,
        ),
    ],
)
def test_expressions(first, second, equal):
    assert values.same(first, second) is equal and values.same(second, first) is equal


def test_odd_roots_are_real_over_the_reals():
    values.Reals.only = True
    assert values.power(sympy.Integer(-8), sympy.Rational(1, 3)) == -2
    with pytest.raises(values.Unreal):
        values.power(sympy.Integer(-8), sympy.Rational(1, 2))
    values.Reals.only = False
    assert not values.power(sympy.Integer(-8), sympy.Rational(1, 3)).is_real


def test_units_count_only_on_both_sides():
    km, m = (
        (lambda v: sympy.pi, None, 0, 1000, [], ""),
        (lambda v: 1000 * sympy.pi, None, 0, 1, [], ""),
    )
    bare = (lambda v: sympy.pi, None, 0, 0, [], "")
    assert values.same(km, m) and values.same(km, bare) and not values.same(m, bare)


def test_an_equation_of_numbers_has_its_value_only_if_it_is_true():
    assert values.true_value(sympy.Integer(6), sympy.Integer(6)) == 6
    with pytest.raises(ValueError):
        values.true_value(sympy.Integer(6), sympy.Integer(7))


def test_z_is_complex_and_capitals_may_be_matrices():
    def square(v):
        return v("z") ** 2

    absolute = leaf(lambda v: abs(v("z")) ** 2, "z", "ac")
    assert not values.same(absolute, leaf(square, "z"))
    # the same, where only the reals count
    assert values.same(leaf(absolute[0], "z", "a"), leaf(square, "z"))

    left = leaf(lambda v: (v("A") + v("B")) ** 2, "AB", "m")
    assert values.same(left, leaf(lambda v: (v("B") + v("A")) ** 2, "AB"))
    expanded = leaf(lambda v: v("A") ** 2 + 2 * v("A") * v("B") + v("B") ** 2, "AB")
    assert not values.same(left, expanded)
    assert values.same((*left[:5], ""), expanded)


def test_a_derivative_at_a_point():
    slope = leaf(lambda v: values.derivative(lambda v: v("x") ** 3, v, "x", 2))
    assert values.same(slope, leaf(lambda v: 6 * v("x")))
    assert not values.same(slope, leaf(lambda v: 3 * v("x") ** 2))


def test_a_decimal_beside_a_shorter_one_is_exact():
    rough, sharp = [
        (lambda v: sympy.Rational("1.0000001") * v("x"), None, mark, 0, ["x"], "")
        for mark in (1, -1)
    ]
    x = (lambda v: v("x"), None, 1, 0, ["x"], "")
    assert values.same(rough, x) and not values.same(sharp, x)
