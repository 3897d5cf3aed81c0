"""The files of a run's folder. Imports no torch.

config.json, events.jsonl       settings, and what changed: config_file.py
metrics.jsonl, rollouts.jsonl   a line per step, a row per rollout: `Log`
step_000100/, latest            checkpoints, see checkpoints.py: `newest`, `prune`
lock                            the process that writes to the folder: `locked`
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from config import Config
from support.files import lock_file, lost_folder, write_aside
from support.http import split_url


def versions() -> dict[str, str]:
    """What a result depends on besides its settings."""
    packages = {name: metadata.version(name) for name in ("torch", "transformers")}
    return {"python": platform.python_version()} | packages


def missing_inputs(c) -> list[str]:
    """What is wrong with the files that settings name, a line each. No data is read."""
    out, problems = Path(str(c.out)), unpaired(c)
    if lost_folder(str(c.model)):
        problems.append(f"--model {c.model}: there is no such folder")
    if out.exists() and not out.is_dir():
        problems.append(f"--out {out} is a file: give a folder")
    # a run that has begun needs no examples
    for name in ("data", "eval_data") + ("cold_start",) * (newest(out) is None):
        file = Path(str(getattr(c, name)))
        if getattr(c, name) and not file.is_file():
            state = "is not a file" if file.exists() else "does not exist"
            problems.append(f"--{name} {file} {state}")
    return problems


def unpaired(c) -> list[str]:
    """A line if only one of model and data is given."""
    if bool(c.model) == bool(c.data):
        return []
    given, missing = ("--model", "--data") if c.model else ("--data", "--model")
    why = "without both, the bundled world is used"
    return [f"{given} was given without {missing}; {why}"]


@contextmanager
def locked(folder: Path, ranks) -> Iterator[None]:
    """Rank 0 holds the folder of a run: two runs in one would write over each other.

    Raises: ValueError, on all ranks, if another run holds it or it cannot be written.
    """
    with contextlib.ExitStack() as opened:
        ranks.agree(lambda: opened.enter_context(_hold(folder)), ranks.rank == 0)
        yield


@contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """The lock of a folder, which names its holder."""
    file = folder / "lock"
    with contextlib.ExitStack() as opened:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # before the attempt: some versions of filelock empty the file in it
            holder = file.read_text() if file.exists() else ""
            refusal = (
                f"another run (process {holder or 'unknown'}) is writing to {folder}: give another "
                "--out, or end that one"
            )
            opened.enter_context(lock_file(file, refusal))
            file.write_text(str(os.getpid()))
        except OSError as failed:
            raise ValueError(f"--out {folder} cannot be written: {failed}") from None
        yield


def shown_settings(settings) -> dict:
    """Settings as files may hold them: of a URL scheme, host, port and path, never a password."""
    return {
        name: split_url(value)[0] if str(value).startswith(("http://", "https://")) else value
        for name, value in (vars(settings) | _places(settings)).items()
    }


def _places(settings) -> dict[str, str]:
    """A reward and tools of one's own with whole paths: they are found from any folder."""
    places = {"reward_fn": settings.reward_fn, "tools": settings.tools}
    return {name: ",".join(map(_whole, value.split(","))) for name, value in places.items()}


def _whole(place: str) -> str:
    """FILE.py:NAME with the file's whole path; anything else as it is."""
    file, colon, name = place.strip().rpartition(":")
    return f"{Path(file).resolve()}:{name}" if colon and file.endswith(".py") else place


def end_now(message: str) -> None:
    """End the process with a message. Threads that hang in a tool or a reward are left."""
    print(message, file=sys.stderr, flush=True)
    os._exit(1)


def sha256(path: str) -> str:
    """Of a file's bytes, however large it is."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Log:
    """Files NAME.jsonl of a run, flushed line by line.

    On resume the lines of steps not yet done, and a line cut short by a kill, are dropped.
    latest: the newest number of each name in metrics.jsonl. trackers: get these numbers too.
    """

    def __init__(self, out: str, done: int, names: tuple[str, ...] = ("metrics", "rollouts")):
        self.files = {}
        self.warned: set[str] = set()
        self.latest: dict = {}
        self.trackers: list = []
        for name in names:
            path = Path(out) / f"{name}.jsonl"
            if path.exists():
                with open(path) as lines:
                    kept = "".join(line for line in lines if _step_of(line) <= done)
                write_aside(path, kept)
                for line in kept.splitlines() if name == "metrics" else ():
                    self.latest |= json.loads(line)
            self.files[name] = open(path, "a", buffering=1)

    def write(self, name: str, row: dict) -> None:
        self.files[name].write(json.dumps(row) + "\n")
        if name == "metrics":
            self.latest |= row
            numbers = {key: x for key, x in row.items() if isinstance(x, (int, float))}
            for tracker in self.trackers:
                tracker.log(row["step"], numbers)

    def close(self) -> None:
        """No more lines come."""
        for part in (*self.files.values(), *self.trackers):
            part.close()


def _step_of(line: str) -> float:
    """The step of a log's line; infinity if a kill cut it short."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")


def evaluated_steps(out: str) -> set[int]:
    """The steps after which a run was evaluated."""
    with open(Path(out) / "metrics.jsonl") as lines:
        return {row["step"] for row in map(json.loads, lines) if "eval_greedy" in row}


def complete(folder: Path) -> bool:
    """Is every file of a checkpoint's manifest there, at its full length?"""
    try:
        sizes = json.loads((folder / "manifest.json").read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def newest(out: str | Path, kind: str = "step") -> Path | None:
    """The newest complete checkpoint of a run, if any. kind: "step" or, in a cold start, "cold"."""
    folders = sorted(Path(out).glob(f"{kind}_??????"), reverse=True)
    return next(filter(complete, folders), None)


def step_folder(out: str | Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return Path(out) / f"step_{step:06d}"


def step_in(folder: Path | None) -> int:
    """How many steps were done when a checkpoint was saved."""
    return int(folder.name.rpartition("_")[2]) if folder else 0


def prune(out: str | Path, keep: int, spare: str = "", kind: str = "step") -> None:
    """Delete complete checkpoints but the `keep` newest (0: none is) and the one named `spare`."""
    folders = [f for f in sorted(Path(out).glob(f"{kind}_??????")) if complete(f)]
    for folder in folders[:-keep] if keep else []:
        if folder.name != spare:
            shutil.rmtree(folder, ignore_errors=True)


def forget_cold_start(out: str | Path) -> None:
    """Delete what a finished cold start has left."""
    for left in Path(out).glob("cold_??????*"):
        shutil.rmtree(left, ignore_errors=True)


def tidy(run: Config, begun: bool) -> None:
    """Delete what a kill has left: half-written checkpoints, those of a finished cold start, those
    that --keep_checkpoints no longer wants."""
    for kind in ("step", "cold"):
        for left in Path(run.out).glob(f"{kind}_??????.tmp"):
            shutil.rmtree(left, ignore_errors=True)
    if begun:
        forget_cold_start(run.out)
        prune_steps(run)


def prune_steps(run: Config) -> None:
    """Delete older checkpoints as --keep_checkpoints says, but not the reference of the KL term."""
    prune(run.out, run.keep_checkpoints, spare="step_000000" if run.kl_coef else "")
