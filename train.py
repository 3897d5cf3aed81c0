"""Train an agent with APPO: flags, data, the loop, evaluation, the log. The cold start is in sft.py, checkpoints are in checkpoints.py.

    python train.py                                             the laptop run: bundled world, tiny model, minutes
    python train.py --model M --data F --corpus C --out DIR     a Hugging Face model on real questions with Python and search
    torchrun --nproc_per_node 8 train.py --config configs/qwen2.5-7b-reasoning.json --data F --corpus C
                                                                a run of the paper: every process samples its share of the prompts, the update is shared
    python -m extras.plan --config ...                          what that will cost, before anything is loaded

Settings come from, each overriding the one before: the paper's defaults, --preset, --config, --algo, flags. Without --model and --config the laptop run's
configs/laptop.json is taken. A run whose folder holds a complete checkpoint goes on from it.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from jinja2.exceptions import TemplateError
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.rendezvous import rendezvous
from tqdm import tqdm

import appo
import checkpoints
import sft
from checkpoints import newest
from config import RECORDED, Config, read_settings
from eval import evaluate, opened_tools, shown_settings
from extras.world.modes import MODES
from extras.world.prepare import WORLDS, made_as, prepare
from model import Policy, Ranks, load_tokenizer, pick_device, recompute_activations
from rewards import REWARDS, reward
from sampling import Rollout, Sampler, encode_prompt, mix_seed, sample_initial
from support.http import Unavailable
from support.questions import Question, load_questions
from support.results import write_result
from support.runfiles import versions
from support.scores import numbers_of
from support.settings import free_names, new_names


def with_world(run: Config) -> Config:
    """Fill what is empty from the bundled world, which is made if it is not there yet."""
    if run.model and run.data:
        return run
    if run.model or run.data:
        given, missing = ("--model", "--data") if run.model else ("--data", "--model")
        raise ValueError(
            f"{given} was given without {missing}; without both, the bundled world is used"
        )
    folder = WORLDS / f"{run.world}-{run.seed}"
    if made_as(folder) != (MODES[run.world], run.seed):
        print(f"making the bundled world in {os.path.relpath(folder)} ...", flush=True)
        prepare(MODES[run.world], run.seed, folder)
    mine = dict(
        model="model",
        data="train.jsonl",
        eval_data="test.jsonl",
        cold_start="traces.jsonl",
        corpus="corpus.jsonl",
    )
    return dataclasses.replace(
        run, **{name: str(folder / file) for name, file in mine.items() if not getattr(run, name)}
    )


def read_data(run: Config, path: str, tokenizer) -> tuple[list[Question], list[list[int]]]:
    """Questions and their prompts as ids. ValueError naming the row if a prompt is longer than --max_prompt."""
    questions = load_questions(path, run.skip_bad, run.task, tools=run.tools)
    try:
        prompts = [encode_prompt(tokenizer, q.messages) for q in questions]
    except TemplateError as problem:
        raise ValueError(
            f"{path}: the chat template of {run.model} does not take these messages: {problem}"
        ) from None
    for q, prompt in zip(questions, prompts):
        if len(prompt) > run.max_prompt:
            raise ValueError(
                f"{path}, row {q.meta['row']}: the prompt has {len(prompt)} tokens, --max_prompt is {run.max_prompt}: raise it (the longest has {max(map(len, prompts))})"
            )
    repaired = sum(q.meta["repaired"] for q in questions)
    if repaired:
        print(
            f"{path}: repaired the backspace in \\boxed in {repaired} of {len(questions)} prompts"
        )
    return questions, prompts


class Log:
    """Files NAME.jsonl of a run, flushed line by line. On resume the lines of steps not yet done, and a line cut short by a kill, are dropped."""

    def __init__(self, run: Config, done: int, names: tuple[str, ...] = ("metrics", "rollouts")):
        self.files, self.warned = {}, set()
        for name in names:
            path = Path(run.out) / f"{name}.jsonl"
            if path.exists():
                aside = path.with_suffix(".tmp")
                with open(path) as lines, open(aside, "w") as kept:
                    kept.writelines(line for line in lines if self.step_of(line) <= done)
                os.replace(aside, path)
            self.files[name] = open(path, "a", buffering=1)

    @staticmethod
    def step_of(line: str) -> float:
        try:
            return json.loads(line)["step"]
        except ValueError:
            return float("inf")

    def write(self, name: str, row: dict) -> None:
        self.files[name].write(json.dumps(row) + "\n")


def tree_rows(policy: Policy, step: int, rollouts: list[Rollout], groups: int) -> list[dict]:
    """The whole trees of the first prompts, a row per rollout, as rollouts.jsonl holds them. parent: index of the row in its tree."""
    rows = []
    for group in range(groups):
        tree = [r for r in rollouts if r.group == group]
        place = {id(r): k for k, r in enumerate(tree)}
        for r in tree:
            notes = {
                name: [round(x, 6) for x in values.tolist()] for name, values in r.notes.items()
            }
            rows.append(
                {
                    "step": step,
                    "group": group,
                    "index": place[id(r)],
                    "parent": place.get(id(r.parent)),
                    "fork_at": r.fork_at,
                    "reward": r.reward,
                    "finish": r.finish,
                    "prompt": policy.decode(r.prompt),
                    "ids": r.ids,
                    "pieces": [policy.text[i] for i in r.ids],
                    "mask": r.mask,
                    "logp": [round(x, 6) for x in r.logp],
                    "entropy": [round(x, 6) for x in r.entropy],
                    **notes,
                    "calls": [dataclasses.asdict(c) for c in r.calls],
                }
            )
    return rows


def branch_lines(policy: Policy, rollouts: list[Rollout], count: int) -> list[str]:
    """Some branch points of all mini-batches in words: where, the token, its numbers, and what came of it."""
    lines, branches = [], [r for r in rollouts if r.parent is not None]
    for x in branches[:: max(1, len(branches) // max(count, 1))][:count]:
        p, t = x.parent, min(x.fork_at, len(x.parent.ids) - 1, len(x.ids) - 1)
        context, old, new = (
            policy.decode(p.ids[max(0, t - 6) : t]),
            policy.text[p.ids[t]],
            policy.text[x.ids[t]],
        )
        omega, score = p.notes["future_value"][t], p.notes["branching_score"][t]
        lines.append(
            f"  branch at token {t} of {len(p.ids)}: {context!r} -> {old!r}, now {new!r}"
            f" | entropy {p.entropy[t]:.3f} Omega {omega:.4f} score {score:+.2f} | reward {p.reward:g} -> {x.reward:g}"
        )
    return lines


@dataclass
class Inputs:
    """What a run reads besides the model, checked. Questions come with their prompts as ids."""

    train: tuple[list[Question], list[list[int]]]
    test: tuple[list[Question], list[list[int]]]
    examples: list
    tools: dict


@dataclass
class Setup:
    """What the loop needs. checkpoint, cold: the newest of the run and, if it has none, of its cold start; they were looked for once, by rank 0, under the lock."""

    policy: Policy
    sampler: Sampler
    inputs: Inputs
    ranks: Ranks
    checkpoint: Path | None
    cold: Path | None


def load_policy(run: Config, path: str, ranks: Ranks) -> Policy:
    """The model on this process's device, whole or its shard."""
    policy = Policy.load(path, device=run.device)
    if run.checkpointing:
        recompute_activations(policy.model)
    return policy.shard(run.dtype, mesh_of(run, ranks)) if run.shard else policy


def check_inputs(run: Config) -> Inputs:
    """Check everything that can be wrong without a model; nothing is written."""
    begun = newest(run.out)
    for name in ("data", "eval_data") + ("cold_start",) * (begun is None):
        file = Path(getattr(run, name))
        if getattr(run, name) and not file.is_file():
            raise FileNotFoundError(
                f"--{name} {file} {'is not a file' if file.exists() else 'does not exist'}"
            )
    if Path(run.out).exists() and not Path(run.out).is_dir():
        raise ValueError(f"--out {run.out} is a file: give a folder")
    tokenizer = load_tokenizer(run.model)
    train = read_data(run, run.data, tokenizer)
    if len(train[0]) < run.prompts:
        raise ValueError(
            f"--data {run.data} holds {len(train[0])} questions, fewer than --prompts {run.prompts}"
        )
    questions, prompts = (
        read_data(run, run.eval_data, tokenizer)
        if run.eval_data and run.eval_questions
        else ([], [])
    )
    examples = []
    if run.cold_start and not begun:
        # some of whose exercises have no system message, as they should
        bundled = Path(run.cold_start).parent == Path(run.model).parent
        examples = sft.read_examples(
            run.cold_start,
            tokenizer,
            run.cold_max_tokens,
            run.skip_bad,
            None if bundled else system_of(train[0]),
        )
    return Inputs(
        train,
        (questions[: run.eval_questions], prompts[: run.eval_questions]),
        examples,
        opened_tools(run),
    )


def load(run: Config, inputs: Inputs, ranks: Ranks = Ranks()) -> Setup:
    """The model, from the newest checkpoint if there is one, and the sampler."""
    step, cold = ranks.gather((newest(run.out), newest(run.out, "cold")))[0]
    policy = load_policy(run, str(step or cold or run.model), ranks)
    sampler = Sampler(
        policy,
        inputs.tools,
        run.decode_rows,
        run.max_tokens,
        run.max_calls,
        run.max_result_tokens,
        run.temperature,
        run.prefill_chunk,
        constant_rows=run.constant_rows,
    )
    return Setup(policy, sampler, inputs, ranks, step, None if step else cold)


def system_of(questions: list[Question]) -> str:
    """The system message that questions begin with, "" if they have none."""
    first = questions[0].messages[0]
    return first["content"] if first["role"] == "system" else ""


@contextmanager
def locked(folder: Path, ranks: Ranks = Ranks()):
    """Rank 0 holds the folder of a run: two runs in one would write over each other. Raises ValueError, on all ranks, if another run holds it."""
    problem = ""
    with contextlib.ExitStack() as opened:
        if ranks.rank == 0:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file = opened.enter_context(open(folder / "lock", "a+"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.truncate(0), file.write(str(os.getpid())), file.flush()
            except BlockingIOError:
                file.seek(0)
                problem = f"another run (process {file.read() or 'unknown'}) is writing to {folder}: give another --out, or end that one"
            except OSError as failed:
                problem = f"--out {folder} cannot be written: {failed}"
        problem = ranks.gather(problem)[0]
        if problem:
            raise ValueError(problem)
        yield


def record(run: Config, sandbox_level: str) -> None:
    """Write config.json: settings, versions, hashes of the data, what confines model code. On resume refuse settings or data that would make it another run.

    Raises: ValueError naming what changed.
    """
    path = Path(run.out) / "config.json"
    files = {
        name: getattr(run, name)
        for name in ("data", "eval_data", "cold_start", "corpus")
        if Path(getattr(run, name)).is_file()
    }
    now = shown_settings(run) | {
        "data_sha256": {name: sha256(file) for name, file in files.items()}
    }
    now = new_names(Config, json.loads(json.dumps(now)))
    if (newest(run.out) or newest(run.out, "cold")) and path.exists():
        try:
            before = new_names(Config, json.loads(path.read_text()))
        except ValueError as problem:
            raise ValueError(
                f"{path} cannot be read: {problem}; without it nothing says whether this is the same run: mend or delete it"
            ) from None
        changed = {
            name: f"{before.get(name)!r}, now {now[name]!r}"
            for name in now
            if name not in free_names(Config) | set(files) | RECORDED
            and before.get(name) != now[name]
        }
        changed |= {
            name: "the file's content differs"
            for name in files
            if before.get("data_sha256", {}).get(name) != now["data_sha256"][name]
        }
        # a world's files follow from these two
        for name, how in sorted(changed.items(), key=lambda x: x[0] not in ("seed", "world")):
            raise ValueError(
                f"{run.out} holds a run with another --{name} ({how}): give another --out, or delete it to start anew"
            )
    # a kill or a full disk leaves the one before
    aside = path.with_suffix(".tmp")
    aside.write_text(
        json.dumps(now | {"versions": versions(), "sandbox_level": sandbox_level}, indent=2)
    )
    os.replace(aside, path)


def agree(ranks: Ranks, work) -> None:
    """Rank 0 does something that may raise ValueError or OSError; if it does, all ranks raise it."""
    problem = None
    try:
        if ranks.rank == 0:
            work()
    except (ValueError, OSError) as failed:
        problem = failed
    problem = ranks.gather(problem)[0]
    if problem:
        raise problem


def tidy(run: Config, setup: "Setup") -> None:
    """Delete what a kill has left: checkpoints half written, those of a finished cold start, those that --keep_checkpoints no longer wants."""
    for left in [*Path(run.out).glob("step_??????.tmp"), *Path(run.out).glob("cold_??????.tmp")]:
        shutil.rmtree(left, ignore_errors=True)
    if setup.checkpoint:
        sft.forget(Path(run.out))
        prune(run)


def prune(run: Config) -> None:
    """Delete older checkpoints as --keep_checkpoints says, but not the reference of the KL term."""
    checkpoints.prune(run.out, run.keep_checkpoints, spare="step_000000" if run.kl_coef else "")


def sha256(path: str) -> str:
    """Of a file's bytes, however large it is."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def evaluation_due(run: Config, step: int) -> bool:
    """Is the run evaluated after so many steps: before the first, after the last, and every --eval_every?"""
    return step in (0, run.steps) or bool(run.eval_every) and step % run.eval_every == 0


def report(
    run: Config, setup: "Setup", log: "Log | None", step: int, beat, asked=lambda: False
) -> None:
    """Evaluate on the held-out questions, each rank its share, sampled and greedy; print, log and store the results. Given up if the run is asked to stop."""
    beat(f"evaluation after step {step}")
    (questions, prompts), ranks = setup.inputs.test, setup.ranks
    places = ranks.share(list(range(len(questions))))
    mine = [questions[i] for i in places], [prompts[i] for i in places]
    with setup.policy.gathered():
        sample = partial(sample_initial, setup.sampler)
        seeds = [mix_seed(mix_seed(run.seed, 2), place) for place in places]
        sampled = list(evaluate(sample, *mine, run.eval_samples, seeds))
        if asked():
            return
        greedy = list(evaluate(partial(sample, temperature=0), *mine, 1, seeds))
    beat(f"evaluation after step {step}, wait")
    parts = ranks.gather((places, sampled, greedy))
    merged = [
        [
            row
            for _, row in sorted(
                ((place, row) for part in parts for place, row in zip(part[0], part[k])),
                key=lambda pair: pair[0],
            )
        ]
        for k in (1, 2)
    ]
    if ranks.rank:
        return
    own = numbers_of(merged[0])
    numbers = {f"eval_{name}": value for name, value in own.items()} | {
        "eval_greedy": numbers_of(merged[1])["avg@1"]
    }
    log.write("metrics", {"step": step} | numbers)
    result = {
        "numbers": own,
        "rows": merged[0],
        "questions": len(questions),
        "samples": run.eval_samples,
        "settings": shown_settings(run),
    }
    write_result(
        Path(run.out) / f"eval_{step:06d}.json",
        result | {"data": run.eval_data, "step": step, "versions": versions()},
    )
    tqdm.write(
        f"step {step}: held-out accuracy {numbers[f'eval_avg@{run.eval_samples}']:.3f} sampled, {numbers['eval_greedy']:.3f} greedy, "
        f"format errors {numbers['eval_format_errors']:.3f}, {numbers['eval_calls']:.2f} calls per question ({len(questions)} questions x {run.eval_samples})"
    )


def batch_of(run: Config, step: int, size: int) -> list[int]:
    """Indices of the questions of a step: every epoch is a permutation drawn from the seed, so a resumed run sees the same questions."""
    picked = []
    for place in range(step * run.prompts, (step + 1) * run.prompts):
        epoch = place // size
        order = torch.randperm(
            size, generator=torch.Generator().manual_seed(mix_seed(run.seed, 1, epoch))
        )
        picked.append(int(order[place % size]))
    return picked


def every_reward(rollouts: list[Rollout], questions: list[Question], ranks: Ranks) -> dict:
    """Mean reward of the initial rollouts by every kind of reward, whichever is trained on."""
    initial = [(r, questions[r.group]) for r in rollouts if r.parent is None]
    *sums, count = ranks.sum(
        [sum(reward(r, q.answers, kind, q.task) for r, q in initial) for kind in REWARDS]
        + [len(initial)]
    )
    return {f"reward_{kind}": total / count for kind, total in zip(REWARDS, sums)}


def alarms(metrics: dict) -> list[str]:
    """What a look at a step's numbers should not miss, in words; empty if all is well."""
    tests = {
        "entropy has collapsed": metrics["entropy"] < 0.01,
        "more than 90% of the prompts give no credit: all their rewards are equal": metrics[
            "zero_std"
        ]
        > 0.9,
        "more than half of the rollouts are cut off": metrics["truncated"] > 0.5,
        "tools fail for reasons of infrastructure": metrics["tool_infra"] > 0.1,
        "sampler and trainer disagree on log-probs": metrics["sampler_gap"]
        > (1e-3 if metrics["sampler_gap_exact"] else 1.0),
        "an update was skipped: its gradient was not finite": metrics["skipped"] > 0,
    }
    return [text for text, true in tests.items() if true]


class Stop:
    """SIGTERM and SIGINT ask for a stop at the next boundary. A cluster and torchrun may both send SIGTERM: however often it comes, it only asks. A second SIGINT,
    not at the same moment as the first, ends the process at once."""

    def __init__(self):
        self.asked, self.since = False, 0.0
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self.ask)

    def ask(self, number, frame) -> None:
        if number == signal.SIGINT and self.asked and time.monotonic() - self.since > 2:
            raise KeyboardInterrupt
        self.asked, self.since = True, self.since or time.monotonic()


class Heartbeat:
    """Tells who keeps the others waiting: each rank notes its phase in a file, and rank 0 names the slowest when it has waited long.

    Args: folder: heartbeat_N files go there. every: seconds of waiting after which a line is printed, and again.
    """

    def __init__(self, folder: Path, ranks: Ranks, every: float = 120.0):
        self.files, self.ranks, self.every, self.ended = (
            [folder / f"heartbeat_{rank}" for rank in range(ranks.world)],
            ranks,
            every,
            threading.Event(),
        )
        self("start")
        if ranks.rank == 0 and ranks.world > 1:
            threading.Thread(target=self._watch, daemon=True).start()

    def __call__(self, phase: str) -> None:
        self.phase, self.since = phase, time.time()
        # a full disk is the checkpoint's business
        with contextlib.suppress(OSError):
            file = self.files[self.ranks.rank]
            file.with_suffix(".tmp").write_text(f"{self.since} {phase}")
            os.replace(file.with_suffix(".tmp"), file)

    def _watch(self) -> None:
        while not self.ended.wait(self.every):
            line = self.slowest()
            if line:
                tqdm.write(line)

    def slowest(self) -> str:
        """A line that names the rank whose phase has lasted longest while others wait for it; "" if none has for long, or none waits."""
        beats = [
            (float(since), phase, rank)
            for rank, file in enumerate(self.files)
            if file.exists()
            for since, _, phase in [file.read_text().partition(" ")]
        ]
        waits = lambda beat: beat[1].endswith(("wait", "update"))
        busy, now = [beat for beat in beats if not waits(beat)], time.time()
        if not busy or not any(waits(beat) and now - beat[0] >= self.every for beat in beats):
            return ""
        since, phase, rank = min(busy)
        return f"waiting for rank {rank}: in {phase} for {now - since:.0f} s"


def train_loop(
    run: Config,
    setup: Setup,
    optimizer,
    reference: Policy | None,
    log: "Log | None",
    done: int,
    skipped: int,
    beat: "Heartbeat",
    stop: Stop,
) -> None:
    """Steps done + 1 .. run.steps, each logged; checkpoints and evaluations as the settings say. Ends early, with a checkpoint, when asked to stop.

    A step with a skipped update is not saved, unless it is the last or the run was asked to stop: then the number of such steps in a row is saved with it.
    """
    ranks, policy, (questions, prompts), total = (
        setup.ranks,
        setup.policy,
        setup.inputs.train,
        Counter(),
    )
    # a collective: it stops all ranks or none
    asked = lambda: ranks.max([stop.asked])[0] > 0
    bar = tqdm(
        range(done, run.steps),
        initial=done,
        total=run.steps,
        desc="APPO" if run.branches else "GRPO",
        disable=ranks.rank > 0 or done >= run.steps,
    )
    for step in bar:
        if asked():
            save(run, policy, optimizer, step, skipped, ranks)
            print(
                f"asked to stop: step {step} is saved, the same command goes on from it", flush=True
            )
            break
        started, picked = time.perf_counter(), batch_of(run, step, len(questions))
        judge = lambda r, i: reward(
            r, questions[picked[i]].answers, run.reward, questions[picked[i]].task
        )
        seeds = [mix_seed(run.seed, 0, step, i) for i in range(run.prompts)]
        try:
            metrics, rollouts = appo.step(
                policy,
                optimizer,
                setup.sampler,
                [prompts[i] for i in picked],
                seeds,
                judge,
                run,
                mix_seed(run.seed, 3, step),
                reference,
                ranks,
                lambda phase: beat(f"step {step + 1}, {phase}"),
            )
        # raised before the step's first update
        except Unavailable as problem:
            save(run, policy, optimizer, step, skipped, ranks)
            raise Unavailable(
                f"step {step + 1}",
                f"{problem}; step {step} is saved, the same command goes on from it",
            ) from None
        metrics |= every_reward(rollouts, [questions[i] for i in picked], ranks) | {
            "seconds": time.perf_counter() - started
        }
        if ranks.rank == 0:
            write_step(run, policy, log, step + 1, metrics, rollouts, total, bar)
        skipped = skipped + 1 if metrics["skipped"] else 0
        if skipped >= run.max_skipped:
            give_up(run, policy, rollouts, step + 1, skipped, ranks)
        if step + 1 == run.steps or not skipped and (step + 1) % run.save_every == 0:
            beat(f"saving step {step + 1}")
            save(run, policy, optimizer, step + 1, skipped, ranks)
        if setup.inputs.test[0] and evaluation_due(run, step + 1) and not asked():
            report(run, setup, log, step + 1, beat, asked)


def save(run: Config, policy: Policy, optimizer, step: int, skipped: int, ranks: Ranks) -> None:
    """The checkpoint of a step; then older ones go as --keep_checkpoints says, but not the reference of the KL term."""
    checkpoints.save(
        Path(run.out) / f"step_{step:06d}", policy, [optimizer], {"skipped": skipped}, ranks
    )
    if ranks.rank == 0:
        prune(run)


def write_step(
    run: Config,
    policy: Policy,
    log: "Log",
    step: int,
    metrics: dict,
    rollouts: list[Rollout],
    total: Counter,
    bar,
) -> None:
    """A step's line in metrics.jsonl, its trees in rollouts.jsonl, its branch points and alarms on the screen, its numbers in the bar."""
    warnings = alarms(metrics | {"sampler_gap_exact": policy.dtype == torch.float32})
    log.write("metrics", {"step": step} | metrics | ({"alarms": warnings} if warnings else {}))
    for row in tree_rows(policy, step, rollouts, min(run.log_trees, run.prompts)):
        log.write("rollouts", row)
    for line in branch_lines(policy, rollouts, run.print_branches) + [
        f"step {step}: {text}" for text in warnings if text not in log.warned
    ]:
        tqdm.write(line)
    # said when it begins, logged as long as it lasts
    log.warned = set(warnings)
    total.update(
        {name: metrics[f"tokens_{name}"] for name in ("sampled", "trained")}
        | {"updates": metrics["optimizer_steps"]}
    )
    phases = "/".join(
        f"{metrics[f'seconds_{phase}']:.1f}" for phase in ("sample", "score", "branch", "update")
    )
    shown = ", ".join(
        f"{name} {metrics[name]:.2f}" for name in ("reward", "entropy", "truncated", "degenerate")
    )
    bar.set_postfix_str(
        f"{shown}, length {metrics['length']:.0f}, "
        + ", ".join(f"{name} {n}" for name, n in total.items())
        + f", s {phases}",
        refresh=False,
    )


def give_up(
    run: Config, policy: Policy, rollouts: list[Rollout], step: int, skipped: int, ranks: Ranks
) -> None:
    """Leave the rollouts that gave gradients which are not finite on disk, and stop."""
    path = Path(run.out) / f"skipped_{step:06d}_{ranks.rank}.jsonl"
    # a rank may have none
    groups = max((r.group for r in rollouts), default=-1) + 1
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in tree_rows(policy, step, rollouts, groups))
    )
    raise ValueError(
        f"the gradients of {skipped} steps in a row were not finite; the last step's rollouts are in {path}, the weights are those before"
    )


def start_or_go_on(run: Config, setup: Setup, beat: "Heartbeat", stop: Stop) -> tuple | None:
    """A new run: cold start, checkpoint of step 0. An old one: its optimizer. Either way the evaluation that is due.

    Returns: (optimizer, reference of the KL term, log, steps done, steps in a row whose update was skipped); None if the cold start was asked to stop.
    """
    checkpoint, policy, ranks = setup.checkpoint, setup.policy, setup.ranks
    if setup.inputs.examples and not checkpoint and not run_cold_start(run, setup, beat, stop):
        return None
    # one kernel: no temporary as large as the weights
    fused = run.device.startswith("cuda") or None
    optimizer, done, skipped = (
        torch.optim.AdamW(
            policy.model.parameters(), lr=run.lr, weight_decay=run.weight_decay, fused=fused
        ),
        checkpoints.step_in(checkpoint),
        0,
    )
    if not checkpoint:
        save(run, policy, optimizer, 0, 0, ranks)
        if ranks.rank == 0:
            sft.forget(Path(run.out))
    # before AdamW's state is there: it is loaded whole
    reference = load_policy(run, str(Path(run.out) / "step_000000"), ranks) if run.kl_coef else None
    if checkpoint:
        skipped = checkpoints.load_state(policy, [optimizer], checkpoint, ranks)["skipped"]
        print(
            f"going on from {checkpoint}"
            + (f"; all of --steps {run.steps} are done" if done >= run.steps else ""),
            flush=True,
        )
    log = Log(run, done) if ranks.rank == 0 else None
    evaluated = log and {
        line["step"]
        for line in map(json.loads, open(Path(run.out) / "metrics.jsonl"))
        if "eval_greedy" in line
    }
    if (
        setup.inputs.test[0]
        and evaluation_due(run, done)
        and not ranks.gather(evaluated and done in evaluated)[0]
    ):
        report(run, setup, log, done, beat, lambda: ranks.max([stop.asked])[0] > 0)
    return optimizer, reference, log, done, skipped


def run_cold_start(run: Config, setup: Setup, beat: "Heartbeat", stop: Stop) -> bool:
    """The cold start, its numbers in cold_start.jsonl; False if it was asked to stop before its end."""
    beat("cold start")
    log = (
        Log(run, checkpoints.step_in(setup.cold), ("cold_start",))
        if setup.ranks.rank == 0
        else None
    )
    loss = sft.cold_start(
        setup.policy,
        setup.inputs.examples,
        run,
        setup.ranks,
        folder=Path(run.out),
        checkpoint=setup.cold,
        log=lambda row: log and log.write("cold_start", row),
        asked=lambda: stop.asked,
    )
    if loss is None:
        print(
            "asked to stop: the cold start is saved, the same command goes on with it", flush=True
        )
    return loss is not None


def join_ranks(run: Config) -> tuple[Config, Ranks]:
    """Join the other processes if torchrun started several (and be one process of one where --shard needs it): the run on this process's device, the ranks."""
    several, asked = int(os.environ.get("WORLD_SIZE", 1)) > 1, run.device
    run = dataclasses.replace(run, device=pick_device(asked))
    cuda, patience = run.device.startswith("cuda"), datetime.timedelta(seconds=run.rank_timeout)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    if several and cuda:
        run = dataclasses.replace(run, device=f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
        torch.cuda.set_device(run.device)
    # torchrun keeps its store when it restarts the processes: their addresses there are old then
    if several:
        store, rank, world = next(rendezvous("env://", timeout=patience))
        store = dist.PrefixStore(
            f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store
        )
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=patience)
    elif run.shard and not dist.is_initialized():
        dist.init_process_group(backend, rank=0, world_size=1, store=dist.HashStore())
    ranks = Ranks()
    if ranks.rank:
        # rank 0 speaks for all
        sys.stdout = open(os.devnull, "w")
    if asked == "auto":
        print(
            f"--device auto: {run.device}{'' if cuda else ', this PyTorch sees no GPU'}", flush=True
        )
    return run, ranks


def mesh_of(run: Config, ranks: Ranks):
    """Shards within a node, copies across nodes (HSDP); None, all processes, on a single node."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world))
    return (
        node_mesh(run.device.split(":")[0], ranks.world // here, here, run.rank_timeout)
        if ranks.world > here
        else None
    )


def node_mesh(kind: str, nodes: int, here: int, patience: float):
    """A device mesh of `nodes` copies of `here` shards each, whose processes wait `patience` seconds for each other. kind: "cpu" or "cuda"."""
    mesh = torch.arange(nodes * here).view(nodes, here)
    groups = [
        dist.new_subgroups_by_enumeration(
            lines.tolist(), timeout=datetime.timedelta(seconds=patience)
        )[0]
        for lines in (mesh.T, mesh)
    ]
    return DeviceMesh.from_group(groups, kind, mesh, mesh_dim_names=("node", "shard"))


def main(argv: list[str]) -> None:
    if "--plan" in argv:
        raise ValueError(
            "--plan is a command of its own: python -m extras.plan, with the same flags"
        )
    transformers.utils.logging.disable_progress_bar()
    run, ranks = join_ranks(read_settings(argv))
    try:
        run = with_world(run) if ranks.rank == 0 else run
        # the bundled world is made once
        run = dataclasses.replace(ranks.gather(run)[0], device=run.device)
        if run.threads:
            torch.set_num_threads(run.threads)
        inputs = check_inputs(run)
        # before the checkpoint is looked for: another process may still be writing one
        with locked(Path(run.out), ranks):
            train(run, load(run, inputs, ranks))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def train(run: Config, setup: Setup) -> None:
    """A run in its folder, from the start or from where it was."""
    agree(setup.ranks, lambda: record(run, getattr(setup.sampler.tools.get("python"), "level", "")))
    if setup.ranks.rank == 0:
        tidy(run, setup)
    print(
        f"{run.algo} ({run.preset}), N={run.initial} B={run.branches} b={run.future_weight}, {run.prompts} prompts a step, {run.minibatch} an update; "
        f"{len(setup.inputs.train[0])} questions, {sum(p.numel() for p in setup.policy.model.parameters()) / 1e6:.1f} M parameters on {setup.ranks.world} x {run.device}, "
        f"settings in {run.out}/config.json",
        flush=True,
    )
    beat, stop = Heartbeat(Path(run.out), setup.ranks), Stop()
    started = start_or_go_on(run, setup, beat, stop)
    if started:
        train_loop(run, setup, *started, beat, stop)
    beat.ended.set()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as problem:
        sys.exit(f"train.py: {problem}")
    except KeyboardInterrupt:
        sys.exit(
            "train.py: interrupted; the same command goes on from the newest checkpoint, if there is one yet"
        )
