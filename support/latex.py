"""LaTeX in one spelling, so that two ways to write an answer are one string.

    last_boxed    what stands in \\boxed{}
    plain_math    the one spelling of a short answer, linear in its length
    number        the rational that a plain answer is

In a plain answer «a␣b» stands for \\text{a b}; ␣ is a space that means something.
"""

import re
from fractions import Fraction

TEXT = r"\\(?:text|textbf|textit|textrm|textsf|emph|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"


def pairs(table: str) -> dict[str, str]:
    """A table written as "name=value name=value"."""
    return dict(pair.split("=") for pair in table.split())


# A function's name in LaTeX = its name in sympy. \log without a base is natural.
FUNCTIONS = {name: name for name in "sin cos tan cot sec csc sinh cosh tanh exp log sqrt".split()}
FUNCTIONS |= pairs("ln=log lg=log arcsin=asin arccos=acos arctan=atan arccot=acot")

GREEK = set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu nu xi rho "
    "sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega".split()
)

CHARACTERS = pairs("−=- –=- ÷=/ ²=^2 ³=^3 º=° ，=, （=( ）=) ％=% ：=: ＜=< ＞=> ⟨=( ⟩=)")
CHARACTERS |= {"≈": "="}
CHARACTERS |= {
    character: f"\\{name} "
    for character, name in pairs(
        "×=times ·=cdot ⋅=cdot ∞=infty π=pi θ=theta √=sqrt ∪=cup ∅=emptyset ∈=in ±=pm ∓=mp ≠=ne "
        "ℝ=reals"
    ).items()
}
CHARACTERS = str.maketrans(CHARACTERS)

LAYOUT = [r"\,", r"\;", r"\:", r"\>", "\\ ", r"\(", r"\)", r"\[", r"\]", "~", "$"]
LAYOUT += r"\left \right \big \Big \bigl \bigr \Bigl \Bigr \displaystyle \textstyle".split()
LAYOUT += r"\quad \qquad \thinspace \limits".split()
COMMANDS = dict.fromkeys(LAYOUT, " ") | {r"\approx": "=", r"\simeq": "="}
COMMANDS |= pairs(
    r"\leq=≤ \le=≤ \leqslant=≤ \geq=≥ \ge=≥ \geqslant=≥ \lt=< \gt=> \neq=\ne \dfrac=\frac "
    r"\tfrac=\frac \cfrac=\frac \dbinom=\binom \tbinom=\binom \lvert=| \rvert=| \vert=| "
    r"\lbrace=\{ \rbrace=\} \langle=( \rangle=) \degree=° \circ=° \%=% \_=_ \colon=: "
    r"\varnothing=\emptyset \div=/ \!= \$=＄"
)
SPELLINGS = {"{,}": ",", "**": "^", ">=": "≥", "<=": "≤", "+\\infty": "\\infty", "sq.": "square"}

SCALES = {
    "dozen": r"\times12",
    "hundred": r"\times10^{2}",
    "thousand": r"\times10^{3}",
    "million": r"\times10^{6}",
    "billion": r"\times10^{9}",
    "trillion": r"\times10^{12}",
    "percent": "%",
}
_NUMERALS = "two three four five six seven eight nine ten eleven twelve".split()
# of numbers such as 1011_{\text{two}}
BASES = {word: base for base, word in enumerate(_NUMERALS, 2)} | {"sixteen": 16}


def last_boxed(text: str) -> str | None:
    """Content of the last balanced \\boxed{...}, None without one. Linear in the text."""
    best, open_braces = (-1, None), []
    for brace in re.finditer(r"\\boxed\{|\{|\}", text):
        if brace[0] != "}":
            open_braces.append(brace)
        elif open_braces:
            start = open_braces.pop()
            if len(start[0]) > 1 and start.start() > best[0]:
                best = start.start(), text[start.end() : brace.start()]
    return best[1]


def plain_math(text: str) -> str:
    """An answer in one spelling: without layout, spaces, $ and thousands separators.

    \\text{a b} becomes «a␣b», "and" and "or" become commas, an array a pmatrix.
    """
    text = re.sub(r"^\s*\*\*([^*]+)\*\*[\s.]*$", r"\1", last_boxed(text) or text)
    text = re.sub(TEXT, _plain_text, text.translate(CHARACTERS))
    text = re.sub(r"\\not\s*=", r"\\ne ", text)
    text = re.sub(r"\\(?:[A-Za-z]+|.)|[$~]", lambda m: COMMANDS.get(m[0], m[0]), text)
    for old, new in SPELLINGS.items():
        text = text.replace(old, new)
    degree_or_word = r"\^\s*(?:°|\{\s*°\s*\})|\s(?:and|or)\s"
    text = re.sub(degree_or_word, lambda m: "°" if m[0][0] == "^" else ",", text)
    text = _plain_numbers(text.lstrip(" =").rstrip(" .,;"))
    # A space stays only where it ends a command.
    text = re.sub(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|\s+", lambda m: m[1] + " " if m[1] else "", text)
    array = r"[\[(]?\\begin\{array\}\{[^{}]*\}(.*?)\\end\{array\}[\])]?"
    text = re.sub(array, r"\\begin{pmatrix}\1\\end{pmatrix}", text)
    text = re.sub(r"_\{(\w)\}", r"_\1", text)
    return re.sub(r"^\(?([0-9A-Z]+)\)?_\{?(\d+)\}?$", r"\1_\2", text)


def _plain_text(match: re.Match) -> str:
    """What stands for \\text{..}: words in «»; a function, e, i or a leading number as it is."""
    words = re.sub(r"(?:\s|~|\\[ ,;])+", " ", match[1]).strip()
    if words in FUNCTIONS:
        return f"\\{words} "
    if words.strip(" ,") in ("and", "or") or words in ("", "e", "i"):
        return "," if len(words) > 1 else words or " "
    parts = []
    for part in re.split(r"(?:^| )(?:and|or) ", words):
        front, rest = re.fullmatch(r"((?:[-+]?\d[\d.,/:]*)?) ?(.*)", part).groups()
        parts.append(f"{front}«{rest.replace(' ', '␣')}»" if rest else f"{front} ")
    return ",".join(parts)


def _plain_numbers(text: str) -> str:
    """Numbers in one spelling, while the spaces are still there.

    1,000 and 1 000 become 1000, 2 1/3 becomes 2\\frac{1}{3}, and "1 2" becomes 1␣2.
    """
    if re.fullmatch(r"[^,\d()\[\]{}]*\d{1,3}(?:,\d{3})+(?![\d,])[^,]*", text):
        text = text.replace(",", "")
    text = _plain_fractions(text)
    thousands = r"(?<![\d.,/^_])[1-9]\d{0,2}(?:\s+\d{3})+(?!,?\d)"
    text = re.sub(thousands, lambda m: re.sub(r"\s", "", m[0]), text)
    text = re.sub(r"(\^|\\log_)(\d)\s+(?=\d)", r"\1{\2}", text)
    text = re.sub(r"(?<=\d)\s+(?=\d)", "␣", text)
    return _plain_number_words(re.sub(r"(?<=\d)(?:\s+x\s*|x)(?=10\^)", r"\\times", text))


def _plain_fractions(text: str) -> str:
    """Fractions and roots with all their braces; 0.\\overline{3} and 2 1/3 as fractions."""
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*(\{[^{}]*\}|\d)\s*(\{[^{}]*\}|\d)", _braced, text)
    text = re.sub(r"\\sqrt\s*(\d+)", r"\\sqrt{\1}", text)
    period = r"(?<!\d)(\d{0,20})\.(\d{0,20})\\(?:overline|bar|dot)\s*(?:\{(\d{1,20})\}|(\d))"
    text = re.sub(period, _repeating, text)
    return re.sub(r"(?<![\d.,/^_])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])", r"\1\\frac{\2}{\3}", text)


def _braced(match: re.Match) -> str:
    """\\frac12 as \\frac{1}{2}."""
    return f"\\frac{{{match[1].strip('{}')}}}{{{match[2].strip('{}')}}}"


def _repeating(match: re.Match) -> str:
    """0.1\\overline{6} as the fraction it is."""
    whole, digits, period = match[1] or "0", match[2], match[3] or match[4]
    above = int(whole + digits + period) - int(whole + digits)
    return f"\\frac{{{above}}}{{{'9' * len(period) + '0' * len(digits)}}}"


def _plain_number_words(text: str) -> str:
    """5 million as 5\\times10^{6}, 101_{«two»} as 101_2, 5^{«rd»} as 5«th», 6:00 PM as 6:00«pm»."""
    scale = rf"(?<=[\d}}])(\s*«?)({'|'.join(SCALES)})s?(?![A-Za-z])(»|␣?)"
    text = re.sub(scale, lambda m: SCALES[m[2]] + "«" * ("«" in m[1] and m[3] != "»"), text)
    text = re.sub(rf"_\s*\{{?\s*«({'|'.join(BASES)})»\s*\}}?", lambda m: f"_{BASES[m[1]]}", text)
    text = re.sub(r"\^\s*\{?\s*«(st|nd|rd|th)»\s*\}?", "«th»", text)
    clock = r"(?i)(?<=:\d\d)[\s«]*([ap])\.?m(?![a-z])\.?»?"
    return re.sub(clock, lambda m: f"«{m[1].lower()}m»", text)


def number(text: str) -> Fraction | None:
    """The rational that a plain answer is, None if it is none.

    Integer, decimal, a/b, \\frac{a}{b}, mixed number, scientific notation; all with % too.
    """
    scale = Fraction(1, 100) if text.endswith("%") else 1
    power_of_ten = r"(?<=[\d.])\\(?:times|cdot)10\^\{?([-+]?\d{1,3})\}?$"
    text = re.sub(power_of_ten, r"e\1", text.removesuffix("%"))
    fraction = re.fullmatch(r"([-+]?)(\d{0,400})\\frac\{([-+]?)(\d{1,400})\}\{(\d{1,400})\}", text)
    if fraction and int(fraction[5]) and not (fraction[2] and fraction[3]):
        value = int(fraction[2] or 0) + Fraction(int(fraction[4]), int(fraction[5]))
        return value * (-1 if (fraction[1] + fraction[3]).count("-") % 2 else 1) * scale
    decimal = r"([+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400}))"
    tail = r"(?:e([+-]?\d{1,3}))?(?:/([+-]?\d{1,400}))?"
    match = re.fullmatch(decimal + tail, text, re.IGNORECASE)
    if not match or (match[3] and int(match[3]) == 0):
        return None
    return Fraction(match[1]) * Fraction(10) ** int(match[2] or 0) / int(match[3] or 1) * scale
