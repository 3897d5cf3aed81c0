"""Figures of speed and memory, with the machine they were measured on: `python -m extras.bench`.

    (no part)                         every part below that needs no data, one after another
    python, search                    the Python jail; a million generated documents
    decode, forks, turns, occupancy   sampling: tokens a second, branches, tool turns, running rows
    anatomy                           where the time of a decode step goes
    logprob, scaling                  log-probs of a large vocabulary; a step's time as it grows
    trl, vllm                         against TRL's GRPOTrainer and vLLM, where they are installed
    ranks, resume                     two processes against one; seconds until a run goes on
    gpu                               one GPU, the real model's shape with random weights
    laptop --seeds 241 242 243        the laptop run, cold start included, once per seed
    smollm2 --data F --corpus C       three steps of SmolLM2-135M-Instruct on real questions
    eval --data F1 F2 --corpus C      SmolLM2-135M-Instruct, untrained, on files of questions

A ratio is of two things run in turn in one process, median and range. --json FILE adds what was
printed: {name: {"ratio" or "value", "low", "high", "n", "unit"}}. --light: small sizes, seconds,
for the tests. A figure that does not keep the bound in its name makes the bench fail at its end.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import transformers

from extras.bench import (
    decode,
    forks,
    gpu,
    jail,
    logprob,
    occupancy,
    peers,
    ranks,
    resume,
    runs,
    scaling,
    search,
    turns,
)
from extras.bench.measure import machine
from extras.plan import Hardware

# what runs when no part is named; vLLM last, for it changes its process
SPEED = {
    "python": jail.python_tool,
    "search": search.search_tool,
    "decode": decode.decode,
    "anatomy": decode.anatomy,
    "forks": forks.forks,
    "turns": turns.turns,
    "occupancy": occupancy.occupancy,
    "logprob": logprob.logprob,
    "scaling": scaling.scaling,
    "ranks": ranks.ranks,
    "resume": resume.resume,
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
    """Run the parts, print and store their figures."""
    args = read_flags(argv)
    transformers.utils.logging.disable_progress_bar()
    figures, args.failed = {}, []
    if args.json and os.path.exists(args.json):
        # those of other parts stay
        figures = json.loads(Path(args.json).read_text())
    print(machine(), flush=True)
    for what in args.what or SPEED:
        parts = PARTS[what](args)
        # gpu and vllm yield one after another
        for part in [parts] if isinstance(parts, dict) else parts:
            show(part)
            figures |= part
            # after each part: nothing that was measured is lost
            if args.json:
                # whoever ends this process finds a whole file
                Path(f"{args.json}.tmp").write_text(json.dumps(figures, indent=1))
                os.replace(f"{args.json}.tmp", args.json)
    if args.failed:
        sys.exit("bench: FAILED: " + "; ".join(args.failed))


def read_flags(argv: list[str]) -> argparse.Namespace:
    """The flags; unknown ones are in .flags, for train.py and eval.py."""
    parser = argparse.ArgumentParser(
        prog="python -m extras.bench",
        description="Figures of speed and memory. Unknown flags go to train.py or eval.py.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "what",
        nargs="*",
        choices=[*PARTS, []],
        metavar="part",
        help=f"{', '.join(PARTS)} (default {' '.join(SPEED)})",
    )
    add = parser.add_argument
    add("--light", action="store_true", help="small sizes, for the tests")
    add("--json", help="file for the figures")
    add("--out", default="runs/bench", help="folder for the runs (default runs/bench)")
    add("--only", nargs="+", choices=gpu.CHECKS, metavar="CHECK", help="gpu: these of its checks")
    add(
        "--gpu_bandwidth",
        type=float,
        default=Hardware.gpu_bandwidth,
        help="gpu: memory bandwidth, GB/s (default %(default)g, an H100 SXM)",
    )
    add(
        "--seeds",
        type=int,
        nargs="+",
        default=[241, 242, 243],
        help="laptop: world and training seeds (default 241 242 243)",
    )
    add("--processes", type=int, default=1, help="laptop: by torchrun if more than 1 (default 1)")
    add("--data", nargs="+", help="smollm2, eval: questions, .jsonl or .parquet")
    add("--corpus", help="smollm2, eval: what search searches")
    args, args.flags = parser.parse_known_args(argv)
    if {"smollm2", "eval"} & set(args.what) and not (args.data and args.corpus):
        parser.error(f"{' '.join(args.what)} needs --data and --corpus")
    return args


def show(figures: dict) -> None:
    """Print a part's figures, a line each: value or ratio, unit, range."""
    for name, f in figures.items():
        spread = f"  ({f['low']:.4g} .. {f['high']:.4g}, n = {f['n']})" if f["n"] > 1 else ""
        print(f"{name:64s} {f.get('ratio', f.get('value')):12.5g} {f['unit']}{spread}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
