"""Do two short mathematical answers mean the same?

    1. plain_math    one spelling of each (latex.py, characters.py); equal strings are equal
    2. answer_tree   tuples, sets, inequalities and matrices as trees (trees.py)
    3. leaf_equal    their elements by strings, units (units.py) and rationals
    4. algebra       what is left as numbers at a few points: code_of (algebra.py) translates an
                     expression into Python of a fixed vocabulary, which the sandbox runs with
                     same_values.py
    5. match_trees   the verdict on the elements, put together

Nothing of a model's text is ever evaluated, neither here nor in the sandbox.
"""

import functools
import importlib.util
import itertools
import math
import re
from fractions import Fraction
from pathlib import Path

from support.algebra import WORDS, code_of
from support.characters import GREEK
from support.latex import FUNCTIONS, TEXT, last_boxed, number, plain_math
from support.names import CALLED, has_equals, is_name, names_itself
from support.trees import answer_tree, leaves_of, match_trees
from support.units import size_of, split_leaf
from tools import PythonTool

# characters; longer answers are compared as strings
MATH_LIMIT = 500
# elements of an answer; with more, only equal strings are equal
LEAVES = 60
# text, or a number in another base: no algebra
WORD = rf"(?<![A-Za-z\\])(?!(?:{WORDS})(?![A-Za-z]))[^\W\d_]{{4,}}|[«»␣]|^[0-9A-Z]+_[0-9]+$"
# words that would else be products of their letters: no is not on
SHORT_WORDS = set(
    "no on not yes ten net one two six odd all any red won now own act cat dog god ate eat tea was "
    "saw war raw top pot opt tap pat apt are ear era end den arm ram how who sun mon tue wed thu "
    "fri sat jan feb mar apr may jun jul aug sep oct nov dec".split()
)
# what Math-Verify computes and our grammar does not
CALCULUS = r"\\(?:sum|prod|int|lim)(?![A-Za-z])"
# Its reader drops other commands, primes and colons; f(x) is a product to it.
KNOWN = set(FUNCTIONS) | set(GREEK) | set("sum prod int lim frac infty pi to cdot".split())
DROPPED = rf"['\":;∧∨«]|\\[^A-Za-z]|(?:{CALLED})(?:'|[_^](?:\{{[^{{}}]*\}}|-?\w))*[(\[]"
# what stands behind a label that is not the answer, or not alone
DENIED = (
    r"^(?:\\?&|\\(?:text|mathrm)\{)?\s*(?:(?:and|or|not|nor|incorrect|wrong|false|isn't)\b|"
    r"is (?:not|wrong|false|incorrect)\b|\\?&|\\(?:land|lor|wedge|vee|neg|lnot)\b)"
)
# a product of vectors does not commute
CROSS = (
    r"\\(?:mathbf|vec|boldsymbol|bm|overrightarrow|hat)\s*(?:\{\s*\w+\s*\}|\w)\s*\\times(?!\s*\d)"
)
# dates, years, scores, telephone numbers and remainders: no differences, quotients or products
WRITTEN = r"\d+R\d+|\d+-\d+(?:-\d+)*|\d+/\d+/\d+"
NO_CODE = "(None, None, 0, 0, [], '')"


def math_equal(pred: str, gold: str) -> bool:
    """Do two short mathematical answers mean the same? False, never an error, for what is none.

    Rationals exactly; to 1e-6 relative if one side has a decimal point. One side may leave out a
    percent sign, a unit, or "x =" in front. Tuples, intervals and matrices in order and with their
    brackets; sets, unions, bare lists and plus-minus in any order. Expressions, and equations up
    to a constant factor, by their values at a few points. Sums, products, integrals and limits
    are left to Math-Verify, if installed. \\log without a base is natural. "C: 7" is both C and 7.
    """
    longest = max(len(pred), len(gold))
    plain = str.strip if longest > 20 * MATH_LIMIT else plain_math
    a, b = plain(pred), plain(gold)
    if a == b or longest > MATH_LIMIT:
        return a == b != ""
    try:
        return _same_math(*sorted((pred, gold)))
    except ConnectionError:
        # No sandbox, no verdict: it is not remembered.
        return False


@functools.lru_cache(1 << 14)
def _same_math(first: str, second: str) -> bool:
    """The verdict on sorted, unequal spellings. ConnectionError if there is no sandbox."""
    (x, a), (y, b) = _label(first), _label(second)
    if (x and y and x != y) or not (a and b):
        return False
    if _same_values(a, b):
        return True
    # "C: 7" against "C"
    return x != y and plain_math(a if y else b).strip("()«»") == (x or y)


def _label(text: str) -> tuple[str, str]:
    """("C", "7") for "C: 7" or "(C) 7"; ("", text) without a label; ("", "") for two labels."""
    inner = re.sub(rf"^[\s$]*{TEXT}", r"\1 ", (last_boxed(text) or text).strip(" $"))
    label = r"(?:([A-E])\s*(?:[.:)]|\\colon(?![a-z]))|\(([A-E])\))"
    match = re.match(rf"\s*{label}\s+(.+)", inner, re.DOTALL)
    if not match:
        return "", text
    two = r"(?:^|\s)(?:[A-E]\s*[.:)]|\([A-E]\))(?:\s|$)|^\(?[A-E][.:)]*$"
    other = re.search(rf"{two}|{DENIED}", match[3].strip())
    return ("", "") if other else (match[1] or match[2], match[3])


def _same_values(first: str, second: str) -> bool:
    """Do two answers without labels mean the same, element by element?"""
    if re.search(CROSS, first + " " + second):
        return False
    a, b = answer_tree(plain_math(first)), answer_tree(plain_math(second))
    left, right = leaves_of(a), leaves_of(b)
    if max(len(left), len(right)) > LEAVES:
        return False
    known = {(x, y): leaf_equal(x, y) for x in left for y in right}
    if match_trees(a, b, known):
        return True
    # Not even if all that is left were equal.
    if not match_trees(a, b, {pair: verdict is not False for pair, verdict in known.items()}):
        return False
    codes = {x: _leaf_code(x) for pair, verdict in known.items() if verdict is None for x in pair}
    if NO_CODE in codes.values() and _for_math_verify(plain_math(first), plain_math(second)):
        return _jail(MATH_VERIFY.format(repr(f"${first}$"), repr(f"${second}$"))) == "1"
    p, q = (", ".join(codes.get(x, NO_CODE) for x in leaves) for leaves in (left, right))
    bits = _jail(f"{SAME_VALUES}\nprint(*['01'[same(p, q)] for p in [{p}] for q in [{q}]], sep='')")
    by_algebra = dict(zip(itertools.product(left, right), bits))
    for pair, verdict in known.items():
        if verdict is None:
            known[pair] = by_algebra.get(pair) == "1"
    return match_trees(a, b, known)


def _for_math_verify(a: str, b: str) -> bool:
    """Is Math-Verify installed, and are these sums, integrals and the like that it reads whole?"""
    text = f"{a} {b}"
    readable = set(re.findall(r"\\([A-Za-z]+)", text)) <= KNOWN
    dropped = re.search(DROPPED, re.sub(r"\\(?!phi|psi)[A-Za-z]+", " ", text))
    wanted = re.search(CALCULUS, text)
    return bool(readable and wanted and not dropped and importlib.util.find_spec("math_verify"))


def leaf_equal(a: str, b: str) -> bool | None:
    """Are two elements equal? None where neither strings nor rationals decide."""
    (name_a, a, unit_a), (name_b, b, unit_b) = _split_leaves(a, b)
    if name_a and name_b and name_a != name_b:
        return None if code_of(name_a) and code_of(name_b) else False
    if name_a != name_b and not is_name(name_a or name_b):
        # \binom{4}{2} = 6 is 6, if it is true
        return None if is_constant(name_a or name_b) else False
    if name_a != name_b and (names_itself(name_a, a) or names_itself(name_b, b)):
        return False
    # $5 is not 5 percent
    if (unit_a and b.endswith("%")) or (unit_b and a.endswith("%")):
        return False
    if re.fullmatch(WRITTEN, a) or re.fullmatch(WRITTEN, b):
        return a == b and unit_a == unit_b
    # 1 = 2 = 5, and what the dots stand for
    if "…" in a + b or has_equals(a) or has_equals(b):
        return a == b and unit_a == unit_b
    x, y = number(a), number(b)
    if unit_a and unit_b and unit_a != unit_b:
        (size_a, base_a), (size_b, base_b) = size_of(unit_a), size_of(unit_b)
        if base_a != base_b or x is None or y is None:
            return None if base_a == base_b else False
        return _same_number(a, x * size_a, b, y * size_b)
    if x is not None and y is not None:
        return _same_number(a, x, b, y)
    # \sin 70 means degrees, \sin 1 may not.
    if re.sub(r"(?<=\d\d)°", "", a) == re.sub(r"(?<=\d\d)°", "", b):
        return a != ""
    if "\\infty" in (a.lstrip("-"), b.lstrip("-")):
        return False
    return _same_text(a, b)


def is_constant(text: str) -> bool:
    """Is it an expression of numbers alone?"""
    code = code_of(text)
    return code is not None and "v(" not in code


def _split_leaves(a: str, b: str) -> list[tuple[str, str, str]]:
    """The parts of two leaves: beside 5 km, 5000 m has a unit."""
    parts = [split_leaf(a), split_leaf(b)]
    if bool(parts[0][2]) == bool(parts[1][2]):
        return parts
    return [part if part[2] else split_leaf(leaf, True) for part, leaf in zip(parts, (a, b))]


def _same_number(a: str, x, b: str, y) -> bool:
    """Rationals x and y, written a and b; a percent sign on one side only may be left out."""
    exact = x.denominator == y.denominator == 1 or "." not in a + b

    def close(x, y) -> bool:
        return x == y if exact else abs(x - y) <= max(abs(x), abs(y)) / 10**6

    if close(x, y):
        return x == y or abs(x - y) <= _half_digit(a, b)
    # 0.5% is not 0.5
    if a.endswith("%") == b.endswith("%") or abs(y if a.endswith("%") else x) < 1:
        return False
    return close(100 * x, y) if a.endswith("%") else close(x, 100 * y)


def _half_digit(a: str, b: str) -> Fraction | float:
    """Half of the last digit of the shorter of two decimals; no bound for others.

    A whole number bears only what computing adds: 1000001 is not 1000000.5.
    """
    found = [re.fullmatch(r"-?[\d,]*\.?(\d*)", x) for x in (a, b)]
    if not all(found):
        return math.inf
    places = min(len(match[1]) for match in found)
    return Fraction(1, 2 * 10**places) if places else Fraction(1, 1000)


def _same_text(a: str, b: str) -> bool | None:
    """Words by their letters; None if neither is a word and their letters differ: algebra."""
    words = _is_word(a) or _is_word(b)
    if not words and not (a.isalpha() and b.isalpha() and len(a) > 1):
        return None
    # 5 MBps are not 5 Mbps
    fold = str if re.search(r"^[\d.]", a) else str.casefold
    a, b = (fold(re.sub(r"[«»]|(?<!\d)␣|␣(?!\d)", "", x)) for x in (a, b))
    return a == b or (False if words else None)


def _is_word(text: str) -> bool:
    """Is it text, not a product of letters?"""
    if re.search(WORD, text):
        return True
    return text.isalpha() and len(text) > 1 and (text != text.lower() or text in SHORT_WORDS)


# what the sandbox runs before it compares
SAME_VALUES = Path(__file__).with_name("same_values.py").read_text(encoding="utf-8")
# latex2sympy builds its objects from a grammar. Only the reader of LaTeX is used, since the one
# for plain expressions evaluates them.
MATH_VERIFY = """
from math_verify import LatexExtractionConfig, parse, verify
how = [LatexExtractionConfig()]
p, g = (parse(text, how, parsing_timeout=None) for text in ({}, {}))
print(int(verify(g, p, timeout_seconds=None) or verify(p, g, timeout_seconds=None)))
"""


def _leaf_code(leaf: str) -> str:
    """A leaf as the Python tuple that same_values.py compares; NO_CODE outside the grammar."""
    name, value, unit = split_leaf(leaf)
    share = code_of(value[:-1]) if value.endswith("%") else None
    value, left = f"{share}/Integer(100)" if share else code_of(value), code_of(name)
    equation = f"lambda v: {left} - {value}" if name and value and left else None
    plain = f"lambda v: {value}" if value and (not name or is_name(name)) else None
    if value and not plain and is_constant(name):
        plain = f"lambda v: true_value({left}, {value})"
    if not (plain or equation):
        return NO_CODE
    size = size_of(unit)[0] if unit else 0
    code = f"{value} {equation}"
    names = sorted(set(re.findall(r'v\("(.+?)"\)', code)))
    marks = "i" * bool(re.search(r"\bI\b", code)) + "a" * ("Abs" in code)
    marks += "r" * bool(re.search("floor|ceiling", code))
    return f"({plain}, {equation}, {int('.' in leaf)}, Rational('{size}'), {names}, {marks!r})"


@functools.cache
def grader_jail() -> PythonTool:
    """The sandbox of this process in which algebra is decided.

    Its SIGKILL is the only clock that also stops sympy. "best-effort" is enough: nothing but our
    own words reaches it.
    """
    return PythonTool(2.5, "best-effort")


def _jail(code: str) -> str:
    """The last line that our own code prints in the sandbox, "" if it fails or takes too long.

    Warnings come before that line. ConnectionError if there is no sandbox.
    """
    result = grader_jail().run(code)
    if result.status == "infra":
        raise ConnectionError("no sandbox")
    return result.text.rpartition("\n")[2] if result.status == "ok" else ""
