"""The unit of an answer: "12 \\text{ square meters}" is 12 and m2.

split_leaf    what stands before "=", the value, its unit
unit_of       the symbol of a unit, or the noun that says what is counted
"""

import re

from support.latex import BASES, FUNCTIONS, GREEK, SCALES, pairs

# A unit in the singular = its symbol.
SI_UNITS = pairs(
    "meter=m metre=m gram=g liter=L litre=L second=s watt=W joule=J volt=V ampere=A amp=A "
    "newton=N pascal=Pa hertz=Hz byte=B bit=bit ohm=Ω mole=mol calorie=cal"
)
PREFIXES = pairs("kilo=k centi=c milli=m deci=d mega=M giga=G tera=T micro=μ nano=n")
UNITS = SI_UNITS | {
    long + name: short + symbol
    for name, symbol in SI_UNITS.items()
    for long, short in PREFIXES.items()
}
UNITS |= pairs(
    "minute=min hour=h hr=h sec=s day=day week=week month=month year=year decade=decade "
    "century=century am=am pm=pm inch=in inche=in foot=ft feet=ft yard=yd mile=mi acre=acre "
    "hectare=ha pound=lb ounce=oz ton=t tonne=t l=L ml=mL gallon=gal quart=qt pint=pt cup=cup "
    "degree=° deg=° radian=rad celsius=°C fahrenheit=°F degreecelsius=°C degreescelsius=°C "
    "degreefahrenheit=°F degreesfahrenheit=°F kelvin=K kwh=kWh mph=mi/h kph=km/h kmph=km/h "
    "rpm=rpm dollar=＄ USD=＄ cent=¢ euro=€ EUR=€ GBP=£ yen=¥ yuan=yuan rupee=rupee unit=unit "
    "people=people person=people student=student child=child children=child way=way "
    "point=point time=time st=th nd=th rd=th th=th"
)
UNITS |= {symbol: symbol for symbol in UNITS.values()}
# Outside \text{}, where 5m is 5 times m, only these symbols and the longer ones are units.
PLAIN_UNITS = set(
    "cm mm km dm kg mg ml mL Hz kW kJ kB KB MB GB TB ft in yd mi oz lb hr st nd rd th "
    "°C °F ° ＄ ¢ € £ ¥".split()
)
# words that no noun of something counted contains
NO_UNITS = set(
    "or and not nor is are was be than less more most least about approximately factorial "
    "squared cubed root if then else when where for any all no none only of to at by in base mod "
    "modulo over plus minus divided multiplied half halves third thirds quarter quarters "
    "wrong false true answer pi infinity negative positive".split()
).union(SCALES, BASES, FUNCTIONS, GREEK)
POWERS = {"square": "2", "sq": "2", "squared": "2", "cubic": "3", "cubed": "3"}


def split_leaf(leaf: str) -> tuple[str, str, str]:
    """(what stands before a single "=", the value, its unit); "" for what is not there."""
    name, _, value = leaf.rpartition("=") if leaf.count("=") == 1 else ("", "", leaf)
    # 2x+1 = y
    if len(value) == 1 and value.isalpha() and len(name) > 1:
        name, value = value, name
    # £5
    value = re.sub(r"^([-+]?)([£€¥＄])(.+)", r"\1\3\2", value)
    in_text, symbols = r"«[^»]*»", r"[A-Za-zμΩ°€£¥¢＄/]|\^\{?-?\d\}?"
    tail = re.fullmatch(rf"(.*[\d)}}.]|.+?(?=«))((?:{in_text}|{symbols})+)", value)
    angle = tail and tail[2] == "°" and re.search("sin|cos|tan|cot|sec|csc", tail[1])
    unit = unit_of(tail[2]) if tail and not angle else ""
    if unit:
        return name, tail[1], unit
    value = re.sub(r"«(\(?\w\)?)»", r"\1", value)
    return name, re.sub(r"^\(([A-Za-z])\)$", r"\1", value), ""


def unit_of(text: str) -> str:
    """The symbol of a unit: "mi/h" for "«miles␣per␣hour»"; "" for other text.

    One or two words in \\text{} that are no unit say what is counted: "apple".
    """
    plain = re.sub(r"[«».{}^␣]", "", text)
    for parts in ([plain], plain.split("/"), plain.split("per")):
        long = len(parts) > 1 and (plain[:3] == "m/s" or len(max(parts, key=len)) > 1)
        names = [_unit_name(part, any_symbol="«" in text or long) for part in parts]
        if all(names):
            return "/".join(names)
    noun = re.fullmatch(r"«(?:([a-z]{2,})␣)?([a-z]{2,})»", text.lower())
    if not noun or any({word, word.removesuffix("s")} & NO_UNITS for word in noun.groups("")):
        return ""
    return (noun[1] or "") + noun[2].removesuffix("s")


def _unit_name(word: str, any_symbol: bool) -> str:
    """The symbol of one unit with its power; outside \\text{} not every symbol is one."""
    match = re.fullmatch(r"(square|sq|cubic)?(.+?)(-?\d|squared|cubed)?", word)
    if not match:
        return ""
    for form in (match[2], match[2].lower()):
        for name in (form, form.removesuffix("s")):
            if name in UNITS and (any_symbol or len(name) > 2 or name in PLAIN_UNITS):
                return UNITS[name] + POWERS.get(match[1] or match[3], match[3] or "")
    return ""
