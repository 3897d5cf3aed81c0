"""Train an agent with APPO.

python train.py                                           the laptop run: bundled world, minutes
python train.py --model M --data F --corpus C             a Hugging Face model, real questions
torchrun --nproc_per_node 8 train.py --config configs/qwen2.5-7b-reasoning.json --data F
python -m extras.plan --config ...                        what that will cost

1. read_run        settings, questions, worked examples, tools; what is wrong with them is said in
                   one message, before torch is imported
2. join_ranks      of several processes each samples its share of the prompts
3. encode          prompts and examples as ids
4. load            the model, from the newest checkpoint of a run that has begun
5. Trainer.begin   a new run: cold start and checkpoint 0; an old one: its optimizer
6. Trainer.loop    a step (appo.py), its log, checkpoints, evaluations; at the end report.html
"""

import signal
import sys

if __name__ == "__main__":
    # the imports below take seconds: --help, bad input and Ctrl-C are answered before
    signal.signal(signal.SIGINT, lambda *_: sys.exit("train.py: interrupted before it began"))

from config import Config
from support.inputs import Inputs, Unencoded, encode, only_rank_0_prints, read_run

if __name__ == "__main__":
    try:
        only_rank_0_prints()
        BEGUN = read_run(sys.argv[1:])
    except (ValueError, OSError) as problem:
        sys.exit(f"train.py: {problem}")

import dataclasses
import importlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from tqdm import tqdm

from appo import Prompt
from extras.world.prepare import with_world
from policy import Policy
from report import after_training
from rewards import REWARDS, is_correct, reward
from rollout import Rollout, close_all
from sampling import Sampler
from support import checkpoints, heldout, runfiles, sft
from support.config_file import write_config
from support.heartbeat import Heartbeat, Stop, signals_kept
from support.http import Unavailable
from support.metrics import Meter
from support.models import load_tokenizer, positions_of, recompute_activations
from support.native_calls import protocol_of
from support.optimizers import adamw
from support.processes import join_ranks, mesh_of
from support.questions import Question
from support.ranks import Ranks
from support.runfiles import Log, locked, newest
from support.sampling_params import SamplingParams
from support.schedule import Prompts
from support.seeds import PROMPTS, QUESTIONS, mix_seed
from support.steplog import bar_text, give_up, progress, write_step
from support.trackers import open_trackers


def main(argv: list[str]) -> None:
    """The command line, for a caller in this process: Ctrl-C is the caller's again afterwards."""
    with signals_kept():
        start(*read_run(argv))


def start(run: Config, unencoded: Unencoded) -> None:
    """A run in its folder, from the start or from where it was: steps 2 to 6."""
    transformers.utils.logging.disable_progress_bar()
    run, ranks = join_ranks(run)
    try:
        if not run.data:
            # the bundled world is made once
            run = with_world(run) if ranks.rank == 0 else run
            run = dataclasses.replace(ranks.gather(run)[0], device=run.device)
            unencoded.complete(run)
        # processes that start around midnight, or while another run saves, begin alike
        same = {name: getattr(run, name) for name in ("date", "model", "from_run")}
        run = dataclasses.replace(run, **ranks.gather(same)[0])
        if run.threads:
            torch.set_num_threads(run.threads)
        tokenizer = load_tokenizer(run.model)
        inputs = encode(run, unencoded, tokenizer, positions_of(run.model))
        # before the checkpoint is looked for: another process may still be writing one
        with locked(Path(run.out), ranks):
            load(run, inputs, ranks).run_all()
    finally:
        unencoded.close()
        if dist.is_initialized():
            dist.destroy_process_group()


def load(run: Config, inputs: Inputs, ranks: Ranks) -> "Trainer":
    """The model, from the newest checkpoint of a run that has begun, and the sampler."""
    step, cold = ranks.gather((newest(run.out), newest(run.out, "cold")))[0]
    policy = load_policy(run, str(step or cold or run.model), ranks)
    sampler = Sampler(policy, inputs.tools, SamplingParams.of(run), protocol_of(run))
    return Trainer(run, policy, sampler, inputs, ranks, step, None if step else cold)


def load_policy(run: Config, path: str, ranks: Ranks) -> Policy:
    """The model on this process's device, whole or its shard."""
    policy = Policy.load(path, device=run.device)
    if run.checkpointing:
        recompute_activations(policy.model)
    return policy.shard(run.dtype, mesh_of(run, ranks)) if run.shard else policy


@dataclass
class Trainer:
    """A run on this process.

    checkpoint, cold: the newest of the run, or else of its cold start. done: steps so far.
    skipped: steps in a row with a skipped update.  log: rank 0's.
    """

    run: Config
    policy: Policy
    sampler: Sampler
    inputs: Inputs
    ranks: Ranks
    checkpoint: Path | None
    cold: Path | None
    beat: Heartbeat | None = None
    stop: Stop | None = None
    optimizer: torch.optim.Optimizer | None = None
    log: Log | None = None
    done: int = 0
    skipped: int = 0

    def run_all(self) -> None:
        """Begin or go on, then all steps, then the page about the run."""
        self.open_folder()
        self.beat = Heartbeat(Path(self.run.out), self.ranks)
        self.stop = Stop(speaks=self.ranks.rank == 0)
        try:
            if self.begin():
                self.loop()
                if self.ranks.rank == 0:
                    after_training(self.run.out)
        finally:
            self.beat.ended.set()
            if self.log:
                self.log.close()

    def open_folder(self) -> None:
        """config.json, no leftovers of a kill, and a line that says what runs."""
        run, ranks = self.run, self.ranks
        level = getattr(self.inputs.tools.get("python"), "level", "")
        ranks.agree(lambda: write_config(run, level), ranks.rank == 0)
        if ranks.rank == 0:
            runfiles.tidy(run, begun=self.checkpoint is not None)
        size = sum(p.numel() for p in self.policy.model.parameters()) / 1e6
        questions, _ = self.inputs.train
        print(
            f"{run.algo} ({run.preset}), N={run.initial} B={run.branches} b={run.future_weight}, "
            f"{run.prompts} prompts a step, {run.minibatch} an update; "
            f"{len(questions)} questions, {size:.1f} M parameters on "
            f"{ranks.world} x {run.device}, settings in {run.out}/config.json",
            flush=True,
        )

    def begin(self) -> bool:
        """A new run: cold start, checkpoint of step 0. An old one: its optimizer. Both evaluate if
        it is due. False if the cold start was asked to stop."""
        run, policy, ranks = self.run, self.policy, self.ranks
        if self.inputs.examples and not self.checkpoint and not self.cold_start():
            return False
        self.optimizer = adamw(policy.model.parameters(), run.lr, run.weight_decay)
        self.done = runfiles.step_in(self.checkpoint)
        if not self.checkpoint:
            self.save(0)
            if ranks.rank == 0:
                runfiles.forget_cold_start(run.out)
        # before AdamW's state is there: the reference is loaded whole
        if run.kl_coef:
            self.policy.reference = load_policy(run, str(Path(run.out) / "step_000000"), ranks)
        if self.checkpoint:
            numbers = checkpoints.load_state(policy, [self.optimizer], self.checkpoint)
            self.skipped = numbers["skipped"]
        if ranks.rank == 0:
            self.log = Log(run.out, self.done)
            self.log.trackers = open_trackers(run, self.done)
        if self.checkpoint:
            limit = f"--steps {run.steps}" if self.done >= run.steps else "--max_sampled"
            over = f"; all of {limit} are done" if self.is_last(self.done) else ""
            print(f"going on from {self.checkpoint}{over}", flush=True)
        evaluated = ranks.rank == 0 and self.done in runfiles.evaluated_steps(run.out)
        if not ranks.gather(evaluated)[0]:
            self.evaluate_if_due(self.done, self.is_last(self.done))
        return True

    def cold_start(self) -> bool:
        """The cold start, its numbers in cold_start.jsonl; False if it was asked to stop."""
        self.beat("cold start")
        self.stop.then = "the cold start is saved"
        hooks = sft.Hooks(Path(self.run.out), self.cold, asked=lambda: self.stop.asked)
        if self.ranks.rank == 0:
            log = Log(self.run.out, runfiles.step_in(self.cold), ("cold_start",))
            hooks.log = partial(log.write, "cold_start")
        loss = sft.cold_start(self.policy, self.inputs.examples, self.run, self.ranks, hooks)
        if loss is None:
            print(
                "asked to stop: the cold start is saved, the same command goes on with it",
                flush=True,
            )
        return loss is not None

    def loop(self) -> None:
        """Steps done + 1 .. --steps. Ends early, with a checkpoint, when asked to stop, or by
        --max_sampled.

        A step with a skipped update is not saved, unless it is the last or the run was asked to
        stop: then the number of such steps in a row is saved with it.
        """
        run, speaks = self.run, self.ranks.rank == 0
        bar = tqdm(
            range(self.done, self.done if self.is_last(self.done) else run.steps),
            initial=self.done,
            total=run.steps,
            desc=run.algo.upper(),
            disable=not speaks or self.done >= run.steps,
        )
        for step in bar:
            if self.stop_asked():
                self.save(step)
                if speaks:
                    tqdm.write(f"asked to stop: {saved(step)}")
                break
            self.stop.then = f"step {step + 1} is finished and saved"
            metrics, rollouts = self.step(step)
            if speaks:
                metrics |= progress(run, self.log, step + 1, len(self.inputs.train[0]), metrics)
                write_step(run, self.policy, self.log, step + 1, metrics, rollouts)
                bar.set_postfix_str(bar_text(metrics), refresh=False)
            self.skipped = self.skipped + 1 if metrics["skipped"] else 0
            if self.skipped >= run.max_skipped:
                path = Path(run.out) / f"skipped_{step + 1:06d}_{self.ranks.rank}.jsonl"
                give_up(path, self.policy, rollouts, step + 1, self.skipped)
            last = self.is_last(step + 1)
            if last or not self.skipped and (step + 1) % run.save_every == 0:
                self.beat(f"saving step {step + 1}")
                self.save(step + 1)
            self.evaluate_if_due(step + 1, last)
            if last:
                break

    def is_last(self, step: int) -> bool:
        """Does the run end after this step, by --steps or --max_sampled? A collective."""
        run = self.run
        if step < run.steps and run.max_sampled:
            total = self.log.latest.get("tokens_total", 0) if self.log else 0
            return self.ranks.gather(total)[0] >= run.max_sampled
        return step >= run.steps

    def stop_asked(self) -> bool:
        """Shall the run stop? A collective: it stops all ranks or none."""
        return self.ranks.max([self.stop.asked])[0] > 0

    def step(self, step: int) -> tuple[dict, list[Rollout]]:
        """One step of the method on the questions whose turn it is: metrics, rollouts."""
        run = self.run
        prompts = Prompts(partial(self.prompts_of, step))
        meter = Meter(self.sampler, note=lambda phase: self.beat(f"step {step + 1}, {phase}"))
        take_step = step_of(run.algo)
        try:
            rollouts = take_step(self.policy, self.optimizer, self.sampler, prompts, run, meter)
        # raised before the step's first update
        except Unavailable as problem:
            self.save(step)
            raise Unavailable(f"step {step + 1}", f"{problem}; {saved(step)}") from None
        close_all(rollouts)
        own = "" if self.inputs.reward_fn else run.reward
        questions = [prompt.question for prompt in prompts]
        rewards = every_reward(rollouts, questions, own, self.ranks)
        return meter.numbers(rollouts, self.ranks) | rewards, rollouts

    def prompts_of(self, step: int, round: int) -> list[Prompt]:
        """The prompts of a step; round 1, 2, ...: further ones, for a method that draws again."""
        run = self.run
        questions, ids = self.inputs.train
        if round:
            picked = further_of(run, step, round, len(questions))
        else:
            picked = batch_of(run, step, len(questions))
        first = round * run.prompts
        seeds = [mix_seed(run.seed, PROMPTS, step, first + k) for k in range(len(picked))]
        return [
            Prompt(ids[i], seed, self.reward_of(questions[i]), questions[i])
            for i, seed in zip(picked, seeds)
        ]

    def reward_of(self, question: Question):
        """What a rollout that answers this question earns."""
        run, own = self.run, self.inputs.reward_fn
        if own:
            return lambda rollout: own(rollout, question)
        return lambda rollout: reward(rollout, question.answers, run.reward, question.task)

    def save(self, step: int) -> None:
        """The checkpoint of a step; then older ones go as --keep_checkpoints says."""
        folder = runfiles.step_folder(self.run.out, step)
        numbers = {"skipped": self.skipped}
        checkpoints.save(folder, self.policy, [self.optimizer], numbers, self.ranks)
        if self.ranks.rank == 0:
            runfiles.prune_steps(self.run)

    def evaluate_if_due(self, step: int, last: bool) -> None:
        """Evaluate on the held-out questions, unless the run is asked to stop."""
        test, own = self.inputs.test, self.inputs.reward_fn
        questions, _ = test
        if not questions or not (last or heldout.due(self.run, step)) or self.stop_asked():
            return
        self.beat(f"evaluation after step {step}")
        self.stop.then = f"this evaluation is left, step {step} is saved"
        share = heldout.sample_share(self.run, self.sampler, test, self.ranks, self.stop_asked, own)
        if share is None:
            return
        self.beat(f"evaluation after step {step}, wait")
        shares = self.ranks.gather(share)
        if self.ranks.rank == 0:
            heldout.store(self.run, self.log, step, shares)


def saved(step: int) -> str:
    """What a run that stops early says."""
    return f"step {step} is saved, the same command goes on from it"


def batch_of(run: Config, step: int, size: int) -> list[int]:
    """Indices of the questions of a step: every epoch is a permutation drawn from the seed, so a
    resumed run sees the same questions."""
    picked = []
    for place in range(step * run.prompts, (step + 1) * run.prompts):
        draw = torch.Generator().manual_seed(mix_seed(run.seed, QUESTIONS, place // size))
        picked.append(int(torch.randperm(size, generator=draw)[place % size]))
    return picked


def further_of(run: Config, step: int, round: int, size: int) -> list[int]:
    """Indices of further questions of a step, in an order of its own; round: 1, 2, ...

    No question comes twice in a step until all have come.
    """
    own = set(batch_of(run, step, size))
    draw = torch.Generator().manual_seed(mix_seed(run.seed, QUESTIONS, step, 0))
    order = torch.randperm(size, generator=draw).tolist()
    order = sorted(order, key=lambda i: i in own)
    first = (round - 1) * run.prompts
    return [order[place % size] for place in range(first, first + run.prompts)]


def step_of(algo: str):
    """The step of appo.py, or of methods/NAME.py."""
    return importlib.import_module(algo if algo == "appo" else f"methods.{algo}").step


def every_reward(rollouts: list[Rollout], questions: list, own: str, ranks: Ranks) -> dict:
    """Accuracy and mean reward of the initial rollouts, by every kind; `own` is trained on.

    Nothing if no question has an answer.
    """
    initial = [(r, questions[r.group]) for r in rollouts if r.parent is None]
    initial = [(r, q) for r, q in initial if q.answers]

    def given(r: Rollout, q: Question, kind: str) -> float:
        return r.reward if kind == own else reward(r, q.answers, kind, q.task)

    names = [*(f"reward_{kind}" for kind in REWARDS), "accuracy"]
    sums = [sum(given(r, q, kind) for r, q in initial) for kind in REWARDS]
    sums.append(sum(is_correct(r, q) for r, q in initial))
    *sums, count = ranks.sum([*sums, len(initial)])
    return {name: total / count for name, total in zip(names, sums) if count}


if __name__ == "__main__":
    try:
        start(*BEGUN)
    except (ValueError, OSError) as problem:
        sys.exit(f"train.py: {problem}")
    except KeyboardInterrupt:
        again = "the same command goes on from the newest checkpoint, or begins anew"
        runfiles.end_now(f"train.py: interrupted; {again}")
