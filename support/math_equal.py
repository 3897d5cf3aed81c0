"""Are two answers in mathematics the same?"""

import functools
import importlib.util
import itertools
import re

from support.algebra import _code
from support.latex import (
    DEPTH,
    MATH_LIMIT,
    NAME,
    SHORT_WORDS,
    TEXT,
    WORD,
    _number,
    _plain_math,
    _sides,
    last_boxed,
)
from tools import PythonTool

# elements of an answer, above which only equal strings are equal
LEAVES = 60


NO_CODE = "(None, None, 0)"


def math_equal(pred: str, gold: str) -> bool:
    """Do two short mathematical answers mean the same? False, never an error, for what is none.

    Rationals exactly; 1e-6 relative if one side has a decimal point. A percent sign or unit on one side only may be left out. Tuples, intervals and
    matrices in order and with their brackets; sets, unions, bare lists and plus-minus in any order. "x =" in front may be left out. Expressions and
    equations (up to a constant factor) by their values at a few points; what our grammar does not know by Math-Verify, if installed. \\log without
    a base is natural. "C: 7" is both C and 7.
    """
    longest = max(len(pred), len(gold))
    a, b = (
        text.strip() if longest > 20 * MATH_LIMIT else _plain_math(text) for text in (pred, gold)
    )
    if a == b or longest > MATH_LIMIT:
        return a == b != ""
    try:
        return _same_math(*sorted((pred, gold)))
    # no verdict: not to be remembered
    except ConnectionError:
        return False


@functools.lru_cache(1 << 14)
def _same_math(first: str, second: str) -> bool:
    """math_equal's verdict on sorted arguments that are spelled differently. Raises ConnectionError if there is no sandbox."""
    (x, a), (y, b) = _label(first), _label(second)
    if (x and y and x != y) or not (a and b):
        return False
    return _same_values(a, b) or x != y and _plain_math(a if y else b).strip("()«»") == (x or y)


def _label(text: str) -> tuple[str, str]:
    """("C", "7") for "C: 7", "C. 7" or "(C) 7"; ("", text) without a label; ("", "") with two, which answer nothing."""
    inner = re.sub(rf"^[\s$]*{TEXT}", r"\1 ", (last_boxed(text) or text).strip(" $"))
    match = re.match(
        r"\s*(?:([A-E])\s*(?:[.:)]|\\colon(?![a-z]))|\(([A-E])\))\s+(.+)", inner, re.DOTALL
    )
    if not match:
        return "", text
    two = re.search(r"(?:^|\s)(?:[A-E]\s*[.:)]|\([A-E]\))\s|^\(?[A-E][.:)]*$", match[3].strip())
    return ("", "") if two else (match[1] or match[2], match[3])


def _same_values(first: str, second: str) -> bool:
    """Steps (b) to (d)."""
    a, b = _tree(_plain_math(first)), _tree(_plain_math(second))
    left, right = list(_leaves(a)), list(_leaves(b))
    if max(len(left), len(right)) > LEAVES:
        return False
    known = {(x, y): _leaf_equal(x, y) for x in left for y in right}
    if _match(a, b, lambda x, y: known[x, y]):
        return True
    codes = {x: _leaf_code(x) for pair, verdict in known.items() if verdict is None for x in pair}
    if not codes:
        return False
    if NO_CODE in codes.values() and importlib.util.find_spec("math_verify"):
        return _jail(MATH_VERIFY.format(repr(f"${first}$"), repr(f"${second}$"))) == "1"
    bits = iter(
        _jail(
            SAME_VALUES
            + "print(*['01'[same(p, q)] for p in [{}] for q in [{}]], sep='')".format(
                *[", ".join(codes.get(x, NO_CODE) for x in leaves) for leaves in (left, right)]
            )
        )
    )
    equal = {(x, y): next(bits, "0") == "1" for x in left for y in right}
    return _match(a, b, lambda x, y: equal[x, y] if known[x, y] is None else known[x, y])


def _leaf_equal(a: str, b: str) -> bool | None:
    """Are two elements equal? None where neither strings nor rationals decide."""
    (name_a, a, unit_a), (name_b, b, unit_b) = _sides(a), _sides(b)
    if name_a and name_b and name_a != name_b:
        return None if _code(name_a) and _code(name_b) else False
    if (unit_a and unit_b and unit_a != unit_b) or (
        name_a != name_b and not re.fullmatch(NAME, name_a or name_b)
    ):
        return False
    # 1 = 2 = 5
    if "=" in a + b and "\\begin" not in a + b:
        return a == b
    x, y = _number(a), _number(b)
    if x is not None and y is not None:
        exact = x.denominator == y.denominator == 1 or "." not in a + b
        close = lambda x, y: x == y if exact else abs(x - y) <= max(abs(x), abs(y)) / 10**6
        return (
            close(x, y)
            or (a.endswith("%") > b.endswith("%") and close(100 * x, y))
            or (a.endswith("%") < b.endswith("%") and close(x, 100 * y))
        )
    # \sin 70 means degrees, \sin 1 may not
    if re.sub(r"(?<=\d\d)°", "", a) == re.sub(r"(?<=\d\d)°", "", b):
        return a != ""
    if "\\infty" in (a.lstrip("-"), b.lstrip("-")):
        return False
    words = [
        bool(re.search(WORD, x))
        or x.isalpha()
        and 1 < len(x)
        and (x != x.lower() or x in SHORT_WORDS)
        for x in (a, b)
    ]
    if any(words) or (a.isalpha() and b.isalpha() and len(a) > 1):
        a, b = (re.sub(r"[«»]|(?<!\d)␣|␣(?!\d)", "", x).casefold() for x in (a, b))
        return a == b or (False if any(words) else None)
    return None


def _tree(text: str):
    """An answer as a leaf (its text) or (kind, elements); kind: "set" (any order; also lists and unions), the two brackets, or a matrix's form."""
    depths = list(itertools.accumulate((c in "([{") - (c in ")]}") for c in text))
    if max(depths, default=0) > DEPTH:
        return text
    text = re.sub(
        r"^\\(?:mathbb\s*\{?R\}?|reals)$",
        r"(-\\infty,\\infty)",
        re.sub(r"^[A-Za-z]\w*\\in(?![A-Za-z])", "", text),
    )
    text = re.sub(
        r"^\\\{[A-Za-z](?:\\in\\mathbb\{?R\}?)?(?:\\mid|\\vert|:|\|)(.*)\\\}$", r"\1", text
    )
    text = _interval(text)
    matrix = re.fullmatch(r"\\begin\{([pbv]?)matrix\}(.*)\\end\{\1matrix\}", text)
    if matrix:
        rows = [row.split("&") for row in matrix[2].removesuffix("\\\\").split("\\\\")]
        return f"{'|' * (matrix[1] == 'v')}matrix {[len(row) for row in rows]}", [
            _tree(cell) for row in rows for cell in row
        ]
    parts = _split(text)
    if len(parts) > 1 or "\\pm" in text:
        parts = (
            parts
            if len(parts) > 1
            else [text.replace("\\pm", s).replace("\\mp", t) for s, t in ("+-", "-+")]
        )
        return "set", [
            x for tree in map(_tree, parts) for x in (tree[1] if tree[:1] == ("set",) else [tree])
        ]
    name, _, value = text.partition("=")
    if re.fullmatch(NAME, name) and isinstance(named := _tree(value), tuple):
        # A = {1, 2}, (m, n) = (3, 2)
        return named
    if text[:2] == "\\{" and text[-2:] == "\\}" and len(text) > 4:
        inner = _tree(text[2:-2])
        return inner if inner[:1] == ("set",) else ("set", [inner])
    inner = _split(text[1:-1]) if text[:1] in ("(", "[") and text[-1:] in (")", "]") else []
    return (text[0] + text[-1], [_tree(part) for part in inner]) if len(inner) > 1 else text


def _split(text: str) -> list[str]:
    """The parts between commas, semicolons and unions outside all brackets; the whole where brackets do not pair."""
    depths = list(itertools.accumulate((c in "([{") - (c in ")]}") for c in text))
    if not depths or min(depths) < 0 or depths[-1]:
        return [text]
    cuts = [
        m.span() for m in re.finditer(r"[,;]|\\cup(?![A-Za-z])", text) if depths[m.start()] == 0
    ]
    parts = [
        text[i:j]
        for i, j in zip([0] + [end for _, end in cuts], [start for start, _ in cuts] + [len(text)])
    ]
    # "1, 2, and 3" has an empty one
    return [part for part in parts if part] or [text]


def _interval(text: str) -> str:
    """-2 < x <= 1 as (-2,1] and x > 3 as (3,\\infty); other text as it is."""
    flip, letter = str.maketrans("<>≤≥", "><≥≤"), r"[A-Za-z]\w*|\\[a-z]+"
    parts = re.split("([<>≤≥])", text)
    if len(parts) == 3 and re.fullmatch(letter, parts[0]):
        parts = [parts[2], parts[1].translate(flip), parts[0]]
    if len(parts) == 3:
        parts += ["<", "\\infty"] if parts[1] in "<≤" else [">", "-\\infty"]
    if len(parts) == 5 and parts[1] in ">≥" and parts[3] in ">≥":
        parts = [part.translate(flip) if k % 2 else part for k, part in enumerate(parts)][::-1]
    if len(parts) == 5 and parts[1] in "<≤" and parts[3] in "<≤" and re.fullmatch(letter, parts[2]):
        return f"{'(['[parts[1] == '≤']}{parts[0]},{parts[4]}{')]'[parts[3] == '≤']}"
    return text


def _leaves(tree):
    yield from (
        [tree] if isinstance(tree, str) else (leaf for part in tree[1] for leaf in _leaves(part))
    )


def _match(a, b, same) -> bool:
    """Are two trees equal, if same(x, y) says which leaves are? A set of one element equals the element."""
    a, b = (tree[1][0] if tree[:1] == ("set",) and len(tree[1]) == 1 else tree for tree in (a, b))
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and bool(same(a, b))
    if a[0] != b[0] or len(a[1]) != len(b[1]):
        return False
    if a[0] != "set":
        return all(_match(x, y, same) for x, y in zip(a[1], b[1]))
    rest = list(b[1])
    for x in a[1]:
        found = next((k for k, y in enumerate(rest) if _match(x, y, same)), None)
        if found is None:
            return False
        del rest[found]
    return True


@functools.cache
def grader_jail() -> PythonTool:
    """The sandbox of this process in which algebra is decided. Its SIGKILL is the only clock that also stops sympy."""
    # nothing but our own words reaches it
    return PythonTool(2.5, "best-effort")


def _jail(code: str) -> str:
    """The last line that our own code prints in the sandbox (warnings come before it), "" if it fails or takes too long."""
    result = grader_jail().run(code)
    if result.status == "infra":
        raise ConnectionError("no sandbox")
    return result.text.rpartition("\n")[2] if result.status == "ok" else ""


# A leaf is (value, left side minus right side of an equation, rough). Values at five points: two positive in every symbol, one negative in all.
# Without symbols numbers stay exact, so that 2^99 differs from 2^99 + 1.
SAME_VALUES = """
from random import Random
from sympy import *
def at(k):
    def v(name):
        r = Random(f"{name} {k}")
        return Float(str(r.uniform(0.5, 2)), 150) * (1 if k < 2 else -1 if k == 2 else r.choice((-1, 1)))
    return v
def near(x, y, rough=0):
    if (x - y).is_Rational and not rough:
        return x - y == 0
    size, gap = max(abs(N(x, 30)), abs(N(y, 30))), abs(N(x - y, 30, maxn=600))
    zero = Float("1e-100" if (x - y).has(Float) else "1e-500") if x == 0 or y == 0 else 0
    return bool(size < oo and gap <= size / 10**(6 if rough else 80) or gap < zero)
def same(p, q):
    if p[1] and q[1]:
        x, y = ([f[1](at(k)) for k in range(5)] for f in (p, q))
        return N(x[0], 30) != 0 and N(y[0], 30) != 0 and all(near(x[k] * y[0], y[k] * x[0], p[2] or q[2]) for k in range(5))
    return bool(p[0] and q[0]) and all(near(p[0](at(k)), q[0](at(k)), p[2] or q[2]) for k in range(5))
"""


# latex2sympy builds its objects from a grammar; only the LaTeX reader is used, since the one for plain expressions evaluates them.
MATH_VERIFY = """
from math_verify import LatexExtractionConfig, parse, verify
p, g = (parse(text, [LatexExtractionConfig()], parsing_timeout=None) for text in ({}, {}))
print(int(verify(g, p, timeout_seconds=None) or verify(p, g, timeout_seconds=None)))
"""


def _leaf_code(leaf: str) -> str:
    """A leaf as the Python triple that SAME_VALUES compares; NO_CODE if it is outside the grammar."""
    name, value, _ = _sides(leaf)
    value, left = _code(value), _code(name)
    equation = f"lambda v: {left} - {value}" if name and value and left else None
    plain = f"lambda v: {value}" if value and re.fullmatch(NAME, name or "x") else None
    return f"({plain}, {equation}, {int('.' in leaf)})" if plain or equation else NO_CODE
