"""The cold start: imitate worked examples before the first step. Supervised fine-tuning in which
tool results are context and never a target.

    1. read_examples   conversations of a file, in any common form, as (ids, mask) like rollouts:
                       the mask is False over prompts and results
    2. cold_start      AdamW (or Muon) on the mean negative log-prob of the other tokens, with
                       checkpoints of its own; a kill costs --cold_save_every steps at most

Differs from the released code in: a result inside an assistant's text is masked (there the model
was taught to write results itself).
"""

import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from jinja2.exceptions import TemplateError
from tqdm import tqdm
from transformers import get_scheduler

from config import Config
from policy import Policy
from protocol import TOOL_TAGS, TURN_ENDS, encode_prompt, encode_result
from rollout import Rollout
from support import checkpoints
from support.questions import read_rows, refuse_or_leave_out, text_of
from support.ranks import Ranks
from support.runfiles import prune, step_in
from support.schedule import equal_passes
from support.seeds import mix_seed

Example = tuple[list[int], list[bool]]

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
    "ipython": "tool",
    "function": "tool",
    "function_response": "tool",
    "function_call": "call",
}
FORMS = (
    '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}, '
    'ShareGPT\'s {"conversations": [{"from": "human", "value": ...}, ...]} '
    'or Alpaca\'s {"instruction": ..., "output": ...}'
)
CLOSED = re.compile(f"</(?:{'|'.join(TOOL_TAGS)})>")
RESULT = re.compile(r" ?<result>\n?(.*?)\n?</result>", re.DOTALL)


def read_examples(
    path: str, tokenizer, max_tokens: int = 4096, skip_bad: bool = False, system: str | None = None
) -> list[Example]:
    """Worked examples as (ids, mask): imitated is what the assistant says after the last question,
    but for the tool results in it. FORMS are the forms of a row.

    A result stands in the assistant's own text, <result> ... </result>, or is a message of its own:
    of the role tool, or a user's that is nothing but a result. A call is the text
    <search> ... </search> or <python> ... </python>, or a message's tool_calls of one argument.

    max_tokens: longest example. skip_bad: leave bad rows out and print which. system: of the
    questions to train on; it is printed how many examples begin with another one.
    Raises: ValueError with a line per bad row (50 at most): the row and what is wrong.
    """
    examples, bad, others = [], [], 0
    for number, row in read_rows(Path(path)):
        try:
            before, pieces = split_chat(chat_of(json.loads(row) if isinstance(row, str) else row))
            example = encode_example(tokenizer, before, pieces)
            if len(example[0]) > max_tokens:
                raise ValueError(f"{len(example[0])} tokens, --cold_max_tokens is {max_tokens}")
            examples.append(example)
            others += system is not None and system != (
                before[0]["content"] if before[0]["role"] == "system" else ""
            )
        except json.JSONDecodeError as problem:
            bad.append(f"--cold_start {path}, row {number} is not JSON: {problem}")
        except (ValueError, TemplateError) as problem:
            bad.append(f"--cold_start {path}, row {number}: {problem}")
        except (KeyError, TypeError, AttributeError) as problem:
            bad.append(f"--cold_start {path}, row {number}: {problem!r}; a row is {FORMS}")
    refuse_or_leave_out(bad, skip_bad, f"--cold_start {path}")
    if not examples:
        raise ValueError(f"--cold_start {path} holds no example")
    if others:
        print(
            f"--cold_start {path}: {others} of {len(examples)} examples have another system "
            "message than the questions to train on: what is learned under one may not show under "
            "the other"
        )
    return examples


def chat_of(row: dict) -> list[dict]:
    """The messages of a row, each {"role": system, user, assistant or tool, "content": text}.

    Raises: ValueError, KeyError or TypeError if it has none of the known forms.
    """
    if not isinstance(row, dict):
        raise TypeError(f"a row must be an object, not {type(row).__name__}")
    if "messages" in row:
        said = [(m["role"], m.get("content"), calls_of(m)) for m in row["messages"]]
    elif "conversations" in row:
        said = [(m["from"], m["value"], []) for m in row["conversations"]]
    else:
        earlier = [
            (role, text, [])
            for turn in row.get("history") or []
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        said = [
            *earlier,
            ("user", "\n".join(filter(None, (row["instruction"], row.get("input")))), []),
            ("assistant", row["output"], []),
        ]
    if row.get("system"):
        said.insert(0, ("system", row["system"], []))
    messages = []
    for role, content, calls in said:
        if role not in ROLES:
            raise ValueError(f"unknown role {role!r}; known are {', '.join(ROLES)}")
        kind, text = ROLES[role], text_of(content or "")
        if kind == "call":
            kind, text = "assistant", call_text(**decoded(text))
        text += "".join(call_text(call["name"], call["arguments"]) for call in calls)
        messages.append({"role": kind, "content": text})
    return messages


def calls_of(message: dict) -> list[dict]:
    """The calls that a message holds beside its text."""
    calls = [call["function"] for call in message.get("tool_calls") or []]
    return calls + ([message["function_call"]] if message.get("function_call") else [])


def call_text(name: str, arguments: dict | str) -> str:
    """A call as the policy writes it here: <name>argument</name>.

    Raises: ValueError for a tool that is not here or more than one argument.
    """
    given = arguments if isinstance(arguments, dict) else decoded(arguments)
    # parquet gives every call the arguments of all
    values = [value for value in given.values() if value is not None]
    if name not in TOOL_TAGS or len(values) != 1 or not isinstance(values[0], str):
        raise ValueError(
            f"a call of {name!r} with {len(values)} arguments; tools are {', '.join(TOOL_TAGS)}, "
            "each with one text"
        )
    return f"<{name}>{values[0]}</{name}>"


def decoded(call: str) -> dict:
    """A call's JSON object."""
    try:
        return dict(json.loads(call))
    except (ValueError, TypeError):
        raise ValueError(f"a call that is not a JSON object: {str(call)[:80]!r}") from None


def split_chat(messages: list[dict]) -> tuple[list[dict], list[tuple[bool, str]]]:
    """What is before the last answer, and that answer as the sampling loop would have made it: in
    pieces (written by the assistant?, text).

    Raises: ValueError if a result does not follow a call, a call has no result, or the answer does
    not end with the assistant's own words.
    """
    parts, before = [], list(messages)
    while before and (
        before[-1]["role"] in ("assistant", "tool")
        or parts
        and lone_result(before[-1]["content"]) is not None
    ):
        m = before.pop()
        if m["role"] == "assistant":
            parts = [
                (k % 2 == 0, part) for k, part in enumerate(RESULT.split(m["content"]))
            ] + parts
        else:
            inside = lone_result(m["content"])
            parts.insert(0, (False, m["content"] if inside is None else inside))
    pieces = []
    for own, group in groupby(
        (part for part in parts if not part[0] or part[1].strip()), key=lambda part: part[0]
    ):
        texts = [text for _, text in group]
        pieces += [(True, "".join(texts))] if own else [(False, text) for text in texts]
    # the loop reads a result right after the tag
    pieces = [
        (own, text.rstrip() if own and k + 1 < len(pieces) else text)
        for k, (own, text) in enumerate(pieces)
    ]
    if not pieces or not pieces[-1][0]:
        raise ValueError("the conversation does not end with the assistant's own words")
    if not any(m["role"] == "user" for m in before):
        raise ValueError("no question of a user comes before the answer")
    for k, (own, text) in enumerate(pieces):
        check_piece(own, text, pieces[k - 1] if k else (False, ""), k + 1 == len(pieces))
    return before, pieces


def lone_result(text: str) -> str | None:
    """What is in the result that a message consists of; None if it is something else."""
    found = RESULT.fullmatch(text.strip())
    return found[1] if found and "result>" not in found[1] else None


def check_piece(own: bool, text: str, before: tuple[bool, str], last: bool) -> None:
    """ValueError if a piece of an answer would teach what no rollout can hold."""
    if not own:
        if not (
            before[0]
            and CLOSED.search(before[1])
            and CLOSED.search(before[1]).end() == len(before[1])
        ):
            raise ValueError(
                "a tool result does not follow a call, <search> ... </search> or <python> ... "
                "</python>"
            )
        return
    if re.search("</?result>", text):
        raise ValueError(
            "a <result> is not closed, or closed without being opened: the model would learn to "
            "write results itself"
        )
    call = CLOSED.search(text)
    if call and (last or text[call.end() :].strip()):
        raise ValueError(
            "a call is not followed by its result (several calls at once are not known here)"
        )


def encode_example(
    tokenizer, before: list[dict], pieces: list[tuple[bool, str]]
) -> tuple[list[int], list[bool]]:
    """Ids as a rollout would have them: results encoded apart and not imitated, the end of turn
    imitated. ValueError for chat markers within the answer."""
    ids = encode_prompt(tokenizer, before)
    mask = [False] * len(ids)
    special = {tokenizer.eos_token, *TURN_ENDS, "<|im_start|>", "<|start_header_id|>"}
    # some files have it in the text
    pieces = pieces[:-1] + [(True, pieces[-1][1].removesuffix(tokenizer.eos_token))]
    for own, text in pieces:
        if own and any(marker in text for marker in special):
            raise ValueError(
                "the assistant's text holds a chat marker such as <|im_end|>: the model would "
                "learn to go on after its turn"
            )
        new = (
            tokenizer(text, add_special_tokens=False).input_ids
            if own
            else encode_result(tokenizer, text, 2**60)
        )
        ids, mask = ids + new, mask + [own] * len(new)
    return ids + [tokenizer.eos_token_id], mask + [True]


def schedules_of(optimizers: list, steps: int, run: Config) -> list:
    """Of each optimizer: up in the first --cold_warmup share of the steps, then down to 0."""
    up = math.ceil(run.cold_warmup * steps)
    how = dict(num_warmup_steps=up, num_training_steps=steps)
    return [get_scheduler(run.cold_schedule, optimizer, **how) for optimizer in optimizers]


def set_rates(schedules: list, i: int) -> None:
    """The learning rates of step i, from 0; a cold start that goes on begins in the middle."""
    for schedule in schedules:
        rates = zip(schedule.base_lrs, schedule.lr_lambdas)
        for group, (peak, share) in zip(schedule.optimizer.param_groups, rates):
            group["lr"] = peak * share(i)


def batch_at(i: int, size: int, run: Config) -> list[int]:
    """Indices of the examples of step i: in the file's order, or in a new order every epoch drawn
    from the seed (--cold_shuffle)."""
    places, orders = range(i * run.cold_batch, (i + 1) * run.cold_batch), {}
    for epoch in {place // size for place in places}:
        draw = torch.Generator().manual_seed(mix_seed(run.seed, 4, epoch))
        shuffled = torch.randperm(size, generator=draw).tolist()
        orders[epoch] = shuffled if run.cold_shuffle else range(size)
    return [orders[place // size][place % size] for place in places]


def _log_nothing(row: dict) -> None:
    """Where nobody wants the numbers."""


def _never() -> bool:
    """Where nobody asks for a stop."""
    return False


@dataclass
class Beside:
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
    policy: Policy, examples: list[Example], run: Config, ranks: Ranks, beside: Beside
) -> float | None:
    """Imitate examples.

    Returns: the last loss, nats a token; None if it was asked to stop: the step is saved then.
    Raises:  ValueError after --max_skipped updates in a row whose gradients were not finite.
    """
    steps = run.cold_steps or run.cold_epochs * -(-len(examples) // run.cold_batch)
    optimizers = cold_optimizers(policy.model, run)
    schedules = schedules_of(optimizers, steps, run)
    done, skipped, loss = step_in(beside.checkpoint), 0, math.nan
    if beside.checkpoint:
        skipped = checkpoints.load_state(policy, optimizers, beside.checkpoint)["skipped"]
        print(f"going on with the cold start from {beside.checkpoint}", flush=True)
    quiet = not beside.progress or ranks.rank > 0
    bar = tqdm(range(done, steps), initial=done, total=steps, desc="cold start", disable=quiet)
    for i in bar:
        started = time.perf_counter()
        set_rates(schedules, i)
        batch = [examples[k] for k in batch_at(i, len(examples), run)]
        loss, norm = imitate(policy, optimizers, batch, run, ranks)
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        row = {"step": i + 1, "loss": loss, "lr": optimizers[-1].param_groups[0]["lr"]}
        row |= {"grad_norm": norm, "tokens": sum(sum(mask) for _, mask in batch)}
        beside.log(row | {"seconds": time.perf_counter() - started})
        skipped = 0 if math.isfinite(norm) else skipped + 1
        if skipped >= run.max_skipped:
            raise ValueError(
                f"cold start: the gradients of {skipped} steps in a row were not finite, the last "
                f"at step {i + 1}; a smaller --cold_lr may help"
            )
        stop = ranks.max([beside.asked()])[0] > 0
        due = not skipped and i + 1 < steps and (i + 1) % run.cold_save_every == 0
        if beside.folder and (stop or due):
            folder = beside.folder / f"cold_{i + 1:06d}"
            checkpoints.save(folder, policy, optimizers, {"skipped": skipped}, ranks)
            if ranks.rank == 0:
                prune(beside.folder, 1, kind="cold")
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


def cold_optimizers(model, run: Config) -> list[torch.optim.Optimizer]:
    """AdamW; or Muon for the matrices inside the layers, which a model trained from nothing learns
    much faster with, and AdamW for the rest."""
    if run.cold_optimizer == "adamw":
        how = dict(lr=run.cold_lr, weight_decay=run.cold_weight_decay)
        return [torch.optim.AdamW(model.parameters(), **how)]
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(matrices, lr=run.muon_lr, momentum=0.95, weight_decay=0.0),
        torch.optim.AdamW(others, lr=run.cold_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
