"""support/units.py: what is a unit, and what only looks like one."""

import pytest

from support.units import split_leaf, unit_of


@pytest.mark.parametrize(
    "text, unit",
    [
        ("«square␣meters»", "m2"),
        ("cm^2", "cm2"),
        ("«cubic␣centimeters»", "cm3"),
        ("«miles␣per␣hour»", "mi/h"),
        ("km", "km"),
        # outside \\text{} 5m is 5 times m
        ("m", ""),
        ("«m»", "m"),
        ("«apples»", "apple"),
        ("«red␣apples»", "redapple"),
        # words that say something else than what is counted
        ("«or»", ""),
        ("«halves»", ""),
    ],
)
def test_symbols_of_units(text, unit):
    assert unit_of(text) == unit


@pytest.mark.parametrize(
    "leaf, parts",
    [
        ("x=5cm", ("x", "5", "cm")),
        ("£5", ("", "5", "£")),
        ("2x+1=y", ("y", "2x+1", "")),
        ("12«apples»", ("", "12", "apple")),
        # an angle inside a function has no unit of its own
        ("sin30°", ("", "sin30°", "")),
        ("7", ("", "7", "")),
    ],
)
def test_name_value_and_unit(leaf, parts):
    assert split_leaf(leaf) == parts
