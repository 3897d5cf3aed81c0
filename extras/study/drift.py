"""How far decision points drift while the policy moves through the mini-batches of a step.

    python -m extras.study.drift --start RUN/step_000000 --data data/world/easy-0

APPO chooses the points of a mini-batch with the policy that its update finds. --branch_ahead
chooses them up to K - 1 updates earlier (methods/ahead.py). Here whole steps run as in the paper,
and before every update the points of all later mini-batches are chosen, too.
Prints for each lag in updates: the share of a rollout's B points that stay, how far log Omega is
off in relation to its own size, and how many rollouts have a constant Omega, so that entropy alone
chooses.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import appo
import train
from config import Config
from extras.study.runs import flags_of
from policy import Policy
from rollout import Rollout
from support.inputs import encode, read_run
from support.models import load_tokenizer, positions_of
from support.optimizers import adamw
from support.ranks import Ranks


@dataclass
class Seen:
    """What a policy says of a mini-batch, a rollout at a time.

    points: its B best tokens. log_omega: of its policy tokens. constant: see Rollout.degenerate.
    """

    points: list[set[int]]
    log_omega: list[Tensor]
    constant: list[bool]


def seen_by(policy: Policy, batch: list[Rollout], config: Config) -> Seen:
    """Steps 4 and 5 of appo.step under the policy as it is; the rollouts keep its numbers."""
    with policy.unsharded():
        appo.score_now(policy, batch, config)
        appo.set_omega(batch, config)
        points = appo.decision_points(policy, batch, config)
    masks = [torch.tensor(r.mask) for r in batch]
    log_omega = [r.score_omega.log()[mask] for r, mask in zip(batch, masks)]
    return Seen(list(map(set, points)), log_omega, [r.degenerate for r in batch])


def compared(early: Seen, late: Seen) -> list[tuple[float, float, float, bool]]:
    """Of each rollout: (share of late's points that early has, squares of log Omega's difference
    and of late's own, summed; constant Omega in early)."""
    rows = []
    for a, b, x, y, constant in zip(
        early.points, late.points, early.log_omega, late.log_omega, early.constant
    ):
        share = len(a & b) / len(b) if b else 1.0
        rows.append((share, float((x - y).square().sum()), float(y.square().sum()), constant))
    return rows


def drift(trainer, steps: int) -> dict[int, list[tuple]]:
    """lag -> `compared` of all mini-batches that are so many updates away, over so many steps."""
    found = defaultdict(list)
    update = appo.update

    for n in tqdm(range(steps), desc="steps"):
        batches: list[list[Rollout]] = []
        early: dict[int, list[Seen]] = defaultdict(list)
        start = appo.score_start

        def watched_start(policy, parts, config, batches=batches, start=start):
            batches.extend(parts)
            start(policy, parts, config)

        def watched_update(policy, optimizer, batch, config, batches=batches, early=early):
            number = next(k for k, b in enumerate(batches) if b is batch)
            kept = [(r.logp, r.entropy, r.omega, r.score_omega, r.degenerate) for r in batch]
            late = seen_by(policy, batch, config)
            for lag, seen in enumerate(reversed(early[number]), 1):
                found[lag] += compared(seen, late)
            for k in range(number + 1, len(batches)):
                early[k].append(seen_by(policy, batches[k], config))
            for r, numbers in zip(batch, kept):
                r.logp, r.entropy, r.omega, r.score_omega, r.degenerate = numbers
            return update(policy, optimizer, batch, config)

        appo.score_start, appo.update = watched_start, watched_update
        try:
            trainer.step(n)
        finally:
            appo.score_start, appo.update = start, update
    return dict(sorted(found.items()))


def table(found: dict[int, list[tuple]]) -> str:
    """Markdown, a row per lag."""
    lines = [
        "| updates too early | rollouts | points that stay | log Omega off by | constant Omega |",
        "|---" * 5 + "|",
    ]
    for lag, rows in found.items():
        shares, off, own, constant = zip(*rows)
        stays = statistics.fmean(shares)
        size = (sum(off) / sum(own)) ** 0.5 if sum(own) else float("nan")
        cells = [lag, len(rows), f"{stays:.2f}", f"{size:.2f}", f"{statistics.fmean(constant):.2f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m extras.study.drift")
    parser.add_argument("--start", type=Path, required=True, help="checkpoint to begin with")
    parser.add_argument("--data", type=Path, required=True, help="folder of the bundled world")
    parser.add_argument("--steps", type=int, default=12, help="of 16 prompts, 2 an update")
    parser.add_argument("--out", type=Path, default=Path("runs/drift"))
    args = parser.parse_args(argv)
    given = {"model": args.start, "data": args.data / "train.jsonl", "seed": 1}
    given |= {"corpus": args.data / "corpus.jsonl", "eval_data": "", "eval_questions": 0}
    given |= {"prompts": 16, "minibatch": 2, "decode_rows": 96}
    try:
        run, rows = read_run(flags_of(given | {"out": args.out}))
        with closing(rows):
            inputs = encode(run, rows, load_tokenizer(run.model), positions_of(run.model))
            trainer = train.load(run, inputs, Ranks())
            trainer.beat = lambda where: None
            parameters = trainer.policy.model.parameters()
            trainer.optimizer = adamw(parameters, run.lr, run.weight_decay)
            print(table(drift(trainer, args.steps)))
    except (ValueError, OSError) as problem:
        sys.exit(f"extras.study.drift: {problem}")


if __name__ == "__main__":
    main()
