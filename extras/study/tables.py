"""The study's curves as tables in Markdown.

1. budget_of         the largest budget that every run of a world has spent, per axis
2. measured          an arm's runs in a world -> cold start -> seed -> one number
3. world_table       a row per arm: mean of the curve at equal budgets, held-out accuracy at the end
4. difference_table  the same, less those of one arm
5. colds_table       a row per arm, a column per cold start: mean of the curve; accuracy before
6. runs_table        a row per arm, a column per cold start: where each run ends
7. ends_table        a row per arm: how runs end, tokens and tool calls they need
8. questions_table   a row per run: held-out accuracy, intervals over questions
9. trials_table      tuning: the trials of each arm, the best first
"""

import math
import re
from collections.abc import Callable
from functools import partial
from statistics import median

from extras.study.curves import AXES, Curve
from extras.study.intervals import Runs, interval, mean, paired


def budget_of(curves: list[Curve], axis: str) -> float:
    """What every run has spent at least."""
    return min(curve.spent[axis][-1] for curve in curves)


def measured(curves: list[Curve], number) -> Runs:
    """number(curve) of each run, by cold start and seed."""
    runs: Runs = {}
    for curve in curves:
        runs.setdefault(curve.cold, {})[curve.seed] = number(curve)
    return runs


def shown(middle: float, low: float, high: float) -> str:
    """0.534 (0.512 to 0.556); differences keep their sign. One run has no interval."""
    return f"{middle:.3f}" if low == high else f"{middle:.3f} ({low:.3f} to {high:.3f})"


def arms_of(curves: list[Curve]) -> dict[str, list[Curve]]:
    """arm -> its curves, in the order of their mean at equal sampled tokens, the best first."""
    first = next(iter(AXES))
    budget = budget_of(curves, first)
    arms = {c.arm: [x for x in curves if x.arm == c.arm] for c in curves}

    def level(arm):
        return mean(measured(arms[arm], partial(Curve.mean, axis=first, budget=budget)))

    return {arm: arms[arm] for arm in sorted(arms, key=level, reverse=True)}


def budgets_of(curves: list[Curve]) -> dict[str, Callable[[Curve], float]]:
    """Heading -> the number of a run that is compared: mean of the curve at equal budget of each
    axis; held-out accuracy after the last step."""
    numbers = {}
    for axis in curves[0].spent:
        budget = budget_of(curves, axis)
        numbers[f"{budget:,.0f} {axis}"] = partial(Curve.mean, axis=axis, budget=budget)
    return numbers | {"held-out at the end": lambda curve: curve.after}


def table_of(heads: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def world_table(curves: list[Curve]) -> str:
    """The table of one world.

    Columns: runs, how many of them end with a lower held-out accuracy than they began with, the
    numbers of budgets_of; means of steps and updates made, and of the share of trained tokens.
    """
    numbers, rows = budgets_of(curves), []
    for arm, own in arms_of(curves).items():
        cells = [arm, str(len(own)), str(sum(c.after < c.before for c in own))]
        cells += [shown(*interval(measured(own, number))) for number in numbers.values()]
        made = (lambda c: len(c.accuracy), lambda c: c.spent["updates"][-1])
        cells += [f"{mean(measured(own, number)):,.0f}" for number in made]
        cells.append(f"{mean(measured(own, trained_share)):.0%}")
        rows.append(cells)
    return table_of(["arm", "runs", "lost", *numbers, "steps", "updates", "trained"], rows)


def trained_share(curve: Curve) -> float:
    """Of the sampled tokens, by the end."""
    return curve.spent["trained tokens"][-1] / curve.spent["sampled tokens"][-1]


def difference_table(curves: list[Curve], baseline: str) -> str:
    """The numbers of budgets_of of every other arm less the baseline's, in pairs of runs that have
    cold start and seed in common."""
    numbers, arms, rows = budgets_of(curves), arms_of(curves), []
    for arm, own in arms.items():
        if arm == baseline:
            continue
        pairs = ((measured(own, x), measured(arms[baseline], x)) for x in numbers.values())
        rows.append([arm, *(shown(*paired(*pair)) for pair in pairs)])
    return table_of([f"less {baseline}", *numbers], rows)


def colds_table(curves: list[Curve]) -> str:
    """Mean of the curve at equal sampled tokens, and over the seeds of each cold start.

    Above it held-out accuracy before the first step.
    """
    first = next(iter(AXES))
    number = partial(Curve.mean, axis=first, budget=budget_of(curves, first))
    colds = sorted({c.cold for c in curves})
    before = measured(curves, lambda c: c.before)
    rows = [["held-out before", *(f"{mean({0: before[c]}):.3f}" for c in colds)]]
    for arm, own in arms_of(curves).items():
        runs = measured(own, number)
        rows.append([arm, *(f"{mean({0: runs[c]}):.3f}" if c in runs else "" for c in colds)])
    return table_of(["cold start", *map(str, colds)], rows)


def runs_table(curves: list[Curve]) -> str:
    """Held-out accuracy at the end of every run, by cold start, in the order of seeds."""
    colds, rows = sorted({c.cold for c in curves}), []
    for arm, own in arms_of(curves).items():
        runs = measured(own, lambda c: c.after)
        ends = [[x for _, x in sorted(runs.get(cold, {}).items())] for cold in colds]
        rows.append([arm, *(", ".join(f"{x:.3f}" for x in cell) for cell in ends)])
    return table_of(["held-out at the end", *map(str, colds)], rows)


# share of the budget that calls are counted in; the accuracy that is waited for
SHARE, REACHED = 0.25, 0.8


def ends_table(curves: list[Curve]) -> str:
    """How the runs of one world end, and what they need. Numbers of several runs are medians.

    Columns: held-out accuracy at the end; runs that end below 0.5; runs in which the mean accuracy
    of 15,000 sampled tokens was REACHED; sampled tokens, and tool calls of the whole training,
    branches too, until then: "never" if half of the runs do not get there; calls of an initial
    rollout per right one, in the first and the last quarter of the sampled tokens.
    """
    first = next(iter(AXES))
    budget, rows = budget_of(curves, first), []
    for arm, own in arms_of(curves).items():
        ends = [c.after for c in own]
        cells = [arm, str(len(own)), f"{median(ends):.3f}", str(sum(x < 0.5 for x in ends))]
        for axis in (first, "tool calls"):
            needed = [c.reached(axis, REACHED) for c in own]
            middle = median(math.inf if x is None else x for x in needed)
            cells.append("never" if middle == math.inf else f"{middle:,.0f}")
        cells.insert(4, str(len(own) - needed.count(None)))
        for start, end in ((0.0, SHARE * budget), ((1 - SHARE) * budget, budget)):
            each = median(calls_per_right(c, first, start, end) for c in own)
            cells.append(f"{each:.2f}")
        rows.append(cells)
    heads = ["arm", "runs", "median held-out at the end", "below 0.5", f"reached {REACHED}"]
    heads += [f"{axis} until then" for axis in (first, "tool calls")]
    heads += [f"calls a right answer, {quarter} quarter" for quarter in ("first", "last")]
    return table_of(heads, rows)


def calls_per_right(curve: Curve, axis: str, start: float, end: float) -> float:
    """Mean calls of an initial rollout over the share of them that is right; inf if none is."""
    right = curve.mean(axis, end, start)
    return curve.mean(axis, end, start, of="calls") / right if right else math.inf


def questions_table(curves: list[Curve]) -> str:
    """Held-out accuracy of each run before its first step and after its last.

    Intervals over questions hold 95%: 1.96 standard errors, within 0 to 1.
    """
    rows = []
    for arm, own in arms_of(curves).items():
        for c in sorted(own, key=lambda c: (c.cold, c.seed)):
            ends = [
                shown(p, max(0.0, p - 1.96 * error), min(1.0, p + 1.96 * error))
                for p, error in zip((c.before, c.after), c.errors, strict=True)
            ]
            rows.append([arm, str(c.cold), str(c.seed), *ends, f"{len(c.accuracy)}"])
    return table_of(["arm", "cold start", "seed", "held-out before", "after", "steps"], rows)


TRIAL = re.compile(r"(.+?) ((?:p\d+ )?m\d+ lr\S+)")


def trials_table(curves: list[Curve]) -> str:
    """Runs of the tuning tables, arm after arm, the best trial first.

    Columns: mean accuracy in each world until the sampled tokens that every run there has spent;
    their mean. A trial's arm is named "ARM mMINIBATCH lrRATE" or "ARM pPROMPTS mMINIBATCH lrRATE".

    Raises: ValueError for other arms.
    """
    first = next(iter(AXES))
    worlds = list(dict.fromkeys(c.world for c in curves))
    budgets = {w: budget_of([c for c in curves if c.world == w], first) for w in worlds}
    trials: dict[tuple, dict] = {}
    for c in curves:
        levels = trials.setdefault((c.table, c.arm), {world: [] for world in worlds})
        levels[c.world].append(c.mean(first, budgets[c.world]))
    rows = []
    for (table, trial), levels in trials.items():
        if all(levels.values()):
            means = [sum(x) / len(x) for x in levels.values()]
            match = TRIAL.fullmatch(trial)
            if not match:
                raise ValueError(f"{table} has arms that are no trials: {trial}")
            arm, settings = match.groups()
            rows.append((arm, -sum(means) / len(means), table, settings, means))
    cells = [
        [arm, table, settings, *(f"{x:.3f}" for x in (*means, -level))]
        for arm, level, table, settings, means in sorted(rows)
    ]
    return table_of(["arm", "table", "trial", *worlds, "mean"], cells)
