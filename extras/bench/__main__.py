"""Prints the figures that the README quotes, with the machine they were measured on.

    python -m extras.bench                           every figure of speed and memory that needs no data, part by part
    python -m extras.bench python search                    these parts only: the Python jail; a million generated documents
    python -m extras.bench decode forks turns occupancy     sampling: tokens per second, branches, rollouts with tools, share of rows that run
    python -m extras.bench anatomy                          where the time of a decode step goes
    python -m extras.bench logprob scaling                  training: log-probs of a large vocabulary; a step's time and memory as it grows
    python -m extras.bench trl vllm                         against TRL's GRPOTrainer and vLLM; each is left out where its package is not installed
    python -m extras.bench ranks resume                     two processes against one; seconds until a run goes on after a stop
    python -m extras.bench --gpu                            one GPU, the real model's shape with random weights (on a CPU: a small model, the same checks)
    python -m extras.bench laptop --seeds 101 102 103       the laptop run, cold start included, once per seed: mean and spread
    python -m extras.bench smollm2 --data F --corpus C      three APPO steps of SmolLM2-135M-Instruct on real questions: seconds per phase, tokens computed / unique
    python -m extras.bench eval --data F1 F2 --corpus C     SmolLM2-135M-Instruct, untrained, on files of questions with tools

A ratio is of two things run in turn in one process, median and range. --json FILE stores what was printed: {name: {"ratio" or "value", "low", "high", "n",
"unit"}}; --light: small sizes, seconds, for the tests. A figure with a bound in its name that does not keep it makes the bench fail, after all else has run.
"""

import argparse
import json
import sys
from pathlib import Path

import transformers

from extras.bench import (
    agent_tools,
    decode,
    distributed,
    forks,
    gpu,
    logprob,
    occupancy,
    peers,
    runs,
    scaling,
    turns,
)
from extras.bench.measure import machine
from extras.plan import Hardware

# what runs when no part is named; vLLM last, for it changes its process
SPEED = {
    "python": agent_tools.python_tool,
    "search": agent_tools.search_tool,
    "decode": decode.decode,
    "anatomy": decode.anatomy,
    "forks": forks.forks,
    "turns": turns.turns,
    "occupancy": occupancy.occupancy,
    "logprob": logprob.logprob,
    "scaling": scaling.scaling,
    "ranks": distributed.ranks,
    "resume": distributed.resume,
    "trl": peers.trl,
    "vllm": peers.vllm,
}
PARTS = SPEED | {
    "gpu": gpu.gpu,
    "laptop": runs.laptop,
    "smollm2": runs.smollm2,
    "eval": runs.evaluation,
}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m extras.bench",
        description="Print the figures that the README quotes. Unknown flags go to train.py, those of eval to eval.py.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "what",
        nargs="*",
        choices=[*PARTS, []],
        metavar="what",
        help=f"{', '.join(PARTS)} (default {' '.join(SPEED)})",
    )
    parser.add_argument("--gpu", action="store_true", help="the part gpu")
    parser.add_argument("--only", nargs="+", choices=gpu.CHECKS, help="gpu: these of its checks")
    parser.add_argument(
        "--gpu_bandwidth",
        type=float,
        default=Hardware.gpu_bandwidth,
        help="gpu: memory bandwidth, GB/s (default %(default)g, an H100 SXM)",
    )
    parser.add_argument("--light", action="store_true", help="small sizes, for the tests")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[101, 102, 103],
        help="laptop: world and training seeds (default 101 102 103)",
    )
    parser.add_argument("--data", nargs="+", help="smollm2, eval: questions, .jsonl or .parquet")
    parser.add_argument("--corpus", help="smollm2, eval: what search searches")
    parser.add_argument(
        "--out", default="runs/bench", help="folder for the runs (default runs/bench)"
    )
    parser.add_argument("--json", help="file for the figures")
    args, args.flags = parser.parse_known_args(argv)
    if {"smollm2", "eval"} & set(args.what) and not (args.data and args.corpus):
        parser.error(f"{' '.join(args.what)} needs --data and --corpus")
    transformers.utils.logging.disable_progress_bar()
    figures, args.failed = {}, []
    print(machine(), flush=True)
    for what in [*args.what, *["gpu"] * (args.gpu and "gpu" not in args.what)] or SPEED:
        parts = PARTS[what](args)
        # gpu yields one after another
        for part in [parts] if isinstance(parts, dict) else parts:
            show(part)
            figures |= part
            # after each part: nothing that was measured is lost
            if args.json:
                Path(args.json).write_text(json.dumps(figures, indent=1))
    if args.failed:
        sys.exit("bench: FAILED: " + "; ".join(args.failed))


def show(figures: dict) -> None:
    """Print a part's figures, a line each: value or ratio, unit, range."""
    for name, f in figures.items():
        spread = f"  ({f['low']:.4g} .. {f['high']:.4g}, n = {f['n']})" if f["n"] > 1 else ""
        print(f"{name:64s} {f.get('ratio', f.get('value')):12.5g} {f['unit']}{spread}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
