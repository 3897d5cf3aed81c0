"""Do two short mathematical answers mean the same?

    1. plain_math    one spelling of each (latex.py, characters.py); equal strings are equal.
                     What is said around an answer goes first (phrases.py)
    2. answer_tree   tuples, sets, inequalities and matrices as trees (answer_trees.py)
    3. leaf_equal    their elements by strings, units (units.py) and rationals (decimals.py)
    4. algebra       what is left as numbers at a few points: code_of (algebra.py) translates an
                     expression into Python of a fixed vocabulary, which the sandbox runs with
                     same_values.py
    5. match_trees   the verdict on the elements, put together

Nothing of a model's text is ever evaluated, neither here nor in the sandbox.
"""

import functools
import importlib.util
import itertools
import re
from pathlib import Path

from support.algebra import WORDS, code_of, is_constant
from support.answer_trees import answer_tree, leaves_of, match_trees
from support.characters import GREEK
from support.decimals import is_rough, same_number
from support.latex import FUNCTIONS, TEXT, last_boxed, number, plain_math
from support.names import CALLED, bound_letters, has_equals, names_itself, names_value
from support.phrases import without_phrases, without_side
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
# powers and products of sums of capitals, which may be matrices
_SUM = r"\([^()]*[A-Z][^()]*[-+][^()]*\)"
PRODUCTS = rf"{_SUM} ?[\^A-Z(]|[A-Z)] ?{_SUM}|\([A-Z]{{2,}}\) ?\^"
# dates, years, scores, telephone numbers and remainders: no differences, quotients or products
WRITTEN = r"\d+R\d+|\d+-\d+(?:-\d+)*|\d+/\d+/\d+"
NO_CODE = "(None, None, 0, 0, [], '')"


def math_equal(pred: str, gold: str) -> bool:
    """Do two short mathematical answers mean the same? False, never an error, for what is none.

    Rationals exactly; a decimal of six digits or more as what was rounded, to 1e-6 relative. One
    side may leave out a percent sign, a unit, or "x =" in front. Tuples, intervals and matrices
    in order and with their brackets; sets, unions, bare lists and plus-minus in any order.
    Expressions, and equations up to a constant factor, by their values at a few points. Sums,
    products, integrals and limits are left to Math-Verify, if installed. \\log without a base is
    natural. "C: 7" is both C and 7.
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
    (first, side), (second, other) = map(without_side, map(without_phrases, (first, second)))
    (x, a), (y, b) = _label(first), _label(second)
    if (x and y and x != y) or (side and other and side != other) or not (a and b):
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
    # (A) and (C)
    if re.fullmatch(r"(?:and\s*\([A-E]\)\s*)+", match[3]):
        return "", text
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
    if name_a and (name_a, a) == (b, name_b):
        return unit_a == unit_b
    if name_a and name_b and name_a != name_b:
        known = all(code_of(name) or bound_letters(name) for name in (name_a, name_b))
        return None if known else False
    if name_a != name_b and not names_value(name_a or name_b, a if name_a else b):
        # \binom{4}{2} = 6 is 6, if it is true
        return None if _is_computed(name_a or name_b) else False
    if name_a != name_b and (names_itself(name_a, a) or names_itself(name_b, b)):
        return False
    # $5 is not 5 percent
    if (unit_a and b.endswith("%")) or (unit_b and a.endswith("%")):
        return False
    if _only_written(a) or _only_written(b):
        return a == b and unit_a == unit_b
    x, y = number(a), number(b)
    if unit_a and unit_b and unit_a != unit_b:
        (size_a, base_a), (size_b, base_b) = size_of(unit_a), size_of(unit_b)
        if base_a != base_b or x is None or y is None:
            return None if base_a == base_b else False
        return same_number(a, x * size_a, b, y * size_b)
    if x is not None and y is not None:
        return same_number(a, x, b, y)
    # \sin 70 means degrees, \sin 1 may not.
    if re.sub(r"(?<=\d\d)°", "", a) == re.sub(r"(?<=\d\d)°", "", b):
        return a != ""
    if "\\infty" in (a.lstrip("-"), b.lstrip("-")):
        return False
    return _same_text(a, b)


def _only_written(text: str) -> bool:
    """Has it no value: a date, 1 = 2 = 5, what dots stand for?"""
    return "…" in text or has_equals(text) or re.fullmatch(WRITTEN, text) is not None


def _is_computed(name: str) -> bool:
    """Is it no name, but something with a value: of numbers alone, or a derivative?"""
    return is_constant(name) or "derivative(" in (code_of(name) or "")


def _split_leaves(a: str, b: str) -> list[tuple[str, str, str]]:
    """The parts of two leaves: beside 5 km, 5000 m has a unit."""
    parts = [split_leaf(a), split_leaf(b)]
    if bool(parts[0][2]) == bool(parts[1][2]):
        return parts
    return [part if part[2] else split_leaf(leaf, True) for part, leaf in zip(parts, (a, b))]


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
    named = not name or names_value(name, value)
    share = code_of(value[:-1]) if value.endswith("%") else None
    code = f"{share}/Integer(100)" if share else code_of(value)
    plain = code if named else None
    if code and not named and _is_computed(name):
        plain = f"true_value({code_of(name)}, {code})"
    left, right = _bound(name, code) if name and code else (None, None)
    if not (plain or left):
        return NO_CODE
    codes = [
        f"lambda v: {text}" if text else None for text in (plain, left and f"{left} - {right}")
    ]
    rough = {True: 1, False: 0, None: -1}[is_rough(leaf)]
    size = size_of(unit)[0] if unit else 0
    text = " ".join(map(str, codes))
    names = sorted(set(re.findall(r'v\("(.+?)"\)', text)))
    return f"({codes[0]}, {codes[1]}, {rough}, Rational('{size}'), {names}, {_marks(leaf, text)!r})"


def _bound(name: str, code: str) -> tuple[str | None, str]:
    """Both sides of an equation as Python; what a function is given has no letter of its own."""
    head, letters = bound_letters(name) or ("", [])
    # f(x - 1) is one symbol, whose x stays
    if "_of_" in code or not all(f'v("{letter}")' in code for letter in letters):
        letters = []
    for k, letter in enumerate(letters):
        code = code.replace(f'v("{letter}")', f'v("bound{k}")')
    return f'v("{head}_of_{len(letters)}")' if letters else code_of(name), code


def _may_be_matrices(leaf: str, code: str) -> bool:
    """Has it powers or products of sums of several capitals? Beside pi they are lengths."""
    capitals = set(re.findall(r'v\("([A-Z])["_]', code))
    return len(capitals) > 1 and "pi" not in code and bool(re.search(PRODUCTS, leaf))


def _marks(leaf: str, code: str) -> str:
    """What same_values.py has to know of a leaf, one letter each."""
    found = {
        "i": re.search(r"\bI\b", code),
        "a": "Abs" in code,
        "c": "Abs" in code and re.search(r'v\("[zw]["_]', code),
        "r": re.search("floor|ceiling", code),
        "m": _may_be_matrices(leaf, code),
    }
    return "".join(mark for mark, there in found.items() if there)


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
