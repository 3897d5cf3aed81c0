"""How the figures are taken: the machine, a figure with its spread, two things run in turn."""
import os
import platform
import statistics
import time

from appo import versions


def machine() -> str:
    """What the figures were measured on."""
    names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")] if os.path.exists("/proc/cpuinfo") else []
    what = names[0] if names else platform.processor() or platform.machine()
    return f"{what}, {os.cpu_count()} cores, " + ", ".join(f"{name} {version}" for name, version in versions().items())


def figure(values: list[float], unit: str) -> dict:
    """Mean and range of repeated measurements."""
    return {"value": statistics.mean(values), "low": min(values), "high": max(values), "n": len(values), "unit": unit}


def ratio(pairs: list[tuple[float, float]]) -> dict:
    """Median and range of a / b over pairs (a, b) measured in turn: > 1 where b is the faster one."""
    ratios = [a / b for a, b in pairs]
    return {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "n": len(ratios), "unit": "x"}


def in_turn(*things, times: int = 5) -> list[tuple[float, ...]]:
    """Seconds of each of the things (functions without arguments), run in turn `times` times in this process after one run of each that does not count."""
    for thing in things:
        thing()
    return [tuple(seconds(thing) for thing in things) for _ in range(times)]


def seconds(thing) -> float:
    started = time.perf_counter()
    thing()
    return time.perf_counter() - started
