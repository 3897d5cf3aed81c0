"""The numbers of runs over their steps, from metrics.jsonl: groups, curves, one sentence.

1. read_run      the files of a run's folder; a run that is still going has fewer
2. alarm_spans   alarms of steps in a row as one
3. group_runs    runs that differ only in seed
4. curves_of     a group's numbers by step: the mean, from the lowest to the highest
5. headline      how far a group has come; `opening`: the number that shows it

Imports the standard library only.
"""

import json
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from support.logged_trees import parsed, significant, thin

# steps of a curve, steps of a cold start
STEPS, COLD_STEPS = 400, 200
# settings in which runs of one group may differ: the seed and what follows from it
FOLLOWS = {"seed", "out", "date", "data_sha256", "versions", "sandbox_level"}


@dataclass
class Run:
    """A run's folder. rows: step -> its numbers, those of its evaluation among them."""

    folder: Path
    config: dict
    rows: dict[int, dict]
    alarms: list[tuple[int, str]]


def read_run(folder: Path) -> Run:
    """Settings, numbers and alarms. Raises: ValueError if it is no run's folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give the --out of a run")
    if not (folder / "metrics.jsonl").is_file():
        raise ValueError(f"{folder} holds no metrics.jsonl: give the --out of a run")
    file = folder / "config.json"
    config = parsed(file.read_bytes()) if file.is_file() else {}
    rows, alarms = {}, []
    for row in read_lines(folder / "metrics.jsonl"):
        numbers = {name: x for name, value in row.items() if (x := significant(value)) is not None}
        rows.setdefault(row["step"], {}).update(numbers)
        alarms += [(row["step"], text) for text in row.get("alarms", [])]
    return Run(folder, config, dict(sorted(rows.items())), alarms)


def read_lines(file: Path) -> list[dict]:
    """The rows of a log that hold a step; none if there is no file."""
    if not file.is_file():
        return []
    with open(file, "rb") as lines:
        return [row for row in map(parsed, lines) if isinstance(row.get("step"), int)]


def alarm_spans(alarms: list[tuple[int, str]], steps: list[int]) -> list[dict]:
    """Alarms with their first and last step, those of steps in a row as one.

    steps: all that are logged.
    """
    after, spans, open_spans = dict(zip(steps, steps[1:])), [], {}
    for step, text in sorted(alarms):
        span = open_spans.get(text)
        if span and after.get(span["last"]) == step:
            span["last"] = step
            continue
        open_spans[text] = {"first": step, "last": step, "text": text}
        spans.append(open_spans[text])
    return spans


def cold_start(folder: Path) -> dict:
    """Loss of the cold start by step; empty without one."""
    rows = [row for row in read_lines(folder / "cold_start.jsonl") if "loss" in row]
    rows = thin(rows, COLD_STEPS)
    return {"step": [r["step"] for r in rows], "loss": [significant(r["loss"]) for r in rows]}


def group_runs(runs: list[Run]) -> list[list[Run]]:
    """Runs that differ only in seed, together. A run without settings stands alone."""
    groups = {}
    for place, run in enumerate(runs):
        key = json.dumps(settings(run), sort_keys=True) if run.config else place
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def settings(run: Run) -> dict:
    """The settings of a run without its seed, in the folder of a bundled world too."""
    seed = re.compile(rf"(world/[a-z_]+-){run.config.get('seed')}(?!\d)")
    return {
        name: seed.sub(r"\1SEED", value) if isinstance(value, str) else value
        for name, value in run.config.items()
        if name not in FOLLOWS
    }


def curves_of(runs: list[Run]) -> dict:
    """A group's numbers over the steps that all its runs have, thinned out.

    axis: step, and tokens and seconds so far, mean over runs. curves: name -> mean, low, high by
    step; None where a run lacks the number.
    """
    # a run that has logged nothing yet would leave nothing of the others
    runs = [run for run in runs if run.rows] or runs
    common = sorted(set.intersection(*(set(run.rows) for run in runs)))
    evaluated = {step for step in common if any("eval_" in name for name in runs[0].rows[step])}
    kept = sorted(set(thin(common, STEPS)) | evaluated)
    axis = {"step": kept}
    for name, key in (("tokens", "tokens_sampled"), ("seconds", "seconds")):
        sums = [so_far(run, key) for run in runs]
        axis[name] = [significant(statistics.mean(s[step] for s in sums)) for step in kept]
    names = {name: None for run in runs for row in run.rows.values() for name in row}
    return {"axis": axis, "curves": {name: band(runs, name, kept) for name in names}}


def so_far(run: Run, key: str) -> dict[int, float]:
    """Step -> the sum of a number up to it."""
    total, sums = 0.0, {}
    for step, row in run.rows.items():
        total += row.get(key, 0)
        sums[step] = total
    return sums


def band(runs: list[Run], name: str, steps: list[int]) -> dict[str, list]:
    """Mean, lowest and highest of the runs by step; of one run, the mean alone."""
    columns = [[run.rows[step].get(name) for run in runs] for step in steps]

    def each(function) -> list:
        """A function of the runs' numbers, by step."""
        return [None if None in values else significant(function(values)) for values in columns]

    bounds = {"low": each(min), "high": each(max)} if len(runs) > 1 else {}
    return {"mean": each(statistics.mean)} | bounds


def main_measure(curves: dict) -> tuple[str, str]:
    """Name of the held-out measure, and what to call it; of the reward if it is known better."""
    sampled = [name for name in curves if re.fullmatch(r"eval_avg@\d+", name)]
    found = [(name, "held-out accuracy") for name in sampled]
    found += [("eval_reward", "held-out reward"), ("reward", "mean reward")]
    # a single evaluation says nothing of what a run has learned
    return max(found, key=lambda measure: min(points_of(curves, measure[0]), 2))


def points_of(curves: dict, name: str) -> int:
    """At how many steps a number is known."""
    return sum(x is not None for x in curves.get(name, {}).get("mean", []))


def headline(runs: list[Run], group: dict) -> str:
    """How far a group has come, in one sentence."""
    measure, words = main_measure(group["curves"])
    steps, both = group["axis"]["step"], ends(group, measure)
    if not both:
        return "Nothing is logged yet."
    (first, before), (last, after) = both[0], both[-1]
    if first == last:
        return f"{words.capitalize()} is {before:.3f} at {first}; {progress(runs, steps)}."
    verb = "rose" if after > before else "fell" if after < before else "stayed"
    of = f", mean of {len(runs)} runs" if len(runs) > 1 else ""
    change = f"{verb} from {before:.3f} at {first} to {after:.3f} at {last}"
    return f"{words.capitalize()} {change}{of}; {progress(runs, steps)}."


def ends(group: dict, measure: str) -> list[tuple[str, float]]:
    """When, and the number then, first and last; a reward is the mean of five steps if it can be.

    Empty if the number is not known.
    """
    values = group["curves"].get(measure, {}).get("mean", [])
    known = [(step, x) for step, x in zip(group["axis"]["step"], values) if x is not None]
    count = 5 if measure == "reward" and len(known) >= 10 else 1
    told = []
    for part in (known[:count], known[-count:]) if known else ():
        (first, _), (last, _) = part[0], part[-1]
        when = f"step {first}" if first == last else f"steps {first} to {last}"
        told.append((when, statistics.mean(x for _, x in part)))
    return told


def comparison(groups: dict[str, dict]) -> str:
    """The last value of the main measure of several groups, by name."""
    parts = []
    for name, group in groups.items():
        measure, words = main_measure(group["curves"])
        last = [f"{value:.3f}" for _, value in ends(group, measure)[-1:]] or ["unknown"]
        parts.append(f"{words} {last[0]} ({name})")
    return f"Last numbers: {'; '.join(parts)}."


def progress(runs: list[Run], steps: list[int]) -> str:
    """How many steps are done, of how many."""
    total = runs[0].config.get("steps")
    return f"{steps[-1]} of {total} steps are done" if total else f"{steps[-1]} steps are done"


def opening(curves: dict) -> str:
    """The number whose curve comes first: the held-out measure, with too few points the reward."""
    measure, _ = main_measure(curves)
    return "reward" if points_of(curves, measure) < 3 and points_of(curves, "reward") else measure
