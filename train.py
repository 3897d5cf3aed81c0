"""Train an agent with APPO: flags, data, cold start, the loop, evaluation, checkpoints, the log.

    python train.py                                             the laptop run: bundled world, tiny model, minutes
    python train.py --model M --data F --corpus C --out DIR     a Hugging Face model on real questions with Python and search

Settings come from, each overriding the one before: the paper's defaults, --preset, --config, --algo, flags. Without --model and --config the laptop run's
configs/laptop.json is taken. A run whose folder holds a complete checkpoint goes on from it.
"""
import argparse
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import transformers
from jinja2.exceptions import TemplateError
from tqdm import tqdm

import appo
import plan
from appo import ALGOS, Config, Policy, Rollout, Sampler, add_flags, encode_prompt, encode_result, load_tokenizer, mix_seed, option, versions
from data.world.prepare import MODES, made_as, prepare
from eval import REWARDS, Agent, Question, evaluate, load_questions, reward
from tools import Unavailable

HERE = Path(__file__).parent
LAPTOP = HERE / "configs" / "laptop.json"
PRESETS = appo.PRESETS | {"released": appo.PRESETS["released"] | {"reward": "released"}}
RECORDED = {"versions", "data_sha256", "sandbox_level"}                 # what config.json holds besides settings
FREE = {"steps", "out", "save_every", "eval_every", "eval_questions", "eval_samples", "log_trees", "show", "threads", "device",
        "micro", "rows", "chunk", "tool_timeout", "sandbox", "search_cache"}      # these may change on resume


@dataclass(frozen=True)
class Run(Agent, Config):
    """A run's settings: those of the method (appo.Config), what the agent may use (eval.Agent) and these."""
    out: str = option("runs/laptop", "folder of the run; goes on from the newest complete checkpoint in it")
    model: str = option("", "Hugging Face model folder or name; empty: the bundled world's tiny model")
    data: str = option("", "training questions, .jsonl or .parquet; empty: the bundled world's")
    task: str = option("auto", "how answers are graded: by the row's task or a guess, or one way for all", choices=("auto", "math", "qa"))
    skip_bad: bool = option(False, "leave out rows of the data that are not JSON or have no question or answer, saying which, instead of refusing the file")
    eval_data: str = option("", "held-out questions; empty: the bundled world's, none with another model")
    cold_start: str = option("", "worked examples to imitate first, .jsonl rows with \"messages\"; empty: the bundled world's, none with another model")
    world: str = option("easy", "bundled world, made at first use", choices=tuple(MODES))
    reward: str = option("auto", "what is trained on: math or F1 by task, one of them, or the released code's", choices=REWARDS)
    steps: int = option(156, "steps in all, resumed ones included (paper: 2 epochs of 78)", 0)
    seed: int = option(0, "of everything: world, order, sampling", 0)
    lr: float = option(1e-6, "AdamW learning rate, constant (paper: not stated, released code 1e-6)", 0)
    weight_decay: float = option(0.01, "AdamW weight decay", 0)
    cold_steps: int = option(0, "cold start: optimizer steps; 0: one pass over the file", 0)
    cold_batch: int = option(8, "cold start: examples per step", 1)
    cold_lr: float = option(7e-6, "cold start: peak learning rate of AdamW, decays to 0 (paper 7e-6)", 0)
    cold_optimizer: str = option("adamw", "cold start: AdamW, or Muon for the matrices of a model trained from nothing", choices=("adamw", "muon"))
    muon_lr: float = option(0.02, "cold start: peak learning rate of Muon, decays to 0", 0)
    max_prompt: int = option(2048, "longest prompt, tokens; a longer one is an error", 1)
    eval_questions: int = option(200, "held-out questions per evaluation, the first of the file; 0: none", 0)
    eval_samples: int = option(1, "samples per held-out question", 1)
    eval_every: int = option(0, "steps between evaluations; 0: before and after training only", 0)
    save_every: int = option(50, "steps between checkpoints; the last step is always saved", 1)
    log_trees: int = option(1, "prompts per step whose whole tree goes to rollouts.jsonl", 0)
    show: int = option(0, "branch points printed per step", 0)
    threads: int = option(0, "CPU threads; 0: PyTorch's choice", 0)
    preset: str = option("paper", "the paper's arithmetic or the released code's", choices=tuple(PRESETS))
    algo: str = option("appo", "appo, or grpo: no branches, b = 0", choices=tuple(ALGOS))


# -------------------------------------------------------------------------------------------------------------------------------------------- settings

def read_settings(argv: list[str]) -> Run:
    """Flags and files to one checked Run. Raises ValueError with the flag, key or file at fault; argparse exits for an unknown flag."""
    parser = argparse.ArgumentParser(description="Train an agent with APPO.", epilog=plan.HELP, allow_abbrev=False)
    parser.add_argument("--config", help="JSON file of settings, keys as the flags; an unknown key fails (default configs/laptop.json without --model)")
    add_flags(parser, Run)
    flags = vars(parser.parse_args(argv))
    config = flags.pop("config")
    file = read_config(config) if config else read_config(LAPTOP) if not flags.get("model") else {}
    named = {"preset": "paper", "algo": "appo"} | {k: v for k, v in (file | flags).items() if k in ("preset", "algo")}
    for name, known in (("preset", PRESETS), ("algo", ALGOS)):
        if named[name] not in known:
            raise ValueError(f"--{name} must be one of {', '.join(known)}, got {named[name]!r}")
    settings = PRESETS[named["preset"]] | file | ALGOS[named["algo"]] | flags
    try:
        return Run(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
    except ValueError as problem:
        raise ValueError(f"{problem}{f' (flags and {config})' if config else ''}") from None


def read_config(path) -> dict:
    """A JSON object of settings whose keys are flags; a run's own config.json will do."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"--config {path} does not exist")
    try:
        config = json.loads(Path(path).read_text())
    except ValueError as problem:
        raise ValueError(f"--config {path} is not JSON: {problem}") from None
    if not isinstance(config, dict):
        raise ValueError(f"--config {path} is not an object of settings")
    known = {f.name for f in dataclasses.fields(Run)}
    unknown = sorted(set(config) - known - RECORDED)
    if unknown:
        raise ValueError(f"--config {path}: unknown key {unknown[0]!r}; `python train.py --help` lists them all")
    return {name: value for name, value in config.items() if name in known}


def with_world(run: Run) -> Run:
    """Fill what is empty from the bundled world, which is made if it is not there yet."""
    if run.model and run.data:
        return run
    if run.model or run.data:
        given, missing = ("--model", "--data") if run.model else ("--data", "--model")
        raise ValueError(f"{given} was given without {missing}; without both, the bundled world is used")
    folder = HERE / "data" / "world" / f"{run.world}-{run.seed}"
    if made_as(folder) != (MODES[run.world], run.seed):
        print(f"making the bundled world in {os.path.relpath(folder)} ...", flush=True)
        prepare(MODES[run.world], run.seed, folder)
    mine = dict(model="model", data="train.jsonl", eval_data="test.jsonl", cold_start="traces.jsonl", corpus="corpus.jsonl")
    return dataclasses.replace(run, **{name: str(folder / file) for name, file in mine.items() if not getattr(run, name)})


def read_data(run: Run, path: str, tokenizer) -> tuple[list[Question], list[list[int]]]:
    """Questions and their prompts as ids. ValueError naming the row if a prompt is longer than --max_prompt."""
    questions = load_questions(path, run.skip_bad, run.task)
    try:
        prompts = [encode_prompt(tokenizer, q.messages) for q in questions]
    except TemplateError as problem:
        raise ValueError(f"{path}: the chat template of {run.model} does not take these messages: {problem}") from None
    for q, prompt in zip(questions, prompts):
        if len(prompt) > run.max_prompt:
            raise ValueError(f"{path}, row {q.meta['row']}: the prompt has {len(prompt)} tokens, --max_prompt is {run.max_prompt}: raise it (the longest has {max(map(len, prompts))})")
    repaired = sum(q.meta["repaired"] for q in questions)
    if repaired:
        print(f"{path}: repaired the backspace in \\boxed in {repaired} of {len(questions)} prompts")
    return questions, prompts


# ------------------------------------------------------------------------------------------------------------------------------------------ cold start

def read_examples(path: str, tokenizer) -> list[tuple[list[int], list[bool]]]:
    """Worked examples as (ids, mask): the last assistant message is to be imitated, but for its tool results. ValueError naming the row that is none."""
    examples = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                *before, last = json.loads(line)["messages"]
                if last["role"] != "assistant":
                    raise ValueError("the last message is not the assistant's")
                examples.append(encode_example(tokenizer, before, last["content"]))
            except (ValueError, KeyError, TypeError, TemplateError) as problem:
                raise ValueError(f"--cold_start {path}, row {number}: {problem!r}; a row is "
                                 '{"messages": [..., {"role": "assistant", "content": ...}]}') from None
    if not examples:
        raise ValueError(f"--cold_start {path} holds no example")
    return examples


def encode_example(tokenizer, before: list[dict], response: str) -> tuple[list[int], list[bool]]:
    """Ids as a rollout would have them: results encoded apart and not imitated, the end of turn imitated."""
    ids = encode_prompt(tokenizer, before)
    mask = [False] * len(ids)
    for k, part in enumerate(re.split(r" ?<result>\n?(.*?)\n?</result>", response, flags=re.DOTALL)):
        new = encode_result(tokenizer, part, sys.maxsize) if k % 2 else tokenizer(part, add_special_tokens=False).input_ids
        ids, mask = ids + new, mask + [k % 2 == 0] * len(new)
    return ids + [tokenizer.eos_token_id], mask + [True]


def cold_start(policy: Policy, examples: list[tuple[list[int], list[bool]]], run: Run, progress: bool = True) -> float:
    """Imitate examples in their order, once unless --cold_steps says otherwise; the learning rate falls linearly to 0. Returns the last loss, nats a token."""
    steps = run.cold_steps or -(-len(examples) // run.cold_batch)
    optimizers = cold_optimizers(policy.model, run)
    peaks = [[g["lr"] for g in o.param_groups] for o in optimizers]
    bar = tqdm(range(steps), desc="cold start", disable=not progress, mininterval=1)
    for i in bar:
        batch = [examples[(i * run.cold_batch + k) % len(examples)] for k in range(run.cold_batch)]
        for o, peak in zip(optimizers, peaks):
            for g, lr in zip(o.param_groups, peak):
                g["lr"] = lr * (1 - i / steps)
        loss = imitation_loss(policy, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), run.clip_grad)
        for o in optimizers:
            o.step()
            o.zero_grad(set_to_none=True)
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return loss.item()


def imitation_loss(policy: Policy, batch: list[tuple[list[int], list[bool]]]) -> torch.Tensor:
    """Mean negative log-prob of the tokens to imitate."""
    rollouts = [Rollout(ids[:1], 0, ids=ids[1:], mask=mask[1:]) for ids, mask in batch]
    logp, _, _ = appo.score_rows(policy, rollouts, 1.0, *appo.padded_shape(rollouts))
    return -logp.sum() / sum(sum(r.mask) for r in rollouts)


def cold_optimizers(model, run: Run) -> list:
    """AdamW; or Muon for the matrices inside the layers, which a model trained from nothing learns much faster with, and AdamW for the rest."""
    if run.cold_optimizer == "adamw":
        return [torch.optim.AdamW(model.parameters(), lr=run.cold_lr, weight_decay=0.1, betas=(0.9, 0.98))]
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    return [torch.optim.Muon(matrices, lr=run.muon_lr, momentum=0.95, weight_decay=0.0),
            torch.optim.AdamW(others, lr=run.cold_lr, betas=(0.9, 0.98), weight_decay=0.0)]


# ----------------------------------------------------------------------------------------------------------------------------------------- checkpoints

def save(run: Run, policy: Policy, optimizer, step: int) -> None:
    """A Hugging Face checkpoint with the trainer's state, written aside and renamed; then `latest` names it."""
    folder = Path(run.out) / f"step_{step:06d}"
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    policy.model.save_pretrained(aside)
    policy.tokenizer.save_pretrained(aside)
    torch.save({"step": step, "optimizer": optimizer.state_dict()}, aside / "trainer.pt")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)
    marker = Path(run.out) / "latest.tmp"
    marker.write_text(folder.name)
    os.replace(marker, Path(run.out) / "latest")


def newest(run: Run) -> Path | None:
    """Folder of the newest complete checkpoint of this run, if any."""
    marker = Path(run.out) / "latest"
    return Path(run.out) / marker.read_text().strip() if marker.exists() else None


# ------------------------------------------------------------------------------------------------------------------------------------------------ log

class Log:
    """metrics.jsonl and rollouts.jsonl of a run, flushed line by line. On resume the lines of steps not yet done, and a line cut short by a kill, are dropped."""

    def __init__(self, run: Run, done: int):
        self.files = {}
        for name in ("metrics", "rollouts"):
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
            notes = {name: [round(x, 6) for x in values.tolist()] for name, values in r.notes.items()}
            rows.append({"step": step, "group": group, "index": place[id(r)], "parent": place.get(id(r.parent)), "fork_at": r.fork_at,
                         "reward": r.reward, "finish": r.finish, "prompt": policy.decode(r.prompt), "ids": r.ids, "pieces": [policy.text[i] for i in r.ids],
                         "mask": r.mask, "logp": [round(x, 6) for x in r.logp], "entropy": [round(x, 6) for x in r.entropy], **notes,
                         "calls": [dataclasses.asdict(c) for c in r.calls]})
    return rows


def branch_lines(policy: Policy, rollouts: list[Rollout], count: int) -> list[str]:
    """Some branch points of all mini-batches in words: where, the token, its numbers, and what came of it."""
    lines, branches = [], [r for r in rollouts if r.parent is not None]
    for x in branches[::max(1, len(branches) // max(count, 1))][:count]:
        p, t = x.parent, min(x.fork_at, len(x.parent.ids) - 1, len(x.ids) - 1)
        context, old, new = policy.decode(p.ids[max(0, t - 6):t]), policy.text[p.ids[t]], policy.text[x.ids[t]]
        omega, score = p.notes["future_value"][t], p.notes["branching_score"][t]
        lines.append(f"  branch at token {t} of {len(p.ids)}: {context!r} -> {old!r}, now {new!r}"
                     f" | entropy {p.entropy[t]:.3f} Omega {omega:.4f} score {score:+.2f} | reward {p.reward:g} -> {x.reward:g}")
    return lines


# ----------------------------------------------------------------------------------------------------------------------------------------------- main

@dataclass
class Setup:
    """What the loop needs, all of it checked before the model was loaded. Questions come with their prompts as ids."""
    policy: Policy
    sampler: Sampler
    train: tuple[list[Question], list[list[int]]]
    test: tuple[list[Question], list[list[int]]]
    examples: list


def prepare_run(run: Run) -> Setup:
    """Check everything that can be wrong without a model; then load it."""
    for name in ("data", "eval_data", "cold_start"):
        if getattr(run, name) and not Path(getattr(run, name)).is_file():
            raise FileNotFoundError(f"--{name} {getattr(run, name)} does not exist")
    tokenizer = load_tokenizer(run.model)
    train = read_data(run, run.data, tokenizer)
    if len(train[0]) < run.prompts:
        raise ValueError(f"--data {run.data} holds {len(train[0])} questions, fewer than --prompts {run.prompts}")
    test = read_data(run, run.eval_data, tokenizer) if run.eval_data and run.eval_questions else ([], [])
    examples = read_examples(run.cold_start, tokenizer) if run.cold_start and not newest(run) else []
    tools = run.open_tools()
    policy = Policy.load(str(newest(run) or run.model), device=run.device)
    sampler = Sampler(policy, tools, run.rows, run.max_prompt, run.max_tokens, run.max_calls, run.max_result_tokens, run.temperature, run.chunk)
    return Setup(policy, sampler, train, tuple(part[:run.eval_questions] for part in test), examples)


@contextmanager
def locked(folder: Path):
    """Hold the folder of a run: two runs in one would write over each other. Raises ValueError if another run holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is writing to {folder}: give another --out") from None
        yield


def record(run: Run, sandbox_level: str) -> None:
    """Write config.json: settings, versions, hashes of the data, what confines model code. On resume refuse settings or data that would make it another run.

    Raises: ValueError naming what changed.
    """
    path = Path(run.out) / "config.json"
    files = {name: getattr(run, name) for name in ("data", "eval_data", "cold_start", "corpus") if Path(getattr(run, name)).is_file()}
    now = dataclasses.asdict(run) | {"data_sha256": {name: hashlib.sha256(Path(file).read_bytes()).hexdigest() for name, file in files.items()}}
    now = json.loads(json.dumps(now))
    if newest(run) and path.exists():
        before = json.loads(path.read_text())
        changed = {name: f"{before[name]!r}, now {now[name]!r}" for name in now if name not in FREE | set(files) | RECORDED and before.get(name) != now[name]}
        changed |= {name: "the file's content differs" for name in files if before["data_sha256"].get(name) != now["data_sha256"][name]}
        for name, how in sorted(changed.items(), key=lambda x: x[0] not in ("seed", "world")):     # a world's files follow from these two
            raise ValueError(f"{run.out} holds a run with another --{name} ({how}): give another --out, or delete it to start anew")
    path.write_text(json.dumps(now | {"versions": versions(), "sandbox_level": sandbox_level}, indent=2))


def report(run: Run, sampler: Sampler, test, log: Log, step: int) -> dict:
    """Evaluate on the held-out questions, sampled and greedy; print, log and store the results."""
    sampled = evaluate(partial(appo.sample_initial, sampler), *test, run.eval_samples, mix_seed(run.seed, 2))
    greedy = evaluate(partial(appo.sample_initial, sampler, temperature=0), *test, 1, 0)
    numbers = {f"eval_{name}": value for name, value in sampled["numbers"].items()} | {"eval_greedy": greedy["numbers"]["avg@1"]}
    log.write("metrics", {"step": step} | numbers)
    (Path(run.out) / f"eval_{step:06d}.json").write_text(json.dumps(sampled | {"model": run.model, "data": run.eval_data, "step": step}))
    tqdm.write(f"step {step}: held-out accuracy {numbers[f'eval_avg@{run.eval_samples}']:.3f} sampled, {numbers['eval_greedy']:.3f} greedy, "
               f"format errors {numbers['eval_format_errors']:.3f}, {numbers['eval_calls']:.2f} calls per question ({len(test[0])} questions x {run.eval_samples})")
    return numbers


def batch_of(run: Run, step: int, size: int) -> list[int]:
    """Indices of the questions of a step: every epoch is a permutation drawn from the seed, so a resumed run sees the same questions."""
    picked = []
    for place in range(step * run.prompts, (step + 1) * run.prompts):
        epoch = place // size
        order = torch.randperm(size, generator=torch.Generator().manual_seed(mix_seed(run.seed, 1, epoch)))
        picked.append(int(order[place % size]))
    return picked


def every_reward(rollouts: list[Rollout], questions: list[Question]) -> dict:
    """Mean reward of the initial rollouts by every kind of reward, whichever is trained on."""
    initial = [(r, questions[r.group]) for r in rollouts if r.parent is None]
    return {f"reward_{kind}": sum(reward(r, q.answers, kind, q.task) for r, q in initial) / len(initial) for kind in REWARDS}


def train_loop(run: Run, setup: Setup, optimizer, reference: Policy | None, log: Log, done: int) -> None:
    """Steps done + 1 .. run.steps, each logged; checkpoints and evaluations as the settings say."""
    if done >= run.steps:
        return
    policy, (questions, prompts) = setup.policy, setup.train
    bar = tqdm(range(done, run.steps), initial=done, total=run.steps, desc="APPO" if run.branches else "GRPO")
    sampled = trained = updates = 0
    for step in bar:
        started, picked = time.perf_counter(), batch_of(run, step, len(questions))
        judge = lambda r, i: reward(r, questions[picked[i]].answers, run.reward, questions[picked[i]].task)
        seeds = [mix_seed(run.seed, 0, step, i) for i in range(run.prompts)]
        try:
            metrics, rollouts = appo.step(policy, optimizer, setup.sampler, [prompts[i] for i in picked], seeds, judge, run, mix_seed(run.seed, 3, step), reference)
        except Unavailable as problem:                   # raised before the step's first update
            save(run, policy, optimizer, step)
            raise Unavailable(f"step {step + 1}", f"{problem}; step {step} is saved, the same command goes on from it") from None
        metrics |= every_reward(rollouts, [questions[i] for i in picked]) | {"seconds": time.perf_counter() - started}
        log.write("metrics", {"step": step + 1} | metrics)
        for row in tree_rows(policy, step + 1, rollouts, min(run.log_trees, run.prompts)):
            log.write("rollouts", row)
        for line in branch_lines(policy, rollouts, run.show):
            tqdm.write(line)
        sampled, trained, updates = sampled + metrics["tokens_sampled"], trained + metrics["tokens_trained"], updates + metrics["optimizer_steps"]
        phases = "/".join(f"{metrics[f'seconds_{phase}']:.1f}" for phase in ("sample", "score", "branch", "update"))
        shown = ", ".join(f"{name} {metrics[name]:.2f}" for name in ("reward", "entropy", "truncated", "degenerate"))
        bar.set_postfix_str(f"{shown}, length {metrics['length']:.0f}, sampled {sampled}, trained {trained}, updates {updates}, s {phases}", refresh=False)
        last = step + 1 == run.steps
        if last or (step + 1) % run.save_every == 0:
            save(run, policy, optimizer, step + 1)
        if setup.test[0] and (last or (run.eval_every and (step + 1) % run.eval_every == 0)):
            report(run, setup.sampler, setup.test, log, step + 1)


def start_or_go_on(run: Run, setup: Setup) -> tuple[torch.optim.Optimizer, Log, int]:
    """A new run: cold start, checkpoint of step 0. An old one: its optimizer. Either way the evaluation that is due: (optimizer, log, steps done)."""
    checkpoint, policy = newest(run), setup.policy
    state = torch.load(checkpoint / "trainer.pt", weights_only=True) if checkpoint else {"step": 0}
    log, done = Log(run, state["step"]), state["step"]
    if setup.examples:
        cold_start(policy, setup.examples, run)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=run.lr, weight_decay=run.weight_decay)
    if checkpoint:
        print(f"going on from {checkpoint}" + (f"; all of --steps {run.steps} are done" if done >= run.steps else ""), flush=True)
        optimizer.load_state_dict(state["optimizer"])
    else:
        save(run, policy, optimizer, 0)
    evaluated = {line["step"] for line in map(json.loads, open(Path(run.out) / "metrics.jsonl")) if "eval_greedy" in line}
    if setup.test[0] and done in (0, run.steps) and done not in evaluated:
        report(run, setup.sampler, setup.test, log, done)
    return optimizer, log, done


def show_plan(argv: list[str]) -> None:
    """Print what the run would cost (plan.py). Without --model that of the bundled world."""
    hardware, rest = plan.read_flags(argv)
    run = read_settings(rest)
    print(plan.plan(run if run.model else with_world(run), hardware))


def main(argv: list[str]) -> None:
    if "--plan" in argv:
        return show_plan(argv)
    transformers.utils.logging.disable_progress_bar()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("started as one of several processes, which is not supported yet: run `python train.py`, without torchrun")
    run = with_world(read_settings(argv))
    if run.threads:
        torch.set_num_threads(run.threads)
    setup = prepare_run(run)
    with locked(Path(run.out)):
        train(run, setup)


def train(run: Run, setup: Setup) -> None:
    """A run in its folder, from the start or from where it was."""
    record(run, getattr(setup.sampler.tools.get("python"), "level", ""))
    print(f"{run.algo} ({run.preset}), N={run.initial} B={run.branches} b={run.b}, {run.prompts} prompts a step, {run.minibatch} an update; "
          f"{len(setup.train[0])} questions, {sum(p.numel() for p in setup.policy.model.parameters()) / 1e6:.1f} M parameters on {run.device}, "
          f"settings in {run.out}/config.json", flush=True)
    optimizer, log, done = start_or_go_on(run, setup)
    reference = Policy.load(str(Path(run.out) / "step_000000"), device=run.device) if run.kl_coef else None
    train_loop(run, setup, optimizer, reference, log, done)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as problem:
        sys.exit(f"train.py: {problem}")
