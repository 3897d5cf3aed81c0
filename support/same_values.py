"""Do two expressions have the same values? This text runs in the sandbox, with sympy.

    1. at        values of the symbols at one of the points
    2. power, sqrt, log, ...    refuse what is not real, where both expressions are of reals
    3. near      are two numbers equal?
    4. same      are two expressions, or two equations up to a constant factor?

math_equal.py appends a line that compares leaves. A leaf is (value, left minus right side of an
equation, rough: 1 yes, 0 no, -1 neither it nor the other, size of its unit, symbols, marks); marks:
"i" the imaginary unit, "a" an absolute value, "c" one of what may be complex, "r" rounding, "m"
products of matrices. Without symbols numbers stay exact, so that 2^99 differs from 2^99 + 1.

Over the reals a point where a root or logarithm is not real says nothing, so that ln x^2 is 2 ln x.
A symbol whose minus sign alone makes a value unreal is taken as positive, as g in sqrt(h/g).
sqrt(x^2) is not x, since both are real at a negative x. An absolute value that is written takes
negative symbols seriously.
"""

# ruff: noqa: F401
import functools
from random import Random

import sympy
from sympy import (
    Abs,
    E,
    Float,
    I,
    Integer,
    Max,
    Min,
    N,
    Rational,
    Symbol,
    acot,
    acsc,
    asec,
    asinh,
    atan,
    binomial,
    ceiling,
    cos,
    cosh,
    cot,
    coth,
    csc,
    exp,
    expand,
    factorial,
    factorial2,
    floor,
    igcd,
    ilcm,
    im,
    oo,
    pi,
    sec,
    sin,
    sinh,
    tan,
    tanh,
)

# Sizes of the symbols at each point, and their signs: 1, -1 or None for any. Whole sizes make
# whole numbers, which only rounding tells apart.
POINTS = [
    (0.5, 2, 1),
    (0.5, 2, 1),
    (0.5, 2, -1),
    (0.5, 2, None),
    (0.5, 2, None),
    (0.02, 0.5, 1),
    (2, 9, 1),
    (0.02, 0.6, None),
    (2, 9, -1),
    (0.02, 0.5, -1),
    (2, 9, 1),
    (2, 9, None),
    (10, 40, 1),
    (10, 40, -1),
    (100, 200, 1),
    (100, 200, -1),
]
WHOLE = [(1, 9, 1), (1, 9, -1), (10, 200, 1)]
SIGNS = [sign for _, _, sign in [*POINTS, *WHOLE]]
# a number of absolute value 1
TURN = Rational(3, 5) + Rational(4, 5) * I
# of a symbol, since cosh of it is large
DIGITS = 400


class Unreal(Exception):
    """A value that is not real, or none, where only reals count."""


class Reals:
    """Do only reals count now?"""

    only = False


def real(function):
    """A function that raises Unreal for a value that is not real, where only reals count."""

    def checked(*args):
        value = function(*args)
        if Reals.only and not is_real(value):
            raise Unreal
        return value

    return checked


def is_real(value) -> bool:
    """Is a number real? Computed where sympy does not know."""
    known = value.is_real
    return bool(abs(im(N(value, 20))) < Float("1e-12")) if known is None else known


def odd_root(base, exponent):
    """base ** exponent, real for a negative base where the exponent is p / odd."""
    if Reals.only and base.is_negative and exponent.is_Rational and exponent.q % 2:
        return (-1) ** exponent.p * (-base) ** exponent
    return base**exponent


power, sqrt, log = real(odd_root), real(sympy.sqrt), real(sympy.log)
real_root = real(sympy.real_root)
asin, acos, acosh, atanh = map(real, (sympy.asin, sympy.acos, sympy.acosh, sympy.atanh))


def at(k, positive):
    """The value of every symbol at a point; some are positive everywhere."""
    low, high, sign = [*POINTS, *WHOLE][k]

    def v(name):
        r = Random(f"{name} {k}")
        whole = k >= len(POINTS)
        size = Integer(r.randint(low, high)) if whole else Float(str(r.uniform(low, high)), DIGITS)
        return size * (1 if name in positive else sign or r.choice((-1, 1)))

    return v


def near(x, y, rough=0):
    """Are two numbers equal: exactly, to 80 digits, or to 6 if rough?"""
    if (x - y).is_Rational and not rough:
        return x - y == 0
    size, gap = max(abs(N(x, 30)), abs(N(y, 30))), abs(N(x - y, 30, maxn=600))
    zero = Float("1e-100" if (x - y).has(Float) else "1e-500") if x == 0 or y == 0 else 0
    return bool(size < oo and gap <= size / 10 ** (6 if rough else 80) or gap < zero)


def derivative(f, v, name, order):
    """The derivative of an expression by one of its symbols, at a point."""
    x, only = Symbol("x", real=True), Reals.only
    Reals.only = False
    slope = f(lambda other: x if other == name else v(other)).diff(x, order)
    Reals.only = only
    return real(lambda value: value)(slope.subs(x, v(name)))


def true_value(left, right):
    """The right side of a true equation; ValueError, which ends the comparison, if it is false."""
    if not near(left, right):
        raise ValueError("a false equation")
    return right


@functools.cache
def value_at(f, k, positive, reals):
    """f at a point, None where it is not real."""
    Reals.only = reals
    try:
        return f(at(k, positive))
    except Unreal:
        return None


def presumed_positive(f, g, names):
    """The symbols that make f or g unreal if they alone are negative."""
    alone = {name: names - {name} for name in names}
    return frozenset(
        name for name in names if None in [value_at(h, 2, alone[name], True) for h in (f, g)]
    )


def values(f, g, names, marks):
    """The pairs of values that count, None if f and g are not defined for the same reals."""
    positive = frozenset()
    if "i" not in marks and "a" not in marks:
        positive = presumed_positive(f, g, names)
    # the points, and each symbol negative alone
    last = len(POINTS) + ("r" in marks) * len(WHOLE)
    points = [(k, positive) for k in range(last if names else 1)]
    points += [(2, names - {name}) for name in names - positive]
    if "i" not in marks:
        pairs = [[value_at(h, *point, True) for h in (f, g)] for point in points]
        found = [pair for pair in pairs if None not in pair]
        if found:
            same_domain = all(None not in pair or pair == [None, None] for pair in pairs)
            # sqrt(x^2) is not (sqrt(-x))^2
            at_positive = any(
                None not in pair and (names <= signs or SIGNS[k] == 1)
                for pair, (k, signs) in zip(pairs, points)
            )
            return found if same_domain or (at_positive and "a" not in marks) else None
    pairs = [[value_at(h, k, frozenset(), False) for h in (f, g)] for k, _ in points]
    return None if any(None in pair for pair in pairs) else pairs


def turned(f):
    """f where z and w are not real."""
    return lambda v: f(lambda name: v(name) * TURN if name[0] in "zw" else v(name))


def all_values(f, g, names, marks):
    """The pairs of values that count; beside an absolute value also where z and w are not real."""
    pairs = values(f, g, names, marks)
    if pairs and "c" in marks:
        points = [(turned(h), k) for k in range(3) for h in (f, g)]
        found = [value_at(h, k, frozenset(), False) for h, k in points]
        pairs += zip(found[::2], found[1::2])
    return pairs


def same_as_matrices(f, g):
    """Are two expressions equal where products of capitals do not commute?"""
    Reals.only = False
    a, b = (h(lambda name: Symbol(name, commutative=not name[0].isupper())) for h in (f, g))
    return 0 in (expand(a - b), expand(a + b))


def same(p, q):
    """Are two leaves equal?"""
    names, marks = frozenset(p[4] + q[4]), p[5] + q[5]
    rough = max(p[2], q[2]) > 0 <= min(p[2], q[2])
    f, g = (p[1], q[1]) if p[1] and q[1] else (p[0], q[0])
    if "m" in marks and f and g and not same_as_matrices(f, g):
        return False
    if p[1] and q[1]:
        pairs = all_values(p[1], q[1], names, marks)
        if not pairs or N(pairs[0][0], 30) == 0 or N(pairs[0][1], 30) == 0:
            return False
        a, b = pairs[0]
        return all(near(x * b, y * a, rough) for x, y in pairs)
    if not (p[0] and q[0]):
        return False
    pairs = all_values(p[0], q[0], names, marks)
    m, n = (p[3], q[3]) if p[3] and q[3] else (1, 1)
    return bool(pairs) and all(near(x * m, y * n, rough) for x, y in pairs)
