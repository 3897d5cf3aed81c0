"""Is an answer right? Exact match and token F1 for words, equality for mathematics.

    last_boxed                                  what stands in \\boxed{}
    normalize_answer, exact_match, token_f1     SQuAD's rules, and characters for Chinese, Japanese and Korean
    math_equal                                  (a) one spelling, (b) strings and rationals, (c) the elements of tuples, sets, matrices,
                                                (d) algebra, in the sandbox

Nothing of a model's text is ever evaluated. Imports tools.py only, for the sandbox: copy the two.
"""

import functools
import importlib.util
import itertools
import re
import string
import unicodedata
from collections import Counter
from fractions import Fraction

from tools import PythonTool


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


# one Chinese, Japanese or Korean character
CJK = "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"


ASCII = str.maketrans("‘’‚′“”„″‐‑‒–—―−", "'" * 4 + '"' * 4 + "-" * 7)
TEXT = r"\\(?:text|textbf|textit|textrm|textsf|emph|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"


def normalize_answer(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no a/an/the, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(pred: str, golds: list[str]) -> bool:
    """Does the prediction equal one of the golds in SQuAD's normal form, without LaTeX's dress (see _undress; CJK: see _words)?

    Two bare numbers are compared as numbers, since the normal form of -5 is that of 5. A gold without a normal form ("A", "?!") counts as it is
    written, but for case and a full stop after the prediction.
    """

    def same(gold):
        x, y, words = _bare_number(pred), _bare_number(gold), _words(_undress(gold))
        if x and y:
            return x == y
        if words:
            return _words(_undress(pred)) == words
        p, g = (_undress(text).casefold().strip() for text in (pred, gold))
        return g in (p, p.rstrip(" ."))

    return any(map(same, golds))


def token_f1(pred: str, golds: list[str]) -> float:
    """Best F1 over the golds of the bags of words (see _words); yes, no and noanswer must match exactly. In [0, 1].

    Exact match where exact_match does not compare words: two bare numbers, a gold without a normal form.
    """

    def f1(gold):
        words = _words(_undress(gold))
        if not words or _bare_number(pred) and _bare_number(gold):
            return float(exact_match(pred, [gold]))
        return f1_of_words(_words(_undress(pred)), words)

    return max(map(f1, golds), default=0.0)


def f1_of_words(pred: list[str], gold: list[str]) -> float:
    """F1 of two bags of words, in [0, 1]; 0 if they differ and one is yes, no or noanswer."""
    if pred != gold and any(words in (["yes"], ["no"], ["noanswer"]) for words in (pred, gold)):
        return 0.0
    common = (Counter(pred) & Counter(gold)).total()
    return 2 * common / (len(pred) + len(gold)) if common else 0.0


def _undress(text: str) -> str:
    """Text as it prints: without $..$, \\text{..} and the like, LaTeX's spaces and escapes; quotation marks and dashes in ASCII."""
    text = re.sub(r"^\s*\$([^$]*)\$\s*$", r"\1", text.translate(ASCII))
    # nested
    for _ in range(3):
        text = re.sub(TEXT, r"\1", text)
    return re.sub(r"\\([%&_#${}])", r"\1", re.sub(r"\\[ ,;:!]", " ", text))


def _bare_number(text: str) -> tuple | None:
    """What a text that is one number is compared by in exact_match: its value and percent sign, None if it is none.

    A fraction or a number with leading zeros (007) is compared as written: neither 1/2 nor 007 is a way to write 0.5 or 7.
    """
    digits = r"((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,400})?(?:\.[0-9]{1,400})?)"
    match = (
        re.fullmatch(
            rf"[\s$]*([-+]?)[\s$]*(?=\.?[0-9]){digits}(/[0-9]+)?\s*(%?)[\s$.,;]*", _undress(text)
        )
        if len(text) < 500
        else None
    )
    if not match:
        return None
    number = match[1].strip("+") + match[2].replace(",", "")
    return (
        (number + (match[3] or ""), match[4])
        if match[3] or re.match("-?0[0-9]", number)
        else (Fraction(number), match[4])
    )


def _words(text: str) -> list[str]:
    """The words of SQuAD's normal form, and 12% is not the word 12.

    In text with a Chinese, Japanese or Korean character, which has no spaces to split at, each such character is a word, full-width forms are ASCII
    and every Unicode punctuation is dropped.
    """
    if re.search(CJK, text):
        text = "".join(
            c
            for c in unicodedata.normalize("NFKC", text)
            if unicodedata.category(c)[0] != "P" or c == "%"
        )
        return re.findall(
            rf"{CJK}|[^\s{CJK[1:]}+", normalize_answer(re.sub(r"(?<=\d)\s*%", "％", text))
        )
    percent = re.fullmatch(r"\s*[-+]?[\d.,]*\d\s*%\s*", text)
    return [normalize_answer(text) + "%"] if percent else normalize_answer(text).split()


# A mathematical answer is compared in four steps: (a) _plain_math, one spelling; (b) _leaf_equal, strings and rationals; (c) _tree and _match, the
# elements of tuples, intervals, sets, lists and matrices; (d) what is left, algebra, as numbers at a few points: _code translates an expression into
# Python made of a fixed vocabulary, which the sandbox runs with sympy. Of the model's text nothing is ever evaluated, neither here nor there.

# characters; longer answers are compared as strings
MATH_LIMIT = 500
# elements of an answer, above which only equal strings are equal, and nesting of brackets, above
# which there is one element
LEAVES, DEPTH = 60, 30
FUNCTIONS = (
    {f: f for f in "sin cos tan cot sec csc sinh cosh tanh exp log sqrt".split()}
    | {"ln": "log", "lg": "log"}
    | {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot"}
)
GREEK = set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu nu xi rho sigma tau phi varphi chi psi omega".split()
    + "Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega".split()
)
OPEN = {"(": ")", "[": "]", "{": "}", "|": "|", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
NO_CODE = "(None, None, 0)"

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
SUBSCRIPT = r"(?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]+\}))?"
TOKEN = rf"[0-9]+\.?[0-9]*|\.[0-9]+|\\[A-Za-z]+{SUBSCRIPT}|(?:{WORDS}|pi)(?![A-Za-z])|[A-Za-z]{SUBSCRIPT}|[-+*/^!|(){{}}\[\]°]"
# left of "=": it only names what is right; not in |x| = 3
NAME = (
    r"(?!\|\w\|$|\\pi$)"
    r"(?:(?!.*\\(?:frac|sqrt))[^\W\d][\w\\|'(),{} ]*|[|\\(][\w\\|'(),{} ]+)"
)
# text, or a number in another base: no algebra
WORD = rf"(?<![A-Za-z\\])(?!(?:{WORDS})(?![A-Za-z]))[^\W\d_]{{4,}}|[«»␣]|^[0-9A-Z]+_[0-9]+$"


def math_equal(pred: str, gold: str) -> bool:
    """Do two short mathematical answers mean the same? False, never an error, for what is none.

    Rationals exactly; 1e-6 relative if one side has a decimal point. A percent sign or unit on one side only may be left out. Tuples, intervals and
    matrices in order and with their brackets; sets, unions, bare lists and plus-minus in any order. "x =" in front may be left out. Expressions and
    equations (up to a constant factor) by their values at a few points; what our grammar does not know by Math-Verify, if installed. \\log without
    a base is natural. "C: 7" is both C and 7.
    """
    longest = max(len(pred), len(gold))
    a, b = (
        text.strip() if longest > 20 * MATH_LIMIT else _plain_math(text) for text in (pred, gold)
    )
    if a == b or longest > MATH_LIMIT:
        return a == b != ""
    try:
        return _same_math(*sorted((pred, gold)))
    # no verdict: not to be remembered
    except ConnectionError:
        return False


@functools.lru_cache(1 << 14)
def _same_math(first: str, second: str) -> bool:
    """math_equal's verdict on sorted arguments that are spelled differently. Raises ConnectionError if there is no sandbox."""
    (x, a), (y, b) = _label(first), _label(second)
    if (x and y and x != y) or not (a and b):
        return False
    return _same_values(a, b) or x != y and _plain_math(a if y else b).strip("()«»") == (x or y)


def _label(text: str) -> tuple[str, str]:
    """("C", "7") for "C: 7", "C. 7" or "(C) 7"; ("", text) without a label; ("", "") with two, which answer nothing."""
    inner = re.sub(rf"^[\s$]*{TEXT}", r"\1 ", (last_boxed(text) or text).strip(" $"))
    match = re.match(
        r"\s*(?:([A-E])\s*(?:[.:)]|\\colon(?![a-z]))|\(([A-E])\))\s+(.+)", inner, re.DOTALL
    )
    if not match:
        return "", text
    two = re.search(r"(?:^|\s)(?:[A-E]\s*[.:)]|\([A-E]\))\s|^\(?[A-E][.:)]*$", match[3].strip())
    return ("", "") if two else (match[1] or match[2], match[3])


def _same_values(first: str, second: str) -> bool:
    """Steps (b) to (d)."""
    a, b = _tree(_plain_math(first)), _tree(_plain_math(second))
    left, right = list(_leaves(a)), list(_leaves(b))
    if max(len(left), len(right)) > LEAVES:
        return False
    known = {(x, y): _leaf_equal(x, y) for x in left for y in right}
    if _match(a, b, lambda x, y: known[x, y]):
        return True
    codes = {x: _leaf_code(x) for pair, verdict in known.items() if verdict is None for x in pair}
    if not codes:
        return False
    if NO_CODE in codes.values() and importlib.util.find_spec("math_verify"):
        return _jail(MATH_VERIFY.format(repr(f"${first}$"), repr(f"${second}$"))) == "1"
    bits = iter(
        _jail(
            SAME_VALUES
            + "print(*['01'[same(p, q)] for p in [{}] for q in [{}]], sep='')".format(
                *[", ".join(codes.get(x, NO_CODE) for x in leaves) for leaves in (left, right)]
            )
        )
    )
    equal = {(x, y): next(bits, "0") == "1" for x in left for y in right}
    return _match(a, b, lambda x, y: equal[x, y] if known[x, y] is None else known[x, y])


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


def _leaf_equal(a: str, b: str) -> bool | None:
    """Are two elements equal? None where neither strings nor rationals decide."""
    (name_a, a, unit_a), (name_b, b, unit_b) = _sides(a), _sides(b)
    if name_a and name_b and name_a != name_b:
        return None if _code(name_a) and _code(name_b) else False
    if (unit_a and unit_b and unit_a != unit_b) or (
        name_a != name_b and not re.fullmatch(NAME, name_a or name_b)
    ):
        return False
    # 1 = 2 = 5
    if "=" in a + b and "\\begin" not in a + b:
        return a == b
    x, y = _number(a), _number(b)
    if x is not None and y is not None:
        exact = x.denominator == y.denominator == 1 or "." not in a + b
        close = lambda x, y: x == y if exact else abs(x - y) <= max(abs(x), abs(y)) / 10**6
        return (
            close(x, y)
            or (a.endswith("%") > b.endswith("%") and close(100 * x, y))
            or (a.endswith("%") < b.endswith("%") and close(x, 100 * y))
        )
    # \sin 70 means degrees, \sin 1 may not
    if re.sub(r"(?<=\d\d)°", "", a) == re.sub(r"(?<=\d\d)°", "", b):
        return a != ""
    if "\\infty" in (a.lstrip("-"), b.lstrip("-")):
        return False
    words = [
        bool(re.search(WORD, x))
        or x.isalpha()
        and 1 < len(x)
        and (x != x.lower() or x in SHORT_WORDS)
        for x in (a, b)
    ]
    if any(words) or (a.isalpha() and b.isalpha() and len(a) > 1):
        a, b = (re.sub(r"[«»]|(?<!\d)␣|␣(?!\d)", "", x).casefold() for x in (a, b))
        return a == b or (False if any(words) else None)
    return None


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


def _tree(text: str):
    """An answer as a leaf (its text) or (kind, elements); kind: "set" (any order; also lists and unions), the two brackets, or a matrix's form."""
    depths = list(itertools.accumulate((c in "([{") - (c in ")]}") for c in text))
    if max(depths, default=0) > DEPTH:
        return text
    text = re.sub(
        r"^\\(?:mathbb\s*\{?R\}?|reals)$",
        r"(-\\infty,\\infty)",
        re.sub(r"^[A-Za-z]\w*\\in(?![A-Za-z])", "", text),
    )
    text = re.sub(
        r"^\\\{[A-Za-z](?:\\in\\mathbb\{?R\}?)?(?:\\mid|\\vert|:|\|)(.*)\\\}$", r"\1", text
    )
    text = _interval(text)
    matrix = re.fullmatch(r"\\begin\{([pbv]?)matrix\}(.*)\\end\{\1matrix\}", text)
    if matrix:
        rows = [row.split("&") for row in matrix[2].removesuffix("\\\\").split("\\\\")]
        return f"{'|' * (matrix[1] == 'v')}matrix {[len(row) for row in rows]}", [
            _tree(cell) for row in rows for cell in row
        ]
    parts = _split(text)
    if len(parts) > 1 or "\\pm" in text:
        parts = (
            parts
            if len(parts) > 1
            else [text.replace("\\pm", s).replace("\\mp", t) for s, t in ("+-", "-+")]
        )
        return "set", [
            x for tree in map(_tree, parts) for x in (tree[1] if tree[:1] == ("set",) else [tree])
        ]
    name, _, value = text.partition("=")
    if re.fullmatch(NAME, name) and isinstance(named := _tree(value), tuple):
        # A = {1, 2}, (m, n) = (3, 2)
        return named
    if text[:2] == "\\{" and text[-2:] == "\\}" and len(text) > 4:
        inner = _tree(text[2:-2])
        return inner if inner[:1] == ("set",) else ("set", [inner])
    inner = _split(text[1:-1]) if text[:1] in ("(", "[") and text[-1:] in (")", "]") else []
    return (text[0] + text[-1], [_tree(part) for part in inner]) if len(inner) > 1 else text


def _split(text: str) -> list[str]:
    """The parts between commas, semicolons and unions outside all brackets; the whole where brackets do not pair."""
    depths = list(itertools.accumulate((c in "([{") - (c in ")]}") for c in text))
    if not depths or min(depths) < 0 or depths[-1]:
        return [text]
    cuts = [
        m.span() for m in re.finditer(r"[,;]|\\cup(?![A-Za-z])", text) if depths[m.start()] == 0
    ]
    parts = [
        text[i:j]
        for i, j in zip([0] + [end for _, end in cuts], [start for start, _ in cuts] + [len(text)])
    ]
    # "1, 2, and 3" has an empty one
    return [part for part in parts if part] or [text]


def _interval(text: str) -> str:
    """-2 < x <= 1 as (-2,1] and x > 3 as (3,\\infty); other text as it is."""
    flip, letter = str.maketrans("<>≤≥", "><≥≤"), r"[A-Za-z]\w*|\\[a-z]+"
    parts = re.split("([<>≤≥])", text)
    if len(parts) == 3 and re.fullmatch(letter, parts[0]):
        parts = [parts[2], parts[1].translate(flip), parts[0]]
    if len(parts) == 3:
        parts += ["<", "\\infty"] if parts[1] in "<≤" else [">", "-\\infty"]
    if len(parts) == 5 and parts[1] in ">≥" and parts[3] in ">≥":
        parts = [part.translate(flip) if k % 2 else part for k, part in enumerate(parts)][::-1]
    if len(parts) == 5 and parts[1] in "<≤" and parts[3] in "<≤" and re.fullmatch(letter, parts[2]):
        return f"{'(['[parts[1] == '≤']}{parts[0]},{parts[4]}{')]'[parts[3] == '≤']}"
    return text


def _leaves(tree):
    yield from (
        [tree] if isinstance(tree, str) else (leaf for part in tree[1] for leaf in _leaves(part))
    )


def _match(a, b, same) -> bool:
    """Are two trees equal, if same(x, y) says which leaves are? A set of one element equals the element."""
    a, b = (tree[1][0] if tree[:1] == ("set",) and len(tree[1]) == 1 else tree for tree in (a, b))
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and bool(same(a, b))
    if a[0] != b[0] or len(a[1]) != len(b[1]):
        return False
    if a[0] != "set":
        return all(_match(x, y, same) for x, y in zip(a[1], b[1]))
    rest = list(b[1])
    for x in a[1]:
        found = next((k for k, y in enumerate(rest) if _match(x, y, same)), None)
        if found is None:
            return False
        del rest[found]
    return True


@functools.cache
def grader_jail() -> PythonTool:
    """The sandbox of this process in which algebra is decided. Its SIGKILL is the only clock that also stops sympy."""
    # nothing but our own words reaches it
    return PythonTool(2.5, "best-effort")


def _jail(code: str) -> str:
    """The last line that our own code prints in the sandbox (warnings come before it), "" if it fails or takes too long."""
    result = grader_jail().run(code)
    if result.status == "infra":
        raise ConnectionError("no sandbox")
    return result.text.rpartition("\n")[2] if result.status == "ok" else ""


# A leaf is (value, left side minus right side of an equation, rough). Values at five points: two positive in every symbol, one negative in all.
# Without symbols numbers stay exact, so that 2^99 differs from 2^99 + 1.
SAME_VALUES = """
from random import Random
from sympy import *
def at(k):
    def v(name):
        r = Random(f"{name} {k}")
        return Float(str(r.uniform(0.5, 2)), 150) * (1 if k < 2 else -1 if k == 2 else r.choice((-1, 1)))
    return v
def near(x, y, rough=0):
    if (x - y).is_Rational and not rough:
        return x - y == 0
    size, gap = max(abs(N(x, 30)), abs(N(y, 30))), abs(N(x - y, 30, maxn=600))
    zero = Float("1e-100" if (x - y).has(Float) else "1e-500") if x == 0 or y == 0 else 0
    return bool(size < oo and gap <= size / 10**(6 if rough else 80) or gap < zero)
def same(p, q):
    if p[1] and q[1]:
        x, y = ([f[1](at(k)) for k in range(5)] for f in (p, q))
        return N(x[0], 30) != 0 and N(y[0], 30) != 0 and all(near(x[k] * y[0], y[k] * x[0], p[2] or q[2]) for k in range(5))
    return bool(p[0] and q[0]) and all(near(p[0](at(k)), q[0](at(k)), p[2] or q[2]) for k in range(5))
"""
# latex2sympy builds its objects from a grammar; only the LaTeX reader is used, since the one for plain expressions evaluates them.
MATH_VERIFY = """
from math_verify import LatexExtractionConfig, parse, verify
p, g = (parse(text, [LatexExtractionConfig()], parsing_timeout=None) for text in ({}, {}))
print(int(verify(g, p, timeout_seconds=None) or verify(p, g, timeout_seconds=None)))
"""


def _leaf_code(leaf: str) -> str:
    """A leaf as the Python triple that SAME_VALUES compares; NO_CODE if it is outside the grammar."""
    name, value, _ = _sides(leaf)
    value, left = _code(value), _code(name)
    equation = f"lambda v: {left} - {value}" if name and value and left else None
    plain = f"lambda v: {value}" if value and re.fullmatch(NAME, name or "x") else None
    return f"({plain}, {equation}, {int('.' in leaf)})" if plain or equation else NO_CODE


def _code(text: str) -> str | None:
    """Plain LaTeX as Python made of our own words (sympy's functions, numbers, v("x") for a symbol); None if a token is not one of ours."""
    tokens = re.findall(TOKEN, text)
    depths = itertools.accumulate((t in OPEN) - (t in OPEN.values()) for t in tokens)
    if "".join(tokens) != text.replace(" ", "") or max(depths, default=DEPTH + 1) > DEPTH:
        return None
    try:
        reader = _Reader(tokens)
        code = reader.sum()
        return code if reader.rest == [""] else None
    except (ValueError, IndexError, RecursionError):
        return None


class _Reader:
    """Recursive descent over tokens of LaTeX: each method reads one construct and returns it as Python. ValueError, IndexError: none of ours."""

    def __init__(self, tokens: list[str]):
        # the next token comes last
        self.rest, self.bars = [""] + tokens[::-1], 0

    def take(self, *wanted: str) -> str:
        if wanted and self.rest[-1] not in wanted:
            raise ValueError(self.rest[-1])
        return self.rest.pop()

    def sum(self) -> str:
        code = self.take() if self.rest[-1] in ("+", "-") else ""
        code += self.product()
        while self.rest[-1] in ("+", "-"):
            code += self.take() + self.product()
        return f"({code})"

    def product(self) -> str:
        code = self.power()
        while True:
            if self.rest[-1] in ("*", "/", "\\times", "\\cdot"):
                code += "/" if self.take() == "/" else "*"
                code += (
                    f"(-{self.power()})" if self.rest[-1] == "-" and self.take() else self.power()
                )
            elif self.factor_follows():
                code += "*" + self.power()
            else:
                return code

    def factor_follows(self) -> bool:
        token = self.rest[-1]
        return (
            token in OPEN
            and not (token == "|" and self.bars)
            or token[:1].isalnum()
            or (
                token[:1] == "\\"
                and token not in OPEN.values()
                and token not in ("\\times", "\\cdot")
            )
        )

    def power(self) -> str:
        code = self.atom()
        if self.rest[-1] == "!":
            self.take()
            code = f"factorial({code})"
        if self.rest[-1] == "^":
            self.take()
            code = f"({code}**{self.argument()})"
        return f"({code}*pi/180)" if self.rest[-1] == "°" and self.take() else code

    def argument(self) -> str:
        sign = self.take() if self.rest[-1] in ("+", "-") else ""
        return f"({sign}{self.atom()})"

    def atom(self) -> str:
        token = self.take()
        if token[:1].isdigit() or token[:1] == ".":
            number = f"Rational('{token}')" if "." in token else f"Integer({int(token)})"
            mixed = token.isdigit() and re.fullmatch(
                r"\\frac\{[0-9]+\}\{[0-9]+\}", "".join(self.rest[-7:][::-1])
            )
            return f"({number} + {self.atom()})" if mixed else number
        if token in OPEN:
            self.bars += token == "|"
            code = self.sum()
            self.bars -= self.take(OPEN[token]) == "|"
            return {"|": "Abs", "\\lfloor": "floor", "\\lceil": "ceiling"}.get(token, "") + code
        if token in ("\\frac", "\\binom"):
            a, b = self.argument(), self.argument()
            return f"({a}/{b})" if token == "\\frac" else f"binomial({a}, {b})"
        name = token.lstrip("\\")
        if name == "sqrt" and self.rest[-1] == "[":
            index = self.atom()
            return f"real_root({self.argument()}, {index})"
        return (
            self.function(name) if name.partition("_")[0] in FUNCTIONS else self.symbol(token, name)
        )

    def symbol(self, token: str, name: str) -> str:
        if name in ("pi", "e", "i"):
            return {"pi": "pi", "e": "E", "i": "I"}[name]
        letter = name.partition("_")[0]
        if not (letter in GREEK if token[:1] == "\\" else len(letter) == 1 and letter.isalpha()):
            raise ValueError(token)
        return f'v("{name}")'

    def function(self, name: str) -> str:
        name, base = name.partition("_")[0], name.partition("_")[2].strip("{}")
        if base and (name != "log" or not base.isdigit()):
            raise ValueError(base)
        exponent = self.argument() if self.rest[-1] == "^" and self.take() else ""
        # sin^{-1}: the inverse or the reciprocal?
        if "-" in exponent:
            raise ValueError(exponent)
        if self.rest[-1] in ("(", "[", "{", "|"):
            code = self.atom()
        else:
            code = self.power()
            while (
                self.factor_follows()
                and self.rest[-1] not in ("(", "[")
                and self.rest[-1].lstrip("\\").partition("_")[0] not in FUNCTIONS
            ):
                code += "*" + self.power()
        code = f"{FUNCTIONS[name]}({code}" + (
            f", {base})" if base else ", 10)" if name == "lg" else ")"
        )
        return f"({code}**{exponent})" if exponent else code
