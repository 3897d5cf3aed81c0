"""A short mathematical answer in one spelling."""

import re
from fractions import Fraction


def last_boxed(text: str) -> str | None:
    """Content of the last balanced \\boxed{...}, None if there is none. One pass, linear in the text."""
    best, open_braces = (-1, None), []
    for brace in re.finditer(r"\\boxed\{|\{|\}", text):
        if brace[0] != "}":
            open_braces.append(brace)
        elif open_braces:
            start = open_braces.pop()
            if len(start[0]) > 1 and start.start() > best[0]:
                best = start.start(), text[start.end() : brace.start()]
    return best[1]


TEXT = r"\\(?:text|textbf|textit|textrm|textsf|emph|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"


# characters; longer answers are compared as strings
MATH_LIMIT = 500


# nesting of brackets, above which there is one element
DEPTH = 30
FUNCTIONS = (
    {f: f for f in "sin cos tan cot sec csc sinh cosh tanh exp log sqrt".split()}
    | {"ln": "log", "lg": "log"}
    | {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot"}
)


GREEK = set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu nu xi rho sigma tau phi varphi chi psi omega".split()
    + "Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega".split()
)


_pairs = lambda table: dict(pair.split("=") for pair in table.split())


CHARACTERS = str.maketrans(
    _pairs("−=- –=- ÷=/ ²=^2 ³=^3 º=° ，=, （=( ）=) ％=% ：=: ＜=< ＞=> ⟨=( ⟩=)")
    | {"≈": "="}
    | {
        c: f"\\{name} "
        for c, name in _pairs(
            "×=times ·=cdot ⋅=cdot ∞=infty π=pi θ=theta √=sqrt ∪=cup ∅=emptyset ∈=in ±=pm "
            "∓=mp ≠=ne ℝ=reals"
        ).items()
    }
)


COMMANDS = (
    _pairs(
        r"\leq=≤ \le=≤ \leqslant=≤ \geq=≥ \ge=≥ \geqslant=≥ \lt=< \gt=> \dfrac=\frac \tfrac=\frac \cfrac=\frac \dbinom=\binom "
        r"\tbinom=\binom \lvert=| \rvert=| \vert=| \lbrace=\{ \rbrace=\} \degree=° \circ=° \%=% \_=_ \colon=: \neq=\ne "
        r"\langle=( \rangle=) \varnothing=\emptyset \div=/ \!= \$=＄"
    )
    | {r"\approx": "=", r"\simeq": "="}
    | dict.fromkeys(
        [
            r"\,",
            r"\;",
            r"\:",
            r"\>",
            "\\ ",
            r"\(",
            r"\)",
            r"\[",
            r"\]",
            "~",
            "$",
            r"\left",
            r"\right",
            r"\big",
            r"\Big",
            r"\bigl",
            r"\bigr",
            r"\Bigl",
            r"\Bigr",
            r"\displaystyle",
            r"\textstyle",
            r"\quad",
            r"\qquad",
            r"\thinspace",
            r"\limits",
        ],
        " ",
    )
)


SPELLINGS = {"{,}": ",", "**": "^", ">=": "≥", "<=": "≤", "+\\infty": "\\infty", "sq.": "square"}


SCALES = {
    "hundred": r"\times10^{2}",
    "thousand": r"\times10^{3}",
    "million": r"\times10^{6}",
    "billion": r"\times10^{9}",
    "trillion": r"\times10^{12}",
    "dozen": r"\times12",
    "percent": "%",
}


BASES = {
    word: base
    for base, word in enumerate(
        "two three four five six seven eight nine ten eleven twelve".split(), 2
    )
} | {"sixteen": 16}


# A unit in the singular = its symbol. In \text{} every symbol is a unit; outside, where 5m is 5 times m, PLAIN_UNITS and longer ones are.
SI_UNITS = _pairs(
    "meter=m metre=m gram=g liter=L litre=L second=s watt=W joule=J volt=V ampere=A amp=A newton=N pascal=Pa hertz=Hz byte=B bit=bit "
    "ohm=Ω mole=mol calorie=cal"
)


PREFIXES = _pairs("kilo=k centi=c milli=m deci=d mega=M giga=G tera=T micro=μ nano=n")


UNITS = (
    SI_UNITS
    | {
        long + name: short + symbol
        for name, symbol in SI_UNITS.items()
        for long, short in PREFIXES.items()
    }
    | _pairs(
        "minute=min hour=h hr=h day=day week=week month=month year=year decade=decade century=century inch=in inche=in foot=ft feet=ft yard=yd mile=mi "
        "acre=acre hectare=ha pound=lb ounce=oz ton=t tonne=t gallon=gal quart=qt pint=pt cup=cup degree=° deg=° radian=rad celsius=°C fahrenheit=°F "
        "degreecelsius=°C degreescelsius=°C degreefahrenheit=°F degreesfahrenheit=°F kelvin=K dollar=＄ USD=＄ cent=¢ euro=€ EUR=€ GBP=£ yen=¥ "
        "yuan=yuan rupee=rupee mph=mi/h kph=km/h kmph=km/h rpm=rpm sec=s l=L ml=mL kwh=kWh unit=unit people=people person=people student=student "
        "child=child children=child way=way point=point time=time st=th nd=th rd=th th=th am=am pm=pm"
    )
)


UNITS |= {symbol: symbol for symbol in UNITS.values()}


PLAIN_UNITS = set(
    "cm mm km dm kg mg ml mL Hz kW kJ kB KB MB GB TB ft in yd mi oz lb hr st nd rd th °C °F ° ＄ ¢ € £ ¥".split()
)


NO_UNITS = set(
    "or and not nor is are was be than less more most least about approximately factorial squared cubed root if then else when where for "
    "any all no none only of to at by in base mod modulo over plus minus divided multiplied half halves third thirds quarter quarters "
    # what no unit contains
    "wrong false true answer pi infinity negative positive".split()
).union(SCALES, BASES, FUNCTIONS, GREEK)


SHORT_WORDS = set(
    "no on not yes ten net one two six odd all any red won now own act cat dog god ate eat tea was saw war raw top pot opt tap pat apt "
    "are ear era end den arm ram how who sun mon tue wed thu fri sat jan feb mar apr may jun jul aug sep oct nov dec".split()
)


WORDS = "|".join(sorted(FUNCTIONS, key=len, reverse=True))
# left of "=": it only names what is right; not in |x| = 3
NAME = (
    r"(?!\|\w\|$|\\pi$)"
    r"(?:(?!.*\\(?:frac|sqrt))[^\W\d][\w\\|'(),{} ]*|[|\\(][\w\\|'(),{} ]+)"
)


# text, or a number in another base: no algebra
WORD = rf"(?<![A-Za-z\\])(?!(?:{WORDS})(?![A-Za-z]))[^\W\d_]{{4,}}|[«»␣]|^[0-9A-Z]+_[0-9]+$"


def _plain_math(text: str) -> str:
    """LaTeX in one spelling, linear in its length: no layout, spaces, $ or thousands separators; \\text{a b} becomes «a␣b», "and" a comma."""
    text = re.sub(r"^\s*\*\*([^*]+)\*\*[\s.]*$", r"\1", last_boxed(text) or text).translate(
        CHARACTERS
    )
    text = re.sub(TEXT, _plain_text, text)
    text = re.sub(r"\\not\s*=", r"\\ne ", text)
    text = re.sub(r"\\(?:[A-Za-z]+|.)|[$~]", lambda m: COMMANDS.get(m[0], m[0]), text)
    for old, new in SPELLINGS.items():
        text = text.replace(old, new)
    text = (
        re.sub(
            r"\^\s*(?:°|\{\s*°\s*\})|\s(?:and|or)\s", lambda m: "°" if m[0][0] == "^" else ",", text
        )
        .lstrip(" =")
        .rstrip(" .,;")
    )
    text = _plain_numbers(text)
    text = re.sub(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|\s+", lambda m: m[1] + " " if m[1] else "", text)
    text = re.sub(
        r"[\[(]?\\begin\{array\}\{[^{}]*\}(.*?)\\end\{array\}[\])]?",
        r"\\begin{pmatrix}\1\\end{pmatrix}",
        text,
    )
    return re.sub(r"^\(?([0-9A-Z]+)\)?_\{?(\d+)\}?$", r"\1_\2", re.sub(r"_\{(\w)\}", r"_\1", text))


def _plain_numbers(text: str) -> str:
    """Numbers in one spelling, before spaces go: 1,000 and 1 000 as 1000, 2 1/3 as 2\\frac{1}{3}, 5 million as 5\\times10^{6}; "1 2" as 1␣2."""
    if re.fullmatch(r"[^,\d()\[\]{}]*\d{1,3}(?:,\d{3})+(?![\d,])[^,]*", text):
        text = text.replace(",", "")
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(
        r"\\frac\s*(\{[^{}]*\}|\d)\s*(\{[^{}]*\}|\d)",
        lambda m: f"\\frac{{{m[1].strip('{}')}}}{{{m[2].strip('{}')}}}",
        text,
    )
    text = re.sub(r"\\sqrt\s*(\d+)", r"\\sqrt{\1}", text)
    text = re.sub(
        r"(?<!\d)(\d{0,20})\.(\d{0,20})\\(?:overline|bar|dot)\s*(?:\{(\d{1,20})\}|(\d))",
        _repeating,
        text,
    )
    text = re.sub(r"(?<![\d.,/^_])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])", r"\1\\frac{\2}{\3}", text)
    text = re.sub(
        r"(?<![\d.,/^_])[1-9]\d{0,2}(?:\s+\d{3})+(?!,?\d)", lambda m: re.sub(r"\s", "", m[0]), text
    )
    text = re.sub(r"(?<=\d)\s+(?=\d)", "␣", re.sub(r"(\^|\\log_)(\d)\s+(?=\d)", r"\1{\2}", text))
    text = re.sub(r"(?<=\d)(?:\s+x\s*|x)(?=10\^)", r"\\times", text)
    text = re.sub(
        rf"(?<=[\d}}])(\s*«?)({'|'.join(SCALES)})s?(?![A-Za-z])(»|␣?)",
        lambda m: SCALES[m[2]] + "«" * ("«" in m[1] and m[3] != "»"),
        text,
    )
    text = re.sub(rf"_\s*\{{?\s*«({'|'.join(BASES)})»\s*\}}?", lambda m: f"_{BASES[m[1]]}", text)
    text = re.sub(r"\^\s*\{?\s*«(st|nd|rd|th)»\s*\}?", "«th»", text)
    return re.sub(
        r"(?i)(?<=:\d\d)[\s«]*([ap])\.?m(?![a-z])\.?»?", lambda m: f"«{m[1].lower()}m»", text
    )


def _repeating(match: re.Match) -> str:
    """0.1\\overline{6} as the fraction it is."""
    whole, digits, period = match[1] or "0", match[2], match[3] or match[4]
    return f"\\frac{{{int(whole + digits + period) - int(whole + digits)}}}{{{'9' * len(period) + '0' * len(digits)}}}"


def _plain_text(match: re.Match) -> str:
    """What stands for \\text{..}: words in «»; a function, e, i or a number in front as it is; "and" and "or" as commas."""
    words = re.sub(r"(?:\s|~|\\[ ,;])+", " ", match[1]).strip()
    if words in FUNCTIONS:
        return f"\\{words} "
    if words.strip(" ,") in ("and", "or") or words in ("", "e", "i"):
        return "," if len(words) > 1 else words or " "
    parts = [
        re.fullmatch(r"((?:[-+]?\d[\d.,/:]*)?) ?(.*)", part)
        for part in re.split(r"(?:^| )(?:and|or) ", words)
    ]
    return ",".join(
        f"{part[1]}«{part[2].replace(' ', '␣')}»" if part[2] else f"{part[1]} " for part in parts
    )


def _number(text: str) -> Fraction | None:
    """The rational that a plain string is: integer, decimal, a/b, \\frac{a}{b}, mixed number, scientific notation, percent; None if it is none."""
    scale = Fraction(1, 100) if text.endswith("%") else 1
    text = re.sub(
        r"(?<=[\d.])\\(?:times|cdot)10\^\{?([-+]?\d{1,3})\}?$", r"e\1", text.removesuffix("%")
    )
    fraction = re.fullmatch(r"([-+]?)(\d{0,400})\\frac\{([-+]?)(\d{1,400})\}\{(\d{1,400})\}", text)
    if fraction and int(fraction[5]) and not (fraction[2] and fraction[3]):
        value = int(fraction[2] or 0) + Fraction(int(fraction[4]), int(fraction[5]))
        return value * (-1 if (fraction[1] + fraction[3]).count("-") % 2 else 1) * scale
    match = re.fullmatch(
        r"([+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400}))(?:e([+-]?\d{1,3}))?(?:/([+-]?\d{1,400}))?",
        text,
        re.IGNORECASE,
    )
    if not match or (match[3] and int(match[3]) == 0):
        return None
    return Fraction(match[1]) * Fraction(10) ** int(match[2] or 0) / int(match[3] or 1) * scale


def _sides(leaf: str) -> tuple[str, str, str]:
    """(what stands before a single "=", the value, its unit in the singular or as a symbol); "" for what is not there."""
    name, _, value = leaf.rpartition("=") if leaf.count("=") == 1 else ("", "", leaf)
    # 2x+1 = y
    name, value = (
        (value, name) if len(value) == 1 and value.isalpha() and len(name) > 1 else (name, value)
    )
    value = re.sub(r"^([-+]?)([£€¥＄])(.+)", r"\1\3\2", value)
    tail = re.fullmatch(
        r"(.*[\d)}.]|.+?(?=«))((?:«[^»]*»|[A-Za-zμΩ°€£¥¢＄/]|\^\{?-?\d\}?)+)", value
    )
    unit = (
        _unit(tail[2])
        if tail and not (tail[2] == "°" and re.search("sin|cos|tan|cot|sec|csc", tail[1]))
        else ""
    )
    if unit:
        return name, tail[1], unit
    return name, re.sub(r"^\(([A-Za-z])\)$", r"\1", re.sub(r"«(\(?\w\)?)»", r"\1", value)), ""


def _unit(text: str) -> str:
    """The symbol of a unit ("mi/h" for "«miles␣per␣hour»"), or one or two words in \\text{} that say what is counted; "" for other text."""
    plain = re.sub(r"[«».{}^␣]", "", text)
    for parts in ([plain], plain.split("/"), plain.split("per")):
        names = [
            _unit_name(
                part,
                "«" in text
                or len(parts) > 1
                and (plain[:3] == "m/s" or len(max(parts, key=len)) > 1),
            )
            for part in parts
        ]
        if all(names):
            return "/".join(names)
    noun = re.fullmatch(r"«(?:([a-z]{2,})␣)?([a-z]{2,})»", text.lower())
    if not noun or any({word, word.removesuffix("s")} & NO_UNITS for word in noun.groups("")):
        return ""
    return (noun[1] or "") + noun[2].removesuffix("s")


def _unit_name(word: str, any_symbol: bool) -> str:
    """The symbol of one unit with its power; outside \\text{} not every symbol is one."""
    match = re.fullmatch(r"(square|sq|cubic)?(.+?)(-?\d|squared|cubed)?", word)
    power = {"square": "2", "sq": "2", "squared": "2", "cubic": "3", "cubed": "3"}
    for name in (
        [form.removesuffix(end) for form in (match[2], match[2].lower()) for end in ("", "s")]
        if match
        else []
    ):
        if name in UNITS and (any_symbol or len(name) > 2 or name in PLAIN_UNITS):
            return UNITS[name] + power.get(match[1] or match[3], match[3] or "")
    return ""
