"""What people say around an answer: "The answer is 42", "Option B", "approximately 3.14".

    1. without_phrases    the answer alone: openings, a reason behind it, a dollar sign in front;
                          "k an integer" as k \\in \\mathbb{Z}
    2. without_side       5 years, and "old": which side of a thing is measured

What denies or doubts stays: "The answer is not 42" gives "not 42".
"""

import re

from support.latex import TEXT, last_boxed

OPENING = (
    r"(?:\*\*)?(?:(?:so|thus|hence|therefore),?\s+)?(?:(?:the|my)\s+)?(?:final\s+|correct\s+)?"
    r"answer\s*(?:is(?=[\s:])(?:\s*:)?|:|=)(?:\*\*)?\s*(?=\S)"
)
CHOICE = r"(?:option|choice|answer\s+choice|answer)\s*:?\s*(?=\(?[A-J](?![A-Za-z]))"
NEARLY = (
    r"(?:approximately|approx\.?|about|roughly)\s*(?=[-+]?[\\$＄£€]*[\d.]|\\(?:frac|sqrt)(?![a-z]))"
)
DENIAL = r"(?:not|no|wrong|incorrect|false|never|but|or|unless|actually|instead)\b"
REASON = r"\s*(?:\\text\{)?\s*\((?:since|because)\s"
_EACH = r"(?:any|all|every|each|some|an?)"
INTEGER = (
    rf"(?P<front>.*?)[,;]?\s+(?:(?:where|for|with|and)\s+)?(?:"
    rf"(?:{_EACH}\s+)?integers?\s+\$?(?P<a>[a-z])\$?|"
    rf"\$?(?P<b>[a-z])\$?\s+(?:is\s+)?{_EACH}\s+integer)[\s.]*"
)
# behind an amount, or behind what is said of x: for all x
TAIL = r"(?<=[\w}])\s+(?:each|apiece|altogether|(?:in\s+)?total|in\s+all)[\s.]*"
EVERYWHERE = (
    r"(?P<front>.*\((?P<x>[a-z])\)\s*=.*?),?\s+for\s+(?:all|every|any)(?:\s+reals?)?(?:\s+numbers?)?\s+"
    r"\$?(?P=x)(?:\s*\\in\s*\\mathbb\s*\{?R\}?)?[\s.$]*"
)
# one letter of several choices
LETTER = r"\s*\(?([A-J])[).:]+\s*"
SIDES = "old tall long wide high deep thick away apart".split()
PERIOD = "second minute hour day week month year".split()


def without_phrases(text: str) -> str:
    """The answer that a text gives; the text itself if nothing is said around it."""
    inner = (last_boxed(text) or text).strip()
    # words in \text{} in front
    said = re.sub(rf"^[\s$]*{TEXT}", r"\1 ", inner)
    for _ in range(3):
        found = re.match(rf"\s*(?:{OPENING}|{CHOICE}|{NEARLY})", said, re.IGNORECASE)
        if found:
            inner = said = said[found.end() :]
    inner = _without_reason(inner)
    inner = re.sub(f"{TAIL}$", "", inner) if re.search(r"\d", inner) else inner
    everywhere = re.fullmatch(EVERYWHERE, re.sub(TEXT, r" \1 ", inner))
    inner = everywhere["front"] if everywhere else inner
    letter = re.fullmatch(LETTER, inner)
    return letter[1] if letter else _rate(_dollars(_integers(inner)))


def _without_reason(text: str) -> str:
    """42 for "42 (since 6 times 7 is 42)"."""
    found = re.search(REASON, text, re.IGNORECASE)
    if not found or re.search(rf"(?i)\b{DENIAL}", text[found.end() :]):
        return text
    return text[: found.start()] if text.rstrip(" .}")[-1:] == ")" else text


def _integers(text: str) -> str:
    """k\\pi, k \\in \\mathbb{Z} for "k\\pi, where k is an integer"."""
    found = re.fullmatch(INTEGER, re.sub(TEXT, r" \1 ", text))
    if not found or not found["front"].strip() or not text.startswith(found["front"]):
        return text
    return rf"{found['front']}, {found['a'] or found['b']} \in \mathbb{{Z}}"


def _dollars(text: str) -> str:
    """A dollar sign that closes no mathematics as \\$."""
    if text.count("$") != 1:
        return text
    after = r"(?:\s*(?:/|per\b|an?\b|each\b|[mb]illion\b|thousand\b|hundred\b).*)?"
    return re.sub(rf"^(\s*-?)\$(?=\s?\d[\d,]*(?:\.\d+)?{after}\s*$)", r"\1\\$", text)


def _rate(text: str) -> str:
    """$18 an hour as $18 per hour."""
    return re.sub(rf"(?<=[\w}}])(\s+)an?\s+(?=(?:{'|'.join(PERIOD)})\b)", r"\1per ", text)


def without_side(text: str) -> tuple[str, str]:
    """("5 years", "old") for "5 years old"; (text, "") without such a word."""
    found = re.fullmatch(rf"(.*\d.*[A-Za-z}}])\s+({'|'.join(SIDES)})(\s*\}})?[\s.]*", text)
    return (found[1] + (found[3] or ""), found[2]) if found else (text, "")
