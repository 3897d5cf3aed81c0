"""What a run in a bundled world learns to choose, and what it stops choosing.

    python train.py --log_trees 64 ...
    python -m extras.study.choices RUN [RUN ...]

A question asks for a version, new or old (new where it names none), and an operator; what a rollout
chose stands in its calls. Reads the rollouts that a run has logged, branches left out, and prints
for equal parts of its steps: how often "old" is searched where "old" and where "new" is asked for,
of the rollouts that search a version; how often Python computes in these; how often an operator is
right where it is asked for, of the rollouts that compute.
Once a policy always makes the same choice, a method that compares rollouts cannot change it.
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

from extras.study.tables import table_of
from extras.world.modes import OPERATORS, VERSIONS

VERSION = "|".join(VERSIONS)
ASKED = re.compile(rf"\bthe ({VERSION}) |\b({'|'.join(OPERATORS)}) \d+\?")
# in a search, and in a line of Python
SEARCHED, COMPUTED = re.compile(rf"({VERSION}) "), re.compile(r"\d+ ([+*-]) \d+")


def chosen(row: dict) -> dict[str, str]:
    """The last version that a logged rollout searched, and the last operator it computed with."""
    made, words = {}, {symbol: word for word, symbol in OPERATORS.items()}
    for call in row["calls"]:
        searched, computed = SEARCHED.match(call["argument"]), COMPUTED.match(call["argument"])
        if call["name"] == "search" and searched:
            made["version"] = searched[1]
        elif call["name"] == "python" and computed:
            made["operator"] = words[computed[1]]
    return made


def asked_for(prompt: str) -> tuple[str, str]:
    """(version, operator) that a question asks for."""
    version, operator = "new", ""
    for match in ASKED.finditer(prompt):
        version, operator = match[1] or version, match[2] or operator
    return version, operator


def shares_of_choices(rows: list[dict]) -> dict[str, str]:
    """Column -> share, empty if there is none. "old" and Python: of the rollouts that searched a
    version; an operator: of those that computed; right: of all."""
    chose: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        (version, operator), made = asked_for(row["prompt"]), chosen(row)
        if "version" in made:
            chose[f'"old", asked {version}'].append(made["version"] == "old")
            chose["Python"].append("operator" in made)
        if "operator" in made:
            chose[operator].append(made["operator"] == operator)
        chose["right"].append(row["reward"] > 0)
    names = [*(f'"old", asked {version}' for version in VERSIONS), *OPERATORS, "Python", "right"]
    return {x: f"{sum(chose[x]) / len(chose[x]):.2f}" if chose[x] else "" for x in names}


def read_rollouts(run: Path) -> list[dict]:
    """The initial rollouts that a run has logged. ValueError if there are none."""
    file = run / "rollouts.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    rows = [row for row in map(json.loads, lines) if row["parent"] is None]
    if not rows:
        raise ValueError(f"{file} holds no rollout: train with --log_trees 64")
    return rows


def table(rows: list[dict], parts: int) -> str:
    """A row for each of so many parts of the steps, or for each step if they are fewer."""
    last = max(row["step"] for row in rows)
    parts, cells = min(parts, last), []
    for part in range(parts):
        first, end = part * last // parts + 1, (part + 1) * last // parts
        own = shares_of_choices([row for row in rows if first <= row["step"] <= end])
        cells.append([f"{first} to {end}", *own.values()])
    return table_of(["steps", *shares_of_choices([])], cells)


def main(argv: list[str] | None = None) -> None:
    """Print the table of every run."""
    parser = argparse.ArgumentParser(prog="python -m extras.study.choices", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of training runs")
    parser.add_argument("--parts", type=int, default=6, help="of a run's steps (default 6)")
    args = parser.parse_args(argv)
    if args.parts < 1:
        parser.error(f"--parts must be >= 1, got {args.parts}")
    for run in args.runs:
        try:
            print(f"\n{run.name}\n\n{table(read_rollouts(run), args.parts)}")
        except ValueError as problem:
            parser.error(str(problem))


if __name__ == "__main__":
    main()
