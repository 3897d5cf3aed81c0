"""What only names a result: "f(x)" in "f(x) = 2", but not "2x" in "2x = 6".

    1. split_equation    a name or left side, and the value
    2. is_name           does it name what is right of it, with nothing left to solve?
    3. names_value       the same beside a value: m + n names a number
    4. bound_letters     what a function is given, which may be any letter: t in "f(t) = t^2"
    5. is_variable       is it one letter, which an inequality bounds?
    6. names_itself      does the value hold what it is the value of?

An equation that is still to be solved has no value: x/2 = 3 is not 3.
"""

import re

from support.characters import GREEK
from support.latex import FUNCTIONS, number

# e, i and pi are numbers
CONSTANTS = {"e", "i", "\\pi"}
LETTER = rf"(?:[A-Za-z]|\\(?:{'|'.join(sorted(GREEK))})(?![A-Za-z])|«\w»)"
SUBSCRIPT = r"(?:_(?:\w|\{[\w«»+-]*\}|«\w*»|\\[a-z]+))?"
VARIABLE = rf"{LETTER}\s?{SUBSCRIPT}'*"
# Functions that an equation is solved by undoing.
UNDONE = set(FUNCTIONS) | set(
    "frac binom pi infty pm mp times cdot lfloor lceil ne equiv in notin mid cup cap pmod bmod "
    "begin end setminus subset forall exists".split()
)
# the same without a backslash, perhaps with a variable behind
BARE = rf"(?<![A-Za-z\\])(?:{'|'.join(sorted(FUNCTIONS, key=len, reverse=True))})[a-z]?(?![A-Za-z])"
DERIVATIVE = (
    r"\\frac\{(?:d|\\partial) ?[A-Za-z]?\}\{(?:d|\\partial) ?[A-Za-z]\}(?: ?[fgh]\([a-z]\)| ?y)?"
)
# \tan\alpha and \cos C are asked for, \sin x is to be solved
ANGLE = rf"\(?(?:\d*\\(?:{'|'.join(sorted(GREEK))})|[A-Z]+|[a-z]_\w|\\angle ?[A-Z]+)\)?"
TRIGONOMETRY = rf"\\?(?:sin|cos|tan|cot|sec|csc)(?:\^\{{?2\}}?)? ?{ANGLE}"
# a ratio of lengths, a product of vectors, the number of elements
MEASURED = (
    r"\\frac\{[A-Z]{2,}\}\{[A-Z]{2,}\}|\\vec ?\{?\w\}? ?\\cdot ?\\vec ?\{?\w\}?|"
    r"\|[A-Z] ?\\c[au]p ?[A-Z]\|"
)
# what is asked for in "find m + n"; x + y = 7 is a line
_SUMMAND = "[a-df-hj-su-w]"
LETTERS = rf"{_SUMMAND}(?:[+-]{_SUMMAND})+|[A-Z](?:[+-][A-Z])+"
# After these letters a bracket holds an argument, not a factor.
CALLED = r"[fghFGHPQTEN]|\\(?:phi|psi)"

_WORD = rf"«[^»]*»|\\[A-Za-z]{{2,}} ?(?:\{{\w*\}})?|(?:{CALLED}){SUBSCRIPT}'*"
_ANY = r"\((?:[^()]|\([^()]*\))*\)|\[[^\[\]]*\]"
_ATOM = r"«[^»]*»|\\#|\\[A-Za-z]+ ?(?:\{[^{}]*\})?|[^\W\d_]|'"
_BELOW = r"_(?:\w|\{(?:[^{}]|\{[^{}]*\})*\}|«[^»]*»|\\[a-z]+ ?)"
_PLAIN = r"(?<=[pqruvw])\(-\d+\)|\([\w\\'«»,| {}]*\)|\[[\w\\'«»,| {}]*\]"
# |AB| and |\vec{a}| name a length, |x| does not; [ABC] is an area, (m, n) a pair
_FIRST = (
    r"\\\|[^|=]*\\\||\|[A-Z]+\||\|\\[a-z]+ ?(?:\{\w+\}|\w+)\||\[[A-Z]{3,}\]|\([^\W\d][\w,\\ °]*\)"
)
NAME = rf"(?>{_FIRST})?(?>(?:{_WORD})(?:{_ANY})|{_ATOM}|{_BELOW}|{_PLAIN})*+"


def split_equation(text: str) -> tuple[str, str]:
    """(left, right) of the only "=" outside brackets, the name first; ("", text) without one."""
    at = _equals(text)
    # m + n = 24 + 89 = 113
    if len(at) == 2 and names_value(text[: at[0]], text[at[1] + 1 :]):
        middle = text[at[0] + 1 : at[1]]
        if re.search(r"\d", middle) and not re.search("[A-Za-z«]", re.sub(r"\\[a-z]+", "", middle)):
            return middle, text[at[1] + 1 :]
    if len(at) != 1:
        return "", text
    left, right = text[: at[0]], text[at[0] + 1 :]
    named = names_value(right, left) and right not in CONSTANTS
    return (right, left) if named and (not is_name(left) or left in CONSTANTS) else (left, right)


def has_equals(text: str) -> bool:
    """Is there a "=" outside brackets?"""
    return bool(_equals(text))


def _equals(text: str) -> list[int]:
    """Where "=" stands outside brackets."""
    return [k for k, depth in enumerate(depths(text)) if text[k] == "=" and depth == 0]


def depths(text: str) -> list[int]:
    """How many brackets are open after each character."""
    depth, found = 0, []
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        found.append(depth)
    return found


def is_variable(text: str) -> bool:
    """Is it one letter, with or without a subscript, and no constant?"""
    return text not in CONSTANTS and re.fullmatch(VARIABLE, text) is not None


def is_name(text: str) -> bool:
    """Does "text = value" only say what the value is of?"""
    if re.fullmatch(rf"{DERIVATIVE}|{TRIGONOMETRY}|{MEASURED}", text):
        return True
    # the inverse of a function or matrix, a transpose
    text = re.sub(r"(?<=[A-Z])\^\{?(?:-1|T)\}?|\^\{(?:-1|\(\w\))\}(?=\()", "'", text)
    text = re.sub(rf"(\\(?:sum|prod|int)(?:{_BELOW})?)\^(?:\w|\{{[^{{}}]*\}})", r"\1", text)
    bare = re.sub(_BELOW, " ", re.sub(rf"({_WORD})(?:{_ANY})", r"\1", text))
    bare = re.sub(r"\\(?:cup|cap|mid)(?=[^()]*\))", "", bare)
    undone = any(name in UNDONE for name in re.findall(r"\\([A-Za-z]+)", bare))
    if undone or text in ("", "pi") or re.search(BARE, text):
        return False
    return re.fullmatch(NAME, text) is not None


def names_value(text: str, value: str) -> bool:
    """Does "text = value" only say what the value is of, as "m + n = 7" does?"""
    if re.fullmatch(LETTERS, text):
        letters = re.findall("[A-Za-z]", text)
        return len(set(letters)) == len(letters) and number(value) is not None
    return is_name(text)


def bound_letters(name: str) -> tuple[str, list[str]] | None:
    """("f", ["x", "y"]) for f(x, y), ("a", ["n"]) for a_n; None for other names."""
    call = re.fullmatch(rf"({LETTER}){SUBSCRIPT}\(([a-z](?:,[a-z])*)\)", name)
    head, letters = (name[: call.start(2) - 1], call[2].split(",")) if call else ("", [])
    term = re.fullmatch(r"([A-Za-z])_\{?([a-z])\}?", name)
    if term:
        head, letters = f"{term[1]}_", [term[2]]
    known = letters and len(set(letters)) == len(letters) and not set(letters) & CONSTANTS
    return (re.sub(r"\W", "", head), letters) if known else None


def names_itself(name: str, value: str) -> bool:
    """Does the value hold a letter that the name is made of, as in x = 6 - x?"""
    if not name or re.fullmatch(rf"{DERIVATIVE}|{TRIGONOMETRY}|{MEASURED}", name):
        return False
    name = re.sub(r"\^\{?-1\}?|(?<=\))\([^()]*\)", "", name)
    bare = re.sub(rf"({_WORD})(?:{_ANY})", r"\1", name)
    return bool(_letters(bare) & _letters(value))


def _letters(text: str) -> set[str]:
    """The letters of a product with their subscripts, without words and commands."""
    text = re.sub(r"«[^»]{2,}»|(?<![A-Za-z\\])[A-Za-z]{4,}", " ", text)
    text = re.sub(rf"\\(?!(?:{'|'.join(GREEK)})(?![A-Za-z]))[A-Za-z]+", " ", text)
    found = re.findall(VARIABLE, text)
    return {re.sub("[ {}«»]", "", letter) for letter in found} - CONSTANTS
