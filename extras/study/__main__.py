"""`python -m extras.study run TABLE` makes the runs of a table; `list` says what is missing."""

import argparse

from extras.study.arms import TABLES
from extras.study.runs import make, missing


def main() -> None:
    """Read the flags and do what they say."""
    parser = argparse.ArgumentParser(prog="python -m extras.study", description=__doc__)
    parser.add_argument("what", choices=("list", "run"))
    parser.add_argument("table", nargs="?", choices=TABLES)
    parser.add_argument("--workers", type=int, default=2, help="runs side by side (default 2)")
    args = parser.parse_args()
    if args.what == "list":
        for table in TABLES.values():
            all_runs = len(table.arms) * len(table.worlds) * len(table.colds) * len(table.seeds)
            print(f"{table.name}: {len(missing(table))} of {all_runs} runs missing")
        return
    if not args.table:
        parser.error(f"run needs a table: {', '.join(TABLES)}")
    make(TABLES[args.table], args.workers)


if __name__ == "__main__":
    main()
