"""support/units.py: what is a unit, and what only looks like one."""

import pytest

from support.units import compound, size_of, split_leaf, unit_of


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
        ("«eighths»", ""),
        ("«unless»x", ""),
        ("«N»·«m»", "N·m"),
        ("«N␣m»", "N·m"),
        ("kg·m/s^2", "kg·m/s2"),
        ("ms^{-2}", "m/s2"),
        ("«J/(kg·K)»", "J/kg/K"),
        ("«students␣per␣class»", "student/clas"),
        ("«per␣hour»", "/h"),
        ("＄perticket", "＄/ticket"),
        # «per» begins other words
        ("perfect", ""),
        ("«pairs»", ""),
        ("«ordered␣pairs»", "orderedpair"),
        ("«厘米»", "cm"),
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
        ("2\\pi cm", ("", "2\\pi", "cm")),
        ("5\\mu m", ("", "5", "μm")),
        ("5«\\mu␣m»", ("", "5", "μm")),
        ("5\\Omega", ("", "5", "Ω")),
        ("30°30'", ("", "61/2", "°")),
        ("5«feet»6«inches»", ("", "11/2", "ft")),
        ("6'", ("", "6", "ft")),
        ("6.5''", ("", "6.5", "in")),
        ("＄18«per␣hour»", ("", "18", "＄/h")),
    ],
)
def test_name_value_and_unit(leaf, parts):
    assert split_leaf(leaf) == parts


@pytest.mark.parametrize(
    "first, factor, second",
    [
        ("km", 1000, "m"),
        ("h", 60, "min"),
        ("ft", 12, "in"),
        ("lb", 16, "oz"),
        ("L", 1000, "cm3"),
        ("＄", 100, "¢"),
        ("kWh", 3600000, "N·m"),
        ("gal", 4, "qt"),
        ("decade", 120, "month"),
        ("ha", 10000, "m2"),
    ],
)
def test_sizes(first, factor, second):
    (size, base), (other, same_base) = size_of(first), size_of(second)
    assert size == factor * other and base == same_base


def test_what_is_not_converted():
    bases = [
        size_of(unit)[1] for unit in ("kg", "m", "s", "＄", "€", "°", "°C", "°F", "rad", "apple")
    ]
    assert len(set(bases)) == len(bases)


def test_only_falling_units_of_one_kind_make_one_quantity():
    assert compound("2«hours»30«minutes»") == ("5/2", "h")
    assert compound("30«minutes»2«hours»") is None and compound("2«hours»3«cm»") is None


def test_beside_a_unit_one_letter_may_be_one():
    assert split_leaf("5000m")[2] == "" and split_leaf("5000m", any_symbol=True)[1:] == (
        "5000",
        "m",
    )
