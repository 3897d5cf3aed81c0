"""The pilot study's statistics.

1. spread_of     p (1 - p) of a token's branches, without bias
2. pass_at       at least one right of k branches, without bias
3. spearman      rank correlation; partial: with what both owe to a third number taken out
4. quantile_bins which tenth a number belongs to
5. interval      95% by bootstrap over prompts: tokens of one prompt are not independent
"""

import math
import random
from collections.abc import Callable, Sequence

import numpy as np

DRAWS = 2000


def spread_of(right: int, n: int) -> float:
    """K / (K - 1) p (1 - p), p = right / K: its expectation is the true p (1 - p). n: K >= 2."""
    return right * (n - right) / (n * (n - 1))


def pass_at(k: int, right: int, n: int) -> float:
    """1 - C(n - right, k) / C(n, k): the chance that k of n branches hold a right one. k <= n."""
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def ranks(x: Sequence[float]) -> np.ndarray:
    """1 for the smallest; equal numbers share their mean rank."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Correlation of ranks; 0 if one of them does not vary."""
    a, b = (r - r.mean() for r in (ranks(x), ranks(y)))
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm else 0.0


def partial_spearman(x: Sequence[float], y: Sequence[float], z: Sequence[float]) -> float:
    """Rank correlation of x and y at equal z: (xy - xz yz) / sqrt((1 - xz^2) (1 - yz^2))."""
    xy, xz, yz = spearman(x, y), spearman(x, z), spearman(y, z)
    rest = (1 - xz * xz) * (1 - yz * yz)
    return (xy - xz * yz) / math.sqrt(rest) if rest > 1e-12 else 0.0


def quantile_bins(x: Sequence[float], bins: int) -> list[int]:
    """The bin of each number, 0 for the smallest; bins are equal in size, ties by their order."""
    order = sorted(range(len(x)), key=lambda i: (x[i], i))
    out = [0] * len(x)
    for place, i in enumerate(order):
        out[i] = place * bins // len(x)
    return out


def interval(
    by_prompt: Sequence[list], statistic: Callable[[list], float], draws: int = DRAWS
) -> tuple[float, float, float]:
    """(value, low, high) of a statistic of all rows; prompts are drawn with replacement.

    by_prompt: the rows of each prompt. A draw that leaves nothing to measure (ValueError or
    ZeroDivisionError) is drawn again.
    """
    rng, values = random.Random("pilot"), []
    for _ in range(20 * draws):
        drawn = rng.choices(by_prompt, k=len(by_prompt))
        try:
            values.append(statistic([row for rows in drawn for row in rows]))
        except (ValueError, ZeroDivisionError):
            continue
        if len(values) == draws:
            break
    values.sort()
    value = statistic([row for rows in by_prompt for row in rows])
    return value, values[int(0.025 * len(values))], values[int(0.975 * len(values)) - 1]
