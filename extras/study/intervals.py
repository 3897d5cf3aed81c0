"""Means over runs and their 95% intervals, by bootstrap over cold starts and seeds.

    1. Runs       what was measured in each run of an arm: cold start -> seed -> number
    2. interval   mean, low, high: cold starts are drawn with replacement, then seeds within each
    3. paired     the same of the difference of two arms, over the runs that both have

The mean weighs cold starts alike. A fixed seed makes the bounds reproducible.
"""

import random

# cold start -> seed -> what was measured
Runs = dict[int, dict[int, float]]
DRAWS = 10_000


def mean(runs: Runs) -> float:
    """Over cold starts of the mean over their seeds."""
    own = [sum(seeds.values()) / len(seeds) for seeds in runs.values()]
    return sum(own) / len(own)


def interval(runs: Runs, draws: int = DRAWS) -> tuple[float, float, float]:
    """(mean, low, high), the 2.5% and 97.5% points of the bootstrap. ValueError without a run."""
    if not runs:
        raise ValueError("no runs to take a mean of")
    rng = random.Random("intervals")
    by_cold = [list(seeds.values()) for seeds in runs.values()]
    means = []
    for _ in range(draws):
        total = 0.0
        for values in rng.choices(by_cold, k=len(by_cold)):
            total += sum(rng.choices(values, k=len(values))) / len(values)
        means.append(total / len(by_cold))
    means.sort()
    return mean(runs), means[int(0.025 * draws)], means[int(0.975 * draws) - 1]


def paired(a: Runs, b: Runs, draws: int = DRAWS) -> tuple[float, float, float]:
    """interval of a - b over the cold starts and seeds that both have."""
    both = {
        cold: {seed: a[cold][seed] - b[cold][seed] for seed in a[cold] if seed in b[cold]}
        for cold in a
        if cold in b
    }
    return interval({cold: seeds for cold, seeds in both.items() if seeds}, draws)
