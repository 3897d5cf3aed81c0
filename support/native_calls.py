"""How a model calls a tool if it was trained to: as its chat template writes calls and results.

1. protocol_of    the call format of a run: tags (protocol.py), hermes, llama3
2. template_arguments   what --chat_template_kwargs may hold
3. schemas_of     the tools as the template wants them: JSON schemas
4. frame_of       what the template writes between a call and a result, and behind it
5. NativeCalls    the methods that protocol.Tags has
6. Hermes         <tool_call> {"name": .., "arguments": {..}} </tool_call>, several in a turn
7. Llama3         {"name": .., "parameters": {..}} alone, or code behind <|python_tag|>

What a thought says of calls is no call. A thought that does not end leaves nothing behind it. It
may be the prompt, or the frame of the results before, that has opened it.

A turn is over when the model writes its end of turn. The results of its calls are appended as the
template would write them, then the assistant's next turn begins. Only what the model wrote has
mask True. Nothing is ever tokenized again: if a template rewrites earlier turns, as Qwen3's leaves
out their thoughts, the rollout keeps what was sampled.
"""

import functools
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from protocol import (
    LONGEST_TOKEN,
    PAPER,
    TURN_ENDS,
    Asked,
    Tags,
    encode_prompt,
    left_open,
    own_tools,
    split_tools,
    tags_of,
    whole_characters,
    without_tags,
)
from support.own_tools import OwnTool
from support.plain_code import plain_code

# of the project's own tools: what the model is told, and the one argument
OWN = {
    "python": ("Run Python code and return what it prints.", "code", "the code to run"),
    "search": ("Search an encyclopedia for a query.", "query", "what to search for"),
}
SYSTEM = (
    "Answer the question by reasoning in steps. Call the tools as often as needed. The last thing "
    "to write is the exact final answer in \\boxed{}."
)
THOUGHT = "</think>"
# what encode_prompt and apply_chat_template (transformers 4 and 5) take themselves; documents are
# a template's
NOT_OF_TEMPLATES = set(
    "tokenizer messages date self conversation chat_template tools add_generation_prompt "
    "continue_final_message tokenize padding truncation max_length return_tensors return_dict "
    "return_assistant_tokens_mask sanitize_control_tokens tokenizer_kwargs kwargs".split()
)
BLANK = re.compile(r"\s*")
# stand for a call and for results while a template is asked how it writes them
PROBES = ("first result here", "second result here")


def protocol_of(settings):
    """The call format that settings name: Tags or NativeCalls.

    settings: with tools, protocol and chat_template_kwargs.
    Raises: ValueError with all that is wrong with tools of one's own and template arguments.
    """
    template = template_arguments(settings.chat_template_kwargs)
    if settings.protocol == "tags":
        return tags_of(settings.tools, template)
    return FORMATS[settings.protocol].of(settings.tools, template)


def protocol_named(name: str, tools: list[str] | None):
    """The call format of a stored response: enough to say whether it kept the format."""
    tools = PAPER.tools if tools is None else tools
    return Tags(tuple(tools)) if name == "tags" else FORMATS[name](dict.fromkeys(tools, {}))


def template_arguments(text: str) -> dict:
    """The JSON object of --chat_template_kwargs: variables of the template. ValueError if not."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"--chat_template_kwargs is not JSON: {problem}") from None
    if not isinstance(found, dict):
        raise ValueError(f"--chat_template_kwargs must be a JSON object, got {text}")
    if wrong := sorted(NOT_OF_TEMPLATES & set(found)):
        why = "the project gives these, or needs them as they are"
        raise ValueError(f"--chat_template_kwargs may not hold {', '.join(wrong)}: {why}")
    return found


# ---- tools as schemas


def schemas_of(tools: str) -> dict[str, dict]:
    """Name -> JSON schema, as chat templates take it. tools: comma-separated.

    Raises: ValueError for a function whose docstring does not describe its parameters.
    """
    names, _ = split_tools(tools)
    schemas = {name: schema_of(name, *OWN[name]) for name in names if name in OWN}
    return schemas | {tool.name: own_schema(tool) for tool in own_tools(tools)}


def schema_of(name: str, about: str, argument: str, meaning: str) -> dict:
    """The schema of a tool with one argument, a text."""
    text = {argument: {"type": "string", "description": meaning}}
    parameters = {"type": "object", "properties": text, "required": [argument]}
    function = {"name": name, "description": about, "parameters": parameters}
    return {"type": "function", "function": function}


def own_schema(tool: OwnTool) -> dict:
    """The schema of a tool of one's own: of a function from its type hints and docstring."""
    if not inspect.isfunction(tool.made):
        return schema_of(tool.name, tool.summary, "argument", tool.usage)
    # imported here: it brings torch
    from transformers.utils import chat_template_utils as templates

    try:
        schema = templates.get_json_schema(tool.made)
    except (
        templates.DocstringParsingException,
        templates.TypeHintParsingException,
    ) as problem:
        raise ValueError(f"--tools {tool.place}: {problem}") from None
    schema["function"].pop("return", None)
    schema["function"]["name"] = tool.name
    return schema


# ---- what the template writes


@dataclass(frozen=True)
class Frame:
    """What a template writes around results.

    end: the end of turn that the model writes itself. head, between, tail: text before the first
    result, between two, behind the last up to where the assistant goes on. quoted: are results
    written as JSON strings?
    """

    end: str
    head: str
    between: str
    tail: str
    quoted: bool


def frame_of(tokenizer, template: dict) -> Frame:
    """The frame of a tokenizer's chat template. ValueError if it writes no results of tools."""
    chat_template = tokenizer.get_chat_template()
    return _frame(tokenizer, len(tokenizer), chat_template, json.dumps(template))


@functools.lru_cache(maxsize=8)
def _frame(tokenizer, vocabulary: int, chat_template: str, template: str) -> Frame:
    """The same, once for each template. vocabulary: new tokens change it."""

    def rendered(*results: str) -> str:
        call = {"type": "function", "function": {"name": "search", "arguments": {"query": "q"}}}
        chat = [
            {"role": "user", "content": "question"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            *({"role": "tool", "name": "search", "content": text} for text in results),
        ]
        how = json.loads(template) | {"add_generation_prompt": True, "tokenize": False}
        return tokenizer.apply_chat_template(chat, **how)

    text = rendered(*PROBES)
    if not all(text.count(probe) == 1 for probe in PROBES):
        raise ValueError("the chat template does not write results of tools, of the role tool")
    before, _, rest = text.partition(PROBES[0])
    between, _, tail = rest.partition(PROBES[1])
    end = max({tokenizer.eos_token, *TURN_ENDS}, key=before.rfind)
    head = before[before.rfind(end) + len(end) :]
    return Frame(end, head, between, tail, quoted='\\"' in rendered('a " b'))


class NativeCalls:
    """Calls and results in the form of a chat template; the methods are those of protocol.Tags.

    schemas: of the tools, by name. template: further arguments of the chat template. functions:
    names of the tools that take several arguments by name; the others take one text.
    """

    # tags of the format; what only the environment may write
    tags: tuple[str, ...] = ()
    only_environment: tuple[str, ...] = ()
    # strings that end a turn: only the end-of-turn token does
    stops = ()

    def __init__(
        self,
        schemas: dict[str, dict],
        template: dict | None = None,
        functions: frozenset[str] = frozenset(),
    ):
        self.schemas, self.template, self.functions = schemas, template or {}, functions
        self.tools, self.name = tuple(schemas), type(self).__name__.lower()

    @classmethod
    def of(cls, tools: str, template: dict | None = None) -> "NativeCalls":
        """The format for tools named in a comma-separated list. ValueError as in schemas_of."""
        own = {tool.name for tool in own_tools(tools) if inspect.isfunction(tool.made)}
        return cls(schemas_of(tools), template, frozenset(own))

    # ---- prompts

    def system_prompt(self) -> str:
        """What a model is told if a question is no chat; of the tools the template tells."""
        return SYSTEM

    def encode_prompt(self, tokenizer, messages: list[dict], date: str = "") -> list[int]:
        """Token ids of a chat with its tools, up to where the assistant begins.

        A template that shows no tools gets them in the system message, in the words of Hermes.
        """
        # a template that knows no results is refused before anything is sampled
        frame_of(tokenizer, self.template)
        schemas = list(self.schemas.values())
        how = self.template | {"tools": schemas or None}
        ids = encode_prompt(tokenizer, messages, date, **how)
        text = tokenizer.decode(ids)
        if not all(f'"{name}"' in text for name in self.schemas):
            ids = encode_prompt(tokenizer, told_of(schemas, messages), date, **self.template)
        return ids

    # ---- calls

    def forged_in(self, texts: list[str]) -> bool:
        """Has the policy just written what only the environment may write?"""
        tail = "".join(texts[-max(map(len, self.only_environment)) :])
        before = len(tail) - len(texts[-1])
        starts = [(mark, max(0, before - len(mark) + 1)) for mark in self.only_environment]
        return any(tail.find(mark, start) >= 0 for mark, start in starts)

    def calls_in(self, texts: list[str], whole: Callable[[], str], ended: bool) -> list[Asked]:
        """The calls of a turn that has ended, in order."""
        return self.read_calls(whole()) if ended else []

    def read_calls(self, text: str) -> list[Asked]:
        """The calls of a turn outside of its thoughts; none if a thought does not end."""
        raise NotImplementedError

    def asked(self, call) -> Asked:
        """One call from its JSON value; what is wrong with it is said to the model."""
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return Asked("", "", f"a call is an object with a name and arguments, got {call!r:.80}")
        name = call["name"]
        arguments = call.get("arguments", call.get("parameters", {}))
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                return Asked(name, arguments, "the arguments are not a JSON object")
        if name not in self.schemas:
            known = ", ".join(self.schemas) or "none"
            return Asked(name, "", f"there is no tool {name!r}; the tools are {known}")
        return self.with_argument(name, arguments)

    def with_argument(self, name: str, arguments) -> Asked:
        """A call of a known tool with its argument: one text, or an object for a function."""
        parameters = self.schemas[name]["function"]["parameters"]
        only = list(parameters["properties"])
        if not isinstance(arguments, dict):
            return Asked(name, str(arguments), f"the arguments of {name} must be an object")
        if name in self.functions:
            return Asked(name, arguments)
        if set(arguments) != set(only) or not isinstance(arguments[only[0]], str):
            wanted = json.dumps({only[0]: "..."})
            return Asked(name, arguments, f"the arguments of {name} must be {wanted}")
        text = arguments[only[0]]
        return Asked(name, plain_code(text) if name == "python" else text.strip())

    # ---- results

    def around(self, tokenizer, count: int) -> list[list[int]]:
        """Token ids of what the template writes before, between and behind so many results."""
        frame = frame_of(tokenizer, self.template)
        parts = [frame.head, *[frame.between] * (count - 1), frame.tail]
        return [tokenizer(part, add_special_tokens=False).input_ids for part in parts]

    def least_result(self, tokenizer) -> int:
        """Tokens of the shortest result: what stands around it, and one of its own."""
        return sum(map(len, self.around(tokenizer, 1))) + 1

    def encode_results(self, tokenizer, texts: list[str], longest: int, room: int) -> list[int]:
        """Token ids of the results of a turn as the template writes them, each cut to its share.

        What a result holds gives neither a tag nor a special token. The frame is never cut: without
        room for it and some text of each result there are no ids.

        Args: longest: one result with its frame, tokens. room: tokens that the rollout has left.
        """
        frame, around = frame_of(tokenizer, self.template), self.around(tokenizer, len(texts))
        alone = self.least_result(tokenizer) - 1
        each = min(longest - alone, (room - sum(map(len, around))) // len(texts))
        if each < 1:
            return []
        ids = []
        for before, text in zip(around, texts):
            text = without_tags(whole_characters(text[: each * LONGEST_TOKEN]), self.tags)
            text = json.dumps(text, ensure_ascii=False)[1:-1] if frame.quoted else text
            how = {"split_special_tokens": True, "add_special_tokens": False}
            ids += before + tokenizer(text, **how).input_ids[:each]
        return ids + around[-1]

    def reopened(self, tokenizer) -> str:
        """The <think> that the template opens behind results, "" if it opens none."""
        return left_open(frame_of(tokenizer, self.template).tail)

    def turn_end(self, tokenizer) -> str:
        """The end of turn that stands between a call and its result."""
        return frame_of(tokenizer, self.template).end

    # ---- the format

    def fault_in(self, rollout) -> str:
        """Which rule a response that has ended breaks: an endless thought, a mark of the frame."""
        last = rollout.last_turn
        if left_open(last) or last.count("<think>") > last.count(THOUGHT):
            return "the thought does not end"
        left = next((mark for mark in self.only_environment if mark in rollout.policy_text), "")
        return f"the policy wrote {left}" if left else ""

    def answer_part(self, rollout) -> str:
        """The last turn without its thought."""
        return rollout.last_turn.rpartition(THOUGHT)[2]


def json_at(text: str, at: int) -> tuple[Any, int, str]:
    """The JSON value that begins at a place: value, end and "", or None, the place and why not."""
    try:
        return *json.JSONDecoder().raw_decode(text, BLANK.match(text, at).end()), ""
    except (ValueError, RecursionError) as problem:
        return None, at, str(problem)


def told_of(schemas: list[dict], messages: list[dict]) -> list[dict]:
    """A chat whose system message tells of the tools, in the words that Hermes models know."""
    listed = "\n".join(json.dumps(schema) for schema in schemas)
    text = (
        "# Tools\n\nThese functions are there, within <tools></tools>:\n"
        f"<tools>\n{listed}\n</tools>\n\n"
        "To call one, write a JSON object within <tool_call></tool_call>:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    )
    if messages[0]["role"] == "system":
        first, rest = messages[0]["content"] + "\n\n" + text, messages[1:]
    else:
        first, rest = text, messages
    return [{"role": "system", "content": first}, *rest]


class Hermes(NativeCalls):
    """<tool_call> JSON </tool_call>, one or several in a turn: Qwen2.5, Qwen3, Hermes, SmolLM2."""

    tags = ("think", "tool_call", "tool_response")
    only_environment = ("<tool_response>", "<|im_start|>")

    marks = re.compile("</?think>|<tool_call>")
    edges = re.compile("</?tool_call>")
    closing = re.compile(r"\s*</tool_call>")

    def read_calls(self, text: str) -> list[Asked]:
        calls, at, thinks = [], 0, False
        while mark := self.marks.search(text, at):
            at = mark.end()
            if mark[0] == THOUGHT:
                # of a thought without a beginning the whole text before is one
                calls, thinks = (calls if thinks else []), False
            elif mark[0] == "<think>":
                thinks = True
            elif not thinks:
                asked, at = self.read_call(text, at)
                calls += asked
        return [] if thinks else calls

    def read_call(self, text: str, at: int) -> tuple[list[Asked], int]:
        """What a <tool_call> asks for whose text begins at `at`, and where it ends.

        Its JSON says where: strings in it may hold tags. Where there is none, the next tag does.
        """
        value, end, _ = json_at(text, at)
        closed = self.closing.match(text, end)
        if end > at and closed:
            calls = value if isinstance(value, list) and value else [value]
            return [self.asked(call) for call in calls], closed.end()
        edge = self.edges.search(text, at)
        if not edge or edge[0] == "<tool_call>":
            return [Asked("", "", "a <tool_call> is not closed by </tool_call>")], at
        written = text[at : edge.start()].strip()
        _, end, fault = json_at(written, 0)
        fault = fault or f"text follows it: {written[end:].strip():.40}"
        return [Asked("", written, f"the call is not JSON: {fault}")], edge.end()


class Llama3(NativeCalls):
    """A turn that is nothing but {"name": .., "parameters": ..}, or code after <|python_tag|>.

    Meta's format asks for the object alone: one with other text behind it is an answer. Several
    are separated by semicolons, which models write too.
    """

    tags = ("think",)
    only_environment = ("<|start_header_id|>",)
    code = "<|python_tag|>"
    markers = re.compile(r"(?:<\|(?:eot_id|eom_id|end_of_text)\|>)+\s*$")
    thoughts = re.compile(r"(?s)(?:\s*<think>.*?</think>)*\s*")

    def read_calls(self, text: str) -> list[Asked]:
        text = self.markers.sub("", text)
        rest = text[self.thoughts.match(text).end() :]
        if not (rest.startswith(self.code) or self.is_meant(rest)):
            # a thought may end that nobody has begun
            rest = rest.partition(THOUGHT)[2].strip()
        calls = self.objects_in(rest.removeprefix(self.code).strip())
        if calls or not rest.startswith(self.code):
            return calls
        return [Asked("python", plain_code(rest.removeprefix(self.code).strip()))]

    def is_meant(self, text: str) -> bool:
        """Does a text begin as a call does?"""
        return text.startswith("{") and '"name"' in text

    def objects_in(self, text: str) -> list[Asked]:
        """The calls that a text consists of; none if it holds anything else."""
        calls = []
        while text:
            if not self.is_meant(text):
                return []
            value, end, fault = json_at(text, 0)
            if fault:
                return [*calls, Asked("", text, f"the call is not JSON: {fault}")]
            calls.append(self.asked(value))
            text = text[end:].lstrip("; \n\t")
        return calls


FORMATS = {"hermes": Hermes, "llama3": Llama3}
