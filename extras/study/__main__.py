"""`list` says what is missing of each table, `run TABLE` makes it, `show TABLE` prints it.

`pace TABLE` measures the seconds that `show` counts; nothing else may run meanwhile. `best` prints
the trials of all tuning tables, the best of each arm first, or those of TABLE.
"""

import argparse
from pathlib import Path

from extras.study.arms import CURVES, Table
from extras.study.curves import load
from extras.study.figure import picture
from extras.study.pace import at_pace, measure
from extras.study.planned import TABLES
from extras.study.runs import make, missing
from extras.study.tables import (
    colds_table,
    difference_table,
    ends_table,
    questions_table,
    runs_table,
    trials_table,
    world_table,
)

# runs of a world that each have a row of their own
MANY = 12


def main(argv: list[str] | None = None) -> None:
    """Read the flags and do what they say."""
    parser = argparse.ArgumentParser(prog="python -m extras.study", description=__doc__)
    parser.add_argument("what", choices=("list", "run", "pace", "show", "best"))
    parser.add_argument("table", nargs="?", choices=TABLES)
    parser.add_argument("--workers", type=int, default=2, help="runs side by side (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="pace: of all arms (default 5)")
    parser.add_argument("--picture", type=Path, help="write the curves of the table as this SVG")
    args = parser.parse_args(argv)
    if args.what == "list":
        for table in TABLES.values():
            every = len(table.arms) * len(table.worlds) * len(table.colds) * len(table.seeds)
            print(f"{table.name}: {len(missing(table))} of {every} runs missing; {table.about}")
        return
    if args.what == "best":
        tuning = {name for name in TABLES if name.startswith("tuning")}
        names = {args.table} if args.table else tuning
        try:
            print(trials_table([c for c in load(CURVES) if c.table in names]))
        except ValueError as problem:
            parser.error(str(problem))
        return
    if not args.table:
        parser.error(f"{args.what} needs a table: {', '.join(TABLES)}")
    if args.what == "run":
        make(TABLES[args.table], args.workers)
    elif args.what == "pace":
        measure(TABLES[args.table], args.rounds)
    else:
        show(TABLES[args.table], args.picture)


def show(table: Table, file: Path | None) -> None:
    """Print the tables of all worlds; write the picture if a file is named."""
    curves = [curve for curve in load(CURVES) if curve.table == table.name]
    if not curves:
        raise SystemExit(f"{table.name} has no complete run yet: python -m extras.study run")
    for world in dict.fromkeys(curve.world for curve in curves):
        own = at_pace([curve for curve in curves if curve.world == world])
        if "seconds" not in own[0].spent:
            print(f"\nno seconds: python -m extras.study pace {table.name}")
        parts = [world, world_table(own)]
        parts += [difference_table(own, b) for b in table.baselines if b in {c.arm for c in own}]
        parts += [colds_table(own), runs_table(own), ends_table(own)]
        if len(own) <= MANY and all(c.errors for c in own):
            parts.append(questions_table(own))
        print("", *parts, sep="\n\n")
    if file:
        file.write_text(picture(curves))


if __name__ == "__main__":
    main()
