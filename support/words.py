"""Is an answer in words right? Exact match and token F1, by SQuAD's rules.

    1. undress       the text as it prints, without LaTeX's dress
    2. bare_number   two answers that are numbers are compared as numbers
    3. words_of      else by their words; a Chinese, Japanese or Korean character is a word
    4. exact_match, token_f1

Differs from the released code in: -5 is not 5, 1/2 is not 12, 12% is not 12, and text without
spaces has words.
"""

import re
import string
import unicodedata
from collections import Counter
from fractions import Fraction

from support.latex import TEXT

# One Chinese, Japanese or Korean character.
CJK = "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
ASCII = str.maketrans("‘’‚′“”„″‐‑‒–—―−", "'" * 4 + '"' * 4 + "-" * 7)
DIGITS = r"((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,400})?(?:\.[0-9]{1,400})?)"
# sign, value, denominator, percent sign
NUMBER = rf"[\s$]*([-+]?)[\s$]*(?=\.?[0-9]){DIGITS}(/[0-9]+)?\s*(%?)[\s$.,;]*"
# characters; a longer text is no bare number
NUMBER_LIMIT = 500


def normalize_answer(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no a/an/the, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(pred: str, golds: list[str]) -> bool:
    """Does the prediction have the words of a gold, in order?

    Two bare numbers are compared as numbers, since -5 and 5 have the same words. A gold without
    words ("A", "?!") is compared as written, but for case and a full stop after the prediction.
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
    return g in (p, p.rstrip(" ."))


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


def undress(text: str) -> str:
    """Text as it prints: no $..$, no \\text{..}, no escapes; ASCII quotation marks and dashes."""
    text = re.sub(r"^\s*\$([^$]*)\$\s*$", r"\1", text.translate(ASCII))
    # up to three of them inside each other
    for _ in range(3):
        text = re.sub(TEXT, r"\1", text)
    return re.sub(r"\\([%&_#${}])", r"\1", re.sub(r"\\[ ,;:!]", " ", text))


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
    """The words of SQuAD's normal form, but 12% is not the word 12.

    Text with a Chinese, Japanese or Korean character has no spaces to split at: each such
    character is a word, full-width forms become ASCII, all Unicode punctuation is dropped.
    """
    if not re.search(CJK, text):
        percent = re.fullmatch(r"\s*[-+]?[\d.,]*\d\s*%\s*", text)
        return [normalize_answer(text) + "%"] if percent else normalize_answer(text).split()
    text = unicodedata.normalize("NFKC", text)
    text = "".join(c for c in text if unicodedata.category(c)[0] != "P" or c == "%")
    # The full-width percent sign outlives normalize_answer.
    text = normalize_answer(re.sub(r"(?<=\d)\s*%", "％", text))
    return re.findall(rf"{CJK}|[^\s{CJK[1:]}+", text)
