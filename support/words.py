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
LETTERLIKE |= {".": "٫", ",": "٬", "": "®™©℠"}
ASCII = str.maketrans({c: plain for plain, others in LETTERLIKE.items() for c in others})
SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ"
# a thin space between digits parts thousands
THIN = r"(?<=\d)(?:\\,|[\u2009\u202f])(?=\d{3}(?!\d))"
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
# What is written in two ways, and how it is written instead; in this order.
INSTEAD = {
    "<=": "≤",
    ">=": "≥",
    # 2 - 1, 10 : 30
    r"(?<=\d)\s+([-*/:])\s+(?=\d)": r"\1",
    # x + 1, x = 5
    rf"(?:(?<=\d)|(?<=[\W\d_][^\W\d_]))\s+([+=<>])\s+(?=\d|[^\W\d_]{END})": r"\1",
    r"(?<=\d)\s+([%‰])": r"\1",
    r"([<>≤≥])\s+(?=[-.$\d])": r"\1",
    # a sign apart from its number; later in a text it is a dash
    r"^([\s(\[]*-)\s+(?=[.$\d])": r"\1",
    # .5 is 0.5
    r"(?<![^\W_])(?<!\.)\.(?=\d)": "0.",
}
# Marks that change what a word means; all other punctuation goes, as in SQuAD.
KEPT = [
    # 1.5  10:30  1/2  2-1  10^2
    r"(?<=\d)(?:[^\w\s]|_)+(?=\d)",
    # -5  -$5  -x  -∞
    rf"(?<!{OTHER_LETTER})-(?=[$€£¥]?\d|[√∞]|{LETTER}{END})",
    # 1e-5 has another sign than 1e5
    r"(?<=\de)-(?=\d)",
    # 1/x  x/2
    rf"(?<=\d)/(?={LETTER})|(?<={LETTER})/(?=\d)",
    # C++  B+  18+  x+1
    rf"(?<={LETTER})\++",
    # C#
    rf"(?<={LETTER})#{END}",
    # A*, but not *A*
    r"(?<=[^\w*][^\W\d_])\*(?![\w*])",
    # B-  Cl-  1984-
    rf"(?<=\d)-{END}|(?<=\W[^\W\d_])-{END}|(?<=\W[^\W\d_][^\W\d_])-{END}",
    # 5%
    r"(?<=\d)[%‰]",
    # <5  x<y  x=5
    rf"[<>](?=[-.$\d])|(?<={LETTER})[<>=](?={LETTER})",
    # x^2
    rf"(?<={LETTER})\^(?=[-\w\\({{])",
    # 5! is 120
    r"(?<=\d)!",
]
KEPT = re.compile(f"({'|'.join(KEPT)})")
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

    Quotation marks, dashes and digits become ASCII. 10² becomes 10^2, 1½ 1 1/2 and ①③ (1)(3): NFKC
    alone would make them 102, 11/2 and 13.
    """
    text = re.sub(f"[{SUPERSCRIPTS}]+", r"^\g<0>", text)
    text = re.sub("(?<=[0-9])([₀-₉]+)", r"_\1", text)
    text = re.sub("(?<=[0-9])([¼-¾⅐-⅟])", r" \1", text)
    text = re.sub("[①-⑳]", r"(\g<0>)", text)
    text = unicodedata.normalize("NFKC", re.sub(THIN, ",", text.translate(ASCII)))
    text = text.translate(ASCII)
    return text.translate({ord(c): _printed(c) for c in set(text)})


def _printed(c: str) -> str:
    """A character, a digit in ASCII; nothing for format characters and variation selectors."""
    if c.isdecimal():
        return str(int(c))
    return "" if unicodedata.category(c) == "Cf" or "\ufe00" <= c <= "\ufe0f" else c


def undress(text: str) -> str:
    """Text as it prints: one_spelling, no $..$, no \\text{..}, no escapes."""
    text = re.sub(r"^\s*\$([^$]*)\$\s*$", r"\1", one_spelling(text))
    # up to three of them inside each other
    for _ in range(3):
        text = re.sub(TEXT, r"\1", text)
    text = re.sub(r"\\([%&_#${}])", r"\1", re.sub(r"\\[ ,;:!]", " ", text))
    return re.sub(r"\^\{([^{}]*)\}", r"^\1", text.replace("{,}", ","))


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
    text = " " + unicodedata.normalize("NFKC", text.casefold())
    text = re.sub(THOUSANDS, lambda number: number[0].replace(",", ""), text)
    for written, instead in INSTEAD.items():
        text = re.sub(written, instead, text)
    # The odd parts are the marks that stay.
    parts = enumerate(KEPT.split(text))
    text = "".join(part if k % 2 else _without_punctuation(part) for k, part in parts)
    words = [word for word in text.split() if word not in ARTICLES]
    return [part for word in words for part in re.findall(rf"{CJK}|[^{CJK[1:]}+", word)]


def _without_punctuation(text: str) -> str:
    """Text without SQuAD's punctuation and without Unicode's."""
    marks = {c for c in set(text) if c in string.punctuation or unicodedata.category(c)[0] == "P"}
    return text.translate(dict.fromkeys(map(ord, marks)))
