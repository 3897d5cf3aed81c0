"""Seconds that a sampled token costs each arm, measured in turn on an otherwise idle machine.

    1. measure    a few steps of every arm of a table, in turn -> seconds for 1,000 tokens
    2. at_pace    curves whose seconds are their sampled tokens at that pace

The runs of the study are made side by side, so the seconds in their logs are not compared.
"""

import dataclasses
import json
import shutil
import statistics
from pathlib import Path

from extras.study.arms import RUNS, Table
from extras.study.curves import Curve
from extras.study.runs import from_cold, train

PACE = Path(__file__).with_name("pace.json")
# sampled tokens of a measurement
TOKENS = 10_000


def seconds_per_1000(world: str, cold: int, arm: dict) -> float:
    """Of sampled tokens, branches too, until the step that reaches TOKENS from a cold start.

    arm: its settings. The cold start is made if it is not there. RuntimeError if a run fails.
    """
    out, length = RUNS / "pace", {"seed": cold, "steps": 1000, "max_sampled": TOKENS}
    shutil.rmtree(out, ignore_errors=True)
    train(from_cold(world, cold) | arm | length | {"eval_questions": 0}, out)
    lines = [json.loads(line) for line in open(out / "metrics.jsonl")]
    steps = [line for line in lines if "tokens_sampled" in line]
    seconds, tokens = (sum(s[name] for s in steps) for name in ("seconds", "tokens_sampled"))
    shutil.rmtree(out, ignore_errors=True)
    return 1000 * seconds / tokens


def measure(table: Table, rounds: int) -> None:
    """Print and keep the median pace of every arm, and its ratio to the first baseline, per world.

    Every second round goes through the arms backwards. RuntimeError if a run fails.
    """
    kept = load_pace()
    for world in table.worlds:
        found = {arm: [] for arm in table.arms}
        for k in range(rounds):
            for arm in list(table.arms)[:: (-1) ** k]:
                settings = table.settings(world, arm)
                found[arm].append(seconds_per_1000(world, table.colds[0], settings))
        kept.setdefault(table.name, {})[world] = {
            arm: round(statistics.median(values), 4) for arm, values in found.items()
        }
        PACE.write_text(json.dumps(kept, indent=1) + "\n")
        first = table.baselines[0]
        print(f"\n{world}\n\n| arm | seconds for 1,000 sampled tokens | against {first} |")
        print("|---|---|---|")
        for arm, values in found.items():
            ratios = [a / b for a, b in zip(values, found[first])]
            shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"| {arm} | {statistics.median(values):.3f} | {shown} |")


def load_pace() -> dict:
    """table -> world -> arm -> seconds for 1,000 sampled tokens; {} if nothing was measured."""
    return json.loads(PACE.read_text()) if PACE.is_file() else {}


def at_pace(curves: list[Curve]) -> list[Curve]:
    """The curves of one world of a table with their seconds at the measured pace; without seconds
    if an arm among them has none."""
    pace = load_pace().get(curves[0].table, {}).get(curves[0].world, {})
    known = all(curve.arm in pace for curve in curves)
    out = []
    for curve in curves:
        spent = {axis: edges for axis, edges in curve.spent.items() if axis != "seconds"}
        if known:
            tokens = spent["sampled tokens"]
            spent["seconds"] = [n / 1000 * pace[curve.arm] for n in tokens]
        out.append(dataclasses.replace(curve, spent=spent))
    return out
