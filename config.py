"""Every setting of a training run: meaning, unit, source, range. Imports no torch.

Values come from, each overriding the one before: the defaults, the run of --from, --preset, what
--algo usually has, --config, what --algo leaves no choice in, flags. Without --model, --config and
--from they are those of the laptop run, configs/laptop.json.
Brackets: the paper's value, or the released code's; a default without them is ours.
A `fixed` setting makes another run; a `free` one may change when a run goes on.
"""

import dataclasses
import datetime
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from methods import ALGOS, PRESETS, RETIRED, method_rules, without_choice
from support.beginnings import (
    beginning,
    crossed_out,
    default_out,
    saved_settings,
)
from support.files import newest_in
from support.settings import (
    fixed,
    free,
    free_names,
    new_names,
    outlived,
    parser_for,
    problems,
    read_json,
    sound,
    typed,
    unknown_flags,
)

LAPTOP = Path(__file__).parent / "configs" / "laptop.json"
# what the config.json of a run holds besides settings
NO_SETTINGS = {"versions", "data_sha256", "sandbox_level"}
USAGE = "python train.py [--config FILE] [--SETTING VALUE ...]"
EPILOG = "python -m extras.plan with the same flags prints what the run will cost."
PLAN = "--plan is a command of its own: python -m extras.plan, with the same flags"
Pair = tuple[float, float]


@dataclass(frozen=True)
class Method:
    """The method: rollouts, branches, credit, loss."""

    algo: Literal[*ALGOS] = fixed(
        "appo", "appo.py, or methods/NAME.py: the released code's flow, baselines"
    )
    preset: Literal["paper", "released"] = fixed("paper", "arithmetic of the paper or its code")
    initial: int = fixed(4, "N: initial rollouts per prompt (paper 4)", 1)
    branches: int = fixed(3, "B: branches per initial rollout; 0 with b = 0: GRPO (paper 3)", 0)
    future_weight: float = fixed(
        0.5, "b: weight of the future term in the credit (paper 0.5, released code 1)", 0, old="b"
    )
    half_life: float = fixed(
        32.0, "tau: half-life of the future sum, tokens, or inf (paper 32)", 1e-9
    )
    score_half_life: float = fixed(
        32.0, "the same in the score (paper 32, released code inf)", 1e-9
    )
    decay_over: Literal["all", "policy"] = fixed(
        "all", "what makes a step of decay: every token, or policy tokens only"
    )
    score_clip: Pair = fixed(
        (0.8, 1.2), "bounds of Omega in the branching score (released code 0.8 1.2)"
    )
    future_clip: Pair = fixed((1.0, 1.2), "bounds of Omega in the credit (paper 1 1.2)")
    criterion: Literal[
        "score",
        "entropy",
        "sum",
        "omega",
        "abs_omega",
        "random",
        "boundary",
        "turn",
        "late",
        "oracle",
    ] = fixed("score", "what ranks the tokens to branch at: Eq. 5, or one of support/criteria.py")
    depth: int = fixed(1, "L: branches of branches, with --algo deep (paper 1; 2, 3)", 1)
    branch_ahead: int = fixed(
        1, "mini-batches whose branches are drawn together, with --algo ahead (paper 1)", 1
    )
    fork_turn: int = fixed(
        1, "results before a branch: it begins with the turn after them, with --algo tree", 1
    )
    prefer_positive: bool = fixed(True, "first tokens above both averages; false: Eq. 5 alone")
    exclude_punct: bool = fixed(
        True, "never branch at punctuation, unless it opens or closes a tag"
    )
    min_new: int = fixed(4, "budget that a branch point leaves at least, tokens", 1)
    dual: Literal["avg", "sum", "literal", "off"] = fixed(
        "avg", "both groups: average (paper), sum (released code), Eq. 6 as printed, or one group"
    )
    std_correction: Literal[0, 1] = fixed(0, "group std: 0 population (released code), 1 unbiased")
    clip_low: float = fixed(0.2, "ratio clip below 1, in [0, 1] (released code 0.2)", 0)
    clip_high: float = fixed(0.28, "ratio clip above 1 (released code 0.28)", 0)
    clip_c: float = fixed(
        3.0, "dual clip of the ratio where credit < 0; inf: none (released code 3)", 1
    )
    aggregate: Literal["seq-mean", "token-mean"] = fixed(
        "seq-mean", "every rollout weighs the same (Eq. 8) or every token (released code)"
    )
    norm: Literal["init", "budget"] = fixed(
        "init", "divide by a mini-batch's initial rollouts, or by all its M (Eq. 8)"
    )
    kl_coef: float = fixed(0.0, "KL to the cold-started model; 0: none (released code 0.001)", 0)
    reward: Literal["auto", "f1", "math", "released"] = fixed(
        "auto", "math or F1 as the question's task says, one for all, or the released code's"
    )


@dataclass(frozen=True)
class Sampling:
    """Sampling: lengths, batches."""

    temperature: float = fixed(1.0, "of sampling, log-probs, entropies (released code 1)", 1e-3)
    max_prompt: int = fixed(
        2048, "longest prompt, tokens; longer: an error (released code 2048)", 1
    )
    max_tokens: int = fixed(4096, "response with tool results, tokens (paper 4096, search 8192)", 1)
    max_calls: int = fixed(
        3, "tool calls; one more ends the rollout (released code 3, search 6)", 0
    )
    max_result_tokens: int = fixed(2048, "longest tool result, tokens", 8)
    prompts: int = fixed(128, "prompts per step, a multiple of --minibatch (paper 128)", 1)


@dataclass(frozen=True)
class Update:
    """The update: optimizer, memory."""

    minibatch: int = fixed(16, "prompts per update (paper 16: 8 updates a step)", 1)
    ppo_epochs: int = fixed(
        1, "passes over a step's rollouts; appo draws new branches in each (released code 1)", 1
    )
    lr: float = fixed(1e-6, "AdamW learning rate, constant (released code 1e-6)", 0)
    weight_decay: float = fixed(0.01, "AdamW weight decay (released code 0.01)", 0)
    clip_grad: float = fixed(1.0, "largest gradient norm; 0 or inf: any (released code 1)", 0)
    micro_tokens: int = free(49152, "tokens of a pass over whole rollouts, padding too: memory", 1)
    fork_tokens: int = free(0, "tokens kept at once to branch from; 0: of a mini-batch", 0)
    checkpointing: bool = free(False, "recompute activations: less memory, a third more time")
    shard: bool = fixed(False, "split weights and optimizer over the processes (FSDP2)")
    dtype: Literal["float32", "bfloat16"] = fixed(
        "float32", "of the weights at work; bfloat16 needs --shard, whose masters are float32"
    )
    max_skipped: int = free(3, "stop after so many steps in a row with a skipped update", 1)


@dataclass(frozen=True)
class AgentConfig:
    """The agent: tools, own reward, decoding (shared with eval.py)."""

    tools: str = fixed("python,search", "tools of the agent: python, search, FILE.py:NAME")
    protocol: Literal["tags", "hermes", "llama3"] = fixed(
        "tags", "how calls are written: tags (paper), hermes (Qwen, SmolLM2), llama3 (Llama 3)"
    )
    chat_template_kwargs: str = fixed(
        "", 'JSON object for the chat template, such as {"enable_thinking": false}'
    )
    corpus: str = fixed("", ".jsonl, .json or folder to search; URL of a /retrieve server; serper")
    topk: int = fixed(3, "documents per search (released code 10)", 1)
    search_cache: str = free("", "SQLite file of answers; after a comma, a .json cache to read")
    tool_timeout: float = free(5.0, "seconds per python call (released code 30, search 120)", 0.01)
    sandbox: str = free("require", "require (whole jail), best-effort, off, or SandboxFusion's URL")
    reward_fn: str = fixed(
        "", "FILE.py:NAME, a reward of your own: NAME(rollout, question); instead of --reward"
    )
    decode_rows: int = free(64, "rows decoded at once: memory and speed", 1, old="rows")
    prefill_chunk: int = free(64, "tokens per row and call when prompts are read", 1, old="chunk")
    constant_rows: bool = free(
        True, "CPU, float32: no row's bits depend on others; false: less work"
    )
    device: str = free("auto", "cpu, cuda, cuda:N; auto: a GPU, else cpu")
    date: str = fixed("", "that a chat template may name, 2026-01-31; empty: of the first start")


@dataclass(frozen=True)
class Data:
    """Model and data."""

    model: str = fixed(
        "",
        "Hugging Face folder or name, or a run's folder: its newest checkpoint; empty: the bundled "
        "world's tiny model",
    )
    data: str = fixed("", "training questions, .jsonl or .parquet; empty: the bundled world's")
    eval_data: str = fixed("", "held-out questions; empty: none, or the bundled world's")
    world: Literal["easy", "mixed", "late", "late_long", "late_deep", "spurious_off"] = fixed(
        "easy", "bundled world, made at first use"
    )
    task: Literal["auto", "math", "qa"] = fixed("auto", "grading: as the row says, or one for all")
    skip_bad: bool = fixed(False, "leave out and name bad rows instead of refusing the file")
    seed: int = fixed(0, "of the world, the order and the sampling", 0)


@dataclass(frozen=True)
class ColdStart:
    """Cold start: imitation of worked examples before the first step (support/sft.py)."""

    cold_start: str = fixed("", "chats to imitate: .jsonl, .json, .parquet; empty: the world's")
    cold_epochs: int = fixed(1, "passes over the file (paper 3)", 1)
    cold_steps: int = fixed(0, "optimizer steps; 0: as --cold_epochs says", 0)
    cold_batch: int = fixed(8, "examples per step (paper 128)", 1)
    cold_shuffle: bool = fixed(True, "a new order every epoch; false: the file's")
    cold_max_tokens: int = fixed(
        4096, "longest example, tokens; longer is an error (paper 4096)", 8
    )
    cold_optimizer: Literal["adamw", "muon"] = fixed(
        "adamw", "AdamW, or Muon for the matrices of a model trained from nothing"
    )
    cold_lr: float = fixed(7e-6, "peak learning rate of AdamW (paper 7e-6)", 0)
    muon_lr: float = fixed(0.02, "peak learning rate of Muon", 0)
    cold_weight_decay: float = fixed(0.1, "of AdamW (paper 0.1, released code 0)", 0)
    cold_schedule: Literal["linear", "cosine"] = fixed(
        "linear", "how the learning rate falls to 0 (released code cosine)"
    )
    cold_warmup: float = fixed(0.0, "share of steps in which the rate rises (released code 0.1)", 0)
    cold_save_every: int = free(200, "steps between its checkpoints", 1)


@dataclass(frozen=True)
class Run:
    """The run: length, folder, evaluations, log."""

    out: str = free("", "the run's folder; goes on from its newest checkpoint; empty: runs/NAME")
    from_run: str = fixed(
        "",
        "a new run with the weights of RUN/step_000050, or of RUN's newest step, and its settings "
        "where nothing else is said: step 0, no cold start, a fresh optimizer; not with --model",
        old="from",
    )
    allow_change: str = free(
        "",
        "NAME,NAME: fixed settings that may change when the run goes on, or flags whose file's "
        "content may; each change is kept in events.jsonl",
    )
    steps: int = free(156, "steps in all, resumed ones included (paper: 2 epochs of 78)", 0)
    max_sampled: int = free(0, "ends with the step that draws so many tokens in all; 0: none", 0)
    save_every: int = free(50, "steps between checkpoints; the last step is always saved", 1)
    keep_checkpoints: int = free(0, "newest checkpoints kept; 0: all", 0, old="keep")
    eval_questions: int = free(200, "held-out questions, the first of the file; 0: none", 0)
    eval_samples: int = free(1, "samples per held-out question", 1)
    eval_every: int = free(0, "steps between evaluations; 0: before and after training only", 0)
    log: str = free("", "where metrics.jsonl goes too: tensorboard,wandb,trackio")
    log_trees: int = free(1, "prompts per step whose whole tree goes to rollouts.jsonl", 0)
    print_branches: int = free(0, "branch points printed per step", 0, old="show")
    threads: int = free(0, "CPU threads; 0: PyTorch's choice", 0)
    rank_timeout: float = free(7200.0, "seconds that a process waits for others", 1, old="patience")


@dataclass(frozen=True)
class Config(Method, Sampling, Update, AgentConfig, Data, ColdStart, Run):
    """All settings of a run, checked: ValueError names every wrong flag and value, a line each."""

    def __post_init__(self):
        found = problems(Config, vars(self), rules)
        if found:
            raise ValueError("\n".join(found))


def agent_rules(c) -> Iterator[tuple[tuple[str, ...], str]]:
    """The broken rules of AgentConfig: (names, what is wrong)."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", c.device):
        yield ("device",), f"--device must be auto, cpu, cuda or cuda:N, got {c.device!r}"
    try:
        known = str(datetime.date.fromisoformat(c.date)) == c.date if c.date else True
    except ValueError:
        known = False
    if (Path(c.model) / "lock").is_file() and newest_in(c.model) == c.model:
        yield ("model",), f"--model {c.model} is the folder of a run that has no checkpoint yet"
    if not known:
        yield ("date",), f"--date must be a day such as 2026-01-31, got {c.date!r}"


def protocol_rules(c) -> Iterator[tuple[tuple[str, ...], str]]:
    """The broken rules of --protocol: (names, what is wrong)."""
    if c.protocol != "tags" and (c.cold_start or not c.data):
        what = "--cold_start" if c.cold_start else "the bundled world"
        yield (
            ("protocol", "cold_start", "data"),
            f"--protocol {c.protocol}: {what} is written in tags; give --data and no --cold_start",
        )


def oracle_rules(c) -> Iterator[tuple[tuple[str, ...], str]]:
    """The broken rule of --criterion oracle: (names, what is wrong)."""
    made = c.protocol == "tags" and (not c.data or (Path(c.data).parent / "mode.json").is_file())
    if c.criterion == "oracle" and not made:
        yield (
            ("criterion", "data", "protocol"),
            "--criterion oracle knows where bundled worlds are decided, and reads tags; got --data "
            f"{c.data} and --protocol {c.protocol}",
        )


def named_in(names: str) -> list[str]:
    """The settings that --allow_change names."""
    given = [name.strip() for name in names.split(",") if name.strip()]
    return list(new_names(Config, dict.fromkeys(given)))


def change_rules(c) -> Iterator[tuple[tuple[str, ...], str]]:
    """The broken rules of --allow_change: (its name, what is wrong)."""
    settings = {f.name for f in dataclasses.fields(Config)}
    for name in named_in(c.allow_change):
        if name not in settings:
            yield ("allow_change",), f"--allow_change: there is no setting {name!r}"
        elif name in free_names(Config):
            yield ("allow_change",), f"--allow_change: {name} is free to change: leave it out"


def today() -> str:
    """The date here, 2026-01-31."""
    return datetime.date.today().isoformat()


def rules(c) -> Iterator[tuple[tuple[str, ...], str]]:
    """The broken rules between settings: (their names, what is wrong)."""
    yield from agent_rules(c)
    yield from change_rules(c)
    yield from method_rules(c)
    yield from protocol_rules(c)
    yield from oracle_rules(c)
    for name in ("score_clip", "future_clip"):
        low, high = getattr(c, name)
        if not 0 < low <= high:
            yield (name,), f"--{name} must be two numbers 0 < low <= high, got {low}, {high}"
    if c.clip_low > 1:
        yield ("clip_low",), f"--clip_low must be in [0, 1], got {c.clip_low}"
    if c.norm == "budget" and c.aggregate != "seq-mean":
        yield (
            ("norm", "aggregate"),
            "--norm budget is for --aggregate seq-mean: a mean over tokens counts no rollouts",
        )
    if c.branches and c.max_tokens <= c.min_new:
        yield (
            ("max_tokens", "min_new"),
            f"--max_tokens {c.max_tokens} leaves no room for a branch: it must be above "
            f"--min_new {c.min_new}",
        )
    if c.prompts % c.minibatch:
        yield (
            ("prompts", "minibatch"),
            f"--prompts must be a multiple of --minibatch, got {c.prompts} and {c.minibatch}",
        )
    if c.cold_warmup >= 1:
        yield (
            ("cold_warmup",),
            f"--cold_warmup is a share of the steps, below 1, got {c.cold_warmup}",
        )
    if c.dtype == "bfloat16" and not c.shard:
        yield (
            ("dtype", "shard"),
            "--dtype bfloat16 needs --shard: AdamW's small steps would vanish in bfloat16 weights "
            "without float32 ones beside them",
        )


def read_settings(
    argv: list[str], also: Callable[[Config, set[str]], list[str]] | None = None
) -> Config:
    """Flags and files to one checked Config; its --out is filled in, a run's folder as --model or
    --from is its newest checkpoint.

    also: further problems to name in the same message, a function of the settings and of the names
    of those that were given as flags.
    Raises: ValueError with a line for each flag, key or file at fault; FileNotFoundError if there
    is no such --config.
    """
    about = dict(usage=USAGE, description="Train an agent with APPO.", epilog=EPILOG)
    parser = parser_for(Config, **about)
    parser.add_argument("--config", help="JSON file of settings, keys as the flags", metavar="FILE")
    parsed, unknown = parser.parse_known_args(argv)
    flags = typed(Config, parsed)
    given = flags.pop("config")
    path = given or ("" if {"model", "from_run"} & flags.keys() else str(LAPTOP))
    read = partial(read_json, Config, ignored=NO_SETTINGS, retired=RETIRED)
    file, found = read(path) if path else ({}, [])
    found += [PLAN] if "--plan" in unknown else unknown_flags(parser, unknown)
    old, wrong = settings_behind(str((file | flags).get("from_run", "")), file | flags, read)
    if wrong:
        # what else follows from it would only hide it
        raise ValueError("\n".join(found + wrong))
    preset = PRESETS.get(str((file | flags).get("preset")), {})
    algo = (old | preset | file | flags).get("algo")
    # a run that is taken over has said what it wants of its method
    usual = {} if old.get("algo") == algo else ALGOS.get(str(algo), {})
    chosen = old | preset | usual | file | without_choice(str(algo)) | flags
    values = {f.name: f.default for f in dataclasses.fields(Config)} | chosen
    values |= sizes_that_fit(values, chosen.keys())
    if is_blank(file | flags, "out"):
        found.append("--out is empty: name a folder, or leave it out")
    fill_in(values)
    found += crossed_out(values, flags) + problems(Config, values, rules)
    found += also(sound(Config, values), set(flags)) if also else []
    if found:
        raise ValueError("\n".join(found) + (f" (flags and {given})" if given else ""))
    return Config(**values)


def fill_in(values: dict) -> None:
    """The run's folder, its date, and what a run in that folder has begun from."""
    start = str(values["from_run"] or values["model"])
    values["out"] = values["out"] or default_out(start, str(values["data"]))
    before = saved_settings(str(values["out"]))
    values["date"] = values["date"] or str(before.get("date", "")) or today()
    values |= beginning(values, before)


def settings_behind(
    start: str, given: dict, read: Callable[[str], tuple[dict, list]]
) -> tuple[dict, list[str]]:
    """What a run that begins with --from takes over, and what is wrong with that checkpoint.

    Where another method or preset is given, what the old one had set is not taken over.
    read: the settings of a JSON file, as read_json.
    """
    if not start:
        return {}, []
    checkpoint = Path(newest_in(start))
    config = checkpoint.parent / "config.json"
    if not ((checkpoint / "manifest.json").is_file() and config.is_file()):
        return {}, [f"--from {start} is no checkpoint of a run, nor the folder of one that has any"]
    values, _ = read(str(config))
    own = {"out", "model", "cold_start", "from_run", "allow_change"}
    if any(name in given and given[name] != values.get(name) for name in ("algo", "preset")):
        brought = PRESETS.get(str(values.get("preset")), {})
        brought = brought | ALGOS.get(str(values.get("algo")), {})
        own |= {"preset", *(name for name, x in brought.items() if values.get(name) == x)}
    wrong = outlived(str(config), json.loads(config.read_text()), RETIRED)
    return {name: value for name, value in values.items() if name not in own}, wrong


def sizes_that_fit(values: dict, given: Iterable[str]) -> dict:
    """--prompts or --minibatch, whichever was not given, so that it fits the other one."""
    prompts, minibatch = values["prompts"], values["minibatch"]
    if not all(type(x) is int and x > 0 for x in (prompts, minibatch)):
        return {}
    if "prompts" not in given:
        return {"prompts": max(1, prompts // minibatch) * minibatch}
    if "minibatch" not in given:
        return {"minibatch": max(m for m in range(1, minibatch + 1) if prompts % m == 0)}
    return {}


def is_blank(given: dict, name: str) -> bool:
    """Is a setting given as nothing but white space?"""
    return isinstance(given.get(name), str) and not given[name].strip()
