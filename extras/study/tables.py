"""The study's curves as tables in Markdown.

1. budget_of    the largest budget that every run of a world has spent, per axis
2. measured     an arm's runs in a world -> cold start -> seed -> one number
3. world_table  a row per arm: mean of the curve at equal budgets, held-out accuracy at the end
"""

from functools import partial

from extras.study.curves import AXES, Curve
from extras.study.intervals import Runs, interval, paired


def budget_of(curves: list[Curve], axis: str) -> float:
    """What every run has spent at least."""
    return min(curve.spent[axis][-1] for curve in curves)


def measured(curves: list[Curve], number) -> Runs:
    """number(curve) of each run, by cold start and seed."""
    runs: Runs = {}
    for curve in curves:
        runs.setdefault(curve.cold, {})[curve.seed] = number(curve)
    return runs


def shown(mean: float, low: float, high: float) -> str:
    """.534 (.512 to .556); differences keep their sign."""
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def world_table(curves: list[Curve], baseline: str) -> str:
    """The table of one world; arms in the order of their mean at equal sampled tokens.

    Columns: runs, mean of the curve at equal budget of each axis, the difference to the baseline
    at equal sampled tokens (paired), held-out accuracy after the last step.
    """
    arms = {c.arm: [x for x in curves if x.arm == c.arm] for c in curves}
    budgets = {axis: budget_of(curves, axis) for axis in AXES}
    means = {
        axis: {
            arm: measured(own, partial(Curve.mean, axis=axis, budget=budget))
            for arm, own in arms.items()
        }
        for axis, budget in budgets.items()
    }
    first = next(iter(AXES))
    order = sorted(arms, key=lambda arm: -interval(means[first][arm])[0])
    heads = [f"{budget:,.0f} {axis}" for axis, budget in budgets.items()]
    lines = [
        "| arm | runs | " + " | ".join(heads) + f" | against {baseline} | held-out at the end |",
        "|---" * (len(heads) + 4) + "|",
    ]
    for arm in order:
        cells = [arm, str(len(arms[arm]))]
        cells += [shown(*interval(means[axis][arm])) for axis in AXES]
        base = means[first].get(baseline)
        cells.append("" if not base or arm == baseline else shown(*paired(means[first][arm], base)))
        cells.append(shown(*interval(measured(arms[arm], lambda c: c.after))))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
