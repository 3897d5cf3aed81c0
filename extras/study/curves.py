"""Learning curves of the study's runs: read from a run's log, kept as one line of a file.

    1. read_run      metrics.jsonl of a run -> Curve
    2. Curve.mean    mean accuracy of training until a budget is spent, on one of the AXES
    3. load, row_of  a line of JSON per run

A point is one training step: the accuracy of its initial rollouts, under the policy before its
updates, and what had been spent by then.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

# what a budget may be counted in -> its number in a step's line of metrics.jsonl
AXES = {
    "sampled tokens": "tokens_sampled",
    "trained tokens": "tokens_trained",
    "tool calls": "calls_made",
    "updates": "optimizer_steps",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Curve:
    """A run of the study.

    table, world, arm: names. cold: seed of world and cold start. seed: of the run.
    accuracy, calls: (S,), one number a step; calls: mean tool calls of an initial rollout.
    spent: axis -> (S + 1,), before each step and at the end.
    before, after: held-out accuracy, sampled at the temperature of training. errors: the standard
    errors of both, over questions; [] in older rows.
    """

    table: str
    world: str
    cold: int
    arm: str
    seed: int
    accuracy: list[float]
    calls: list[float]
    spent: dict[str, list[float]]
    before: float
    after: float
    errors: list[float] = field(default_factory=list)

    @property
    def key(self) -> tuple:
        """What tells the runs of the study apart."""
        return self.table, self.world, self.cold, self.arm, self.seed

    def mean(self, axis: str, budget: float, start: float = 0.0, of: str = "accuracy") -> float:
        """Mean of a number while the spending goes from `start` to `budget`: each step weighs by
        what it spends of that.

        Raises: ValueError if the run ended before.
        """
        edges = self.spent[axis]
        if edges[-1] < budget:
            raise ValueError(f"{self.key} spent {edges[-1]:g} {axis}, less than {budget:g}")
        total = 0.0
        for number, low, high in zip(getattr(self, of), edges[:-1], edges[1:], strict=True):
            total += number * (max(start, min(high, budget)) - max(start, min(low, budget)))
        return total / (budget - start)

    def reached(self, axis: str, accuracy: float, window: float = 15_000) -> float | None:
        """What was spent when the mean over a window of sampled tokens first reached an accuracy.

        None: never. The last step of the window is not counted: its policy was there before it.
        """
        tokens = self.spent["sampled tokens"]
        for end in range(1, len(tokens)):
            start = tokens[end] - window
            if start >= 0 and self.mean("sampled tokens", tokens[end], start) >= accuracy:
                return self.spent[axis][end - 1]
        return None


def read_run(folder: Path, key: tuple) -> Curve:
    """The curve of a complete run. ValueError if it has no evaluation after its last step."""
    lines = [json.loads(line) for line in open(folder / "metrics.jsonl")]
    steps = [line for line in lines if "tokens_sampled" in line]
    held_out = {line["step"]: line for line in lines if "eval_greedy" in line}
    last = steps[-1]["step"] if steps else 0
    if not steps or last not in held_out:
        raise ValueError(f"{folder} is not complete: no evaluation after its last step, {last}")
    spent = {}
    for axis, name in AXES.items():
        edges = [0.0]
        for line in steps:
            edges.append(round(edges[-1] + line[name], 3))
        spent[axis] = edges

    name = next(name for name in held_out[last] if name.startswith("eval_avg@"))
    before, after = (held_out[step][name] for step in (0, last))
    errors = [round(held_out[step][f"{name}_se"], 5) for step in (0, last)]

    accuracy = [round(line["accuracy"], 5) for line in steps]
    calls = [round(line["calls"], 4) for line in steps]
    return Curve(*key, accuracy, calls, spent, before, after, errors)


def row_of(curve: Curve) -> str:
    """A curve as a line of JSON."""
    return json.dumps(asdict(curve)) + "\n"


def load(path: Path) -> list[Curve]:
    """The curves of a file, [] if there is none."""
    return [Curve(**json.loads(line)) for line in open(path)] if path.is_file() else []
