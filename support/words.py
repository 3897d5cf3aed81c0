"""Is an answer in words right? Exact match and token F1, by SQuAD's rules.

    1. one_spelling   Unicode in one spelling: full-width letters, accents, quotation marks
    2. undress        the text as it prints, without LaTeX's dress
    3. bare_number    two answers that are numbers are compared as numbers
    4. words_of       else by their words; a Chinese, Japanese or Korean character is a word
    5. exact_match, token_f1

Differs from the released code in: marks that change a meaning stay (KEPT), such as those of -5,
1.5, 1/2, 12% and C++; Unicode has one spelling; text without spaces has words.
"""

import re
import string
import unicodedata
from collections import Counter
from fractions import Fraction

from support.latex import TEXT

# One Chinese, Japanese or Korean character.
CJK = "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
LETTERLIKE = {
    "'": "‘’‚′ʼʻʹ´",
    '"': "“”„″",
    "-": "‐‑‒–—―−",
    "/": "⁄∕",
    ":": "∶",
    "#": "♯",
    "~": "〜",
}
LETTERLIKE |= {".": "٫", ",": "٬", "%": "٪", "": "®™©℠"}
ASCII = str.maketrans({c: plain for plain, others in LETTERLIKE.items() for c in others})
# 2ˣ, 10₂; the ordinals ª and º are letters
SUPERSCRIPTS, SUBSCRIPTS = (
    "".join(c for c in map(chr, range(2**16)) if unicodedata.decomposition(c).startswith(mark))
    for mark in ("<super>", "<sub>")
)
SUPERSCRIPTS = re.sub("[ªº]", "", SUPERSCRIPTS)
# a thin space between digits parts thousands
THIN = r"(?<=\d)(?:\\,|[\u2009\u202f\u00a0])(?=\d{3}(?!\d))"
# quoted text; else a prime: after a digit, 5' and 5", or after a function's name, f'(x)
QUOTED = r"(?<!\w)(?:'[^']*'|\"[^\"]*\")"
PRIMES = rf"{QUOTED}|(?<=\d)(?:'+|\")(?![^\W\d_])|(?<=\b[^\W\d_])'+(?=\s?[(=])"
DIGITS = r"((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,400})?(?:\.[0-9]{1,400})?)"
# sign, value, denominator, percent sign
NUMBER = rf"[\s$\"'(\[]*([-+]?)[\s$]*(?=\.?[0-9]){DIGITS}(/[0-9]+)?\s*(%?)[\s$.,;?\"')\]]*"
# around an answer without words
ENCLOSING = " .\"'()[]«»"
# characters; a longer text is no bare number
NUMBER_LIMIT = 500

# A letter or a digit; the same, but for Chinese, Japanese and Korean; where a word ends.
LETTER, OTHER_LETTER, END = r"[^\W_]", rf"[^\W_{CJK[1:]}", r"(?![^\W_])"
# Thousands, as 1,234,567 or in India 12,34,567.
THOUSANDS = r"(?<![\d.,])(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3})(?!,?\d)"
# The letter of a variable: x, 2x. After the first kind a hyphen is a minus; F-16 is a name.
LOWER = "[a-zα-ω]"
AFTER_VARIABLE = rf"(?:(?<=[\W_]{LOWER})|(?<=\d[^\W\d_]))"
AFTER_TERM = rf"(?:(?<=\d)|(?<=\d\))|{AFTER_VARIABLE})"
# What stands at an end of an interval.
BOUND = rf"[-+−]?(?:[\d.]+|∞|\\infty|[^\W\d_]{END})"
# What is written in two ways, and how it is written instead; in this order.
INSTEAD = {
    # tags, as in <b>Paris</b>
    rf"(?:(?<!{LETTER})<|</)([A-Za-z][^<>]*)>": r" \1 ",
    r"(?<![-=])[-=]+>": "→",
    "<=": "≤",
    ">=": "≥",
    "!=": "≠",
    "==+": "=",
    r"\+ ?/ ?-": "±",
    r"(?:(?<=[\d)])|(?<=[\W_][^\W\d_]))\*\*(?=[-(\w])": "^",
    # 2 - 1, 10 : 30
    r"(?<=\d) ([-*/:]) (?=\d)": r"\1",
    # x + 1, x / y; 3x - 5, where a hyphen after a word is a dash
    rf"(?:(?<=\d)|(?<=[\W\d_][^\W\d_])) ([+*/]) (?=\d|[^\W\d_]{END})": r"\1",
    rf"{AFTER_TERM} - (?=[\d(\\√∞]|{LOWER}{END})": "-",
    # p = 5, GDP > debt, > 5, but not = 5
    r"(?<=\S) ?= ?(?=\S)": "=",
    r" ?([<>≤≥≠]) ?": r"\1",
    r"(?<=\d) ([%‰])": r"\1",
    rf"([\[(]{BOUND}) ?, ?(?={BOUND}[\])])": r"\1,",
    # 5 m/s, but not AC/DC
    r"(\d ?[^\W\d_]{1,12}) ?/ ?(?=[^\W\d_])": r"\1∕",
    # a sign apart from its number; later in a text it is a dash
    r"^([ (\[]*-) (?=[.$\d])": r"\1",
    # before anything at the start of an answer: -US$5, -(x+1), -sin x
    r"^([ (\[\"']*)-(?=[^\s\w-]{0,3}[\w√∞])": r"\1−",
    # .5 is 0.5
    r"(?<![^\W_])(?<!\.)\.(?=\d)": "0.",
}
# Marks that change what a word means; all other punctuation goes, as in SQuAD.
KEPT = [
    # [0,1)
    rf"[\[(]{BOUND},{BOUND}[\])]",
    # brackets beside an operator: 1/(x+1)  -(x+1)  (x+1)/2
    rf"(?:(?<=[\d)^=])|{AFTER_VARIABLE})[-+*/^]\(|(?<=−)\(|/\(",
    rf"\)[-+*/^]+(?=[\d(\\√]|{LETTER}{END})",
    # 1.5  10:30  1/2  2-1  10^2
    r"(?<=\d)(?:[^\w\s]|_)+(?=\d)",
    # -5  -$5  -CHF 5  -x  -∞
    rf"(?<!{OTHER_LETTER})-(?=[A-Z]{{0,3}} ?[^\w\s]?\d|[√∞\\(]|{LETTER}{END})",
    # n-1  2x-3  x-y
    rf"{AFTER_VARIABLE}-(?=[\d(\\√∞]|{LOWER}{END})",
    # 1e-5 has another sign than 1e5
    r"(?<=\d[eE])-(?=\d)",
    # 1/x  x/2  x/y  x*y
    rf"(?<=\d)/(?={LETTER})|(?<={LETTER})/(?=\d)",
    rf"(?<=[\W\d_][^\W\d_])[*/](?=[^\W\d_]{END})",
    # C++  B+  18+  x+1
    rf"(?<={LETTER})\++",
    # C#
    rf"(?<={LETTER})#{END}",
    # A*, but not *A*
    r"(?<=[^\w*][^\W\d_])\*(?![\w*])",
    # 1984-  and, of up to four letters, B-  Cl-  BBB-
    rf"(?<=\d)-{END}",
    *(rf"(?<=\W{short})-{END}" for short in [r"[^\W\d_]" * n for n in range(1, 5)]),
    # 5%  five%
    r"(?<=\w)[%‰]",
    # <5  > half  x=5
    r"[<>]|(?<=\S)=(?=\S)",
    # x^2
    rf"(?<={LETTER})\^(?=[-\w\\({{])",
    # 5! is 120; n!, but "a" is an article
    r"(?:(?<=\d)|(?<=\d\))|(?<=[\W\d_][^\W\d_aA]))!",
    # 5' and 5", as undress writes them
    "′+",
]
KEPT = re.compile(f"({'|'.join(KEPT)})")
# Marks that INSTEAD writes so that they stay, as they stand in words.
PLAIN = str.maketrans("−∕", "-/")
ARTICLES = ("a", "an", "the")


def normalize_answer(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no a/an/the, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(pred: str, golds: list[str]) -> bool:
    """Does the prediction have the words of a gold, in order?

    Two bare numbers are compared as numbers, since 0.50 and 0.5 are other words. A gold without
    words ("A", "?!") is compared as written, but for case and for what encloses it.
    """
    return any(_same(pred, gold) for gold in golds)


def _same(pred: str, gold: str) -> bool:
    number, gold_number = bare_number(pred), bare_number(gold)
    if number and gold_number:
        return number == gold_number
    words = words_of(undress(gold))
    if words:
        return words_of(undress(pred)) == words
    p, g = (undress(text).casefold().strip() for text in (pred, gold))
    return p == g or p.strip(ENCLOSING) == g.strip(ENCLOSING) != ""


def token_f1(pred: str, golds: list[str]) -> float:
    """Best F1, over the golds, of the bags of words; 0 without golds. In [0, 1].

    Where exact_match does not compare words, it decides: 1 or 0.
    """
    return max((_f1(pred, gold) for gold in golds), default=0.0)


def _f1(pred: str, gold: str) -> float:
    words = words_of(undress(gold))
    if not words or (bare_number(pred) and bare_number(gold)):
        return float(_same(pred, gold))
    return f1_of_words(words_of(undress(pred)), words)


def f1_of_words(pred: list[str], gold: list[str]) -> float:
    """F1 of two bags of words, in [0, 1]; 0 if they differ and one is yes, no or noanswer."""
    if pred != gold and any(words in (["yes"], ["no"], ["noanswer"]) for words in (pred, gold)):
        return 0.0
    common = (Counter(pred) & Counter(gold)).total()
    return 2 * common / (len(pred) + len(gold)) if common else 0.0


def one_spelling(text: str) -> str:
    """Unicode in one spelling (NFKC), without characters that do not print.

    Quotation marks, dashes and digits become ASCII. 10² becomes 10^2, 2²3 2^2 3, 1½ 1 1/2 and ①③
    (1)(3): NFKC alone would make them 102, 223, 11/2 and 13.
    """
    text = text.translate(ASCII)
    text = re.sub(rf"([{SUBSCRIPTS}{SUPERSCRIPTS}])(?=[0-9])", r"\1 ", text)
    text = re.sub(f"[{SUPERSCRIPTS}]+", r"^\g<0>", text)
    text = re.sub(f"(?<=[0-9])([{SUBSCRIPTS}]+)", r"_\1", text)
    text = re.sub("(?<=[0-9])([¼-¾⅐-⅟])", r" \1", text)
    text = re.sub("[①-⑳]", r"(\g<0>)", text)
    text = unicodedata.normalize("NFKC", re.sub(THIN, ",", text)).translate(ASCII)
    return text.translate({ord(c): _printed(c) for c in set(text)})


def _printed(c: str) -> str:
    """A character, a digit in ASCII; nothing for format characters and variation selectors."""
    if c.isdecimal():
        return str(int(c))
    return "" if unicodedata.category(c) == "Cf" or "\ufe00" <= c <= "\ufe0f" else c


def undress(text: str) -> str:
    """Text as it prints: one_spelling, no $..$, no \\text{..}, no escapes, primes as ′ and ′′."""
    text = re.sub(PRIMES, _as_prime, one_spelling(text))
    text = re.sub(r"^\s*\$([^$]*)\$\s*$", r"\1", text)
    # up to three of them inside each other
    for _ in range(3):
        text = re.sub(TEXT, r"\1", text)
    text = re.sub(r"\\([%&_#${}])", r"\1", re.sub(r"\\[ ,;:!]", " ", text))
    return re.sub(r"\^\{([^{}]*)\}", r"^\1", text.replace("{,}", ","))


def _as_prime(found: re.Match) -> str:
    """5' and 5" with primes; what QUOTED finds stays."""
    if len(found[0].strip("'\"")):
        return found[0]
    return found[0].replace('"', "''").replace("'", "′")


def bare_number(text: str) -> tuple[Fraction | str, str] | None:
    """(value, percent sign) of a text that is one number, else None.

    The value of a fraction, or of a number with leading zeros, is its spelling: neither 1/2 nor
    007 is a way to write 0.5 or 7.
    """
    match = re.fullmatch(NUMBER, undress(text)) if len(text) < NUMBER_LIMIT else None
    if not match:
        return None
    number = match[1].strip("+") + match[2].replace(",", "")
    if match[3] or re.match("-?0[0-9]", number):
        return number + (match[3] or ""), match[4]
    return Fraction(number), match[4]


def words_of(text: str) -> list[str]:
    """The words of SQuAD's normal form, but marks that change a meaning stay (KEPT).

    Text with a Chinese, Japanese or Korean character has no spaces to split at: each such
    character is a word. All Unicode punctuation is dropped. Letters are compared by casefold.
    """
    text = " " + " ".join(unicodedata.normalize("NFKC", text).split())
    text = re.sub(THOUSANDS, lambda number: number[0].replace(",", ""), text)
    for written, instead in INSTEAD.items():
        text = re.sub(written, instead, text)
    # The odd parts are the marks that stay.
    parts = enumerate(KEPT.split(text))
    text = "".join(part if k % 2 else _without_punctuation(part) for k, part in parts)
    text = unicodedata.normalize("NFKC", text.translate(PLAIN).casefold())
    words = [word for word in text.split() if word not in ARTICLES]
    return [part for word in words for part in re.findall(rf"{CJK}|[^{CJK[1:]}+", word)]


def _without_punctuation(text: str) -> str:
    """Text without SQuAD's punctuation and without Unicode's."""
    marks = {c for c in set(text) if c in string.punctuation or unicodedata.category(c)[0] == "P"}
    return text.translate(dict.fromkeys(map(ord, marks)))
