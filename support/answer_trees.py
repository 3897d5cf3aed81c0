"""A plain answer as a tree, so that its elements can be compared one by one.

    1. answer_tree    a leaf is its text, else (kind, elements)
    2. leaves_of      the texts at the ends
    3. match_trees    are two trees equal, given which leaves are?

Kinds: "set" in any order (also lists and unions); "{}" a set in a set; the two brackets of a tuple
or interval; the form of a matrix; "∧" equations that hold together, "∨" that do not; "…" a sequence
with dots; "∈x" what x is in; "≡7" a residue.
"""

import re

from support.algebra import DEPTH, is_constant
from support.characters import GREEK
from support.latex import number
from support.matrices import determinant, matrix_rows
from support.names import depths, is_name, is_variable, split_equation
from support.sets import (
    FRAME,
    NUMBER_SETS,
    condition_region,
    intersect,
    region_tree,
    set_region,
    split_outside,
    unite,
)
from support.units import compound, split_leaf

PLUS_MINUS = r"\\(?:pm|(m)p)(?![A-Za-z]) ?"
# of logic, no list: p ∧ q ∨ r, ¬p ∨ q
_NOT = r"¬|\\neg|\\lnot|\\to|\\rightarrow|\\Rightarrow"
PROPOSITION = rf"(?=.*[∧∨])(?=.*(?:{_NOT})|.*∧.*∨|.*∨.*∧)(?:[A-Za-z](?:_\w)?|\\[a-z]++|[∧∨() ¬])+"
# a word or a letter: A or B is not A and B, as 5 or 6 is 5 and 6
NO_NUMBER = rf"\(?(?:[A-Za-z](?:_\w)?|\\(?:{'|'.join(GREEK)})|«[^»\d]*»|[A-Za-z]{{2,}})\)? ?"
# an answer: a leaf is its text, else (kind, elements)
Tree = str | tuple[str, list]


def answer_tree(text: str) -> Tree:
    """A plain answer as a leaf, its text, or as (kind, elements)."""
    if max(depths(text), default=0) > DEPTH or re.fullmatch(PROPOSITION, text):
        return text
    text = re.sub(r"\\begin\{cases\}([^&]*)\\end\{cases\}", _joined, text)
    text, bound = _without_frame(text)
    tree = _matrix(text) or _joined_by_or(text) or _joined_by_and(text) or _single(text)
    # {x | x > 3} is the set itself: its x is any letter.
    return tree[1][0] if bound and _kind(tree)[:1] == "∈" else tree


def _kind(tree: Tree) -> str:
    """The kind of a tree, "" for a leaf."""
    return "" if isinstance(tree, str) else tree[0]


def _joined(match: re.Match) -> str:
    """The lines of a system as equations joined by "and"."""
    return "∧".join(line.strip(",") for line in match[1].split("\\\\") if line)


def _without_frame(text: str) -> tuple[str, bool]:
    """(text, False), or (what stands behind the bar of {x | ...}, True)."""
    found = re.fullmatch(FRAME, text)
    # not \{x | x < 1\} \cup \{x | x > 2\}
    whole = found and min(depths(text)[1:-1]) > 0
    return (found[1].strip(), True) if whole else (text, False)


def _matrix(text: str) -> Tree | None:
    """A matrix with its form as the kind; a determinant as the sum that it is."""
    if not re.search(r"\\begin|\[\[|[)\]]\^\{?T", text):
        return None
    name, value = split_equation(text)
    if name and not is_name(name) and not re.fullmatch(r"[A-Z]\^\{?\w+\}?", name):
        return None
    rows = matrix_rows(value)
    if rows is None:
        return determinant(value)
    return f"matrix {[len(row) for row in rows]}", [answer_tree(x) for row in rows for x in row]


def _joined_by_or(text: str) -> Tree | None:
    """Answers joined by "or": one region of a variable, or a set."""
    parts = [part for part in split_outside(text, "∨") if part.strip(",;")]
    if len(parts) < 2:
        return None
    trees = [answer_tree(part.strip(",;")) for part in parts]
    if all(re.fullmatch(NO_NUMBER, part.strip(",;")) for part in parts):
        return "∨", trees
    regions = [condition_region(part.strip(",;")) for part in parts]
    if any(regions):
        # x > 5 or x = 5
        regions = [r or _point(part.strip(",;")) for r, part in zip(regions, parts)]
    variables = {region and region[0] for region in regions}
    if None not in regions and len(variables) == 1:
        return _named_region(
            *variables, unite([piece for _, region in regions for piece in region])
        )
    names = {_name_of(tree) for tree in trees}
    if len(names) > 1 and "" not in names:
        return "∨", trees
    if all(_kind(tree)[:1] == "∈" for tree in trees):
        return _kind(trees[0]), [("set", [x for tree in trees for x in _elements(tree[1][0])])]
    return "set", [x for tree in trees for x in _elements(tree)]


def _point(text: str) -> tuple[str, list] | None:
    """x = 5 as a region, None for other text."""
    name, value = split_equation(text)
    return (name, [("[", value, value, "]")]) if is_variable(name) else None


def _name_of(tree: Tree) -> str:
    """The name of what is equal to something or in a set, "" without one."""
    return split_equation(tree)[0] if isinstance(tree, str) else _kind(tree).partition("∈")[2]


def _named_region(variable: str, pieces: list) -> Tree:
    """What a variable is in."""
    return f"∈{variable}", [region_tree(pieces)]


def _joined_by_and(text: str) -> Tree | None:
    """Answers joined by "and" or a comma: a region of one variable, a system, a list."""
    parts = [part for part in split_outside(text, "[,;∧]") if part]
    # 2 hours and 30 minutes
    if len(parts) == 2 and "∧" in text and compound("".join(parts)):
        return "".join(parts)
    if len(parts) == 1 and re.search(PLUS_MINUS, text):
        parts = [re.sub(PLUS_MINUS, lambda m, k=k: "+-"[(m[1] == "m") ^ k], text) for k in (0, 1)]
    if len(parts) < 2:
        return None
    parts = _residues(parts)
    regions = [condition_region(part) for part in parts]
    if any(regions):
        return _intersection(regions) or ("∧", [answer_tree(part) for part in parts])
    if "…" in parts:
        return "…", [answer_tree(part) for part in parts]
    names = [split_equation(part)[0] for part in parts]
    if all(names) and len(set(names)) == len(names):
        # (x, y) is meant where y comes first
        letters = all(is_variable(name) and name[0] != "\\" for name in names)
        return "∧", [part for _, part in sorted(zip(names, parts))] if letters else parts
    return "set", [x for part in parts for x in _elements(answer_tree(part))]


def _residues(parts: list[str]) -> list[str]:
    """x = 1, 3 mod 8 as two answers that each have the modulus."""
    modulus = re.search(r"\\pmod\{\w+\}$", parts[-1])
    if not modulus or "\\pmod" in "".join(parts[:-1]):
        return parts
    name = re.match(r".*\\equiv ?", parts[0])
    parts = [(name[0] if name and k else "") + part for k, part in enumerate(parts)]
    return [part + modulus[0] for part in parts[:-1]] + parts[-1:]


def _intersection(regions: list) -> Tree | None:
    """What several conditions on one variable allow; None for others or an unknown order."""
    variables = {region and region[0] for region in regions}
    if None in variables or len(variables) > 1:
        return None
    pieces = regions[0][1]
    for _, other in regions[1:]:
        pieces = None if pieces is None else intersect(pieces, other)
    return None if pieces is None else _named_region(*variables, pieces)


def _single(text: str) -> Tree:
    """One answer: a region, a residue, a named or bare tuple, set or interval, or a leaf."""
    region = condition_region(text)
    if region:
        return _named_region(*region)
    variable, _, inside = text.partition("\\in")
    if inside and not inside[:1].isalpha() and is_variable(variable):
        return f"∈{variable}", [answer_tree(inside.strip())]
    residue = re.fullmatch(r"(?:(.+)\\equiv ?)?(.+?)\\pmod\{(\w+)\}", text)
    if residue:
        return _residue(*residue.groups())
    # not in |A \cup B|, a number
    joined = r"^(?!.*\|[^|]*\\c[au]p[^|]*\|).*(?:\\(?:cup|cap|setminus)(?![A-Za-z])|\}-\\\{)"
    if text in NUMBER_SETS or re.search(joined, text):
        pieces = set_region(text)
        if pieces is not None:
            return region_tree(pieces)
        parts = split_outside(text, r"\\cup(?![A-Za-z]) ?")
        if len(parts) > 1:
            return "set", [x for part in parts for x in _elements(answer_tree(part))]
    # y > x as x < y
    parts = split_outside(text, "[>≥]", keep=True)
    if len(parts) == 3 and not re.search("[<≤]", text):
        return f"{parts[2]}{'<≤'[parts[1] == '≥']}{parts[0]}"
    return _brackets(text)


def _residue(name: str | None, value: str, modulus: str) -> Tree:
    """x \\equiv 10 \\pmod{7} as 3, of x, modulo 7."""
    whole = number(value)
    if whole is not None and whole.denominator == 1 and modulus.strip("0").isdecimal():
        value = str(whole % int(modulus))
    return (f"∈{name}", [(f"≡{modulus}", [value])]) if name else (f"≡{modulus}", [value])


def _brackets(text: str) -> Tree:
    """A tuple, interval or set, perhaps with its name in front, or a leaf."""
    text = re.sub(r"^\](.+,[^\[\]]+)(?=[\[\]]$)", r"(\1", text)
    text = re.sub(r"^([(\[].+,.+)\[$", r"\1)", text)
    name, value = split_equation(text)
    # A = {1, 2}, (m, n) = (3, 2)
    if name and isinstance(named := answer_tree(value), tuple):
        letters = split_outside(name[1:-1], ",") if name[:1] == "(" else []
        if len(letters) == len(named[1]) > 1 and all(map(is_name, letters)):
            return "∧", [f"{x}={y}" for x, y in zip(letters, named[1]) if isinstance(y, str)]
        if is_name(name):
            return named
    if text == "\\{\\}":
        return "\\emptyset"
    if text[:2] == "\\{" and text[-2:] == "\\}" and len(text) > 4:
        parts = split_outside(text[2:-2], ",")
        if any(map(_is_set, parts)):
            return "set", [x for part in parts for x in _member(part)]
        return "set", _elements(answer_tree(text[2:-2]))
    inner = split_outside(text[1:-1], "[,;]") if text[:1] in "([" and text[-1:] in ")]" else []
    if len(inner) > 1 and all(inner):
        kind = "…" if "…" in inner else text[0] + text[-1]
        return kind, [answer_tree(part) for part in inner]
    # the list of one symbol; [5] is 5 in brackets
    if text[:1] == "[" and text[-1:] == "]" and min(depths(text)[:-1]) > 0:
        return text if is_constant(text) else ("[1]", [answer_tree(text[1:-1])])
    return text


def _is_set(text: str) -> bool:
    """Is it a set in braces, or the empty one?"""
    return text == "\\emptyset" or (text[:2] == "\\{" and text[-2:] == "\\}")


def _member(text: str) -> list[Tree]:
    """What one element of a set in braces adds to it: {1, 2} is one, not two."""
    elements = _elements(answer_tree(text))
    return [("{}", elements)] if _is_set(text) else elements


def _elements(tree: Tree) -> list[Tree]:
    """The elements of a set; anything else is the one element of a set."""
    return tree[1] if _kind(tree) == "set" else [tree]


def leaves_of(tree: Tree) -> list[str]:
    """The texts at the ends of a tree, in order."""
    return [tree] if isinstance(tree, str) else [x for part in tree[1] for x in leaves_of(part)]


def match_trees(a: Tree, b: Tree, equal: dict[tuple[str, str], bool | None]) -> bool:
    """Are two trees equal? equal[x, y]: are two leaves? A set of one number is that number."""
    a, b = _bare(a, b), _bare(b, a)
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and bool(equal[a, b])
    kinds = {a[0], b[0]}
    if len(a[1]) != len(b[1]) or not (len(kinds) == 1 or kinds in SYSTEMS):
        return False
    if not kinds & {"set", "{}", "∨"} and kinds != {"∧"}:
        return all(match_trees(x, y, equal) for x, y in zip(a[1], b[1]))
    rest = list(b[1])
    for x in a[1]:
        found = next((k for k, y in enumerate(rest) if match_trees(x, y, equal)), None)
        if found is None:
            return False
        del rest[found]
    return True


# "x=2, y=3" is also a list of numbers, or the point (2,3)
SYSTEMS = [{"∧", "set"}, {"∧", "()"}]


def _bare(tree: Tree, other: Tree) -> Tree:
    """A tree without a frame that the other need not have: "x ∈", a set of one element."""
    if _kind(tree)[:1] == "∈" and _kind(other)[:1] != "∈":
        tree = tree[1][0]
    if _kind(tree) != "set" or len(tree[1]) > 1:
        return tree
    # {5} is 5, the solution; {x} is a set
    known = all(is_constant(split_leaf(leaf)[1]) for leaf in leaves_of(tree))
    return tree[1][0] if known else tree
