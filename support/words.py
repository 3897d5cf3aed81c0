"""Are two answers in words the same? Exact match and token F1 by SQuAD's rules, and characters for Chinese, Japanese and Korean."""

import re
import string
import unicodedata
from collections import Counter
from fractions import Fraction

from support.latex import TEXT

ASCII = str.maketrans("‘’‚′“”„″‐‑‒–—―−", "'" * 4 + '"' * 4 + "-" * 7)


# one Chinese, Japanese or Korean character
CJK = "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"


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
