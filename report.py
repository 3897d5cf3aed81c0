"""One HTML page about a run, or several: curves, trees, tokens, branch points, tool calls.

python report.py runs/x                     writes runs/x/report.html
python report.py runs/x runs/y --out FILE   curves of both; runs that differ only in seed are one

1. read_run        the files of a run's folder (support/logged_runs.py)
2. collect         curves of groups, and of each run its trees and tables (support/logged_trees.py)
3. page            the template (support/report.html, two scripts) with the data in it
4. write_report    the page beside its place, then in it

The page is one file and needs no network. Imports the standard library only: it starts at once.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from support.files import write_aside
from support.logged_runs import (
    Run,
    alarm_spans,
    cold_start,
    comparison,
    curves_of,
    group_runs,
    headline,
    opening,
    read_run,
    settings,
)
from support.logged_trees import FILLERS, SHOWN_BYTES, tell_trees

TEMPLATE = Path(__file__).resolve().parent / "support" / "report.html"


def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="report.py", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, --out of train.py")
    parser.add_argument(
        "--out",
        type=Path,
        help="the page (default: report.html in the run's folder; of several runs, here)",
    )
    args = parser.parse_args(argv)
    try:
        print(write_report(args.runs, args.out))
    except (ValueError, OSError) as problem:
        sys.exit(f"report.py: {problem}")


def write_report(folders: list[Path], out: Path | None = None) -> str:
    """Write the page; returns a line that names it.

    Raises: ValueError naming a folder that holds no run.
    """
    began = time.monotonic()
    # of several runs not in the folder of one: its own page is there
    out = out or (folders[0] if len(folders) == 1 else Path()) / "report.html"
    # the same folder named twice is one run
    folders = list({folder.resolve(): folder for folder in folders}.values())
    text = page(collect([read_run(folder) for folder in folders]))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_aside(out, text)
    return f"report: {out}, {len(text) / 1e6:.2f} MB in {time.monotonic() - began:.1f} s"


def after_training(folder: str) -> None:
    """The page of a run that has ended, in its folder. It never fails the run."""
    try:
        print(write_report([Path(folder)]), flush=True)
    except Exception as problem:
        print(f"report.html could not be made: {problem!r}", flush=True)


def names_of(runs: list[Run]) -> list[str]:
    """Names of the folders; whole paths where two are alike."""
    short = [run.folder.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run.folder) for run in runs]


def collect(runs: list[Run]) -> dict:
    """All data of the page."""
    names = {id(run): name for run, name in zip(runs, names_of(runs))}
    together = group_runs(runs)
    groups = [curves_of(group) for group in together]
    for group, its in zip(groups, together):
        group["runs"] = [names[id(run)] for run in its]
        group["seeds"] = [run.config.get("seed") for run in its]
        group["headline"] = headline(its, group)
    every = [settings(group[0]) for group in together]

    def telling(name: str) -> tuple:
        """What has most values among the groups comes first: it tells them apart."""
        return -len({json.dumps(config.get(name), sort_keys=True) for config in every}), name

    for group, own in zip(groups, every):
        other = {
            name for config in every for name in config | own if config.get(name) != own.get(name)
        }
        group["differs"] = {name: own.get(name) for name in sorted(other, key=telling)}
    told = [tell_run(run, names[id(run)], SHOWN_BYTES / len(runs)) for run in runs]
    lead = groups[0]["headline"]
    if len(groups) > 1:
        lead = comparison({", ".join(group["runs"]): group for group in groups})
    about = {"headline": lead, "opening": opening(groups[0]["curves"])}
    about |= {"fillers": sorted(FILLERS), "made": time.strftime("%Y-%m-%d %H:%M")}
    return about | {"groups": groups, "runs": told}


def tell_run(run: Run, name: str, shown_bytes: float) -> dict:
    """What the page shows of one run besides its curves."""
    told = {"name": name, "config": run.config, "cold": cold_start(run.folder)}
    told["alarms"] = alarm_spans(run.alarms, list(run.rows))
    return told | tell_trees(run.folder / "rollouts.jsonl", shown_bytes)


def page(data: dict) -> str:
    """The template with its script and the data. No text of a run can end the script it is in."""
    halves = [TEMPLATE.with_name(name).read_text() for name in ("report_charts.js", "report.js")]
    # ASCII alone: no encoding, no lone surrogate, no "<" can do harm
    filled = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    before, after = TEMPLATE.read_text().split("/*DATA*/")
    return before + filled + after.replace("/*SCRIPT*/", "\n".join(halves))


if __name__ == "__main__":
    main(sys.argv[1:])
