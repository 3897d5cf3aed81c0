"""What a run reads besides the model: questions, worked examples, tools. Imports no torch.

1. read_run             settings, and what they name: all that is wrong in one message
2. Unencoded            questions and examples as read, tools ready to run
3. fitted               prompts and mini-batch, where not given, as few questions allow
4. encode               the same with prompts and examples as ids, once a tokenizer is there
5. read_questions       a file of them; what may surprise is said
6. prompts_of           their prompts as ids; checked_prompts: none too long
7. only_rank_0_prints   of several processes the first one speaks
"""

import dataclasses
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jinja2.exceptions import TemplateError

from config import AgentConfig, Config, read_settings
from protocol import INSTRUCTIONS, own_tools, split_tools
from rewards import is_gold
from support.examples import Chat, Example, encode_chats, read_chats
from support.files import newest_in
from support.latex import last_boxed
from support.native_calls import protocol_of
from support.plugins import open_reward
from support.questions import Question, load_questions
from support.runfiles import missing_inputs, newest
from support.sampling_params import beyond_positions, short_results
from support.trackers import missing_trackers
from tools import open_tools

Questions = tuple[list[Question], list[list[int]]]
# answers that cannot be right and are named one by one
SHOWN = 10


@dataclass
class Inputs:
    """Questions come with their prompts as ids. reward_fn: of --reward_fn, if it is given."""

    train: Questions
    test: Questions
    examples: list[Example]
    tools: dict
    reward_fn: Callable | None = None


@dataclass
class Unencoded:
    """Questions and worked examples as they were read; tools by name, ready to run."""

    train: list[Question] = field(default_factory=list)
    test: list[Question] = field(default_factory=list)
    chats: list[Chat] = field(default_factory=list)
    tools: dict = field(default_factory=dict)
    reward_fn: Callable | None = None

    def read(self, run: Config) -> list[str]:
        """Read the files that are there and open the tools that are not open yet.

        The bundled world, which a run without --data uses, may be made later: then this is called
        again. Returns: what is wrong, a line each.
        """
        lines: list[str] = []
        self.reward_fn = _tried(lines, lambda: open_reward(run.reward_fn), None)
        waits = not (run.data or run.corpus)
        names = [name for name in run.tools.split(",") if not (waits and name.strip() == "search")]
        ready = {getattr(tool, "place", name) for name, tool in self.tools.items()}
        missing = ",".join(name for name in names if name.strip() not in ready)
        self.tools |= _tried(lines, lambda: probed_tools(run, missing), {})
        _tried(lines, lambda: protocol_of(run), None)
        if Path(run.data).is_file():
            self.train = _tried(lines, lambda: read_questions(run, run.data), [])
        if run.eval_questions and Path(run.eval_data).is_file() and not self.test:
            held_out = partial(read_questions, run, run.eval_data, first=run.eval_questions)
            self.test = _tried(lines, held_out, [])
        # a run that has begun needs no examples
        if Path(run.cold_start).is_file() and not newest(run.out):
            chats = partial(read_chats, run.cold_start, run.skip_bad)
            self.chats = _tried(lines, lambda: chats(protocol_of(run)), [])
        # a tool that cannot be used is met more than once
        return list(dict.fromkeys("\n".join(lines).splitlines()))

    def complete(self, run: Config) -> None:
        """Read what was not there before. ValueError with all that is wrong."""
        lines = self.read(run) + few_questions(run, self.train, {"prompts"})
        if lines:
            raise ValueError("\n".join(lines))

    def close(self) -> None:
        """Close the tools."""
        while self.tools:
            self.tools.popitem()[1].close()


def only_rank_0_prints() -> None:
    """Of the processes that torchrun starts, the first one speaks for all."""
    if from_torchrun("RANK", 0):
        sys.stdout = open(os.devnull, "w")


def from_torchrun(name: str, default: int) -> int:
    """A whole number that torchrun puts into the environment. ValueError if it is none."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise ValueError(f"the environment's {name} must be a whole number, got {text!r}")
    return int(text)


def read_run(argv: list[str]) -> tuple[Config, Unencoded]:
    """The settings of a command line, and what they name.

    Raises: ValueError with all that is wrong, a line each.
    """
    rows = Unencoded()

    def wrong(c: Config, given: set[str]) -> list[str]:
        lines = wrong_inputs(c) + rows.read(c)
        return lines + few_questions(c, rows.train, given)

    try:
        run = fitted(read_settings(argv, wrong), rows.train)
        if run.data and run.eval_questions and not run.eval_data:
            print("no --eval_data: nothing held out is evaluated", flush=True)
        return run, rows
    # SystemExit of --help too
    except BaseException:
        rows.close()
        raise


def wrong_inputs(run: Config) -> list[str]:
    """What is wrong with what settings name, without reading data."""
    return misplaced(run) + missing_inputs(run) + missing_trackers(run)


def misplaced(run: Config) -> list[str]:
    """A line if several processes are told to take one GPU."""
    count = from_torchrun("WORLD_SIZE", 1)
    if count == 1 or ":" not in run.device:
        return []
    one = f"--device {run.device} names one GPU for {count} processes"
    return [f"{one}: give cuda, and each takes its own"]


def encode(run: Config, rows: Unencoded, tokenizer, positions: int | None = None) -> Inputs:
    """Prompts and examples as ids. positions: of the model, if known.

    Raises: ValueError with all that does not fit, a line each.
    """
    need_template(run, tokenizer)
    lines: list[str] = []
    train = _tried(lines, lambda: checked_prompts(run, run.data, rows.train, tokenizer), [])
    test = _tried(lines, lambda: checked_prompts(run, run.eval_data, rows.test, tokenizer), [])
    examples = _tried(lines, lambda: examples_of(run, rows, tokenizer), [])
    longest = max(map(len, [*train, *test]), default=0)
    short = _tried(lines, lambda: short_results(run, protocol_of(run), tokenizer), "")
    lines += filter(None, [short, beyond_positions(longest, run.max_tokens, positions)])
    if lines:
        # a template that cannot be used is met more than once
        raise ValueError("\n".join(dict.fromkeys(lines)))
    asked = (rows.train, train), (rows.test, test)
    return Inputs(*asked, examples, rows.tools, rows.reward_fn)


def _tried(lines: list[str], work: Callable, otherwise):
    """What `work` returns; if it fails, the reason goes to `lines`."""
    try:
        return work()
    except (ValueError, OSError, TemplateError) as problem:
        lines.append(str(problem))
        return otherwise


def probed_tools(run: AgentConfig, names: str) -> dict:
    """Tools, ready to run, each having said in one line what it is.

    ValueError with a line for each that does not work; none stays open then.
    """
    how = run.topk, run.tool_timeout, run.sandbox, run.search_cache
    opened, lines = open_tools(names, run.corpus, *how), []
    for tool in opened.values():
        said = _tried(lines, tool.probe, "")
        if said:
            print(said, flush=True)
    if lines:
        for tool in opened.values():
            tool.close()
        raise ValueError("\n".join(lines))
    return opened


def few_questions(run: Config, questions: list[Question], given: set[str]) -> list[str]:
    """A line if the training questions do not fill the step that was asked for.

    given: names of the settings that were given.
    """
    for name in ("prompts", "minibatch"):
        least = getattr(run, name)
        if name in given and questions and len(questions) < least:
            few = f"--data {run.data} holds {len(questions)} questions"
            return [f"{few}, fewer than --{name} {least}"]
    return []


def fitted(run: Config, questions: list[Question]) -> Config:
    """The run with --prompts and --minibatch as its questions allow, which is said."""
    count = len(questions)
    if not count or count >= run.prompts:
        return run
    minibatch = min(run.minibatch, count)
    prompts = count // minibatch * minibatch
    few = f"--data {run.data} holds {count} questions"
    print(
        f"{few}: --prompts {prompts} instead of {run.prompts}, --minibatch {minibatch}", flush=True
    )
    return dataclasses.replace(run, prompts=prompts, minibatch=minibatch)


def read_questions(
    run: AgentConfig, path: str, *, task: str = "", dedupe: bool = False, first: int = 0
) -> list[Question]:
    """The questions of a file. What may surprise is printed.

    Args: run: the settings of train.py or of eval.py. task: how to grade; empty: run.task.
          first: only so many; 0: all.
    """
    questions = load_questions(
        path,
        run.skip_bad,
        task=task or run.task,
        dedupe=dedupe,
        system=protocol_of(run).system_prompt(),
        answered=not run.reward_fn,
    )[: first or None]
    repaired = sum(q.meta["repaired"] for q in questions)
    if repaired:
        where = f"{repaired} of {len(questions)} prompts"
        print(f"{path}: repaired the backspace in \\boxed in {where}")
    # a reward of one's own decides itself what is right
    lost = [] if run.reward_fn else lost_answers(path, questions)
    for line in [*untold(run, path, questions), *lost]:
        print(line)
    return questions


def untold(run: AgentConfig, path: str, questions: list[Question]) -> list[str]:
    """A line about tools that no question of a file mentions, where calls are written in tags.

    Of python and search only if nothing has taught them: no worked examples, and the model is
    neither the bundled world's nor a checkpoint of a run.
    """
    if run.protocol != "tags":
        return []
    taught = getattr(run, "cold_start", "") or not run.model
    taught = taught or (Path(newest_in(run.model)) / "manifest.json").is_file()
    names = [] if taught else [name for name in split_tools(run.tools)[0] if name in INSTRUCTIONS]
    said = "".join(m["content"] for q in questions for m in q.messages)
    tags = [f"<{name}>" for name in [*names, *(tool.name for tool in own_tools(run.tools))]]
    missing = ", ".join(tag for tag in tags if tag not in said)
    known = "a chat is asked as it is, so only a model that was taught the tags knows them"
    return [f"{path}: no question tells of {missing}: {known}"] if missing else []


def lost_answers(path: str, questions: list[Question]) -> list[str]:
    """A warning for each gold that is not graded as right, even where a model gives it."""
    lost = []
    for q in questions:
        for gold in q.answers:
            answer = last_boxed(f"\\boxed{{{gold}}}")
            # as this gold first: a row may have many
            alone = dataclasses.replace(q, answers=[gold])
            if answer is None or not (is_gold(answer, alone) or is_gold(answer, q)):
                wrong = f"its answer {gold!r} is not graded as right, whoever gives it"
                lost.append(f"{path}, row {q.meta['row']}: warning: {wrong}")
    more = [f"{path}: warning: ... and {len(lost) - SHOWN} answers more"] * (len(lost) > SHOWN)
    return lost[:SHOWN] + more


def prompts_of(
    run: AgentConfig, path: str, questions: list[Question], tokenizer
) -> list[list[int]]:
    """Their prompts as ids. ValueError if the model's chat template does not take them."""
    need_template(run, tokenizer)
    protocol = protocol_of(run)
    try:
        return [protocol.encode_prompt(tokenizer, q.messages, run.date) for q in questions]
    except TemplateError as problem:
        template = f"the chat template of --model {run.model} does not take these messages"
        raise ValueError(f"{path}: {template}: {problem}") from None


def need_template(run: AgentConfig, tokenizer) -> None:
    """ValueError if a model has no chat template."""
    if not tokenizer.chat_template:
        raise ValueError(
            f"--model {run.model} has no chat template, which writes a question as a prompt: give "
            "an instruct or chat model"
        )


def checked_prompts(
    run: Config, path: str, questions: list[Question], tokenizer
) -> list[list[int]]:
    """Prompts as ids. ValueError that names the row of one longer than --max_prompt."""
    prompts = prompts_of(run, path, questions, tokenizer)
    for q, prompt in zip(questions, prompts):
        if len(prompt) > run.max_prompt:
            limit = f"{len(prompt)} tokens, --max_prompt is {run.max_prompt}: raise it"
            longest = f"the longest has {max(map(len, prompts))}"
            raise ValueError(f"{path}, row {q.meta['row']}: the prompt has {limit} ({longest})")
    return prompts


def examples_of(run: Config, rows: Unencoded, tokenizer) -> list[Example]:
    """The examples to imitate; said is how many have another system message than the questions."""
    path, wanted = run.cold_start, system_of(rows.train)
    others = sum(chat.system != wanted for chat in rows.chats)
    # some exercises of the bundled world have no system message, as they should
    if others and Path(path).parent != Path(run.model).parent:
        print(
            f"--cold_start {path}: {others} of {len(rows.chats)} examples have another system "
            "message than the questions to train on: what is learned under one may not show under "
            "the other"
        )
    if not rows.chats:
        return []
    limits = run.cold_max_tokens, run.skip_bad, run.date
    return encode_chats(path, rows.chats, tokenizer, *limits)


def system_of(questions: list[Question]) -> str:
    """The system message that questions begin with, "" if they have none."""
    first = questions[0].messages[0]
    return first["content"] if first["role"] == "system" else ""
