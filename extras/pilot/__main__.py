"""`measure NAME --run RUN --older 4 --newer 6` samples and branches; `show` prints what was found.

RUN is a finished training run that has kept the checkpoints of both steps. `show --folder docs`
also writes the page of tables and the three figures. Results are kept in extras/pilot/results.
"""

import argparse
import json
import sys
from pathlib import Path

from config import read_settings
from extras.pilot import entropy, outcomes
from extras.pilot.figures import draw
from extras.pilot.tables import page, tables
from support.runfiles import complete, step_folder

# branch points of a rollout, as the paper has them
POINTS = 3
RESULTS = Path(__file__).with_name("results")


def main(argv: list[str] | None = None) -> None:
    """Read the flags and do what they say."""
    parser = argparse.ArgumentParser(prog="python -m extras.pilot", description=__doc__)
    parser.add_argument("what", choices=("measure", "show"))
    parser.add_argument("name", nargs="?", help="of the result: results/NAME.json")
    parser.add_argument("--run", type=Path, help="folder of a training run")
    parser.add_argument("--older", type=int, help="its step that samples rollouts")
    parser.add_argument("--newer", type=int, help="its step that samples branches")
    parser.add_argument("--prompts", type=int, default=100, help="held-out questions (default 100)")
    parser.add_argument("--each", type=int, default=4, help="rollouts of a question (default 4)")
    parser.add_argument("--tokens", type=int, default=500, help="tokens of part b (default 500)")
    parser.add_argument("--branches", type=int, default=16, help="of each of them (default 16)")
    parser.add_argument("--compared", type=int, default=64, help="rollouts of part c (default 64)")
    parser.add_argument(
        "--near", type=int, default=20, help='"after a result": tokens (default 20)'
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default 0)")
    parser.add_argument("--folder", type=Path, help="for the page of tables and three figures")
    args = parser.parse_args(argv)
    if args.what == "show":
        show(args.folder)
        return
    missing = [name for name in ("name", "run", "older", "newer") if getattr(args, name) is None]
    if missing:
        parser.error(f"measure needs {', '.join(missing)}")
    try:
        found = measure(args)
    except (ValueError, OSError) as problem:
        sys.exit(f"extras.pilot: {problem}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{args.name}.json").write_text(json.dumps(found) + "\n")
    print("\n".join(tables({args.name: found})))


def checkpoints_of(args: argparse.Namespace) -> list[Path]:
    """The older and the newer one. ValueError for flags or checkpoints that do not fit."""
    for name in ("prompts", "each", "tokens", "branches", "compared"):
        least = 2 if name in ("each", "branches") else 1
        if getattr(args, name) < least:
            raise ValueError(f"--{name} must be >= {least}, got {getattr(args, name)}")
    folders = [step_folder(args.run, step) for step in (args.older, args.newer)]
    for folder in folders:
        if not complete(folder):
            raise ValueError(f"{folder} is no complete checkpoint: train with --keep_checkpoints 0")
    return folders


def measure(args: argparse.Namespace) -> dict:
    """All three parts. ValueError for flags or checkpoints that do not fit."""
    folders = checkpoints_of(args)
    config = read_settings(
        ["--config", str(args.run / "config.json"), "--algo", "appo", "--branches", "1"]
    )
    lab = outcomes.Lab.of(config, *folders, args.prompts)
    rollouts = lab.rollouts(args.each, args.seed)
    right = lab.right(rollouts)
    kept = outcomes.mixed(rollouts, right)
    if not kept:
        raise ValueError(
            f"no prompt of {args.prompts} has both: {sum(right)} of {len(right)} rollouts are right"
        )
    tokens = entropy.rows_of(rollouts, lab.older.text, list(lab.tools), args.near)
    about = {
        "older": args.older,
        "newer": args.newer,
        "prompts": args.prompts,
        "rollouts": len(rollouts),
        "right": sum(right),
        "mixed prompts": len({r.group for r in kept}),
        "omega constant": sum(r.degenerate for r in kept),
        "kept": len(kept),
        "near": args.near,
        "tokens": len(tokens),
    }
    found = {
        "about": about,
        "enrichment": entropy.enrichment(tokens),
        "distance": entropy.by_distance(tokens),
        "outcomes": outcomes.of_tokens(lab, kept, args.tokens, args.branches),
        "criteria": outcomes.of_criteria(lab, kept[:: max(1, len(kept) // args.compared)]),
        "decisions": outcomes.found_decisions(lab, kept, POINTS) if lab.bundled else {},
    }
    lab.close(rollouts)
    return found


def show(folder: Path | None) -> None:
    """Print the tables of all results; write page and figures if a folder is named."""
    # the worlds of the comparison come first
    files = sorted(RESULTS.glob("*.json"), key=lambda x: (not x.stem.startswith("late"), x.stem))
    results = {file.stem: json.loads(file.read_text()) for file in files}
    if not results:
        raise SystemExit("no result yet: python -m extras.pilot measure NAME --run RUN ...")
    lines = tables(results)
    print("\n".join(lines))
    if folder:
        (folder / "pilot.md").write_text(page(lines))
        draw(results, folder)


if __name__ == "__main__":
    main()
