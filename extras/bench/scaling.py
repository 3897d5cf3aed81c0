"""Scaling: seconds and memory of a whole step as rollouts, branches and length grow."""

import ctypes
import os
import statistics
from pathlib import Path

from appo import Prompt, step
from config import Config
from extras.bench import models
from extras.bench.measure import figure, in_turn, repeats
from extras.bench.peers import reward_of
from support.metrics import Meter
from support.optimizers import adamw

MIB = 2**20
BASE = dict(prompts=2, initial=4, branches=3, max_tokens=64, rows=16)
LONG = dict(prompts=1, initial=2, branches=1, rows=8)
# what grows -> its sizes, and the rest of the step
GROWTH = {
    "initial": ((4, 8, 16), BASE),
    "branches": ((1, 3, 6), BASE),
    "max_tokens": ((512, 2048, 8192), LONG),
}
LIGHT_BASE = dict(prompts=2, initial=2, branches=1, max_tokens=12, rows=8)
LIGHT_GROWTH = {
    "initial": ((1, 2, 3), LIGHT_BASE),
    "branches": ((1, 2, 3), LIGHT_BASE),
    "max_tokens": ((12, 16, 20), LIGHT_BASE),
}


def scaling(args) -> dict:
    """A step of a 2 M Llama, one size at a time, against the step's unique tokens.

    Memory is what becomes resident beyond weights and optimizer, where that can be measured.
    """
    policy, figures = models.endless_policy(models.tiny_folder(args)), {}
    for axis, (values, base) in (LIGHT_GROWTH if args.light else GROWTH).items():
        steps = [OneStep(policy, **base | {axis: value}) for value in values]
        times = list(zip(*in_turn(*steps, times=repeats(args))))
        for value, one, taken in zip(values, steps, times):
            title = f"scaling: {axis} = {value}, {one.unique:,} unique tokens"
            figures |= {
                f"{title}, step": figure(taken, "s"),
                f"{title}, per 1,000 unique tokens": figure(
                    [1000 * seconds / one.unique for seconds in taken], "s"
                ),
            }
            if watches_memory():
                figures[f"{title}, memory"] = figure([most_resident(one) / MIB], "MiB")
        off = off_line([one.unique for one in steps], [statistics.median(t) for t in times])
        name = f"scaling: {axis}, largest distance from a straight line"
        figures[name] = figure([off], "of the step")
    return figures


class OneStep:
    """A whole step on prompts of 16 tokens; every rollout takes its budget.

    unique: tokens of its trees, known after it was called.
    """

    def __init__(self, policy, rows: int, prompts: int, **sizes):
        self.policy, self.rows = policy, rows
        self.config = Config(prompts=prompts, minibatch=prompts, **sizes)
        ids = (models.random_ids(policy, k, 16) for k in range(prompts))
        self.prompts = [Prompt(x, k, reward_of) for k, x in enumerate(ids)]
        self.optimizer = adamw(policy.model.parameters(), lr=1e-6, weight_decay=0.01)

    def __call__(self) -> None:
        """The step."""
        sampler = models.make_sampler(self.policy, self.rows, self.config.max_tokens)
        meter = Meter(sampler)
        rollouts = step(self.policy, self.optimizer, sampler, self.prompts, self.config, meter)
        self.unique = meter.numbers(rollouts, self.policy.ranks)["tokens_unique"]


def watches_memory() -> bool:
    """Whether most_resident can be measured: on Linux with glibc."""
    linux = os.access("/proc/self/clear_refs", os.W_OK)
    return linux and hasattr(ctypes.CDLL(None), "malloc_trim")


def most_resident(work) -> int:
    """Most bytes of memory that `work` took beyond what the process had before, as Linux says.

    A record of every allocation, as models.most_allocated keeps it, does not fit for long runs.
    """
    ctypes.CDLL(None).malloc_trim(0)
    # the largest so far becomes that of now
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def resident(what: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


def off_line(x: list[float], y: list[float]) -> float:
    """Largest distance of a point from the least-squares line, as a share of the point."""
    slope, intercept = statistics.linear_regression(x, y)
    return max(abs(slope * a + intercept - b) / b for a, b in zip(x, y))
