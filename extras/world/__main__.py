"""Makes a bundled world: `python -m extras.world easy 0` writes data/world/easy-0."""

import argparse
import dataclasses
import json
from pathlib import Path

from extras.world.modes import MODES, Mode
from extras.world.prepare import WORLDS, prepare


def main() -> None:
    """Read the flags, make the world, print the sizes of its files."""
    parser = argparse.ArgumentParser(
        prog="python -m extras.world",
        description="Make a bundled world. --set hops=2 skew=0.9 changes numbers of its mode.",
    )
    parser.add_argument("mode", nargs="?", choices=MODES, default="easy")
    parser.add_argument("seed", nargs="?", type=int, default=0, help="integer >= 0 (default 0)")
    parser.add_argument("--out", type=Path, help="folder (default data/world/MODE-SEED)")
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help="numbers, lists and true/false as JSON: "
        + ", ".join(f.name for f in dataclasses.fields(Mode)),
    )
    args = parser.parse_args()
    try:
        mode = changed(MODES[args.mode], args.set)
    except (ValueError, TypeError) as problem:
        parser.error(f"--set {' '.join(args.set)}: {problem}")
    if args.seed < 0:
        parser.error(f"the seed must be >= 0, got {args.seed}")
    if args.out and args.out.exists() and not args.out.is_dir():
        parser.error(f"--out {args.out} is a file: name a folder")
    out = prepare(mode, args.seed, args.out or WORLDS / f"{args.mode}-{args.seed}")
    sizes = [f"{p.name} {p.stat().st_size / 1024:.0f} KiB" for p in sorted(out.glob("*.jsonl"))]
    print(f"{out}: {', '.join(sizes)}")


def changed(mode: Mode, items: list[str]) -> Mode:
    """The mode with NAME=VALUE items in place of its own. ValueError or TypeError for a bad one."""
    values = {}
    for item in items:
        name, text = item.split("=", 1)
        value = json.loads(text)
        values[name] = tuple(value) if isinstance(value, list) else value
    mode = dataclasses.replace(mode, **values)
    for f in dataclasses.fields(Mode):
        alike = type(getattr(mode, f.name)) is type(f.default)
        if not alike and not isinstance(f.default, float):
            raise ValueError(f"{f.name} must be like {json.dumps(f.default)}")
    return mode


if __name__ == "__main__":
    main()
