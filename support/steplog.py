"""What a step leaves: its numbers in a line, its trees, branch points in words, its alarms."""

import json
import time
from pathlib import Path

import torch
from tqdm import tqdm

from config import Config
from rewards import format_fault
from rollout import Call
from support.reward_calls import broken_rewards
from support.runfiles import Log
from support.scores import broken_format


def write_step(run: Config, policy, log: Log, step: int, metrics: dict, rollouts: list) -> None:
    """A step's line in metrics.jsonl and on the screen, its trees in rollouts.jsonl, its branch
    points and alarms on the screen. An alarm is logged as long as it lasts, and printed once."""
    warnings = alarms(metrics | {"sampler_gap_exact": policy.dtype == torch.float32})
    log.write("metrics", {"step": step} | metrics | ({"alarms": warnings} if warnings else {}))
    for row in tree_rows(policy, step, rollouts, min(run.log_trees, run.prompts)):
        log.write("rollouts", row)
    new = [f"step {step}: {text}: {ADVICE[text]}" for text in warnings if text not in log.warned]
    if step == 1 and metrics["format_errors"] == 1 and "format" not in log.warned:
        # of this process
        new += broken_format([(format_fault(r), r.text) for r in rollouts if r.parent is None])
        log.warned |= {"format"}
    # of this process; how many fail is in the log, as reward_failed
    failed = broken_rewards(rollouts)
    if "rewards" not in log.warned:
        new += [f"step {step}: {line}; said once: see reward_failed" for line in failed]
        log.warned |= {"rewards"} if failed else set()
    told = [step_line(step, log.latest), *branch_lines(policy, rollouts, run.print_branches)]
    for line in told + new:
        tqdm.write(line)
    log.warned |= set(warnings)


def give_up(path: Path, policy, rollouts: list, step: int, skipped: int) -> None:
    """Leave the rollouts that gave gradients which are not finite in a file, and stop."""
    # a rank may have none
    rows = tree_rows(policy, step, rollouts, len(rollouts))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    raise ValueError(
        f"the gradients of {skipped} steps in a row were not finite; the last step's rollouts are "
        f"in {path}. None of these updates was made: go on from an earlier checkpoint with a "
        "lower --lr, by --from"
    )


def tree_rows(policy, step: int, rollouts: list, prompts: int) -> list[dict]:
    """The whole trees of so many prompts, a row per rollout, as rollouts.jsonl holds them.

    parent: index of the row in its tree. group: of the prompt among all ranks'.
    """
    rows = []
    for group in sorted({r.group for r in rollouts})[:prompts]:
        tree = [r for r in rollouts if r.group == group]
        place = {id(r): k for k, r in enumerate(tree)}
        rows += [tree_row(policy, step, r, place) for r in tree]
    return rows


def tree_row(policy, step: int, r, place: dict[int, int]) -> dict:
    """One rollout. place: id of a rollout of its tree -> index."""
    where = {"step": step, "group": r.group, "index": place[id(r)]}
    came = {"parent": place.get(id(r.parent)), "fork_at": r.fork_at}
    ended = {"reward": r.reward, "finish": r.finish, "prompt": policy.decode(r.prompt)}
    tokens = {"ids": r.ids, "pieces": [policy.text[i] for i in r.ids], "mask": r.mask}
    numbers = {"logp": r.sampled_logp, "entropy": r.sampled_entropy}
    later = {"logp_old": r.logp_old, "future_value": r.omega}
    later |= {"branching_score": r.branching_score, "advantage": r.advantage}
    # branches and dropped prompts are not trained on: they have no such numbers
    numbers |= {name: values.tolist() for name, values in later.items() if values is not None}
    rounded = {name: [round(x, 6) for x in values] for name, values in numbers.items()}
    return where | came | ended | tokens | rounded | {"calls": [call_row(c) for c in r.calls]}


def call_row(call: Call) -> dict:
    """A tool call, without the tool's state."""
    names = ("name", "argument", "status", "seconds", "start", "end")
    return {name: getattr(call, name) for name in names}


def branch_lines(policy, rollouts: list, count: int) -> list[str]:
    """Some branch points of all mini-batches: where, the token, its numbers, what came of it."""
    branches = [r for r in rollouts if r.parent is not None]
    apart = max(1, len(branches) // max(count, 1))
    return [branch_line(policy, branch) for branch in branches[::apart][:count]]


def branch_line(policy, x) -> str:
    """One branch point in words."""
    p = x.parent
    t = min(x.fork_at, len(p.ids) - 1, len(x.ids) - 1)
    context, old, new = policy.decode(p.ids[max(0, t - 6) : t]), p.ids[t], x.ids[t]
    return (
        f"  branch at token {t} of {len(p.ids)}: {context!r} -> {policy.text[old]!r}, "
        f"now {policy.text[new]!r} | entropy {p.entropy[t]:.3f} Omega {p.omega[t]:.4f} "
        f"score {p.branching_score[t]:+.2f} | reward {p.reward:g} -> {x.reward:g}"
    )


# what to do about an alarm
ADVICE = {
    "entropy has collapsed": "lower --lr, and go on from an earlier checkpoint with --from",
    "more than 90% of the prompts give no credit but by branches: their rewards are equal": (
        "raise --initial, or take questions that the model sometimes answers"
    ),
    "more than half of the rollouts are cut off": "raise --max_tokens, or --max_calls",
    "further prompts did not help: the step was filled with some that give no credit": (
        "raise --initial, or take questions that the model sometimes answers"
    ),
    "tools fail for reasons of infrastructure": (
        "look for the status infra in rollouts.jsonl, and mend the tool or its server"
    ),
    "sampler and trainer disagree on log-probs": (
        "the update is biased: try --constant_rows true and another version of torch"
    ),
    "an update was skipped: its gradient was not finite": (
        "if more follow, lower --lr or --clip_grad"
    ),
}


def alarms(metrics: dict) -> list[str]:
    """What nobody should miss in a step's numbers, in words; empty if all is well."""
    gap = 1e-3 if metrics["sampler_gap_exact"] else 1.0
    tests = [
        metrics["entropy"] < 0.01,
        metrics["zero_std"] > 0.9,
        metrics["truncated"] > 0.5,
        0 < metrics["prompts_dropped"] < round(metrics["zero_std"] * metrics["prompts_drawn"]),
        metrics["tool_infra"] > 0.1,
        metrics["sampler_gap"] > gap,
        metrics["skipped"] > 0,
    ]
    return [text for text, true in zip(ADVICE, tests, strict=True) if true]


def progress(run: Config, log: Log, step: int, questions: int, metrics: dict) -> dict:
    """Where a run stands after a step; the totals are those of all its steps."""

    def total(name: str, now: str) -> int:
        return log.latest.get(name, 0) + metrics[now]

    return {
        "time": time.time(),
        "lr": run.lr,
        "epoch": step * run.prompts / questions,
        "tokens_total": total("tokens_total", "tokens_sampled"),
        "calls_total": total("calls_total", "calls_made"),
    }


def step_line(step: int, numbers: dict) -> str:
    """A step in 80 columns. numbers: those of metrics.jsonl, the newest of each name."""
    scores = {name: numbers.get(name) for name in ("reward", "eval_greedy", "entropy")}
    reward, accuracy, entropy = ["" if x is None else _short(x) for x in scores.values()]
    accuracy = f"eval {accuracy:5}" if accuracy else " " * 10
    seconds, calls = numbers["seconds"], numbers["calls"]
    return (
        f"step {step:4} reward {reward:>6} {accuracy} length {numbers['length']:4.0f} "
        f"calls {calls:{'4.1f' if calls < 99.95 else '4.0f'}} entropy {entropy:>5} "
        f"{seconds:{'4.1f' if seconds < 100 else '4.0f'}} s"
    )


def _short(x: float) -> str:
    """A number in at most six characters, as long as its exponent has two digits."""
    return f"{x:.3f}" if abs(x) < 9.9995 else f"{x:.0f}" if abs(x) < 99999.5 else f"{x:.0e}"


def bar_text(metrics: dict) -> str:
    """What stands beside the progress bar: tokens sampled in all steps, seconds of the phases."""
    phases = ("sample", "score", "branch", "update")
    seconds = "/".join(f"{metrics[f'seconds_{phase}']:.1f}" for phase in phases)
    return f"{tqdm.format_sizeof(metrics['tokens_total'])} tokens, s {seconds}"
