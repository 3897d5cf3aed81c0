"""Worked examples of the cold start, in any common form of the field. Imports no torch.

    1. read_chats      rows of a file as chats: what is before the answer, and the answer in pieces
    2. encode_chats    the same as (ids, mask), like rollouts: the mask is False over prompts and
                       results
    3. read_examples   both at once

Differs from the released code in: a result inside an assistant's text is masked (there the model
was taught to write results itself).
"""

import json
import math
import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from jinja2.exceptions import TemplateError

from protocol import TOOL_TAGS, TURN_ENDS, encode_prompt, encode_result, opened_by
from support.questions import read_rows, refuse_or_leave_out, text_of

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


@dataclass(frozen=True)
class Chat:
    """A worked example. row: in its file. before: the messages before the last answer. pieces: that
    answer as (written by the assistant?, text), in order."""

    row: int
    before: list[dict]
    pieces: list[tuple[bool, str]]

    @property
    def system(self) -> str:
        """The system message, "" if there is none."""
        return self.before[0]["content"] if self.before[0]["role"] == "system" else ""


def read_chats(path: str, skip_bad: bool = False) -> list[Chat]:
    """Worked examples of a file. FORMS are the forms of a row.

    A result stands in the assistant's own text, <result> ... </result>, or is a message of its own:
    of the role tool, or a user's that is nothing but a result. A call is the text
    <search> ... </search> or <python> ... </python>, or a message's tool_calls of one argument.

    skip_bad: leave bad rows out and print which.
    Raises: ValueError with a line per bad row (50 at most): the row and what is wrong.
    """
    chats, bad = [], []
    for number, row in read_rows(Path(path)):
        try:
            row = json.loads(row) if isinstance(row, str) else row
            chats.append(Chat(number, *split_chat(chat_of(row))))
        except (json.JSONDecodeError, RecursionError) as problem:
            bad.append(f"--cold_start {path}, row {number} is not JSON: {problem}")
        except ValueError as problem:
            bad.append(f"--cold_start {path}, row {number}: {problem}")
        except (KeyError, TypeError, AttributeError) as problem:
            bad.append(f"--cold_start {path}, row {number}: {problem!r}; a row is {FORMS}")
    refuse_or_leave_out(bad, skip_bad, f"--cold_start {path}")
    if not chats:
        raise ValueError(f"--cold_start {path} holds no example")
    return chats


def encode_chats(
    path: str,
    chats: list[Chat],
    tokenizer,
    max_tokens: float = math.inf,
    skip_bad: bool = False,
    date: str = "",
) -> list[Example]:
    """Chats as (ids, mask): imitated is what the assistant says after the last question, but for
    the tool results in it.

    max_tokens: longest example. skip_bad: leave out and print those that do not fit. date: see
    encode_prompt.
    Raises: ValueError with a line per bad row (50 at most): the row and what is wrong.
    """
    examples, bad = [], []
    for chat in chats:
        try:
            example = encode_example(tokenizer, chat.before, chat.pieces, date)
            if len(example[0]) > max_tokens:
                raise ValueError(f"{len(example[0])} tokens, --cold_max_tokens is {max_tokens}")
            examples.append(example)
        except (ValueError, TemplateError) as problem:
            bad.append(f"--cold_start {path}, row {chat.row}: {problem}")
    refuse_or_leave_out(bad, skip_bad, f"--cold_start {path}")
    if not examples:
        raise ValueError(f"--cold_start {path} holds no example of at most {max_tokens} tokens")
    return examples


def read_examples(
    path: str, tokenizer, max_tokens: float = math.inf, skip_bad: bool = False
) -> list[Example]:
    """Worked examples of a file as (ids, mask)."""
    return encode_chats(path, read_chats(path, skip_bad), tokenizer, max_tokens, skip_bad)


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
    tokenizer, before: list[dict], pieces: list[tuple[bool, str]], date: str = ""
) -> tuple[list[int], list[bool]]:
    """Ids as a rollout would have them: results encoded apart and not imitated, the end of turn
    imitated. ValueError for chat markers within the answer."""
    ids = encode_prompt(tokenizer, before, date)
    mask = [False] * len(ids)
    opened, start = opened_by(tokenizer.decode(ids)), pieces[0][1].lstrip()
    if opened and start.startswith(opened):
        # the template has written it
        pieces = [(True, start.removeprefix(opened).lstrip("\n")), *pieces[1:]]
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
