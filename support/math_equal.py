"""Do two short mathematical answers mean the same?

    1. plain_math    one spelling of each (latex.py); equal strings are equal
    2. answer_tree   tuples, intervals, sets, lists and matrices as trees
    3. leaf_equal    their elements by strings, units (units.py) and rationals
    4. algebra       what is left as numbers at a few points: code_of (algebra.py) translates an
                     expression into Python of a fixed vocabulary, which the sandbox runs with sympy
    5. match_trees   the verdict on the elements, put together

Nothing of a model's text is ever evaluated, neither here nor in the sandbox.
"""

import functools
import importlib.util
import itertools
import re

from support.algebra import DEPTH, WORDS, code_of
from support.latex import TEXT, last_boxed, number, plain_math
from support.units import split_leaf
from tools import PythonTool

# characters; longer answers are compared as strings
MATH_LIMIT = 500
# elements of an answer; with more, only equal strings are equal
LEAVES = 60
# Left of "=" it only names what is right, as in "f(x) = 2"; not in |x| = 3.
NAME = (
    r"(?!\|\w\|$|\\pi$)"
    r"(?:(?!.*\\(?:frac|sqrt))[^\W\d][\w\\|'(),{} ]*|[|\\(][\w\\|'(),{} ]+)"
)
# text, or a number in another base: no algebra
WORD = rf"(?<![A-Za-z\\])(?!(?:{WORDS})(?![A-Za-z]))[^\W\d_]{{4,}}|[«»␣]|^[0-9A-Z]+_[0-9]+$"
# words that would else be products of their letters: no is not on
SHORT_WORDS = set(
    "no on not yes ten net one two six odd all any red won now own act cat dog god ate eat tea was "
    "saw war raw top pot opt tap pat apt are ear era end den arm ram how who sun mon tue wed thu "
    "fri sat jan feb mar apr may jun jul aug sep oct nov dec".split()
)
NO_CODE = "(None, None, 0)"
# an answer: a leaf is its text, else (kind, elements)
Tree = str | tuple[str, list]


def math_equal(pred: str, gold: str) -> bool:
    """Do two short mathematical answers mean the same? False, never an error, for what is none.

    Rationals exactly; to 1e-6 relative if one side has a decimal point. One side may leave out a
    percent sign, a unit, or "x =" in front. Tuples, intervals and matrices in order and with their
    brackets; sets, unions, bare lists and plus-minus in any order. Expressions, and equations up
    to a constant factor, by their values at a few points. What our grammar does not know is left
    to Math-Verify, if installed. \\log without a base is natural. "C: 7" is both C and 7.
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
    two = re.search(r"(?:^|\s)(?:[A-E]\s*[.:)]|\([A-E]\))\s|^\(?[A-E][.:)]*$", match[3].strip())
    return ("", "") if two else (match[1] or match[2], match[3])


def _same_values(first: str, second: str) -> bool:
    """Do two answers without labels mean the same, element by element?"""
    a, b = answer_tree(plain_math(first)), answer_tree(plain_math(second))
    left, right = _leaves(a), _leaves(b)
    if max(len(left), len(right)) > LEAVES:
        return False
    known = {(x, y): leaf_equal(x, y) for x in left for y in right}
    if match_trees(a, b, known):
        return True
    codes = {x: _leaf_code(x) for pair, verdict in known.items() if verdict is None for x in pair}
    if not codes:
        return False
    if NO_CODE in codes.values() and importlib.util.find_spec("math_verify"):
        return _jail(MATH_VERIFY.format(repr(f"${first}$"), repr(f"${second}$"))) == "1"
    p, q = (", ".join(codes.get(x, NO_CODE) for x in leaves) for leaves in (left, right))
    bits = _jail(f"{SAME_VALUES}print(*['01'[same(p, q)] for p in [{p}] for q in [{q}]], sep='')")
    by_algebra = dict(zip(itertools.product(left, right), bits))
    for pair, verdict in known.items():
        if verdict is None:
            known[pair] = by_algebra.get(pair) == "1"
    return match_trees(a, b, known)


def leaf_equal(a: str, b: str) -> bool | None:
    """Are two elements equal? None where neither strings nor rationals decide."""
    (name_a, a, unit_a), (name_b, b, unit_b) = split_leaf(a), split_leaf(b)
    if name_a and name_b and name_a != name_b:
        return None if code_of(name_a) and code_of(name_b) else False
    if unit_a and unit_b and unit_a != unit_b:
        return False
    if name_a != name_b and not re.fullmatch(NAME, name_a or name_b):
        return False
    # 1 = 2 = 5
    if "=" in a + b and "\\begin" not in a + b:
        return a == b
    x, y = number(a), number(b)
    if x is not None and y is not None:
        return _same_number(a, x, b, y)
    # \sin 70 means degrees, \sin 1 may not.
    if re.sub(r"(?<=\d\d)°", "", a) == re.sub(r"(?<=\d\d)°", "", b):
        return a != ""
    if "\\infty" in (a.lstrip("-"), b.lstrip("-")):
        return False
    return _same_text(a, b)


def _same_number(a: str, x, b: str, y) -> bool:
    """Rationals x and y, written a and b; a percent sign on one side only may be left out."""
    exact = x.denominator == y.denominator == 1 or "." not in a + b

    def close(x, y) -> bool:
        return x == y if exact else abs(x - y) <= max(abs(x), abs(y)) / 10**6

    if close(x, y):
        return True
    if a.endswith("%") == b.endswith("%"):
        return False
    return close(100 * x, y) if a.endswith("%") else close(x, 100 * y)


def _same_text(a: str, b: str) -> bool | None:
    """Words by their letters; None if neither is a word and their letters differ: algebra."""
    words = _is_word(a) or _is_word(b)
    if not words and not (a.isalpha() and b.isalpha() and len(a) > 1):
        return None
    a, b = (re.sub(r"[«»]|(?<!\d)␣|␣(?!\d)", "", x).casefold() for x in (a, b))
    return a == b or (False if words else None)


def _is_word(text: str) -> bool:
    """Is it text, not a product of letters?"""
    if re.search(WORD, text):
        return True
    return text.isalpha() and len(text) > 1 and (text != text.lower() or text in SHORT_WORDS)


def answer_tree(text: str) -> Tree:
    """A plain answer as a leaf, its text, or as (kind, elements).

    kind: "set" (in any order; also lists and unions), the two brackets, or a matrix's form.
    """
    if max(_depths(text), default=0) > DEPTH:
        return text
    text = _interval(_set_notation(text))
    matrix = re.fullmatch(r"\\begin\{([pbv]?)matrix\}(.*)\\end\{\1matrix\}", text)
    if matrix:
        rows = [row.split("&") for row in matrix[2].removesuffix("\\\\").split("\\\\")]
        # A determinant is no matrix.
        kind = f"{'|' * (matrix[1] == 'v')}matrix {[len(row) for row in rows]}"
        return kind, [answer_tree(cell) for row in rows for cell in row]
    parts = _split(text)
    if len(parts) == 1 and "\\pm" in text:
        signs = [("+", "-"), ("-", "+")]
        parts = [text.replace("\\pm", up).replace("\\mp", down) for up, down in signs]
    if len(parts) > 1:
        return "set", [x for part in parts for x in _elements(answer_tree(part))]
    name, _, value = text.partition("=")
    # A = {1, 2}, (m, n) = (3, 2)
    if re.fullmatch(NAME, name) and isinstance(named := answer_tree(value), tuple):
        return named
    if text[:2] == "\\{" and text[-2:] == "\\}" and len(text) > 4:
        return "set", _elements(answer_tree(text[2:-2]))
    inner = _split(text[1:-1]) if text[:1] in ("(", "[") and text[-1:] in (")", "]") else []
    if len(inner) > 1:
        return text[0] + text[-1], [answer_tree(part) for part in inner]
    return text


def _set_notation(text: str) -> str:
    """Without "x \\in" in front and the frame of {x | ...}; the reals as an interval."""
    text = re.sub(r"^[A-Za-z]\w*\\in(?![A-Za-z])", "", text)
    text = re.sub(r"^\\(?:mathbb\s*\{?R\}?|reals)$", r"(-\\infty,\\infty)", text)
    frame = r"^\\\{[A-Za-z](?:\\in\\mathbb\{?R\}?)?(?:\\mid|\\vert|:|\|)(.*)\\\}$"
    return re.sub(frame, r"\1", text)


def _interval(text: str) -> str:
    """-2 < x <= 1 as (-2,1] and x > 3 as (3,\\infty); other text as it is."""
    flip, letter = str.maketrans("<>≤≥", "><≥≤"), r"[A-Za-z]\w*|\\[a-z]+"
    parts = re.split("([<>≤≥])", text)
    if len(parts) == 3 and re.fullmatch(letter, parts[0]):
        parts = [parts[2], parts[1].translate(flip), parts[0]]
    if len(parts) == 3:
        parts += ["<", "\\infty"] if parts[1] in "<≤" else [">", "-\\infty"]
    if len(parts) != 5:
        return text
    if parts[1] in ">≥" and parts[3] in ">≥":
        parts = [part.translate(flip) if k % 2 else part for k, part in enumerate(parts)][::-1]
    low, below, middle, above, high = parts
    if below in "<≤" and above in "<≤" and re.fullmatch(letter, middle):
        return f"{'(['[below == '≤']}{low},{high}{')]'[above == '≤']}"
    return text


def _split(text: str) -> list[str]:
    """The parts between commas, semicolons and unions outside all brackets.

    The whole text where brackets do not pair.
    """
    depths = _depths(text)
    if not depths or min(depths) < 0 or depths[-1]:
        return [text]
    found = re.finditer(r"[,;]|\\cup(?![A-Za-z])", text)
    cuts = [m.span() for m in found if depths[m.start()] == 0]
    starts = [0] + [end for _, end in cuts]
    ends = [start for start, _ in cuts] + [len(text)]
    # "1, 2, and 3" has an empty part.
    return [text[i:j] for i, j in zip(starts, ends) if i < j] or [text]


def _depths(text: str) -> list[int]:
    """How many brackets are open after each character."""
    return list(itertools.accumulate((c in "([{") - (c in ")]}") for c in text))


def _elements(tree: Tree) -> list[Tree]:
    """The elements of a set; anything else is the one element of a set."""
    return tree[1] if tree[:1] == ("set",) else [tree]


def _leaves(tree: Tree) -> list[str]:
    """The texts at the ends of a tree, in order."""
    return [tree] if isinstance(tree, str) else [x for part in tree[1] for x in _leaves(part)]


def match_trees(a: Tree, b: Tree, equal: dict[tuple[str, str], bool | None]) -> bool:
    """Are two trees equal? equal[x, y]: are two leaves? A set of one element is that element."""
    a, b = (tree[1][0] if tree[:1] == ("set",) and len(tree[1]) == 1 else tree for tree in (a, b))
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and bool(equal[a, b])
    if a[0] != b[0] or len(a[1]) != len(b[1]):
        return False
    if a[0] != "set":
        return all(match_trees(x, y, equal) for x, y in zip(a[1], b[1]))
    rest = list(b[1])
    for x in a[1]:
        found = next((k for k, y in enumerate(rest) if match_trees(x, y, equal)), None)
        if found is None:
            return False
        del rest[found]
    return True


# A leaf is (value, left minus right side of an equation, rough?). Values at five points: two
# positive in every symbol, one negative in all. Without symbols numbers stay exact, so that 2^99
# differs from 2^99 + 1.
SAME_VALUES = """
from random import Random
from sympy import *
def at(k):
    def v(name):
        r = Random(f"{name} {k}")
        sign = 1 if k < 2 else -1 if k == 2 else None
        size = Float(str(r.uniform(0.5, 2)), 150)
        return size * (sign or r.choice((-1, 1)))
    return v
def near(x, y, rough=0):
    if (x - y).is_Rational and not rough:
        return x - y == 0
    size, gap = max(abs(N(x, 30)), abs(N(y, 30))), abs(N(x - y, 30, maxn=600))
    zero = Float("1e-100" if (x - y).has(Float) else "1e-500") if x == 0 or y == 0 else 0
    return bool(size < oo and gap <= size / 10**(6 if rough else 80) or gap < zero)
def same(p, q):
    rough = p[2] or q[2]
    if p[1] and q[1]:
        x, y = ([f[1](at(k)) for k in range(5)] for f in (p, q))
        if N(x[0], 30) == 0 or N(y[0], 30) == 0:
            return False
        return all(near(x[k] * y[0], y[k] * x[0], rough) for k in range(5))
    return bool(p[0] and q[0]) and all(near(p[0](at(k)), q[0](at(k)), rough) for k in range(5))
"""
# latex2sympy builds its objects from a grammar. Only the reader of LaTeX is used, since the one
# for plain expressions evaluates them.
MATH_VERIFY = """
from math_verify import LatexExtractionConfig, parse, verify
how = [LatexExtractionConfig()]
p, g = (parse(text, how, parsing_timeout=None) for text in ({}, {}))
print(int(verify(g, p, timeout_seconds=None) or verify(p, g, timeout_seconds=None)))
"""


def _leaf_code(leaf: str) -> str:
    """A leaf as the Python triple that SAME_VALUES compares; NO_CODE outside the grammar."""
    name, value, _ = split_leaf(leaf)
    value, left = code_of(value), code_of(name)
    equation = f"lambda v: {left} - {value}" if name and value and left else None
    plain = f"lambda v: {value}" if value and re.fullmatch(NAME, name or "x") else None
    return f"({plain}, {equation}, {int('.' in leaf)})" if plain or equation else NO_CODE


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
