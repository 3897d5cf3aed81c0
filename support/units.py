"""The unit of an answer: "12 \\text{ square meters}" is 12 and m2.

    1. split_leaf    what stands before "=", the value, its unit
    2. unit_of       the symbol of a unit, or the noun that says what is counted
    3. size_of       how many base units a unit is, so that 5 km are 5000 m

Units of money, of counted things and of temperature are converted into no other.
"""

import functools
import re
from collections import Counter
from fractions import Fraction

from support.characters import GREEK, pairs
from support.latex import BASES, FUNCTIONS, OF_SEVERAL, PARTS, SCALES, SHORT_SCALES, number
from support.names import split_equation

# A unit in the singular = its symbol.
SI_UNITS = pairs(
    "meter=m metre=m gram=g liter=L litre=L second=s watt=W joule=J volt=V ampere=A amp=A "
    "newton=N pascal=Pa hertz=Hz byte=B bit=bit ohm=Ω mole=mol calorie=cal coulomb=C tesla=T "
    "farad=F henry=H"
)
PREFIXES = pairs("kilo=k centi=c milli=m deci=d mega=M giga=G tera=T micro=μ nano=n")
SI_NAMES = {
    long + name: short + symbol
    for name, symbol in SI_UNITS.items()
    for long, short in PREFIXES.items()
}
UNITS = SI_UNITS | SI_NAMES
UNITS |= pairs(
    "minute=min hour=h hr=h sec=s day=day week=week month=month year=year yr=year decade=decade "
    "century=century centurie=century am=am pm=pm inch=in inche=in foot=ft feet=ft yard=yd mile=mi "
    "acre=acre hectare=ha pound=lb ounce=oz ton=t tonne=t l=L ml=mL cc=cm3 gallon=gal quart=qt "
    "pint=pt cup=cup degree=° deg=° radian=rad celsius=°C fahrenheit=°F degreecelsius=°C "
    "degreescelsius=°C degreefahrenheit=°F degreesfahrenheit=°F kelvin=K kwh=kWh mph=mi/h kph=km/h "
    "kmph=km/h rpm=rpm dollar=＄ USD=＄ cent=¢ euro=€ EUR=€ GBP=£ yen=¥ yuan=yuan rupee=rupee "
    "unit=unit people=people person=people student=student child=children children=children "
    "way=way point=point time=time st=th nd=th rd=th th=th arcminute=′ arcsecond=″ "
    "ordered␣pair=orderedpair ordered␣triple=orderedtriple apple=apple egg=egg book=book "
    "card=card coin=coin marble=marble"
)
UNITS |= pairs(
    "元=yuan 米=m 厘米=cm 毫米=mm 分米=dm 千米=km 公里=km 克=g 千克=kg 公斤=kg 吨=t 升=L 毫升=mL "
    "秒=s 分钟=min 小时=h 天=day 年=year 度=° 平方米=m2 平方厘米=cm2 平方千米=km2 "
    "立方米=m3 立方厘米=cm3 人=people 种=way 个=个 次=time 岁=year"
)
UNITS |= {symbol: symbol for symbol in UNITS.values()}
# Outside \text{}, where 5m is 5 times m, only these symbols and the longer ones are units.
PLAIN_UNITS = set(
    "cm mm km dm kg mg ml mL Hz kW kJ kB KB MB GB TB ft in yd mi oz lb hr st nd rd th "
    "°C °F ° ＄ ¢ € £ ¥ Ω kΩ μm μs ′ ″".split()
)
# products of single letters that are units all the same
PLAIN_PRODUCTS = ("m/s", "N·m")
# A symbol = its size in other units; what is not here is a base unit.
SIZES = pairs(
    "g=1/1000kg km=1000m cm=1/100m mm=1/1000m dm=1/10m μm=1/1000000m nm=1/1000000000m kg=1kg "
    "mg=1/1000000kg μg=1/1000000000kg t=1000kg lb=45359237/100000000kg oz=45359237/1600000000kg "
    "in=254/10000m ft=3048/10000m yd=9144/10000m mi=1609344/1000m ha=10000m2 "
    "acre=40468564224/10000000m2 L=1/1000m3 mL=1/1000000m3 cL=1/100000m3 dL=1/10000m3 "
    "gal=3785411784/1000000000000m3 qt=3785411784/4000000000000m3 pt=3785411784/8000000000000m3 "
    "cup=3785411784/16000000000000m3 min=60s h=3600s day=86400s week=604800s ms=1/1000s "
    "μs=1/1000000s decade=10year century=100year month=1/12year N=1kg·m/s2 kN=1000kg·m/s2 "
    "J=1kg·m2/s2 kJ=1000kg·m2/s2 MJ=1000000kg·m2/s2 cal=4184/1000kg·m2/s2 kcal=4184kg·m2/s2 "
    "kWh=3600000kg·m2/s2 W=1kg·m2/s3 kW=1000kg·m2/s3 MW=1000000kg·m2/s3 Pa=1kg/m/s2 "
    "kPa=1000kg/m/s2 Hz=1/1s-1 kHz=1000s-1 MHz=1000000s-1 GHz=1000000000s-1 mV=1/1000V kV=1000V "
    "mA=1/1000A kΩ=1000Ω MΩ=1000000Ω mmol=1/1000mol ¢=1/100＄ ′=1/60° ″=1/3600° B=8bit"
)
# nouns of several things: 12 pairs are neither 12 nor, of points, 24
GROUPS = "pair couple duo trio triplet trilogy quartet quintet twin ream brace".split()
# words that no noun of something counted contains
NO_UNITS = set(
    "or and not nor is are was be than less more most least about approximately factorial "
    "fewer greater below above under squared cubed root radical inverse reciprocal opposite if "
    "then else when where for any all no none only of to at by in base mod "
    "modulo over plus minus divided multiplied times unless except twice double triple "
    "myriad googol kilo mega incorrect invalid wrong false true answer pi infinity "
    "negative positive basis".split()
).union(GROUPS, SCALES, SHORT_SCALES, PARTS, BASES, FUNCTIONS, OF_SEVERAL, GREEK) - {"score"}
POWERS = {"square": "2", "sq": "2", "squared": "2", "cubic": "3", "cubed": "3"}
SYMBOLS = r"«[^»]*»|[A-Za-zμΩ°€£¥¢＄′″/·]|\^\{?-?\d\}?"
NUMBER = r"\d+(?:\.\d+)?|\\frac\{\d+\}\{\d+\}|\d+\\frac\{\d+\}\{\d+\}"


def split_leaf(leaf: str, any_symbol: bool = False) -> tuple[str, str, str]:
    """(what stands before a single "=", the value, its unit); "" for what is not there.

    any_symbol: 5m is 5 meters, not 5 times m.
    """
    name, value = split_equation(leaf)
    value = _with_symbols(value).replace("␣and»", "»")
    # £5
    value = re.sub(r"^([-+]?)([£€¥＄])(.+?)((?:«?␣?per|«?/«?[a-z]).*)?$", r"\1\3\2\4", value)
    parts = compound(value)
    if parts:
        return name, *parts
    tail = re.fullmatch(rf"(.*[\d)}}.]|.*\\pi ?|.+?(?=«))((?:{SYMBOLS})+)", value)
    angle = tail and tail[2] == "°" and re.search("sin|cos|tan|cot|sec|csc", tail[1])
    unit = unit_of(tail[2], any_symbol) if tail and not angle else ""
    if unit:
        return name, tail[1].removesuffix(" "), unit
    value = re.sub(r"«(\(?\w\)?)»", r"\1", value)
    return name, re.sub(r"^\(([A-Za-z])\)$", r"\1", value), ""


def _with_symbols(text: str) -> str:
    """Units that LaTeX writes as commands: \\mu m, \\Omega, 30', and their products."""
    if not re.search(r"[\d)}]|\\pi", text):
        return text
    text = re.sub(r"(?<=[\d}\s»«])\\mu[ ␣]?(?=[A-Za-z«])", "μ", text)
    text = re.sub(r"(?<=[\d}»«kM])\\Omega ?", "Ω", text)
    text = re.sub(r"(?<=[A-Za-z»])\\(?:cdot|times) ?(?=[A-Za-z«])", "·", text)
    text = re.sub(r"(?<=°)(\d+(?:\.\d+)?)'(?:(\d+(?:\.\d+)?)(?:''|\"))?", _minutes, text)
    # 5'6'' of a length
    text = re.sub(r"^(\d+)'(\d+)(?:''|\")$", r"\1«ft»\2«in»", text)
    text = re.sub(r"^(\d+(?:\.\d+)?)(?:''|\")$", r"\1«in»", text)
    return re.sub(r"^(\d+(?:\.\d+)?)'$", r"\1«ft»", text)


def _minutes(match: re.Match) -> str:
    """30' and 15'' of an angle."""
    return f"{match[1]}′" + (f"{match[2]}″" if match[2] else "")


def compound(value: str) -> tuple[str, str] | None:
    """("11/2", "ft") for 5 feet 6 inches; None for anything else."""
    sign, parts = value[:1] == "-", re.findall(rf"({NUMBER})((?:{SYMBOLS})+)", value)
    if len(parts) < 2 or "".join(map("".join, parts)) != value.lstrip("-"):
        return None
    units = [unit_of(unit) for _, unit in parts]
    sizes = [size_of(unit) for unit in units if unit]
    if len(sizes) < len(parts) or len({size[1] for size in sizes}) > 1:
        return None
    factors = [factor for factor, _ in sizes]
    if sorted(set(factors), reverse=True) != factors:
        return None
    total = sum(number(n) * factor for (n, _), factor in zip(parts, factors)) / factors[0]
    return f"{'-' * sign}{total}", units[0]


def unit_of(text: str, any_symbol: bool = False) -> str:
    """The symbol of a unit: "mi/h" for "«miles␣per␣hour»"; "" for other text.

    One or two words in \\text{} that are no unit say what is counted: "apple".
    """
    # J/(kg·K)
    text = re.sub(r"\\(?:cdot|times)[ ␣]?", "·", text)
    text = re.sub(r"/\(([^()]*)\)", lambda m: "/" + re.sub("[·␣]+", "/", m[1]), text)
    plain = re.sub(r"[«».{}^]", "", text).strip("␣")
    in_text = "«" in text
    # degrees Celsius, but not N m as nm
    joined = plain.replace("␣", "") if plain[:3] in ("deg", "Deg") else plain
    whole = _unit_name(joined, any_symbol or in_text)
    if whole:
        return whole
    ratio = re.split(r"/|␣per␣|(?<=[a-z])per(?=[a-z])", plain.strip("·"))
    # 18 per hour
    rate = re.fullmatch(r"([＄€£¥]?)␣?per(␣?)([a-z]+)", plain)
    if rate:
        noun = rate[3] if (rate[1] or rate[2]) and _is_noun(rate[3]) else ""
        below = _unit_name(rate[3], True) or noun
        return below and f"{rate[1]}/{below}"
    parts = [[word for word in re.split("[·␣]+", part) if word] for part in ratio]
    longest = max((len(word) for part in parts for word in part), default=0)
    compound = len(parts) > 1 or len(parts[0]) > 1
    sure = any_symbol or in_text or (compound and (plain.startswith(PLAIN_PRODUCTS) or longest > 1))
    names = [_product(part, sure) for part in parts]
    if all(names):
        return "/".join(names)
    if not all(word.islower() or word.istitle() or word.isupper() for word in plain.split("␣")):
        return ""
    words = plain.lower().split("␣")
    nouns = [word for word in words if word != "per"]
    if (
        not re.fullmatch("«[^»]*»", text)
        or not 1 <= len(nouns) <= 2
        or not all(map(_is_noun, nouns))
    ):
        return ""
    return "/".join("".join(part).removesuffix("s") for part in _split_list(words, "per"))


def _split_list(words: list[str], separator: str) -> list[list[str]]:
    """The runs of words between separators."""
    return [run.split() for run in " ".join(words).split(f" {separator} ")]


def _is_noun(word: str) -> bool:
    """May it be something counted?"""
    known = {word, word.removesuffix("s")} & NO_UNITS
    return not known and re.fullmatch("[a-z]{3,}|[\u4e00-\u9fff]{1,4}", word) is not None


def _product(words: list[str], any_symbol: bool) -> str:
    """The symbol of a product of units, "" if a word is none: "square" squares the next one."""
    if words and words[0] in POWERS and len(words) > 1:
        words = [words[0] + words[1], *words[2:]]
    names = [_unit_name(word, any_symbol) for word in words]
    return "·".join(names) if names and all(names) else ""


def _unit_name(word: str, any_symbol: bool) -> str:
    """The symbol of one unit with its power; outside \\text{} not every symbol is one."""
    match = re.fullmatch(r"(square|sq|cubic)?(.+?)(-?\d|squared|cubed)?", word)
    if not match:
        return ""
    # metres per second, not milliseconds
    if match[2] == "ms" and (match[3] or "")[:1] == "-":
        return f"m/s{match[3][1:].replace('1', '')}"
    # KM is km, but Mm is no mm, nor S a second
    lowered = len(match[2]) > 2 or match[2][:1] not in ("m", "M") and len(match[2]) == 2
    for form in (match[2], match[2].lower() if lowered else match[2]):
        for name in (form, form.removesuffix("s")):
            if name in UNITS and (any_symbol or len(name) > 2 or name in PLAIN_UNITS):
                return UNITS[name] + POWERS.get(match[1] or match[3], match[3] or "")
    return ""


@functools.cache
def size_of(unit: str) -> tuple[Fraction, tuple]:
    """(how many base units it is, the base units with their powers)."""
    factor, powers = Fraction(1), Counter()
    for k, part in enumerate(unit.split("/")):
        for word in part.split("·"):
            symbol, power = re.fullmatch(r"(.*?)(-?\d)?", word).groups()
            power = int(power or 1) * (-1 if k else 1)
            size, base = Fraction(1), ((symbol, 1),)
            if symbol in SIZES:
                digits, rest = re.fullmatch(r"(\d+(?:/\d+)?)(.+)", SIZES[symbol]).groups()
                size, base = Fraction(digits), ((rest, 1),) if rest == symbol else size_of(rest)[1]
            factor *= size**power
            for name, times in base:
                powers[name] += times * power
    return factor, tuple(sorted((name, times) for name, times in powers.items() if times))
