"""What a run will cost, before any model or data is loaded: `python -m extras.plan --config F`.

    1. work          rollouts, tokens and optimizer steps of a training step
    2. memory        bytes on one GPU by item and phase; advice if they do not fit (memory.py)
    3. seconds       FLOPs and bytes moved over what a GPU can do: a lower bound
    4. plan          all of it as tables

The sizes of the model come from its config.json or, offline, from a table of names (shape.py).
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

from config import Config, read_settings
from extras.fits import fits
from extras.memory import (
    GIB,
    PHASES,
    advice,
    bytes_of,
    forked_together,
    memory,
    peaks,
    without_checkpointing,
)
from extras.shape import Shape, decode_bytes, forward_flops, read_shape
from extras.world.prepare import with_world
from methods import ALGOS, BRANCHES_TRAINED
from support.settings import free, parser_for, problems, typed


@dataclass(frozen=True)
class Hardware:
    """What the plan is made for: flags beside those of train.py."""

    gpus: int = free(8, "GPUs of the run", 1)
    gpus_per_node: int = free(
        8, "GPUs of a node: weights are split within it and copied across nodes", 1
    )
    gpu_gib: float = free(80.0, "memory of a GPU, GiB", 0)
    gpu_bandwidth: float = free(3350.0, "memory bandwidth of a GPU, GB/s (H100 SXM 3350)", 1e-9)
    gpu_tflops: float = free(
        990.0,
        "dense matrix products of a GPU, TFLOP/s (H100 SXM: bfloat16 990, float32 67)",
        1e-9,
    )
    questions: int = free(10000, "training questions, if --data cannot be counted", 1)
    length: int = free(
        0, "mean response in the estimate of seconds, tokens; 0: the limit --max_tokens", 0
    )
    fork_depth: float = free(
        0.5, "mean share of its parent that a branch keeps, in the same estimate", 0
    )
    fits: bool = free(
        False, "instead: GPUs of 24, 48 and 80 GiB that each model known by name needs"
    )

    def __post_init__(self):
        found = problems(Hardware, vars(self), rules)
        if found:
            raise ValueError("\n".join(found))


def rules(h):
    """The broken rules between the numbers of the hardware: (their names, what is wrong)."""
    if h.fork_depth > 1:
        yield ("fork_depth",), f"--fork_depth must be in [0, 1], got {h.fork_depth}"
    if h.gpus > h.gpus_per_node and h.gpus % h.gpus_per_node:
        whole = f"--gpus must be whole nodes of --gpus_per_node {h.gpus_per_node}"
        yield ("gpus", "gpus_per_node"), f"{whole}, got {h.gpus}"


def read_flags(argv: list[str]) -> tuple[Hardware, list[str]]:
    """The flags of a plan, and those that are left for the run."""
    parser = parser_for(
        Hardware,
        prog="python -m extras.plan",
        description="What a run will cost. All flags of train.py and:",
    )
    flags, rest = parser.parse_known_args(argv)
    return Hardware(**typed(Hardware, flags)), rest


# ---- 1. work


def work(run: Config, length: int, fork_depth: float) -> dict[str, int]:
    """Rollouts, tokens and optimizer steps of one training step on all GPUs.

    Responses have `length` tokens, branches keep the share fork_depth of them.
    """
    initial = run.prompts * run.initial
    branches = initial * per_initial(run) * run.ppo_epochs
    return {
        "initial rollouts": initial,
        "branches": branches,
        "tokens sampled": initial * length + round(branches * (1 - fork_depth) * length),
        "tokens trained on": round(initial * trained(run, fork_depth) * length * run.ppo_epochs),
        "optimizer steps": run.prompts // run.minibatch * run.ppo_epochs,
    }


def count_questions(path: str) -> int | None:
    """Questions of a file without parsing them, or None if that cannot be.

    Lines of a .jsonl; what a .parquet says of itself (with pyarrow).
    """
    if path.endswith(".jsonl") and Path(path).is_file():
        with open(path, "rb") as lines:
            return sum(1 for line in lines if line.strip())
    if path.endswith(".parquet") and Path(path).is_file():
        try:
            from pyarrow.parquet import read_metadata
        except ImportError:
            return None
        return read_metadata(path).num_rows
    return None


# ---- 3. seconds


def seconds(shape: Shape, run: Config, hardware: Hardware) -> dict[str, tuple[float, float]]:
    """(arithmetic, reading weights and caches) of each phase of a training step, seconds.

    A phase takes at least the larger. Left out: tools, communication, launches, padding, copies.
    """
    flops, moved = step_flops(shape, run, hardware), step_bytes(shape, run, hardware)
    return {
        phase: (
            flops[phase] / (hardware.gpu_tflops * 1e12),
            moved.get(phase, 0.0) / (hardware.gpu_bandwidth * 1e9),
        )
        for phase in flops
    }


def step_flops(shape: Shape, run: Config, hardware: Hardware) -> dict[str, float]:
    """FLOPs of each phase of a training step on one GPU."""
    P, T = run.max_prompt, hardware.length or run.max_tokens
    prompts = run.prompts / hardware.gpus
    rollouts = prompts * run.initial
    branches, new = branches_of(run, hardware)
    whole = forward_flops(shape, rollouts * (P + T), (P + T) / 2, rollouts * T)
    # a branch attends to its prefix and half of what it adds, on average
    context = P + (1 + hardware.fork_depth) / 2 * T
    reading = forward_flops(shape, prompts * P, P / 2, 0)
    drawing = forward_flops(shape, rollouts * T, P + T / 2, rollouts * T)
    # the update: 3 forward passes, 4 if layers are computed again
    update = (3 + run.checkpointing) * run.ppo_epochs
    return {
        "sample": reading + drawing,
        "score": scoring_passes(run) * whole,
        "branch": forward_flops(shape, branches * new, context, branches * new),
        "update": update * whole * trained(run, hardware.fork_depth),
    }


def trained(run: Config, fork_depth: float) -> float:
    """Rollouts that go through the update for each initial one: 1, or its branches too."""
    if run.algo not in BRANCHES_TRAINED:
        return 1.0
    # methods/tree.py computes a shared prefix once
    return 1 + run.branches * (1 - fork_depth if run.algo == "tree" else 1)


def per_initial(run: Config) -> int:
    """Branches of an initial rollout, branches of branches included."""
    return (run.branches + 1) ** run.depth - 1


def scoring_passes(run: Config) -> float:
    """Passes without a gradient over all rollouts of a step: logp_old, now, the reference."""
    reference = run.kl_coef > 0
    grown = run.algo in BRANCHES_TRAINED
    if grown or ALGOS[run.algo].get("branches") == 0:
        # nothing asks for now, but for what trees fork from; in float32 the sampler's log-probs
        # serve as logp_old
        return grown + reference + (run.dtype == "bfloat16" or reference)
    # of mini-batches that branch together, all but the first are scored once more
    anew = 1 - 1 / run.branch_ahead
    return 1 + run.ppo_epochs * (1 + anew) + reference


def branches_of(run: Config, hardware: Hardware) -> tuple[float, float]:
    """(branches of a step on one GPU, tokens that each adds)."""
    T = hardware.length or run.max_tokens
    rounds = 1 if run.algo in BRANCHES_TRAINED else run.ppo_epochs
    branches = run.prompts / hardware.gpus * run.initial * per_initial(run) * rounds
    return branches, (1 - hardware.fork_depth) * T


def step_bytes(shape: Shape, run: Config, hardware: Hardware) -> dict[str, float]:
    """Bytes that decoding reads in each phase of a training step on one GPU."""
    P, T, width = run.max_prompt, hardware.length or run.max_tokens, bytes_of(run)
    rollouts = run.prompts / hardware.gpus * run.initial
    branches, new = branches_of(run, hardware)
    at_once = min(run.decode_rows, forked_together(run, hardware.gpus) * run.branches)
    # a row attends to its prompt, its prefix and half of what it adds, on average
    context, forked = P + T / 2, P + T - new / 2
    moved = {
        "sample": decode_bytes(shape, width, min(run.decode_rows, rollouts), rollouts, T, context),
    }
    if branches:
        moved["branch"] = decode_bytes(shape, width, at_once, branches, new, forked)
    return moved


# ---- 4. the tables


def plan(run: Config, hardware: Hardware) -> str:
    """The whole plan as text, of a run with a model."""
    if hardware.length > run.max_tokens:
        raise ValueError(
            f"--length {hardware.length} is above --max_tokens {run.max_tokens}: "
            "no response is so long"
        )
    shape = read_shape(run.model)
    parts = [
        heading(shape, run, hardware),
        work_table(run, hardware),
        memory_table(shape, run, hardware),
        seconds_table(shape, run, hardware),
        disk_line(shape, run),
    ]
    return "\n\n".join(parts)


def heading(shape: Shape, run: Config, hardware: Hardware) -> str:
    """The model and the GPUs."""
    how = "sharded (FSDP2)" if run.shard else "a copy on each"
    again = ", layers computed again in the backward pass" * run.checkpointing
    plural = "s" * (hardware.gpus > 1)
    return (
        f"{run.model}: {shape.parameters / 1e9:.3f} B parameters ({shape.layers} layers, hidden "
        f"{shape.hidden}, {shape.heads} heads on {shape.kv_heads} keys, vocabulary "
        f"{shape.vocabulary})\n{hardware.gpus} GPU{plural} of {hardware.gpu_gib:g} GiB: "
        f"{how}, {run.dtype}{again}"
    )


def disk_line(shape: Shape, run: Config) -> str:
    """What checkpoints take on the disk."""
    # the model, its float32 copy if it is in bfloat16, AdamW state
    size = (bytes_of(run) + 8 + 4 * run.shard) * shape.parameters
    kept = 1 + math.ceil(run.steps / run.save_every)
    if run.keep_checkpoints:
        # one more while it is written; the reference stays
        kept = min(kept, run.keep_checkpoints + 1 + (run.kl_coef > 0))
    flags = f"(--save_every {run.save_every}, --keep_checkpoints {run.keep_checkpoints})"
    return (
        f"disk: {size / GIB:.1f} GiB a checkpoint, {kept * size / GIB:.0f} GiB for the {kept} that "
        f"are there at most {flags}"
    )


def table(head: list, rows: list[list]) -> str:
    """Lines with the first column to the left and the others to the right."""
    cells = [[str(x) for x in row] for row in [head, *rows]]
    first, *widths = [max(map(len, column)) for column in zip(*cells)]
    lines = []
    for name, *numbers in cells:
        aligned = [x.rjust(w) for x, w in zip(numbers, widths)]
        lines.append("  ".join([name.ljust(first), *aligned]).rstrip())
    return "\n".join(lines)


def work_table(run: Config, hardware: Hardware) -> str:
    """Rollouts, tokens and optimizer steps of a step, an epoch and the run."""
    counted = count_questions(run.data)
    questions = counted or hardware.questions
    epoch = questions // run.prompts
    rows = [
        [name, f"{n:,}", f"{n * epoch:,}", f"{n * run.steps:,}"]
        for name, n in work(run, run.max_tokens, hardware.fork_depth).items()
    ]
    head = ["work", "a step", f"an epoch, {epoch} steps", f"the run, {run.steps} steps"]
    note = (
        f"Responses of {run.max_tokens} tokens, the limit; a branch keeps {hardware.fork_depth:g} "
        f"of its parent (--fork_depth); epoch: {questions:,} questions "
        f"({run.data if counted else '--questions'})."
    )
    return table(head, rows) + "\n" + note


def memory_table(shape: Shape, run: Config, hardware: Hardware) -> str:
    """GiB on each GPU by item and phase, whether it fits, and what would help if not."""
    gpus, per_node = hardware.gpus, hardware.gpus_per_node
    items = memory(shape, run, gpus, per_node=per_node)
    top, limit = peaks(items), hardware.gpu_gib * GIB
    rows = [
        [name] + [f"{size / GIB:.2f}" if name in names else "" for names in PHASES.values()]
        for name, size in items.items()
        if size
    ]
    rows.append(["peak"] + [f"{top[phase] / GIB:.2f}" for phase in PHASES])
    highest = f"{max(top.values()) / GIB:.1f} of {hardware.gpu_gib:g} GiB"
    if max(top.values()) > limit:
        flag, then = advice(shape, run, gpus, limit, per_node)
        helps = f"of one setting {flag} helps most: {then / GIB:.1f} GiB"
        verdict = f"DOES NOT FIT: {highest}; {helps}"
    else:
        needless = without_checkpointing(shape, run, gpus, 0.9 * limit, per_node)
        verdict = f"fits: {highest}{needless and '; ' + needless}"
    other = not run.checkpointing
    held = memory(shape, run, gpus, other)["activations"] / GIB
    note = (
        "* for a moment: only the largest of a phase counts. "
        f"Activations with{'' if other else 'out'} gradient checkpointing: {held:.2f} GiB."
    )
    return "\n".join([table(["GiB on each GPU", *PHASES], rows), note, verdict])


def seconds_table(shape: Shape, run: Config, hardware: Hardware) -> str:
    """The lower bound of the seconds of a step, by phase."""
    times = seconds(shape, run, hardware)
    rows = [
        [name] + [f"{times[phase][k]:.1f}" for phase in times] + [""]
        for k, name in enumerate(("arithmetic", "weights and caches read"))
    ]
    total = sum(map(max, times.values()))
    rows.append(["at least"] + [f"{max(t):.1f}" for t in times.values()] + [f"{total:.1f}"])
    note = (
        f"A lower bound at {hardware.gpu_tflops:g} TFLOP/s and {hardware.gpu_bandwidth:g} GB/s, "
        f"responses of {hardware.length or run.max_tokens} tokens; tools, communication and "
        f"launches take more. The run: {total * run.steps / 3600:.1f} hours."
    )
    return table(["seconds a step", *times, "all"], rows) + "\n" + note


def main(argv: list[str]) -> None:
    """Print what a run would cost. Without --model that of the bundled world."""
    hardware, rest = read_flags(argv)
    run = read_settings(rest)
    if hardware.fits:
        print(fits(run))
    else:
        print(plan(run if run.model else with_world(run), hardware))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as problem:
        sys.exit(f"plan: {problem}")
