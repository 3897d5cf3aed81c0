"""The study's curves as tables in Markdown.

1. budget_of    the largest budget that every run of a world has spent, per axis
2. measured     an arm's runs in a world -> cold start -> seed -> one number
3. world_table  a row per arm: mean of the curve at equal budgets, held-out accuracy at the end
4. calls_table  a row per arm: tool calls per right answer along training, and until an accuracy
"""

import math
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
    """.534 (.512 to .556); differences keep their sign. One run has no interval."""
    return f"{mean:.3f}" if low == high else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def world_table(curves: list[Curve], baseline: str) -> str:
    """The table of one world; arms in the order of their mean at equal sampled tokens.

    Columns: runs, mean of the curve at equal budget of each axis, the difference to the baseline
    at equal sampled tokens (paired), held-out accuracy after the last step, steps and updates made.
    """
    arms = {c.arm: [x for x in curves if x.arm == c.arm] for c in curves}
    budgets = {axis: budget_of(curves, axis) for axis in curves[0].spent}
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
        "| arm | runs | "
        + " | ".join(heads)
        + f" | against {baseline} | held-out at the end | steps | updates |",
        "|---" * (len(heads) + 6) + "|",
    ]
    for arm in order:
        cells = [arm, str(len(arms[arm]))]
        cells += [shown(*interval(means[axis][arm])) for axis in budgets]
        base = means[first].get(baseline)
        cells.append("" if not base or arm == baseline else shown(*paired(means[first][arm], base)))
        cells.append(shown(*interval(measured(arms[arm], lambda c: c.after))))
        steps, updates = (
            interval(measured(arms[arm], number))[0]
            for number in (lambda c: len(c.accuracy), lambda c: c.spent["optimizer steps"][-1])
        )
        cells += [f"{steps:,.0f}", f"{updates:,.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


# shares of the budget that calls are counted in; the accuracy that calls are counted up to
SHARES, REACHED = 4, 0.8


def calls_table(curves: list[Curve]) -> str:
    """Tool calls of one world, arms in the order given.

    Columns: calls of initial rollouts per right one, in each quarter of the sampled tokens; calls
    of the whole training, branches too, until three steps in a row reach REACHED on average, if all
    runs of the arm do.
    """
    first = next(iter(AXES))
    budget = budget_of(curves, first)
    edges = [budget * k / SHARES for k in range(SHARES + 1)]
    heads = [f"calls per right answer, quarter {k + 1}" for k in range(SHARES)]
    lines = [
        "| arm | runs | " + " | ".join(heads) + f" | calls made until {REACHED} |",
        "|---" * (len(heads) + 3) + "|",
    ]
    for arm in dict.fromkeys(c.arm for c in curves):
        own = [c for c in curves if c.arm == arm]
        cells = [arm, str(len(own))]
        for low, high in zip(edges[:-1], edges[1:]):
            per_right = measured(own, partial(calls_per_right, axis=first, start=low, end=high))
            cells.append(shown(*interval(per_right)))
        made = measured(own, lambda c: c.reached("tool calls", REACHED))
        all_did = all(x is not None for seeds in made.values() for x in seeds.values())
        cells.append("{:,.0f} ({:,.0f} to {:,.0f})".format(*interval(made)) if all_did else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def calls_per_right(curve: Curve, axis: str, start: float, end: float) -> float:
    """Mean calls of an initial rollout over the share of them that is right; inf if none is."""
    right = curve.mean(axis, end, start)
    return curve.mean(axis, end, start, of="calls") / right if right else math.inf
