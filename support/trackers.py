"""--log: the numbers of metrics.jsonl go to TensorBoard, Weights & Biases or Trackio as well.

1. missing_trackers   what is unknown or not installed, said before torch is imported
2. open_trackers      one of each that --log names; a run that goes on keeps its curves
3. log, close         of each: the numbers of a step; no more come

Every package is imported only when it is asked for. Without a network: WANDB_MODE=offline;
TensorBoard and Trackio write to this machine anyway.
"""

import uuid
from importlib.util import find_spec
from pathlib import Path

from config import Config
from support.runfiles import shown_settings

# of Weights & Biases and Trackio
PROJECT = "appo"


class TensorBoard:
    """Curves in the folder tensorboard of the run. done: later steps are drawn anew."""

    def __init__(self, run: Config, done: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(Path(run.out) / "tensorboard"), purge_step=done + 1)

    def log(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases; its id stays in the run's folder."""

    def __init__(self, run: Config, done: int):
        import wandb

        file = Path(run.out) / "wandb_id"
        if not file.exists():
            file.write_text(uuid.uuid4().hex)
        name, settings = Path(run.out).name, shown_settings(run)
        which = dict(project=PROJECT, name=name, id=file.read_text(), resume="allow")
        # no summary of all numbers at the end
        quiet = wandb.Settings(quiet=True)
        self.run = wandb.init(dir=run.out, config=settings, settings=quiet, **which)

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self.run.log(numbers, step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of Trackio, named as the run's folder."""

    def __init__(self, run: Config, done: int):
        import trackio

        settings, name = shown_settings(run), Path(run.out).name
        self.run = trackio.init(project=PROJECT, name=name, config=settings, resume="allow")

    def log(self, step: int, numbers: dict[str, float]) -> None:
        # a name of its own there
        own = {name: value for name, value in numbers.items() if name != "step"}
        self.run.log(own, step=step)

    def close(self) -> None:
        self.run.finish()


TRACKERS = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}


def named_trackers(names: str) -> list[str]:
    """What --log names, each once."""
    return list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))


def missing_trackers(run) -> list[str]:
    """A line for each tracker that is unknown or not installed."""
    known, lines = ", ".join(TRACKERS), []
    for name in named_trackers(run.log):
        if name not in TRACKERS:
            lines.append(f"--log: unknown {name!r}, not one of {known}")
        elif not is_installed(name):
            lines.append(f"--log {name} needs a package: pip install {name}")
    return lines


def is_installed(package: str) -> bool:
    """Is there such a package? A mere folder of its name, such as the logs of W&B, is none."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def open_trackers(run: Config, done: int) -> list:
    """The trackers that --log names. done: steps so far."""
    return [TRACKERS[name](run, done) for name in named_trackers(run.log)]
