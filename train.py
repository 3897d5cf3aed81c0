"""Train an agent with APPO.

python train.py                                           the laptop run: bundled world, minutes
python train.py --model M --data F --corpus C             a Hugging Face model, real questions
torchrun --nproc_per_node 8 train.py --config configs/qwen2.5-7b-reasoning.json --data F
python -m extras.plan --config ...                        what that will cost

1. read_settings   flags and files; what is wrong with them is said before torch is imported
2. join_ranks      of several processes each samples its share of the prompts
3. check_inputs    questions, worked examples, tools
4. load            the model, from the newest checkpoint of the run if there is one
5. begin           a new run: cold start and checkpoint 0; an old one: its optimizer
6. train_loop      a step (appo.py), its log, checkpoints, evaluations
"""

import sys

from config import Config, read_settings
from support.runfiles import missing_inputs

if __name__ == "__main__":
    # the imports below take seconds: --help and a wrong flag are answered before
    try:
        read_settings(sys.argv[1:], also=missing_inputs)
    except (ValueError, OSError) as problem:
        sys.exit(f"train.py: {problem}")

import dataclasses
import importlib
import json
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from tqdm import tqdm

from appo import Prompt
from eval import REWARDS, Question, evaluate, numbers_of, reward, write_result
from policy import Policy
from rollout import Rollout
from sampling import Sampler, SamplingParams
from support import checkpoints, runfiles, sft
from support.heartbeat import Heartbeat, Stop
from support.http import Unavailable
from support.inputs import Inputs, check_inputs, with_world
from support.metrics import Meter
from support.models import recompute_activations
from support.processes import join_ranks, mesh_of
from support.ranks import Ranks
from support.runfiles import Log, locked, newest
from support.seeds import mix_seed
from support.steplog import alarms, bar_text, branch_lines, tree_rows


@dataclass
class Setup:
    """What the loop needs. checkpoint, cold: the newest of the run or else of its cold start."""

    run: Config
    policy: Policy
    sampler: Sampler
    inputs: Inputs
    ranks: Ranks
    checkpoint: Path | None
    cold: Path | None


def main(argv: list[str]) -> None:
    """A run in its folder, from the start or from where it was."""
    transformers.utils.logging.disable_progress_bar()
    run, ranks = join_ranks(read_settings(argv, also=missing_inputs))
    try:
        # the bundled world is made once
        run = with_world(run) if ranks.rank == 0 else run
        run = dataclasses.replace(ranks.gather(run)[0], device=run.device)
        if run.threads:
            torch.set_num_threads(run.threads)
        inputs = check_inputs(run)
        # before the checkpoint is looked for: another process may still be writing one
        with locked(Path(run.out), ranks):
            train(load(run, inputs, ranks))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def load(run: Config, inputs: Inputs, ranks: Ranks) -> Setup:
    """The model, from the newest checkpoint if there is one, and the sampler."""
    step, cold = ranks.gather((newest(run.out), newest(run.out, "cold")))[0]
    policy = load_policy(run, str(step or cold or run.model), ranks)
    sampler = Sampler(policy, inputs.tools, SamplingParams.of(run))
    return Setup(run, policy, sampler, inputs, ranks, step, None if step else cold)


def load_policy(run: Config, path: str, ranks: Ranks) -> Policy:
    """The model on this process's device, whole or its shard."""
    policy = Policy.load(path, device=run.device)
    if run.checkpointing:
        recompute_activations(policy.model)
    return policy.shard(run.dtype, mesh_of(run, ranks)) if run.shard else policy


def train(setup: Setup) -> None:
    """Begin or go on, then all steps."""
    run, ranks = setup.run, setup.ranks
    level = getattr(setup.inputs.tools.get("python"), "level", "")
    ranks.agree(lambda: runfiles.record(run, level), ranks.rank == 0)
    if ranks.rank == 0:
        runfiles.tidy(run, setup.checkpoint is not None)
    size = sum(p.numel() for p in setup.policy.model.parameters()) / 1e6
    print(
        f"{run.algo} ({run.preset}), N={run.initial} B={run.branches} b={run.future_weight}, "
        f"{run.prompts} prompts a step, {run.minibatch} an update; "
        f"{len(setup.inputs.train[0])} questions, {size:.1f} M parameters on "
        f"{ranks.world} x {run.device}, settings in {run.out}/config.json",
        flush=True,
    )
    beat, stop = Heartbeat(Path(run.out), ranks), Stop()
    trainer = begin(setup, beat, stop)
    if trainer:
        trainer.train_loop()
    beat.ended.set()


def begin(setup: Setup, beat: Heartbeat, stop: Stop) -> "Trainer | None":
    """A new run: cold start, checkpoint of step 0. An old one: its optimizer. Either way the
    evaluation that is due. None if the cold start was asked to stop."""
    run, policy, checkpoint, ranks = setup.run, setup.policy, setup.checkpoint, setup.ranks
    if setup.inputs.examples and not checkpoint and not run_cold_start(setup, beat, stop):
        return None
    # one kernel: no temporary as large as the weights
    how = dict(lr=run.lr, weight_decay=run.weight_decay, fused="cuda" in run.device or None)
    optimizer = torch.optim.AdamW(policy.model.parameters(), **how)
    trainer = Trainer(setup, optimizer, beat, stop, done=runfiles.step_in(checkpoint))
    if not checkpoint:
        trainer.save(0)
        if ranks.rank == 0:
            runfiles.forget_cold_start(run.out)
    # before AdamW's state is there: the reference is loaded whole
    if run.kl_coef:
        policy.reference = load_policy(run, str(Path(run.out) / "step_000000"), ranks)
    if checkpoint:
        trainer.skipped = checkpoints.load_state(policy, [optimizer], checkpoint)["skipped"]
        over = f"; all of --steps {run.steps} are done" if trainer.done >= run.steps else ""
        print(f"going on from {checkpoint}{over}", flush=True)
    if ranks.rank == 0:
        trainer.log = Log(run.out, trainer.done)
    evaluated = ranks.rank == 0 and trainer.done in runfiles.evaluated_steps(run.out)
    if not ranks.gather(evaluated)[0]:
        trainer.evaluate_if_due(trainer.done)
    return trainer


def run_cold_start(setup: Setup, beat: Heartbeat, stop: Stop) -> bool:
    """The cold start, its numbers in cold_start.jsonl; False if it was asked to stop."""
    run = setup.run
    beat("cold start")
    done = runfiles.step_in(setup.cold)
    log = Log(run.out, done, ("cold_start",)) if setup.ranks.rank == 0 else None
    beside = sft.Beside(
        folder=Path(run.out),
        checkpoint=setup.cold,
        log=lambda row: log and log.write("cold_start", row),
        asked=lambda: stop.asked,
    )
    loss = sft.cold_start(setup.policy, setup.inputs.examples, run, setup.ranks, beside)
    if loss is None:
        saved = "the cold start is saved, the same command goes on with it"
        print(f"asked to stop: {saved}", flush=True)
    return loss is not None


@dataclass
class Trainer:
    """The steps of a run. done: steps so far; skipped: steps in a row with a skipped update."""

    setup: Setup
    optimizer: torch.optim.Optimizer
    beat: Heartbeat
    stop: Stop
    done: int = 0
    skipped: int = 0
    log: Log | None = None

    def train_loop(self) -> None:
        """Steps done + 1 .. --steps. Ends early, with a checkpoint, when asked to stop.

        A step with a skipped update is not saved, unless it is the last or the run was asked to
        stop: then the number of such steps in a row is saved with it.
        """
        run, ranks = self.setup.run, self.setup.ranks
        name, quiet = run.algo.upper(), ranks.rank > 0 or self.done >= run.steps
        steps = range(self.done, run.steps)
        bar = tqdm(steps, initial=self.done, total=run.steps, desc=name, disable=quiet)
        total: Counter = Counter()
        for step in bar:
            if self.asked():
                self.save(step)
                saved = f"step {step} is saved, the same command goes on from it"
                print(f"asked to stop: {saved}", flush=True)
                break
            metrics, rollouts = self.step(step)
            if ranks.rank == 0:
                write_step(run, self.setup.policy, self.log, step + 1, metrics, rollouts)
                bar.set_postfix_str(bar_text(metrics, total), refresh=False)
            self.skipped = self.skipped + 1 if metrics["skipped"] else 0
            if self.skipped >= run.max_skipped:
                give_up(self.setup, rollouts, step + 1, self.skipped)
            if step + 1 == run.steps or not self.skipped and (step + 1) % run.save_every == 0:
                self.beat(f"saving step {step + 1}")
                self.save(step + 1)
            if not self.asked():
                self.evaluate_if_due(step + 1)

    def asked(self) -> bool:
        """Shall the run stop? A collective: it stops all ranks or none."""
        return self.setup.ranks.max([self.stop.asked])[0] > 0

    def step(self, step: int) -> tuple[dict, list[Rollout]]:
        """One step of the method on the questions whose turn it is."""
        run, ranks, started = self.setup.run, self.setup.ranks, time.perf_counter()
        policy, sampler = self.setup.policy, self.setup.sampler
        questions, prompts = self.setup.inputs.train
        picked = batch_of(run, step, len(questions))
        asked = [
            Prompt(prompts[i], mix_seed(run.seed, 0, step, k), reward_of(questions[i], run.reward))
            for k, i in enumerate(picked)
        ]
        meter = Meter(sampler, note=lambda phase: self.beat(f"step {step + 1}, {phase}"))
        try:
            rollouts = step_of(run.algo)(policy, self.optimizer, sampler, asked, run, meter)
        # raised before the step's first update
        except Unavailable as problem:
            self.save(step)
            saved = f"step {step} is saved, the same command goes on from it"
            raise Unavailable(f"step {step + 1}", f"{problem}; {saved}") from None
        metrics = meter.numbers(rollouts, ranks)
        metrics |= every_reward(rollouts, [questions[i] for i in picked], ranks)
        return metrics | {"seconds": time.perf_counter() - started}, rollouts

    def save(self, step: int) -> None:
        """The checkpoint of a step; then older ones go as --keep_checkpoints says."""
        run, ranks = self.setup.run, self.setup.ranks
        folder, numbers = Path(run.out) / f"step_{step:06d}", {"skipped": self.skipped}
        checkpoints.save(folder, self.setup.policy, [self.optimizer], numbers, ranks)
        if ranks.rank == 0:
            runfiles.prune_steps(run)

    def evaluate_if_due(self, step: int) -> None:
        """Evaluate before the first step, after the last, and every --eval_every."""
        run = self.setup.run
        due = step in (0, run.steps) or bool(run.eval_every) and step % run.eval_every == 0
        if self.setup.inputs.test[0] and due:
            self.beat(f"evaluation after step {step}")
            evaluate_and_log(self, step)


def evaluate_and_log(trainer: Trainer, step: int) -> None:
    """Evaluate on the held-out questions, each rank its share, sampled and greedy; print, log and
    store the results. Given up if the run is asked to stop."""
    run, ranks, sampler = trainer.setup.run, trainer.setup.ranks, trainer.setup.sampler
    questions, prompts = trainer.setup.inputs.test
    places = ranks.share(list(range(len(questions))))
    mine = [questions[i] for i in places], [prompts[i] for i in places]
    sample, seed = sampler.initial, mix_seed(run.seed, 2)
    with trainer.setup.policy.unsharded():
        sampled = evaluate(sample, *mine, run.eval_samples, seed, places=places)["rows"]
        if trainer.asked():
            return
        sample = partial(sample, temperature=0)
        greedy = evaluate(sample, *mine, 1, 0, places=places)["rows"]
    trainer.beat(f"evaluation after step {step}, wait")
    parts = ranks.gather(list(zip(places, sampled, greedy)))
    if ranks.rank:
        return
    _, sampled, greedy = zip(*sorted(sum(parts, []), key=lambda row: row[0]))
    own = numbers_of(list(sampled))
    numbers = {f"eval_{name}": value for name, value in own.items()}
    numbers["eval_greedy"] = numbers_of(list(greedy))["avg@1"]
    trainer.log.write("metrics", {"step": step} | numbers)
    result = {"numbers": own, "rows": list(sampled), "questions": len(questions)}
    result |= {"samples": run.eval_samples, "settings": runfiles.shown_settings(run)}
    result |= {"data": run.eval_data, "step": step, "versions": runfiles.versions()}
    write_result(Path(run.out) / f"eval_{step:06d}.json", result)
    tqdm.write(
        f"step {step}: held-out accuracy {numbers[f'eval_avg@{run.eval_samples}']:.3f} sampled, "
        f"{numbers['eval_greedy']:.3f} greedy, "
        f"format errors {numbers['eval_format_errors']:.3f}, {numbers['eval_calls']:.2f} calls "
        f"per question ({len(questions)} questions x {run.eval_samples})"
    )


def batch_of(run: Config, step: int, size: int) -> list[int]:
    """Indices of the questions of a step: every epoch is a permutation drawn from the seed, so a
    resumed run sees the same questions."""
    picked = []
    for place in range(step * run.prompts, (step + 1) * run.prompts):
        draw = torch.Generator().manual_seed(mix_seed(run.seed, 1, place // size))
        picked.append(int(torch.randperm(size, generator=draw)[place % size]))
    return picked


def step_of(algo: str):
    """The step of appo.py, or of methods/NAME.py."""
    return importlib.import_module(algo if algo == "appo" else f"methods.{algo}").step


def reward_of(question: Question, kind: str):
    """The reward of a rollout that answers this question."""
    return lambda rollout: reward(rollout, question.answers, kind, question.task)


def every_reward(rollouts: list[Rollout], questions: list, ranks: Ranks) -> dict:
    """Mean reward of the initial rollouts by every kind of reward, whichever is trained on."""
    initial = [(r, questions[r.group]) for r in rollouts if r.parent is None]
    sums = [sum(reward(r, q.answers, kind, q.task) for r, q in initial) for kind in REWARDS]
    *sums, count = ranks.sum([*sums, len(initial)])
    return {f"reward_{kind}": total / count for kind, total in zip(REWARDS, sums)}


def write_step(run, policy, log: Log, step: int, metrics: dict, rollouts: list[Rollout]) -> None:
    """A step's line in metrics.jsonl, its trees in rollouts.jsonl, its branch points and alarms on
    the screen. An alarm is printed when it begins and logged as long as it lasts."""
    warnings = alarms(metrics | {"sampler_gap_exact": policy.dtype == torch.float32})
    log.write("metrics", {"step": step} | metrics | ({"alarms": warnings} if warnings else {}))
    for row in tree_rows(policy, step, rollouts, min(run.log_trees, run.prompts)):
        log.write("rollouts", row)
    new = [f"step {step}: {text}" for text in warnings if text not in log.warned]
    for line in branch_lines(policy, rollouts, run.print_branches) + new:
        tqdm.write(line)
    log.warned = set(warnings)


def give_up(setup: Setup, rollouts: list[Rollout], step: int, skipped: int) -> None:
    """Leave the rollouts that gave gradients which are not finite on disk, and stop."""
    path = Path(setup.run.out) / f"skipped_{step:06d}_{setup.ranks.rank}.jsonl"
    # a rank may have none
    groups = max((r.group for r in rollouts), default=-1) + 1
    rows = tree_rows(setup.policy, step, rollouts, groups)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    raise ValueError(
        f"the gradients of {skipped} steps in a row were not finite; the last step's rollouts are "
        f"in {path}, the weights are those before"
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as problem:
        sys.exit(f"train.py: {problem}")
    except KeyboardInterrupt:
        again = "the same command goes on from the newest checkpoint, if there is one yet"
        sys.exit(f"train.py: interrupted; {again}")
