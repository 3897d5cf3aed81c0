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

from protocol import PAPER, TURN_ENDS, Tags, opened_by
from support.messages import chat_of, split_tags
from support.questions import read_rows, refuse_or_leave_out

Example = tuple[list[int], list[bool]]
# Whose words a piece of an answer is: True the assistant's, to be imitated; None the assistant's,
# not to be imitated; False a tool's.
Pieces = list[tuple[bool | None, str]]

FORMS = (
    '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}, '
    'ShareGPT\'s {"conversations": [{"from": "human", "value": ...}, ...]} '
    'or Alpaca\'s {"instruction": ..., "output": ...}'
)


@dataclass(frozen=True)
class Chat:
    """A worked example. row: in its file. before: the messages before the last answer. pieces: that
    answer in order. tags: how its calls are written."""

    row: int
    before: list[dict]
    pieces: Pieces
    tags: Tags = PAPER

    @property
    def system(self) -> str:
        """The system message, "" if there is none."""
        return self.before[0]["content"] if self.before[0]["role"] == "system" else ""


def read_chats(path: str, skip_bad: bool = False, tags: Tags = PAPER) -> list[Chat]:
    """Worked examples of a file. FORMS are the forms of a row.

    A result stands in the assistant's own text, <result> ... </result>, or is a message of its own:
    of the role tool, or a user's that is nothing but a result. A call is the text
    <search> ... </search> or <python> ... </python>, or in a message's tool_calls. What else a
    message may hold stands in support/messages.py.

    skip_bad: leave bad rows out and print which. tags: how calls are written; of a tool of one's
    own a call in tool_calls becomes its text, or JSON for several arguments.
    Raises: ValueError with a line per bad row (50 at most): the row and what is wrong.
    """
    chats, bad = [], []
    for number, row in read_rows(Path(path)):
        try:
            row = json.loads(row) if isinstance(row, str) else row
            chats.append(Chat(number, *split_chat(chat_of(row, tags), tags), tags))
        except (json.JSONDecodeError, RecursionError) as problem:
            bad.append(f"--cold_start {path}, row {number} is not JSON: {problem}")
        except ValueError as problem:
            bad.append(f"--cold_start {path}, row {number}: {problem}")
        except KeyError as problem:
            bad.append(f"--cold_start {path}, row {number}: it has no {problem}; a row is {FORMS}")
        except (TypeError, AttributeError) as problem:
            bad.append(f"--cold_start {path}, row {number}: {problem}; a row is {FORMS}")
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
            example = encode_example(tokenizer, chat, date)
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


def split_chat(messages: list[dict], tags: Tags = PAPER) -> tuple[list[dict], Pieces]:
    """What is before the last answer, and that answer as the sampling loop would have made it.

    Raises: ValueError if a result does not follow a call, or a call has no result. The same if the
            answer does not end with the assistant's own words, or nothing of it is to be imitated.
            Last, if a user's message follows a call and is no result.
    """
    parts, before = [], list(messages)
    while before and (
        before[-1]["role"] in ("assistant", "tool")
        or parts
        and lone_result(before[-1]["content"]) is not None
    ):
        parts = parts_of(before.pop()) + parts
    pieces = joined([(own, text) for own, text in parts if own is False or text.strip()])
    if not pieces or pieces[-1][0] is False:
        raise ValueError("the conversation does not end with the assistant's own words")
    refuse_unanswered(before, tags)
    if not any(m["role"] == "user" for m in before):
        raise ValueError("no question of a user comes before the answer")
    if not any(own for own, _ in pieces):
        raise ValueError('nothing of the answer is to be imitated: "weight": 0 or the like')
    for k, (own, text) in enumerate(pieces):
        answered = k + 1 < len(pieces) and pieces[k + 1][0] is False
        check_piece(own, text, pieces[k - 1] if k else (False, ""), answered, tags)
    return [{"role": m["role"], "content": m["content"]} for m in before], pieces


def refuse_unanswered(before: list[dict], tags: Tags) -> None:
    """ValueError for a user's message after a call: a result in a form that is not known."""
    for message, after in zip(before, before[1:]):
        last = split_tags(message["content"], "result")[-1]
        called = message["role"] == "assistant" and tags.call_end(last)
        if called and after["role"] == "user" and lone_result(after["content"]) is None:
            raise ValueError(
                "a user's message follows a call and is no result, <result> ... </result> alone: "
                f"{after['content'][:60]!r}"
            )


def parts_of(message: dict) -> Pieces:
    """A message of the answer: the assistant's words, the results in them, or a lone result."""
    text = message["content"]
    if message["role"] != "assistant":
        inside = lone_result(text)
        return [(False, text if inside is None else inside)]
    own = message.get("imitated", True) or None
    parts = split_tags(text, "result")
    return [(False, bare(part)) if k % 2 else (own, part) for k, part in enumerate(parts)]


def joined(parts: Pieces) -> Pieces:
    """Neighbours of the assistant are one piece; before a result no blanks stand."""
    pieces: Pieces = []
    for own, group in groupby(parts, key=lambda part: part[0]):
        texts = [text for _, text in group]
        # the loop reads a result right after the tag
        if own is False and pieces:
            pieces[-1] = pieces[-1][0], pieces[-1][1].rstrip()
        pieces += [(own, text) for text in texts] if own is False else [(own, "".join(texts))]
    return pieces


def lone_result(text: str) -> str | None:
    """What is in the result that a message consists of; None if it is something else."""
    parts = split_tags(text.strip(), "result")
    alone = len(parts) == 3 and not parts[0] and not parts[2] and "result>" not in parts[1]
    return bare(parts[1]) if alone else None


def bare(result: str) -> str:
    """A result without the line ends that part it from its tags."""
    return result.removeprefix("\n").removesuffix("\n")


def check_piece(
    own: bool | None, text: str, before: tuple[bool | None, str], answered: bool, tags: Tags
) -> None:
    """ValueError if a piece of an answer would teach what no rollout can hold.

    before: the piece before it. answered: does a result follow?
    """
    if own is False:
        called = tags.call_end(before[1]) if before[0] is not False else None
        if not called or called.end() < len(before[1]):
            known = " or ".join(f"<{name}> ... </{name}>" for name in reversed(tags.tools))
            raise ValueError(f"a tool result does not follow a call, {known}")
        return
    if re.search("</?result>", text):
        raise ValueError(
            "a <result> is not closed, or closed without being opened: the model would learn to "
            "write results itself"
        )
    call = tags.call_end(text)
    if call and (not answered or text[call.end() :].strip()):
        raise ValueError(
            "a call is not followed by its result (several calls at once are not known here)"
        )


def encode_example(tokenizer, chat: Chat, date: str = "") -> Example:
    """Ids as a rollout would have them: results encoded apart and not imitated, the end of turn
    imitated. ValueError for chat markers within the answer."""
    pieces = chat.pieces
    ids = chat.tags.encode_prompt(tokenizer, chat.before, date)
    mask = [False] * len(ids)
    (opened,), start = opened_by(tokenizer, [ids]), pieces[0][1].lstrip()
    if opened and start.startswith(opened):
        # the template has written it
        pieces = [(pieces[0][0], start.removeprefix(opened).lstrip("\n")), *pieces[1:]]
    written = "".join(text for own, text in pieces if own is not False)
    if opened and written.count("<think>") + 1 != written.count("</think>"):
        raise ValueError(
            "the chat template opens <think>, and the answer does not close it: the model would "
            "learn to break the format"
        )
    special = {tokenizer.eos_token, *TURN_ENDS, "<|im_start|>", "<|start_header_id|>"}
    last, text = pieces[-1]
    # some files have it in the text
    pieces = [*pieces[:-1], (last, text.removesuffix(tokenizer.eos_token))]
    for own, text in pieces:
        if own is not False and any(marker in text for marker in special):
            raise ValueError(
                "the assistant's text holds a chat marker such as <|im_end|>: the model would "
                "learn to go on after its turn"
            )
        new = (
            chat.tags.encode_result(tokenizer, text, 2**60)
            if own is False
            else tokenizer(text, add_special_tokens=False).input_ids
        )
        ids, mask = ids + new, mask + [bool(own)] * len(new)
    return ids + [tokenizer.eos_token_id], mask + [bool(last)]
