"""Occupancy: how many of the decoded rows run, over rollouts of long-tailed lengths."""

import math
import random

from extras.bench import models
from extras.bench.measure import figure


def occupancy(args) -> dict:
    """Running rows / decoded rows, ours and with static batches.

    A static batch has as many rows and runs until its longest rollout ends.
    """
    rows, count, longest = (4, 24, 24) if args.light else (32, 512, 512)
    lengths = drawn_lengths(count, longest)
    title = f"occupancy: {count} rollouts in {rows} rows"
    shares = {
        "ours": running(args, rows, longest, lengths, constant=False),
        "constant rows": running(args, rows, longest, lengths, constant=True),
        "static batches": static(rows, lengths),
    }
    figures = {f"{title}, {what}": figure([share], "share") for what, share in shares.items()}
    return figures | {f"{title}, length": figure(lengths, "tokens")}


def drawn_lengths(count: int, longest: int) -> list[int]:
    """Lengths from a log-normal distribution, tokens."""
    draw = random.Random(0)
    drawn = [longest / 8 * math.exp(draw.gauss(0, 0.8)) for _ in range(count)]
    return [min(longest, max(1, round(length))) for length in drawn]


def running(args, rows: int, longest: int, lengths: list[int], *, constant: bool) -> float:
    """The share of our sampler. A branch that leaves `length` before the end has that budget."""
    policy = models.endless_policy(models.tiny_folder(args))
    parent = models.made_up_rollouts(policy, 1, 16, longest)
    cache = models.score_and_keep(policy, parent)
    sampler = models.make_sampler(policy, rows, longest, constant_rows=constant)
    places = [longest - length for length in lengths]
    branches = sampler.branches(parent, [places], cache)
    taken = [len(r.ids) - r.fork_at for r in branches]
    assert taken == lengths, "every rollout takes its budget"
    return sampler.count["sampled"] / sampler.count["row_calls"]


def static(rows: int, lengths: list[int]) -> float:
    """The share of static batches."""
    batches = [lengths[k : k + rows] for k in range(0, len(lengths), rows)]
    return sum(lengths) / sum(rows * max(batch) for batch in batches)
