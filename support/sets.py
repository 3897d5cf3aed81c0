"""Sets of numbers: intervals, inequalities and what joins them, as trees of intervals.

    1. condition_region   "x > 3", "1 < x ≤ 2", "x ≠ 3", "|x-1| < 2" as (variable, pieces)
    2. set_region         "(1,5) \\cap (2,7)", "\\mathbb{R} \\setminus \\{3\\}" as pieces
    3. intersect, unite   exact where all bounds are rational or infinite, else None
    4. region_tree        pieces as a tree: an interval, a point, or a set of these

A piece is (bracket, low, high, bracket) with the bounds as texts; [a,a] is the point a.
Between inequalities "and" and a comma mean the intersection, "or" the union.
"""

import itertools
import math
import re
from fractions import Fraction

from support.latex import number
from support.names import depths, is_variable

Piece = tuple[str, str, str, str]
INFINITE = {"\\infty": math.inf, "-\\infty": -math.inf}
REALS = [("(", "-\\infty", "\\infty", ")")]
NUMBER_SETS = {
    "\\mathbb{R}": REALS,
    "\\mathbb{R}^+": [("(", "0", "\\infty", ")")],
    "\\mathbb{R}^-": [("(", "-\\infty", "0", ")")],
    "«all␣real␣numbers»": REALS,
    "\\emptyset": [],
}
# {x | ...}, {x \in R : ...}
FRAME = r"\\\{[A-Za-z](?:\\in\\mathbb\{?R\}?)?(?:\\mid|\\vert|:|\|)(.*)\\\}"
FLIPPED = str.maketrans("<>≤≥", "><≥≤")


def condition_region(text: str) -> tuple[str, list[Piece]] | None:
    """The variable of an inequality and the numbers it allows; None for other text."""
    text = re.sub(r"\\ne(?![a-z]) ?", "≠", text)
    parts = split_outside(text, "[<>≤≥≠]", keep=True)
    if len(parts) not in (3, 5):
        return _membership(text)
    if not is_variable(parts[0]) and (is_variable(parts[-1]) or "|" in parts[-1]):
        parts = [part.translate(FLIPPED) if k % 2 else part for k, part in enumerate(parts)][::-1]
    if len(parts) == 3:
        return _one_bound(*parts)
    low, below, middle, above, high = parts
    if below in ">≥" and above in ">≥":
        low, below, above, high = high, above.translate(FLIPPED), below.translate(FLIPPED), low
    if below not in "<≤" or above not in "<≤" or not is_variable(middle):
        return None
    return middle, [("(["[below == "≤"], low, high, ")]"[above == "≤"])]


def _one_bound(left: str, sign: str, bound: str) -> tuple[str, list[Piece]] | None:
    """x > 3, x ≠ 3 or |x - 1| < 2."""
    if not bound:
        return None
    if is_variable(left) and is_variable(bound):
        return None
    if is_variable(left):
        if sign == "≠":
            return left, _without([bound])
        open_end = sign in "<>"
        if sign in "<≤":
            return left, [("(", "-\\infty", bound, "])"[open_end])]
        return left, [("[("[open_end], bound, "\\infty", ")")]
    absolute = re.fullmatch(r"\|([^|+-]+)(?:([+-])([^|+-]+))?\|", left)
    if not absolute or not is_variable(absolute[1]) or re.search("[-+]", bound) or bound == "0":
        return None
    ends = _ends(number(absolute[3] or "0"), absolute[2] == "-", bound)
    if not ends:
        return None
    low, high = ends
    if sign == "≠":
        return absolute[1], _without([low, high])
    inside = ("(["[sign == "≤"], low, high, ")]"[sign == "≤"])
    outside = [("(", "-\\infty", low, ")]"[sign == "≥"]), ("(["[sign == "≥"], high, "\\infty", ")")]
    return absolute[1], [inside] if sign in "<≤" else outside


def _ends(shift: Fraction | None, minus: bool, bound: str) -> tuple[str, str] | None:
    """Where |x - shift| or |x + shift| reaches the bound; None if that is not known."""
    reach = number(bound)
    if shift is not None and reach is not None:
        middle = shift if minus else -shift
        return str(middle - reach), str(middle + reach)
    return (f"-{bound}", bound) if shift == 0 else None


def _membership(text: str) -> tuple[str, list[Piece]] | None:
    """x \\in (1, 2), where the set has a length."""
    variable, _, inside = text.partition("\\in")
    if not inside or inside[:1].isalpha() or not is_variable(variable):
        return None
    region = set_region(inside.strip())
    return None if region is None else (variable, region)


def set_region(text: str) -> list[Piece] | None:
    """The pieces of sets joined by \\cup, \\cap and \\setminus, from left to right."""
    parts = split_outside(text, r"\\(?:cup|cap|setminus)(?![A-Za-z]) ?|(?<=\})-(?=\\\{)", keep=True)
    region = _simple_set(parts[0])
    for sign, part in zip(parts[1::2], parts[2::2]):
        other = _simple_set(part)
        if region is None or other is None:
            return None
        if "cup" in sign:
            region = unite(region + other)
        elif "cap" in sign:
            region = intersect(region, other)
        else:
            points = [low for _, low, high, _ in other if low == high]
            outside = _without(points) if len(points) == len(other) else None
            region = intersect(region, outside) if outside is not None else None
    return region


def _simple_set(text: str) -> list[Piece] | None:
    """(1,2], \\{1,2\\}, \\mathbb{R}; None for other text."""
    if text in NUMBER_SETS:
        return NUMBER_SETS[text]
    frame = re.fullmatch(FRAME, text)
    if frame:
        region = condition_region(frame[1].strip())
        return region and region[1]
    if text[:2] == "\\{" and text[-2:] == "\\}":
        points = split_outside(text[2:-2], ",")
        return [("[", point, point, "]") for point in points if point]
    if text[:1] in ("(", "[", "]") and text[-1:] in (")", "]", "["):
        bounds = split_outside(text[1:-1], ",")
        if len(bounds) == 2 and all(bounds):
            return [("(["[text[0] == "["], *bounds, ")]"[text[-1] == "]"])]
    return None


def _without(points: list[str]) -> list[Piece] | None:
    """All reals but these points; None if several are not in a known order."""
    if len(points) > 1:
        if any(_value(point) is None for point in points):
            return None
        points = sorted(points, key=_value)
    ends = ["-\\infty", *points, "\\infty"]
    return [("(", low, high, ")") for low, high in itertools.pairwise(ends)]


def _value(bound: str) -> Fraction | float | None:
    """A bound as a number, None if it is not rational."""
    return INFINITE.get(bound, number(bound))


def intersect(first: list[Piece], second: list[Piece]) -> list[Piece] | None:
    """What two regions have in common; None if bounds are in no known order."""
    found = []
    for a in first:
        for b in second:
            low = _stronger((a[1], a[0]), (b[1], b[0]), largest=True)
            high = _stronger((a[2], a[3]), (b[2], b[3]), largest=False)
            if low is None or high is None:
                return None
            found.append((low[1], low[0], high[0], high[1]))
    return unite([piece for piece in found if not _is_empty(piece)])


def _stronger(a: tuple[str, str], b: tuple[str, str], largest: bool) -> tuple[str, str] | None:
    """The bound that leaves less, of two with their brackets; None if their order is not known."""
    x, y = _value(a[0]), _value(b[0])
    # Infinity bounds nothing.
    nothing = -math.inf if largest else math.inf
    if nothing in (x, y):
        return b if x == nothing else a
    if a[0] == b[0] or (x is not None and x == y):
        return a if a[1] in "()" else b
    if x is None or y is None:
        return None
    return a if (x > y) == largest else b


def _is_empty(piece: Piece) -> bool:
    """Does no number lie between the bounds?"""
    left, low, high, right = piece
    x, y = _value(low), _value(high)
    if low == high:
        return left + right != "[]"
    return x is not None and y is not None and (x > y or (x == y and left + right != "[]"))


def unite(pieces: list[Piece]) -> list[Piece]:
    """Pieces that meet as one, in order, if all bounds are in a known order; else as they are."""
    if any(_value(bound) is None for piece in pieces for bound in piece[1:3]):
        return list(dict.fromkeys(pieces))
    found = []
    for piece in sorted(pieces, key=lambda p: (_value(p[1]), p[0] == "(")):
        left, low, high, right = piece
        if found:
            before = found[-1]
            gap = _value(low) - _value(before[2]) if low not in INFINITE else -1
            if gap < 0 or (gap == 0 and (left == "[" or before[3] == "]")):
                ends = [(_value(p[2]), p[3] == "]", p[2], p[3]) for p in (before, piece)]
                found[-1] = (*before[:2], *max(ends)[2:])
                continue
        found.append((left, low, high, right))
    return found


def region_tree(pieces: list[Piece]):
    """The pieces as a tree: (brackets, bounds), a point, or a set of several."""
    trees = [
        low if low == high else (left + right, [low, high]) for left, low, high, right in pieces
    ]
    if not trees:
        return "\\emptyset"
    return trees[0] if len(trees) == 1 else ("set", trees)


def split_outside(text: str, separator: str, keep: bool = False) -> list[str]:
    """The parts between separators outside all brackets, with the separators if they are kept.

    The whole text where brackets do not pair. ]1,2[ counts as a pair.
    """
    open_at = depths(re.sub(r"\]([^\[\]()]*,[^\[\]()]*)\[", r"(\1)", text))
    if not open_at or min(open_at) < 0 or open_at[-1]:
        return [text]
    found, end = [], 0
    for match in re.finditer(separator, text):
        if open_at[match.start()] == 0:
            found += [text[end : match.start()]] + [match[0]] * keep
            end = match.end()
    return found + [text[end:]]
