"""support/decimals.py: exact numbers and rounded ones."""

import pytest

from support.decimals import is_rough, same_number
from support.latex import number


@pytest.mark.parametrize(
    "a, b, same",
    [
        # rounded, cut off, rounded the wrong way
        ("0.666667", "2/3", True),
        ("0.666666", "2/3", True),
        ("0.666668", "2/3", False),
        ("0.333334", "1/3", False),
        # six digits are rounded, five are not
        ("0.33333", "1/3", False),
        ("2.9999999", "3", False),
        ("2.9999999", "3.0", False),
        ("2.4999999", "2.5", False),
        # two rounded decimals: half of the last digit of the shorter
        ("3.14159265", "3.1415927", True),
        ("3.14159265", "3.1415928", False),
        ("1234567.89", "1234567.09", False),
        # what floats add
        ("0.30000000000000004", "3/10", True),
        ("2.9999999999999", "3", True),
        ("2.9999999999", "3", False),
        # a percent sign may be left out, but 0.5% is not 0.5
        ("66.666667%", "2/3", True),
        ("66.666667%", "200/3", True),
        ("50%", "50", True),
        ("0.5%", "0.5", False),
        ("49.9999999%", "50", False),
        ("1.2345678e3", "1234.5678", True),
        ("1.2345678e3", "1.2345679e3", False),
    ],
)
def test_same_number(a, b, same):
    assert same_number(a, number(a), b, number(b)) is same
    assert same_number(b, number(b), a, number(a)) is same


def test_a_decimal_next_to_a_shorter_one_is_not_rounded():
    assert is_rough("1.4142136x") and is_rough("0.5x") and is_rough("98.9949493661x")
    assert is_rough("1.0000001x") is None and is_rough("1.4142136x+0.9999999") is None
    assert is_rough("2x") is False
    # beyond a float
    assert is_rough("9" * 400 + ".5x")
