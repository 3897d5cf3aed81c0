"""Pairs of mathematical answers and what graders make of them.

    python tests/math_pairs.py                  graders compared on tests/math_pairs.txt
    python tests/math_pairs.py --pairs F.json   on [{"pred": .., "gold": .., "expected": ..}]
    python tests/math_pairs.py --root FOLDER    with the grader of another checkout
    python tests/math_pairs.py --quick          without Math-Verify's own verdicts, minutes faster

A pair is right if both orders give the verdict that is expected.
"""

import argparse
import functools
import importlib
import importlib.util
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SIGNS = {"  ===  ": True, "  =/=  ": False}


def read_pairs(file: Path = HERE / "math_pairs.txt") -> list[tuple[str, str, str, bool]]:
    """(kind, one answer, the other, do they mean the same?) for each line with a pair."""
    kind, pairs = "", []
    for line in file.read_text(encoding="utf-8").splitlines():
        kind = line[2:] if line.startswith("# ") else kind
        sign = next((sign for sign in SIGNS if sign in line), None)
        if kind and sign:
            a, b = line.replace("\\u200b", "\u200b").split(sign)
            pairs.append((kind, a, b, SIGNS[sign]))
    return pairs


def measure(grader, pairs: list) -> tuple[str, list]:
    """(a row of the table, the pairs that are wrong)."""
    wrong, seconds = [], []
    for _, a, b, expected in pairs:
        verdicts = []
        for x, y in ((a, b), (b, a)):
            started = time.perf_counter()
            verdicts.append(grader(x, y))
            seconds.append(time.perf_counter() - started)
        if verdicts != [expected, expected]:
            wrong.append((a, b, expected))
    falsely = sum(not expected for *_, expected in wrong)
    seconds.sort()
    middle, late = seconds[len(seconds) // 2], seconds[int(0.95 * len(seconds))]
    counts = f"{len(pairs) - len(wrong)} | {falsely} | {len(wrong) - falsely}"
    return f"{counts} | {middle:.4f} | {late:.3f} |", wrong


def graders(grader) -> dict:
    """Graders by name: ours in two states, Math-Verify, and what they say together."""
    find_spec = importlib.util.find_spec

    def ours(a: str, b: str) -> bool:
        grader._same_math.cache_clear()
        return grader.math_equal(a, b)

    def alone(a: str, b: str) -> bool:
        importlib.util.find_spec = lambda name: None
        try:
            return ours(a, b)
        finally:
            importlib.util.find_spec = find_spec

    @functools.cache
    def theirs(a: str, b: str) -> bool:
        return grader._jail(grader.MATH_VERIFY.format(repr(f"${a}$"), repr(f"${b}$"))) == "1"

    found = {"math_equal without Math-Verify": alone}
    if find_spec("math_verify"):
        found |= {"math_equal with Math-Verify": ours, "Math-Verify alone": theirs}
        found["one of both says so"] = lambda a, b: theirs(a, b) or alone(a, b)
        found["both say so"] = lambda a, b: theirs(a, b) and alone(a, b)
    return found


def main() -> None:
    """Print the table, and the pairs that our grader gets wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, help="a JSON file of pairs")
    parser.add_argument("--root", type=Path, default=HERE.parent, help="the checkout that grades")
    parser.add_argument("--quick", action="store_true", help="only our grader")
    args = parser.parse_args()
    sys.path.insert(0, str(args.root))
    grader = importlib.import_module("support.math_equal")

    pairs = read_pairs()
    if args.pairs:
        rows = json.loads(args.pairs.read_text(encoding="utf-8"))
        pairs = [("", row["pred"], row["gold"], row["expected"]) for row in rows]
    # the sandbox starts
    grader.math_equal("x+1", "1+x")
    print(f"{len(pairs)} pairs\n\n| grader | right | false + | false - | median s | 95% s |")
    for name, function in graders(grader).items():
        if args.quick and not name.startswith("math_equal"):
            continue
        row, wrong = measure(function, pairs)
        print(f"| {name} | {row}", flush=True)
        for a, b, expected in wrong if name.startswith("math_equal") else []:
            print(f"    {a}  {'===' if expected else '=/='}  {b}")


if __name__ == "__main__":
    main()
