"""What a run reads besides the model: questions, worked examples, tools; checked before a model is
loaded, and all that is wrong said at once."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from jinja2.exceptions import TemplateError

from config import AgentConfig, Config
from extras.world.modes import MODES
from extras.world.prepare import WORLDS, made_as, prepare
from protocol import encode_prompt
from support import sft
from support.models import load_tokenizer
from support.questions import Question, load_questions
from support.runfiles import newest, unpaired
from tools import open_tools

Questions = tuple[list[Question], list[list[int]]]


@dataclass
class Inputs:
    """Questions come with their prompts as ids."""

    train: Questions
    test: Questions
    examples: list
    tools: dict


def with_world(run: Config) -> Config:
    """Fill what is empty from the bundled world, which is made if it is not there yet."""
    if run.model and run.data:
        return run
    for problem in unpaired(run):
        raise ValueError(problem)
    folder = WORLDS / f"{run.world}-{run.seed}"
    if made_as(folder) != (MODES[run.world], run.seed):
        print(f"making the bundled world in {os.path.relpath(folder)} ...", flush=True)
        prepare(MODES[run.world], run.seed, folder)
    mine = dict(model="model", data="train.jsonl", eval_data="test.jsonl")
    mine |= dict(cold_start="traces.jsonl", corpus="corpus.jsonl")
    empty = {name: str(folder / file) for name, file in mine.items() if not getattr(run, name)}
    return dataclasses.replace(run, **empty)


def check_inputs(run: Config) -> Inputs:
    """Read and check everything but the model; nothing is written.

    Raises: ValueError with all that is wrong.
    """
    problems = []

    def attempt(work, otherwise):
        try:
            return work()
        except (ValueError, OSError) as problem:
            problems.append(str(problem))
            return otherwise

    tools = attempt(lambda: opened_tools(run), {})
    tokenizer = attempt(lambda: load_tokenizer(run.model), None)
    train = attempt(lambda: train_questions(run, tokenizer), None)
    test, examples = ([], []), []
    if run.eval_data and run.eval_questions:
        test = attempt(lambda: read_data(run, run.eval_data, tokenizer), test)
    if run.cold_start and not newest(run.out) and tokenizer:
        examples = attempt(lambda: read_cold_start(run, tokenizer, train), [])
    if problems:
        for tool in tools.values():
            tool.close()
        raise ValueError("\n".join(problems))
    return Inputs(train, tuple(part[: run.eval_questions] for part in test), examples, tools)


def opened_tools(run: AgentConfig) -> dict:
    """The tools, ready to run, each having said in one line what it is.

    ValueError or OSError if one does not work.
    """
    how = run.topk, run.tool_timeout, run.sandbox, run.search_cache
    opened = open_tools(run.tools, run.corpus, *how)
    for tool in opened.values():
        print(tool.probe(), flush=True)
    return opened


def train_questions(run: Config, tokenizer) -> Questions:
    """The questions to train on. ValueError if they do not fill a step."""
    train = read_data(run, run.data, tokenizer)
    if len(train[0]) < run.prompts:
        few = f"--data {run.data} holds {len(train[0])} questions"
        raise ValueError(f"{few}, fewer than --prompts {run.prompts}")
    return train


def read_data(run: Config, path: str, tokenizer) -> Questions:
    """Questions and their prompts as ids; no prompts without a tokenizer.

    Raises: ValueError naming the row if a prompt is longer than --max_prompt.
    """
    questions = load_questions(path, run.skip_bad, run.task, tools=run.tools)
    try:
        prompts = [encode_prompt(tokenizer, q.messages) for q in questions] if tokenizer else []
    except TemplateError as problem:
        template = f"the chat template of {run.model} does not take these messages"
        raise ValueError(f"{path}: {template}: {problem}") from None
    for q, prompt in zip(questions, prompts):
        if len(prompt) > run.max_prompt:
            limit = f"{len(prompt)} tokens, --max_prompt is {run.max_prompt}: raise it"
            longest = f"the longest has {max(map(len, prompts))}"
            raise ValueError(f"{path}, row {q.meta['row']}: the prompt has {limit} ({longest})")
    repaired = sum(q.meta["repaired"] for q in questions)
    if repaired:
        what = f"{repaired} of {len(questions)} prompts"
        print(f"{path}: repaired the backspace in \\boxed in {what}")
    return questions, prompts


def read_cold_start(run: Config, tokenizer, train: Questions | None) -> list:
    """The examples to imitate, compared with the system message of the questions to train on."""
    # some exercises of the bundled world have no system message, as they should
    bundled = Path(run.cold_start).parent == Path(run.model).parent
    system = None if bundled or not train else system_of(train[0])
    return sft.read_examples(run.cold_start, tokenizer, run.cold_max_tokens, run.skip_bad, system)


def system_of(questions: list[Question]) -> str:
    """The system message that questions begin with, "" if they have none."""
    first = questions[0].messages[0]
    return first["content"] if first["role"] == "system" else ""
