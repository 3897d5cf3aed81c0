"""LaTeX in one spelling, so that two ways to write an answer are one string.

    1. last_boxed    what stands in \\boxed{}
    2. plain_math    the one spelling of a short answer, linear in its length
    3. number        the rational that a plain answer is

In a plain answer «a␣b» stands for \\text{a b}; ␣ is a space that means something; ∧ is "and", ∨ is
"or", … are dots, ＄ is a dollar.
"""

import re
from fractions import Fraction

from support.characters import latex_of, pairs

TEXT = (
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textsc|textsl|textup|textnormal|emph|mbox|hbox|"
    r"mathrm|mathbf|mathsf|mathtt|mathit|operatorname\*?)\s*\{([^{}]*)\}"
)
# A function's name in LaTeX = its name in sympy. \log without a base is natural.
FUNCTIONS = {
    name: name for name in "sin cos tan cot sec csc sinh cosh tanh coth exp log sqrt".split()
}
FUNCTIONS |= pairs("ln=log lg=log arcsin=asin arccos=acos arctan=atan arccot=acot")
FUNCTIONS |= pairs("arcsec=asec arccsc=acsc arsinh=asinh arcosh=acosh artanh=atanh")
# functions of several arguments
OF_SEVERAL = pairs("max=Max min=Min gcd=igcd lcm=ilcm")

# A command = what is left of it.
LAYOUT = [r"\,", r"\;", r"\:", r"\>", "\\ ", r"\(", r"\)", r"\[", r"\]", "~", "$"]
LAYOUT += r"\left \right \middle \big \Big \bigg \Bigg \displaystyle \textstyle".split()
LAYOUT += [rf"\{size}{side}" for size in ("big", "Big", "bigg", "Bigg") for side in "lrm"]
LAYOUT += r"\quad \qquad \enspace \thinspace \limits \scriptstyle \hfill \nonumber".split()
LAYOUT += r"\bf \rm \it \sf \tt \sl \em \bfseries \itshape \boldsymbol \bm \pmb \mathbfit".split()
LAYOUT += r"\mathcal \mathop \mathord \ensuremath \underline \hline \therefore".split()
LAYOUT += r"\tiny \small \normalsize \large \Large \LARGE \huge \Huge".split()
# around what is more than text: \textbf{$\frac12$}
LAYOUT += r"\text \textbf \textit \textrm \emph \mathrm \mathbf \mathsf \mbox".split()
COMMANDS = dict.fromkeys(LAYOUT, " ") | {r"\approx": "=", r"\simeq": "="}
COMMANDS |= pairs(
    r"\leq=≤ \le=≤ \leqslant=≤ \geq=≥ \ge=≥ \geqslant=≥ \lt=< \gt=> \neq=\ne \dfrac=\frac "
    r"\tfrac=\frac \cfrac=\frac \nicefrac=\frac \sfrac=\frac \dbinom=\binom \tbinom=\binom "
    r"\lvert=| \rvert=| \vert=| "
    r"\lbrace=\{ \rbrace=\} \langle=( \rangle=) \lbrack=[ \rbrack=] \degree=° \circ=° \%=% \_=_ "
    r"\colon=: \varnothing=\emptyset \div=/ \!= \$=＄ \prime=' \top=T "
    r"\wedge=∧ \land=∧ \vee=∨ \lor=∨ \varphi=\phi \varepsilon=\epsilon \vartheta=\theta "
    r"\ldots=… \dots=… \cdots=… \dotsc=… \dotsb=… \mod=\bmod \smallsetminus=\setminus "
    r"\backslash=\setminus \reals=\mathbb{R} \R=\mathbb{R} \Bbb=\mathbb \Arcsin=\arcsin \ohm=Ω"
)
SPELLINGS = {
    "{,}": ",",
    "{:}": ":",
    "**": "^",
    ">=": "≥",
    "<=": "≤",
    "+\\infty": "\\infty",
    "sq.": "square",
    "...": "…",
}
# what only decorates, with its argument
DECORATION = (
    r"\\(?:(?:text)?color(?:box)?|h?phantom|[hv]space\*?|label|tag)\s*(?:\[\w*\])?\s*\{[^{}]*\}"
)
MATRIX = r"\\begin\{pmatrix\}((?:(?!\\begin|\\end).)*)\\end\{pmatrix\}"
LOGIC = {"and": "∧", "or": "∨"}
LOGIC |= {"且": "∧", "和": "∧", "与": "∧", "以及": "∧", "并且": "∧", "或": "∨", "或者": "∨"}
CJK = "[\u4e00-\u9fff]"

SCALES = {
    "dozen": r"\times12",
    "score": r"\times20",
    "gross": r"\times144",
    "ten": r"\times10",
    "hundred": r"\times10^{2}",
    "thousand": r"\times10^{3}",
    "万": r"\times10^{4}",
    "lakh": r"\times10^{5}",
    "million": r"\times10^{6}",
    "crore": r"\times10^{7}",
    "亿": r"\times10^{8}",
    "billion": r"\times10^{9}",
    "trillion": r"\times10^{12}",
    "quadrillion": r"\times10^{15}",
    "quintillion": r"\times10^{18}",
    "percent": "%",
    "per cent": "%",
    "pct": "%",
}
# in \text{} only, since 5mn is 5 times m times n
SHORT_SCALES = {"mn": r"\times10^{6}", "bn": r"\times10^{9}", "tn": r"\times10^{12}"}
_NUMERALS = "two three four five six seven eight nine ten eleven twelve".split()
# of numbers such as 1011_{\text{two}}
BASES = {word: base for base, word in enumerate(_NUMERALS, 2)} | {"sixteen": 16}
_ORDINALS = (
    "half third quarter fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
)
# "2 fifths" is a fraction
PARTS = {word: below for below, word in enumerate(_ORDINALS.split(), 2)}
PARTS |= {"halve": 2, "fourth": 4, "thirtieth": 30, "fortieth": 40, "fiftieth": 50}
PARTS |= {"sixtieth": 60, "hundredth": 100, "thousandth": 1000, "millionth": 10**6}
PARTS |= {"billionth": 10**9, "ten-thousandth": 10**4, "hundred-thousandth": 10**5}
# a box without braces: what may stand in it, and what has to follow
_ARGUMENT = r"\s*+(?:\d|\{[^{}]*+\})"
# Python before 3.11.5 keeps what a possessive group has read when it fails: so look first
BARE = r"-?\d++(?:(?=[.,/]\d)[.,/]\d++)*+|[A-Za-z]|\\pi(?![A-Za-z])"
BARE += rf"|-?\\[dtc]?frac{_ARGUMENT}{_ARGUMENT}"
BARE += r"|\([^()\[\]{}$\n]*+\)|\$(?P<formula>[^$\s](?:[^$\n]*+(?<!\s))?)\$"
ENDS = r"[ \t\r]*+(?:\n|\$|\\[\])]|</|\Z)"
# with braces, also full-width ones; without; or nothing that can be read
BOX = r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*+(?:(?P<open>\{)|｛(?P<wide>[^｛｝\n]*+)｝"
BOX += rf"|(?P<bare>(?>{BARE}))(?=[.。]?{ENDS}|[.。]\s)|(?P<other>(?=\S)))"


def last_boxed(text: str) -> str | None:
    """Content of the last balanced \\boxed{...} or \\fbox{...}, None without one. Linear.

    Without braces it is one number, letter, fraction, pair or formula, as in "\\boxed 42", and has
    to end its line or sentence: of "\\boxed 5 or 6" and of what is boxed before it nothing counts.
    """
    best, open_braces = (-1, None), []
    # An escaped brace groups nothing.
    for found in re.finditer(rf"{BOX}|\\.|\{{|\}}", text, re.S):
        if found["open"] or found[0] == "{":
            open_braces.append(found)
        elif found["wide"] is not None:
            best = found.start(), found["wide"]
        elif found["bare"] or found["other"] is not None:
            best = found.start(), found["formula"] or found["bare"]
        elif found[0] == "}" and open_braces:
            start = open_braces.pop()
            if start["open"] and start.start() > best[0]:
                best = start.start(), text[start.end() : found.start()]
    return best[1]


def plain_math(text: str) -> str:
    """An answer in one spelling: without layout, spaces, $ and thousands separators.

    \\text{a b} becomes «a␣b», "and" ∧, "or" ∨, every matrix a pmatrix.
    """
    text = re.sub(r"^\s*\*\*([^*]+)\*\*[\s.]*$", r"\1", last_boxed(text) or text)
    # \mathrm{cm^{3}}
    text = re.sub(
        r"(?<=[A-Za-z])\^\{(-?\d)\}(?=\s*(?:\}|/|\\[,;] ?|\\cdot))", r"^\1", latex_of(text)
    )
    text = re.sub(TEXT, _plain_text, text)
    text = re.sub(DECORATION, " ", _plain_matrices(text))
    text = re.sub(r"(?<![A-Za-z\\])d/d([a-z])(?=\s*[\w(\\])(?![A-Za-z])", r"\\frac{d}{d\1}", text)
    text = re.sub(r"\\not\s*=", r"\\ne ", text)
    if "mod" not in text:
        text = re.sub(r"(?<=\))\s*\\equiv(?![A-Za-z])", "=", text)
    text = re.sub(r"\\(?:[A-Za-z]+|.)|[$~]", lambda m: COMMANDS.get(m[0], m[0]), text)
    for old, new in SPELLINGS.items():
        text = text.replace(old, new)
    text = re.sub(r"\^\s*(?:°|\{\s*°\s*\})", "°", text)
    text = re.sub(r"\^\s*(?:\{\s*('+)\s*\}|(?='))", r"\1", text)
    text = _plain_words(text)
    text = _plain_numbers(text.lstrip(" =\n\t").rstrip(" .,;\\\n\t"))
    # A space stays only where it ends a command.
    text = re.sub(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|\s+", lambda m: m[1] + " " if m[1] else "", text)
    return _plain_groups(text)


def _plain_matrices(text: str) -> str:
    """The text with \\begin{pmatrix} for all its matrices and \\begin{vmatrix} for determinants."""
    if "\\begin" not in text:
        return text
    text = re.sub(r"\\\\\s*\[-?[\d.]+\s*(?:pt|em|ex|mm|cm|px|in|mu)\s*\]", r"\\\\", text)
    text = re.sub(r"\\cr(?![A-Za-z])|\\tabularnewline", r"\\\\", text)
    text = re.sub(r"\\hline(?![A-Za-z])", "", text)
    text = re.sub(r"\\(begin|end)\s*\{(?:small|p|b|B|)matrix\*?\}", r"\\\1{pmatrix}", text)
    text = re.sub(r"\\(begin|end)\s*\{[vV]matrix\*?\}", r"\\\1{vmatrix}", text)
    text = re.sub(r"\\begin\s*\{array\}\s*\{[^{}]*\}", r"\\begin{pmatrix}", text)
    text = text.replace(r"\end{array}", r"\end{pmatrix}")
    bars = rf"(?:\\left\s*)?(?:\||\\[lr]?vert)\s*{MATRIX}\s*(?:\\right\s*)?(?:\||\\[lr]?vert)"
    text = re.sub(bars, r"\\begin{vmatrix}\1\\end{vmatrix}", text, flags=re.S)
    size = r"(?:\\(?:left|right|[Bb]igg?[lr]?)\s*)?"
    left, right = rf"{size}(?:\\?[({{\[])", rf"{size}(?:\\?[)}}\]])"
    for _ in range(2):
        around = rf"(?<![\w}}]){left}\s*({MATRIX})\s*{right}"
        text = re.sub(around, r"\1", text, flags=re.S)
    return re.sub(r"\\det\s*\(?\s*\\begin\{pmatrix\}(.*)\\end\{pmatrix\}\s*\)?", _det, text)


def _det(match: re.Match) -> str:
    """\\det of a matrix as a vmatrix."""
    return rf"\begin{{vmatrix}}{match[1]}\end{{vmatrix}}"


def _plain_text(match: re.Match) -> str:
    """What stands for \\text{..}: words in «»; a function, e, i or a leading number as it is."""
    words = re.sub(r"(?:\s|~|\\[ ,;])+", " ", match[1]).strip()
    if re.fullmatch(r"\$[^$]*\$", words):
        return words[1:-1]
    # minutes and seconds are no functions
    applied = words not in ("min", "sec") or re.match(
        r"\s*(?:[(_]|\\)", match.string[match.end() :]
    )
    if applied and (words in FUNCTIONS or words in OF_SEVERAL):
        return f"\\{words} "
    if words.strip(" ,") in LOGIC:
        return f" {LOGIC[words.strip(' ,')]} "
    if words in ("e", "i") or not re.search(r"[^\W\d_]", words):
        return match[1] or " "
    # bold mathematics
    bold = match[0].startswith((r"\mathbf", r"\mathsf", r"\mathtt", r"\mathit"))
    if bold and not re.search(r"[^\W\d_]{2}| ", words):
        return match[1]
    parts = re.split(r"(?:^| )(and|or) ", words)
    for k in range(0, len(parts), 2):
        front, rest = re.fullmatch(r"((?:\\?\$|[-+]?\d[\d.,/:]*)*) ?(.*)", parts[k]).groups()
        parts[k] = f"{front}«{rest.replace(' ', '␣')}»" if rest else f"{front} "
    return "".join(LOGIC.get(part, part) if k % 2 else part for k, part in enumerate(parts))


def _plain_words(text: str) -> str:
    """Words outside \\text{}: " and " as ∧, Chinese in «»."""
    text = re.sub(r"(?i)\s(and|or)\s", lambda m: LOGIC[m[1].lower()], text)
    if text.isascii():
        return text
    text = re.sub(rf"(?<!{CJK})(且|和|与|以及|并且|或者?)(?!{CJK})", lambda m: LOGIC[m[1]], text)
    return re.sub(rf"(«[^«»]*»)|({CJK}+)", lambda m: m[1] or f"«{m[2]}»", text)


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
    text = re.sub(r"\\(frac|binom)\s*(\w)\s*(\w)", r"\\\1{\2}{\3}", text)
    text = re.sub(r"\\(frac|binom)\s*(\{[^{}]*\}|\w)\s*(\{[^{}]*\}|\w)", _braced, text)
    text = re.sub(r"\\sqrt\s*(\d+)", r"\\sqrt{\1}", text)
    for old, new in (("choose", "binom"), ("over", "frac")):
        both = rf"([^{{}}\\]*)\\{old}(?![a-z])\s*([^{{}}\\]*)"
        text = re.sub(rf"\{{{both}\}}|^{both}$", rf"\\{new}{{\1\3}}{{\2\4}}", text)
    text = re.sub(r"(?:\{\})?_\{?(\d+)\}?C_\{?(\d+)\}?", r"\\binom{\1}{\2}", text)
    combinations = r"(?:«C»|(?<![A-Za-z])C)_\{?(\d+)\}?\^\{?(\d+)\}?"
    text = re.sub(combinations, r"\\binom{\1}{\2}", text)
    period = r"(?<!\d)(\d{0,20})\.(\d{0,20})\\(?:overline|bar|dot)\s*(?:\{(\d{1,20})\}|(\d))"
    text = re.sub(period, _repeating, text)
    text = re.sub(r"(?<!\d)(\d{1,20})\.(\d{2,40})\s*…", _goes_on, text)
    return re.sub(r"(?<![\d.,/^_])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])", r"\1\\frac{\2}{\3}", text)


def _braced(match: re.Match) -> str:
    """\\frac12 as \\frac{1}{2}."""
    return f"\\{match[1]}{{{match[2].strip('{}')}}}{{{match[3].strip('{}')}}}"


def _repeating(match: re.Match) -> str:
    """0.1\\overline{6} as the fraction it is."""
    return _periodic(match[1] or "0", match[2], match[3] or match[4])


def _periodic(whole: str, digits: str, period: str) -> str:
    """whole.digits and then the period for ever, as a fraction."""
    above = int(whole + digits + period) - int(whole + digits)
    return f"\\frac{{{above}}}{{{'9' * len(period) + '0' * len(digits)}}}"


def _goes_on(match: re.Match) -> str:
    """0.1666… as a fraction; with six decimals the dots may go."""
    if len(match[2]) >= 6:
        return f"{match[1]}.{match[2]}"
    tail = re.search(r"(\d)\1+$|(\d\d)\2+$", match[2])
    if not tail:
        return match[0]
    return _periodic(match[1], match[2][: tail.start()], tail[1] or tail[2])


def _plain_number_words(text: str) -> str:
    """5 million as 5\\times10^{6}, 2 fifths as \\frac{2}{5}, 101_{«two»} as 101_2.

    5^{«rd»} becomes 5«th», 6:00 PM becomes 6:00«pm».
    """
    words = "|".join(sorted(PARTS, key=len, reverse=True))
    part = rf"(?<![\d.,/^_}}])(\d{{1,20}})[\s␣-]*(«)?-?({words})s?(?![A-Za-z])(?(2)(»|␣))"
    text = re.sub(part, _part, text)
    scale = rf"(?<=[\d}}])(\s*«?)((?i:{'|'.join(SCALES)}))s?(?![A-Za-z])(»|␣?)"
    # twice for "hundred thousand"
    for _ in range(2):
        text = re.sub(scale, _scaled, text)
    text = re.sub(rf"(?<=\d)\s*«({'|'.join(SHORT_SCALES)})»", lambda m: SHORT_SCALES[m[1]], text)
    text = re.sub(rf"_\s*\{{?\s*«({'|'.join(BASES)})»\s*\}}?", lambda m: f"_{BASES[m[1]]}", text)
    text = re.sub(r"\^\s*\{?\s*«(st|nd|rd|th)»\s*\}?", "«th»", text)
    clock = r"(?i)(?<=:\d\d)[\s«]*([ap])\.?m(?![a-z])\.?»?"
    return re.sub(clock, lambda m: f"«{m[1].lower()}m»", text)


def _scaled(match: re.Match) -> str:
    """5 million as a product; words that follow keep their «."""
    return SCALES[match[2].lower()] + "«" * ("«" in match[1] and match[3] != "»")


def _part(match: re.Match) -> str:
    """2 fifths as a fraction; words that follow keep their «."""
    return f"\\frac{{{match[1]}}}{{{PARTS[match[3]]}}}" + "«" * (match[4] == "␣")


def _plain_groups(text: str) -> str:
    """Without braces that group nothing: {5}, {-}5, x_{1}; residues as 3\\pmod{7}."""
    single = r"(?<![^-+=,(\[<>≤≥*∧∨{])\{([-+=]|[\w.]+|\\[A-Za-z]+)\}"
    for _ in range(3):
        text = re.sub(single, r"\1", text)
    while text[:1] == "{" and text[-1:] == "}" and _closes_last(text):
        text = text[1:-1]
    text = re.sub(r"_\{(\w)\}", r"_\1", text)
    text = re.sub(r"\\mathbb\s*([A-Z])(?![A-Za-z])", r"\\mathbb{\1}", text)
    residue = r"(?:\\bmod|\\pmod|«mod»|\(«?mod␣?»?|\(\\bmod)\s*\{?(\w+)\}?\)?$"
    text = re.sub(residue, r"\\pmod{\1}", text)
    return re.sub(r"^\(?([0-9A-Z]+)\)?_\{?(\d+)\}?$", r"\1_\2", text)


def _closes_last(text: str) -> bool:
    """Is the brace that opens the text closed by its last character?"""
    depth = 0
    for k, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return k == len(text) - 1
    return False


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
