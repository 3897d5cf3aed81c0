"""The cold start: imitate worked examples before the first step. Supervised fine-tuning in which
tool results are context and never a target.

AdamW (or Muon) on the mean negative log-prob of the assistant's own tokens (support/examples.py
makes them), with checkpoints of its own: a kill costs --cold_save_every steps at most.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import get_scheduler

from config import Config
from policy import Policy
from rollout import Rollout
from support import checkpoints
from support.examples import Example
from support.optimizers import cold_optimizers
from support.ranks import Ranks
from support.runfiles import prune, step_in
from support.schedule import equal_passes
from support.seeds import EXAMPLES, mix_seed


def schedules_of(optimizers: list, steps: int, run: Config) -> list:
    """Of each optimizer: up in the first --cold_warmup share of the steps, then down to 0."""
    how = dict(num_warmup_steps=warmup_steps(steps, run), num_training_steps=steps)
    return [get_scheduler(run.cold_schedule, optimizer, **how) for optimizer in optimizers]


def warmup_steps(steps: int, run: Config) -> int:
    """How many steps the learning rate rises."""
    return math.ceil(run.cold_warmup * steps)


def set_rates(schedules: list, i: int, up: int) -> None:
    """The learning rates of step i, counted from 0; a cold start that goes on begins in the middle.

    up: warmup_steps. They end with the peak; with a rate of 0 the first would teach nothing.
    """
    for schedule in schedules:
        rates = zip(schedule.base_lrs, schedule.lr_lambdas)
        for group, (peak, share) in zip(schedule.optimizer.param_groups, rates):
            group["lr"] = peak * ((i + 1) / up if i < up else share(i))


def batch_at(i: int, size: int, run: Config) -> list[int]:
    """Indices of the examples of step i: in the file's order, or in a new order every epoch drawn
    from the seed (--cold_shuffle)."""
    places, orders = range(i * run.cold_batch, (i + 1) * run.cold_batch), {}
    for epoch in {place // size for place in places}:
        draw = torch.Generator().manual_seed(mix_seed(run.seed, EXAMPLES, epoch))
        shuffled = torch.randperm(size, generator=draw).tolist()
        orders[epoch] = shuffled if run.cold_shuffle else range(size)
    return [orders[place // size][place % size] for place in places]


def _log_nothing(row: dict) -> None:
    """Where nobody wants the numbers."""


def _never() -> bool:
    """Where nobody asks for a stop."""
    return False


@dataclass
class Hooks:
    """What a cold start does beside its steps.

    folder: checkpoints go there; None: none is made. checkpoint: one of a cold start to go on
    from, whose weights the policy must have. log: is told a row of numbers per step. asked: shall
    it stop?
    """

    folder: Path | None = None
    checkpoint: Path | None = None
    log: Callable[[dict], None] = _log_nothing
    asked: Callable[[], bool] = _never
    progress: bool = True


def cold_start(
    policy: Policy, examples: list[Example], run: Config, ranks: Ranks, hooks: Hooks
) -> float | None:
    """Imitate examples.

    Returns: the last loss, nats a token; None if it was asked to stop: the step is saved then.
    Raises:  ValueError after --max_skipped updates in a row whose gradients were not finite.
    """
    steps = run.cold_steps or run.cold_epochs * -(-len(examples) // run.cold_batch)
    optimizers = cold_optimizers(policy.model, run)
    schedules, up = schedules_of(optimizers, steps, run), warmup_steps(steps, run)
    done, skipped, loss = step_in(hooks.checkpoint), 0, math.nan
    if hooks.checkpoint:
        skipped = checkpoints.load_state(policy, optimizers, hooks.checkpoint)["skipped"]
        print(f"going on with the cold start from {hooks.checkpoint}", flush=True)
    quiet = not hooks.progress or ranks.rank > 0
    bar = tqdm(range(done, steps), initial=done, total=steps, desc="cold start", disable=quiet)
    for i in bar:
        started = time.perf_counter()
        set_rates(schedules, i, up)
        batch = [examples[k] for k in batch_at(i, len(examples), run)]
        loss, norm = imitate(policy, optimizers, batch, run, ranks)
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        row = {"step": i + 1, "loss": loss, "lr": optimizers[-1].param_groups[0]["lr"]}
        row |= {"grad_norm": norm, "tokens": sum(sum(mask) for _, mask in batch)}
        hooks.log(row | {"seconds": time.perf_counter() - started})
        skipped = 0 if math.isfinite(norm) else skipped + 1
        if skipped >= run.max_skipped:
            steps = f"{skipped} steps in a row, the last at step {i + 1}"
            raise ValueError(f"cold start: no finite gradient in {steps}; try a smaller --cold_lr")
        stop = ranks.max([hooks.asked()])[0] > 0
        due = not skipped and i + 1 < steps and (i + 1) % run.cold_save_every == 0
        if hooks.folder and (stop or due):
            folder = hooks.folder / f"cold_{i + 1:06d}"
            checkpoints.save(folder, policy, optimizers, {"skipped": skipped}, ranks)
            if ranks.rank == 0:
                prune(hooks.folder, 1, kind="cold")
        if stop:
            return None
    return loss


def imitate(
    policy: Policy, optimizers: list, batch: list[Example], run: Config, ranks: Ranks
) -> tuple[float, float]:
    """One optimizer step on the mean negative log-prob of the tokens to imitate, of a batch that
    all ranks have: (that loss, nats a token; the gradient's norm)."""
    mine, tokens, loss = ranks.share(batch), sum(sum(mask[1:]) for _, mask in batch), 0.0
    rollouts = [Rollout(ids[:1], 0, ids=ids[1:], mask=mask[1:]) for ids, mask in mine]
    policy.model.train(run.checkpointing)
    for part in equal_passes(rollouts, run.micro_tokens, ranks):
        logp = policy.logp(part, 1.0)
        (-logp.sum() / tokens).backward()
        loss -= logp.detach().sum().item() / tokens
    policy.model.eval()
    norm = policy.take_step(optimizers, run.clip_grad)
    return ranks.sum([loss])[0], norm
