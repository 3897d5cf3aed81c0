"""Decimals beside exact numbers: how far apart may two spellings of a number be?

    1. same_number    two rationals as they are written, perhaps with a percent sign on one side
    2. is_rough       is a decimal rounded, so that the tolerance applies to what it stands in?

A fraction, a whole number and a decimal of at most five digits are exact. A longer decimal may be
the value of an exact number, rounded or cut off.
So 0.333333 is 1/3, but neither 2.9999999 nor 3.0000001 is 3. What a computer's floats add counts
for nothing: 0.30000000000000004 is 0.3.
"""

import re
from decimal import Context
from fractions import Fraction

# relative: a rounded decimal, what floats add
TOLERANCE, NOISE = Fraction(1, 10**6), Fraction(1, 10**13)
# digits of a decimal that is not rounded, and of one that a rounded one is not near by chance
EXACT_DIGITS, FEW_DIGITS = 5, 3


def same_number(a: str, x: Fraction, b: str, y: Fraction) -> bool:
    """Rationals x and y, written a and b; a percent sign on one side only may be left out."""
    if _close(a, x, b, y):
        return True
    # 0.5% is not 0.5
    if a.endswith("%") == b.endswith("%") or abs(y if a.endswith("%") else x) < 1:
        return False
    x, y = (100 * x, y) if a.endswith("%") else (x, 100 * y)
    return _close(a.removesuffix("%"), x, b.removesuffix("%"), y)


def _close(a: str, x: Fraction, b: str, y: Fraction) -> bool:
    """Are two numbers equal up to what rounding explains?"""
    gap, size = abs(x - y), max(abs(x), abs(y))
    if gap == 0 or "." not in a + b:
        return gap == 0
    if gap <= size * NOISE:
        return True
    rounded = [(value, digits) for value, digits in ((x, _rounded(a)), (y, _rounded(b))) if digits]
    if not rounded or gap > size * TOLERANCE:
        return False
    # The longer of two rounded decimals, rounded again, is the shorter one.
    unit = max(abs(value) / digits for value, digits in rounded)
    cut_off = len(rounded) == 1 and abs(rounded[0][0]) < size
    return gap < unit if cut_off else gap <= unit / 2


def _rounded(text: str) -> int:
    """The digits of a decimal as a whole number; 0 for an exact number."""
    match = re.match(r"[-+]?(\d*\.\d+)", text)
    digits = match[1].replace(".", "") if match and match[1].rstrip("0")[-1:] != "." else ""
    return int(digits) if len(digits.strip("0")) > EXACT_DIGITS else 0


def is_rough(text: str) -> bool | None:
    """Has an expression rounded decimals? None, for no, if one is next to a shorter decimal.

    So 1.0000001x is not x, though 1.4142136x is \\sqrt{2}x.
    """
    found = re.findall(r"\d*\.\d+", text)
    return None if any(map(_is_beside_a_shorter_one, found)) else bool(found)


def _is_beside_a_shorter_one(digits: str) -> bool:
    """Is it within the tolerance of a decimal of few digits, without being that one?"""
    value = Fraction(digits)
    gap = abs(value - Fraction(Context(FEW_DIGITS).create_decimal(digits)))
    return value * NOISE < gap <= value * TOLERANCE
