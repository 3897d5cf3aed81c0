"""The trees of a run, from its rollouts.jsonl: found, shortened for a page, counted.

1. find_trees      where each tree lies in the file, without parsing it
2. thin            evenly spread ones of a list that fit a limit
3. short_tree      a tree as the page draws it: tokens as numbers of a list of texts
4. branch_points   a row for each branch: tokens, rewards, the numbers of its decision point
5. count_points    how often the same token came again; fillers against content
6. count_tools     status and seconds of every tool's calls
7. tell_trees      all of it for one file

Imports the standard library only.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# bytes of rollouts.jsonl that are parsed (seconds), and of these that a page holds (a third)
READ_BYTES, SHOWN_BYTES = 100e6, 9e6
# rows of the table, words of the cloud, characters of a prompt and of a call's argument
POINTS, WORDS, PROMPT, ARGUMENT = 1500, 60, 4000, 200
# key of a row, key on the page, decimals
NUMBERS = [
    ("entropy", "entropy", 3),
    ("future_value", "omega", 3),
    ("branching_score", "score", 2),
    ("advantage", "advantage", 3),
]
# words that open or join a sentence and choose nothing
FILLERS = frozenset(
    "a ah alright also an and as at be by finally first for from hmm i in is it its just let lets "
    "me my next now of oh ok okay on or our right so that the their then there these this those "
    "thus to um us we well with you your".split()
)
WRITTEN = re.compile(rb'\{"step": (\d+), "group": (\d+)')


@dataclass
class Place:
    """Where a tree lies in the file, bytes."""

    key: tuple[int, int]
    start: int
    size: int


def find_trees(file: Path) -> list[Place]:
    """The trees of a file in order; none if there is no file."""
    places, at = [], 0
    if not file.is_file():
        return []
    with open(file, "rb") as lines:
        for line in lines:
            key = _key_of(line)
            if key and places and places[-1].key == key:
                places[-1].size = at + len(line) - places[-1].start
            elif key:
                places.append(Place(key, at, len(line)))
            at += len(line)
    return places


def _key_of(line: bytes) -> tuple[int, int] | None:
    """Step and group of a row; None of what is no row."""
    found = WRITTEN.match(line)
    if found:
        return int(found[1]), int(found[2])
    row = parsed(line)
    step, group = row.get("step"), row.get("group", 0)
    return (step, group) if isinstance(step, int) and isinstance(group, int) else None


def parsed(line: bytes | str) -> dict:
    """A line of a log; empty if a kill has cut it short."""
    try:
        # NaN and Infinity, which JSON has no words for, become text
        row = json.loads(line, parse_constant=str)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def thin(items: list, limit: float, size: Callable = lambda item: 1) -> list:
    """Evenly spread items, the first and the last among them, whose sizes sum to the limit at most.

    At least one stays: the last.
    """
    kept = items
    while len(kept) > 1 and (total := sum(map(size, kept))) > limit:
        count = max(1, min(len(kept) - 1, int(len(kept) * limit / total)))
        places = [len(items) - 1 - k * (len(items) - 1) // max(count - 1, 1) for k in range(count)]
        kept = [items[place] for place in reversed(places)]
    return kept


def read_tree(file: Path, place: Place) -> list[dict]:
    """The rows of a tree. A branch whose parent is not there is left out."""
    with open(file, "rb") as opened:
        opened.seek(place.start)
        rows = [parsed(line) for line in opened.read(place.size).splitlines()]
    rows = [row for row in rows if _is_whole(row)]
    there = {row["index"] for row in rows}
    return [row for row in rows if row["parent"] is None or row["parent"] in there]


def _is_whole(row: dict) -> bool:
    """Has a row what a tree is drawn from?"""
    lists = all(isinstance(row.get(name), list) for name in ("pieces", "mask"))
    numbers = all(isinstance(row.get(name), int) for name in ("step", "index", "fork_at"))
    return lists and numbers and isinstance(row.get("parent", ""), int | None)


def clean(x: float | None, digits: int = 4) -> float | None:
    """Rounded; None where there is no finite number, which JSON has no word for."""
    if not isinstance(x, (int, float)) or not math.isfinite(x):
        return None
    return round(x, digits) or 0


def significant(x: float | None) -> float | None:
    """To five significant digits, or None as in clean."""
    return None if clean(x) is None else float(f"{x:.5g}")


def short_tree(rows: list[dict], texts: dict[str, int]) -> dict:
    """A tree as the page draws it. texts: every token's text -> its number, which this adds to.

    A branch holds its own tokens only, from fork_at on.
    """
    about = {name: rows[0].get(name, 0) for name in ("step", "group")}
    about["prompt"] = str(rows[0].get("prompt") or "")[-PROMPT:]
    return about | {"rows": [_short_row(row, texts) for row in rows]}


def _short_row(row: dict, texts: dict[str, int]) -> dict:
    """A rollout of a short tree."""
    at = row["fork_at"]
    short = {name: row[name] for name in ("index", "parent", "fork_at")}
    short |= {"reward": clean(row.get("reward")), "finish": row.get("finish", "")}
    short["tokens"] = [texts.setdefault(piece, len(texts)) for piece in row["pieces"][at:]]
    short["mask"] = "".join("01"[bool(own)] for own in row["mask"][at:])
    for key, name, digits in NUMBERS:
        if row.get(key):
            short[name] = [clean(x, digits) for x in row[key][at:]]
    short["calls"] = [
        [c["name"], str(c.get("argument", ""))[:ARGUMENT], c["status"], clean(c.get("seconds"))]
        for c in own_calls(row)
    ]
    return short


def own_calls(row: dict) -> list[dict]:
    """The calls of a rollout, without those that a branch has from its parent."""
    calls, at = row.get("calls", []), row["fork_at"]
    # as Rollout.inherits has it
    return [c for c in calls if row["parent"] is None or c.get("end", at + 1) > at]


def branch_points(rows: list[dict]) -> list[dict]:
    """A row for each branch of a tree: where, the tokens and rewards before and after, numbers.

    before: the parent's token at the fork, and its reward. after: the branch's.
    """
    by_index = {row["index"]: row for row in rows}
    pairs = [(by_index[x["parent"]], x) for x in rows if x["parent"] is not None]
    return [_branch_point(parent, branch) for parent, branch in pairs]


def _branch_point(parent: dict, branch: dict) -> dict:
    """One row of branch_points."""
    t = branch["fork_at"]

    def at(row: dict, key: str):
        """What a rollout has at the fork; None beyond its end."""
        return row[key][t] if t < len(row.get(key) or []) else None

    ids = "ids" if "ids" in parent and "ids" in branch else "pieces"
    point = {"step": branch["step"], "group": branch.get("group", 0), "index": branch["index"]}
    point |= {
        "fork_at": t,
        "before": at(parent, "pieces") or "",
        "after": at(branch, "pieces") or "",
    }
    point |= {"same": at(parent, ids) == at(branch, ids), "filler": is_filler(point["before"])}
    point |= {"reward": clean(parent.get("reward")), "earned": clean(branch.get("reward"))}
    return point | {name: clean(at(parent, key), digits) for key, name, digits in NUMBERS[:3]}


def is_filler(text: str) -> bool:
    """Is it one of FILLERS, or nothing but punctuation and white space?"""
    word = "".join(c for c in text.lower() if c.isalnum())
    # a sign of arithmetic is content
    return word in FILLERS or not word and not any(c in "+-*/=<>^%\\$" for c in text)


def count_points(points: list[dict]) -> dict[str, dict[str, int]]:
    """Of fillers and of content: branches, the same token again, another reward than before."""
    counts = {}
    for name, filler in (("filler", True), ("content", False)):
        mine = [point for point in points if point["filler"] == filler]
        same = sum(point["same"] for point in mine)
        changed = sum(point["reward"] != point["earned"] for point in mine)
        counts[name] = {"branches": len(mine), "same": same, "changed": changed}
    return counts


def count_words(points: list[dict]) -> list[tuple[str, int, bool]]:
    """The tokens that most branches leave: text, how many, is it a filler?"""
    words = Counter(point["before"].strip() or repr(point["before"]) for point in points)
    return [(word, n, is_filler(word)) for word, n in words.most_common(WORDS)]


def count_tools(calls: list[dict]) -> list[dict]:
    """A row for each tool: calls, share of each status, median and 95th percentile of seconds."""
    by_tool = defaultdict(list)
    for call in calls:
        by_tool[call["name"]].append(call)
    table = []
    for name, mine in sorted(by_tool.items()):
        status = Counter(call["status"] for call in mine)
        seconds = [call["seconds"] for call in mine if clean(call.get("seconds")) is not None]
        shares = {word: clean(n / len(mine)) for word, n in status.most_common()}
        spread = {f"p{p}": clean(percentile(seconds, p)) for p in (50, 95)}
        table.append({"tool": name, "calls": len(mine), "status": shares} | spread)
    return table


def percentile(values: list[float], percent: int) -> float | None:
    """The least value that so many percent do not exceed; None of none."""
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else None


def tell_trees(file: Path, shown_bytes: float = SHOWN_BYTES) -> dict:
    """What a page shows of rollouts.jsonl, and of how many of its trees."""
    places = find_trees(file)
    read = thin(places, READ_BYTES, lambda place: place.size)
    shown = {place.start for place in thin(read, shown_bytes, lambda place: place.size)}
    texts, trees, points, calls = {}, [], [], []
    for place in read:
        rows = read_tree(file, place)
        points += branch_points(rows)
        calls += [call for row in rows for call in own_calls(row)]
        if rows and place.start in shown:
            trees.append(short_tree(rows, texts))
    return {
        "trees": trees,
        "texts": list(texts),
        "counts": {"logged": len(places), "read": len(read), "points": len(points)},
        "points": thin(points, POINTS),
        "classes": count_points(points),
        "words": count_words(points),
        "tools": count_tools(calls),
    }
