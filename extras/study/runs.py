"""Makes the runs of a table of the study, those that are missing, several side by side.

1. missing      the runs of a table that its file does not hold yet
2. cold_start   a world and its cold-started model, made once for all arms
3. one_run      `python train.py` in a process of its own; goes on if it was cut
4. make         all of them; each adds a line to the file when it is complete

The model is the bundled world's, or SmolLM2-135M in the worlds of LANGUAGE.
"""

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from extras.study.arms import COMMON, CURVES, LANGUAGE, RUNS, WORLD_SETTINGS, Table
from extras.study.curves import Curve, load, read_run, row_of
from extras.world.prepare import WORLDS, made_as, prepare

ROOT = Path(__file__).parents[2]
# cold starts are made side by side; folders of the language model are written by one
ONE_AT_A_TIME = threading.Lock()


def missing(table: Table) -> list[tuple]:
    """(table, world, cold, arm, seed) of the runs still to be made, whole comparisons first.

    One seed of all arms comes before the next seed, so that a study that is cut is a fair one.
    """
    have = {curve.key for curve in load(CURVES)}
    keys = [
        (table.name, world, cold, arm, seed)
        for seed in table.seeds
        for cold in table.colds
        for world in table.worlds
        for arm in table.arms
    ]
    return [key for key in keys if key not in have]


def flags_of(settings: dict) -> list[str]:
    """The laptop run's flags with these settings."""
    words = [
        text
        for name, value in settings.items()
        for text in (f"--{name}", *(map(str, value) if isinstance(value, tuple) else [str(value)]))
    ]
    return ["--config", "configs/laptop.json", *words]


def train(settings: dict, out: Path) -> None:
    """`python train.py` with these settings; RuntimeError with the end of what it said."""
    command = [sys.executable, "train.py", *flags_of(settings), "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")


def common(world: str) -> dict:
    """The settings of all runs in a world."""
    return COMMON | WORLD_SETTINGS.get(world, {})


def files_of(world: str, cold: int) -> dict[str, Path]:
    """Questions and documents of a world, as settings."""
    folder = WORLDS / f"{world}-{cold}"
    names = {"data": "train", "eval_data": "test", "corpus": "corpus"}
    return {setting: folder / f"{name}.jsonl" for setting, name in names.items()}


def untrained(world: str, cold: int) -> dict:
    """What a cold start is made from; train.py makes the world itself unless it is in LANGUAGE."""
    if world not in LANGUAGE:
        return {"world": world}
    # imports torch, which tables and pictures do without
    from extras.bench.runs import smollm2_folder

    folder = WORLDS / f"{world}-{cold}"
    with ONE_AT_A_TIME:
        if made_as(folder) != (LANGUAGE[world], cold):
            prepare(LANGUAGE[world], cold, folder)
        model = smollm2_folder(RUNS / "smollm2-135m")
    return files_of(world, cold) | {"model": model, "cold_start": folder / "traces.jsonl"}


def cold_start(world: str, cold: int) -> Path:
    """The checkpoint of a cold-started model; its world lies in data/world."""
    out = RUNS / "cold" / f"{world}-{cold}"
    if not (out / "step_000000" / "manifest.json").is_file():
        train(common(world) | untrained(world, cold) | {"seed": cold, "steps": 0}, out)
    return out / "step_000000"


def from_cold(world: str, cold: int) -> dict:
    """The settings of all runs from a cold start, which is made if it is not there."""
    return common(world) | {"model": cold_start(world, cold)} | files_of(world, cold)


def one_run(key: tuple, table: Table) -> Curve:
    """A run from a cold start that is there."""
    _, world, cold, arm, seed = key
    out = folder_of(key)
    length = {"max_sampled": table.budget, "steps": 100_000, "save_every": 20}
    train(from_cold(world, cold) | {"seed": seed} | length | table.settings(world, arm), out)
    return read_run(out, key)


def folder_of(key: tuple) -> Path:
    """Where a run is made."""
    table, world, cold, arm, seed = key
    return RUNS / table / f"{world}-{cold}-{arm}-{seed}"


def make(table: Table, workers: int) -> None:
    """All runs that are missing. What fails is named at the end; the others go on."""
    keys, failed = missing(table), []
    CURVES.parent.mkdir(parents=True, exist_ok=True)
    pool = ThreadPoolExecutor(workers)
    try:
        starts = [key[1:3] for key in keys]
        have = [x for x, _ in ended(pool, lambda x: cold_start(*x), starts, "cold starts", failed)]
        keys = [key for key in keys if key[1:3] in have]
        rows = ended(pool, lambda key: row_of(one_run(key, table)), keys, table.name, failed)
        for key, row in rows:
            with open(CURVES, "a") as file:
                file.write(row)
            # its curve is kept: an interrupt before loses nothing
            shutil.rmtree(folder_of(key), ignore_errors=True)
    finally:
        # on Ctrl-C those that have not begun are left for the next time
        pool.shutdown(cancel_futures=True)
    if failed:
        raise SystemExit("\n".join([f"{len(failed)} failed:", *failed]))


def ended(pool: ThreadPoolExecutor, work, keys: list[tuple], what: str, failed: list[str]):
    """(key, work(key)) as they end, side by side; those that raise are added to `failed`."""
    jobs = {pool.submit(work, key): key for key in dict.fromkeys(keys)}
    for job in tqdm(as_completed(jobs), total=len(jobs), desc=what):
        try:
            yield jobs[job], job.result()
        except (RuntimeError, ValueError) as problem:
            failed.append(f"{what}, {jobs[job]}: {problem}")
