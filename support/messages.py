"""The messages of a worked example, in any common form of the field.

1. chat_of          the messages of a row, as text that a rollout could hold
2. refuse_row, refuse_fields    a field that cannot be kept is named, not dropped
3. with_thought     a thought in a field of its own is written in <think> ... </think>
4. call_text        a call in a field of its own is written between tags
5. results_in       the result that a message of a user or a tool consists of
6. is_imitated      False for "weight": 0 and the like
"""

import json
import re

from protocol import TAGS, TOOL_TAGS
from support.questions import refuse_surrogates, text_of

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
    "tool_response": "tool",
    "function_call": "call",
    "tool_call": "call",
}
# fields of a message by what they hold; of the last ones nothing is kept, and nothing is lost
IMITATED = ("weight", "train", "training", "loss")
IMITATED += ("trainable", "train_on_turn", "calculate_loss")
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
CALLS = ("tool_calls", "function_call")
NAMES = ("id", "index", "name", "tool_call_id", "timestamp", "created_at", "model")
# fields of a row that change what its messages mean
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
# which words or tokens are imitated, where this is not said message by message
MASKS = ("loss_mask", "loss_masks", "assistant_masks", "completion_mask", "labels")
# the one argument of each tool
ARGUMENTS = {"python": "code", "search": "query"}
WRITTEN = "<think>(.*?)</think>"
# Qwen's tags around a call and a result
TOOL_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>\s*", re.DOTALL)
TOOL_RESPONSE = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)


def chat_of(row: dict) -> list[dict]:
    """The messages of a row, each {"role": system, user, assistant or tool, "content": text}.

    An assistant's message that is not to be imitated has "imitated": False besides; "weight": 0 of
    the row holds for all its messages.
    Raises: ValueError, KeyError or TypeError if the row has none of the known forms, or holds
            what cannot be kept.
    """
    if not isinstance(row, dict):
        raise TypeError(f"a row must be an object, not {type(row).__name__}")
    refuse_row(row)
    if "messages" in row:
        said = row["messages"]
    elif "conversations" in row:
        said = [
            {"role": m["from"], "content": m["value"]}
            | {field: m[field] for field in m if field not in ("from", "value")}
            for m in row["conversations"]
        ]
    else:
        said = _alpaca(row)
    if row.get("system"):
        said = [{"role": "system", "content": row["system"]}, *said]
    chat = [_message_of(m) for m in said]
    if not is_imitated(row):
        chat = [m | {"imitated": False} if m["role"] == "assistant" else m for m in chat]
    return chat


def refuse_row(row: dict) -> None:
    """ValueError naming a field of a row that says what cannot be kept."""
    for field in MEDIA:
        if not is_empty(row.get(field)):
            raise ValueError(f"the row's field {field!r} cannot be kept: only text is imitated")
    for field in MASKS:
        if not is_empty(row.get(field)):
            raise ValueError(
                f'the row\'s field {field!r} cannot be kept: use "weight" of a message'
            )
    # KTO's mark of an answer that is not wanted
    if row.get("label") in (0, False):
        raise ValueError("the row's field 'label' is false: such an answer is not to be imitated")


def _alpaca(row: dict) -> list[dict]:
    """The messages of {"history": [[question, answer]], "instruction", "input", "output"}."""
    asked = "\n".join(filter(None, (row["instruction"], row.get("input"))))
    turns = [*(row.get("history") or []), (asked, row["output"])]
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def _message_of(message: dict) -> dict:
    """A message of any form as role and text."""
    role = message["role"]
    if role not in ROLES:
        raise ValueError(f"unknown role {role!r}; known are {', '.join(ROLES)}")
    kind, text = ROLES[role], text_of(message.get("content") or "")
    refuse_surrogates("text", text)
    refuse_fields(message, kind)
    if kind in ("user", "tool"):
        kind, text = result_in(kind, text)
    if kind not in ("assistant", "call"):
        return {"role": kind, "content": text}
    text = _called(text) if kind == "call" else TOOL_CALL.sub(lambda call: _called(call[1]), text)
    left = re.search("</?tool_(?:call|response)>", text)
    if left:
        raise ValueError(f"{left[0]} in the assistant's text cannot be kept: it is not paired here")
    text = with_thought(message, text)
    text += "".join(call_text(call["name"], call["arguments"]) for call in calls_of(message))
    refuse_surrogates("call", text)
    said = {"role": "assistant", "content": text}
    return said if is_imitated(message) else said | {"imitated": False}


def refuse_fields(message: dict, kind: str) -> None:
    """ValueError naming a field that holds something and cannot be kept."""
    known = {"role", "content", *NAMES, *IMITATED}
    if kind in ("assistant", "call"):
        known.update(THOUGHTS, CALLS)
    for field, value in message.items():
        if field not in known and not is_empty(value):
            where = f"the field {field!r} of a message of {message['role']}"
            raise ValueError(f"{where} cannot be kept: take it out if it changes nothing")


def is_empty(value) -> bool:
    """Nothing, or a list or object of nothing, as parquet fills fields that other rows have.

    False is something: "learn": false says that a message is not to be imitated.
    """
    if isinstance(value, dict):
        return all(map(is_empty, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_empty, value))
    return value is None or value == ""


def is_imitated(message: dict) -> bool:
    """False for "weight": 0, "train": false and the like. ValueError for a weight between."""
    given = {field: message[field] for field in IMITATED if message.get(field) is not None}
    for field, value in given.items():
        if value not in (0, 1):
            raise ValueError(f"the field {field!r} is {value!r}: only 0 and 1 can be kept")
    return all(given.values())


def with_thought(message: dict, text: str) -> str:
    """The text after the thought of the message, unless a <think> in the text holds all its words.

    Beside a thought in a field, an empty <think> </think> of the text goes.

    Raises: ValueError for two thoughts, or tags where none can be.
    """
    fields = {field: message[field] for field in THOUGHTS if message.get(field)}
    for field, thought in fields.items():
        if not isinstance(thought, str):
            raise TypeError(f"the field {field!r} must be text")
        refuse_surrogates(field, thought)
    thoughts = {" ".join(_unwrapped(thought).split()) for thought in fields.values()}
    if len(thoughts) > 1:
        raise ValueError(f"the fields {' and '.join(fields)} hold two thoughts")
    if not any(thoughts):
        return text
    field, thought = next(iter(fields.items()))
    tag = re.search(f"</?(?:{'|'.join(TAGS)})>", _unwrapped(thought))
    if tag:
        raise ValueError(f"the field {field!r} holds {tag[0]}: a thought holds no tag")
    if text.count("<think>") != text.count("</think>"):
        raise ValueError(f"the field {field!r} cannot be kept: a <think> in the text is not paired")
    text = re.sub(r"<think>\s*</think>\s*", "", text)
    # whole words: 4 is not in 14
    words = rf"(?<!\w){re.escape(thoughts.pop())}(?!\w)"
    written = re.findall(WRITTEN, text, re.DOTALL)
    if any(re.search(words, " ".join(there.split())) for there in written):
        return text
    return f"<think> {_unwrapped(thought)} </think>{text}"


def _unwrapped(thought: str) -> str:
    """A thought without <think> ... </think> around it."""
    return thought.strip().removeprefix("<think>").removesuffix("</think>").strip()


def result_in(kind: str, text: str) -> tuple[str, str]:
    """Role and text of a message of a user or a tool: Qwen's <tool_response> is a tool's.

    Raises: ValueError if a user's message holds such a tag beside other text, or several results.
    """
    found = TOOL_RESPONSE.findall(text)
    alone = found and not TOOL_RESPONSE.sub("", text).strip()
    if alone and len(found) > 1:
        raise ValueError("several <tool_response> at once: several calls at once are not known")
    if alone:
        return "tool", found[0]
    if kind == "user" and re.search("</?tool_response>", text):
        raise ValueError("a <tool_response> beside other text of the user cannot be kept")
    return kind, text


def calls_of(message: dict) -> list[dict]:
    """The calls that a message holds beside its text."""
    calls = [call.get("function", call) for call in message.get("tool_calls") or []]
    lone = message.get("function_call")
    return calls if is_empty(lone) else [*calls, lone]


def _called(text: str) -> str:
    """A call that is text in JSON, as the policy writes it."""
    call = decoded(text)
    return call_text(call["name"], call["arguments"])


def call_text(name: str, arguments: dict | str) -> str:
    """A call as the policy writes it here: <name>argument</name>.

    Raises: ValueError for a tool that is not here, and for an argument that it does not take.
    """
    given = arguments if isinstance(arguments, dict) else decoded(arguments)
    # parquet gives every call the arguments of all
    given = {key: value for key, value in given.items() if value is not None}
    if name not in TOOL_TAGS:
        raise ValueError(
            f"a call of {name!r} with {len(given)} arguments; tools are {', '.join(TOOL_TAGS)}, "
            "each with one text"
        )
    takes = ARGUMENTS[name]
    others = [key for key in given if key != takes]
    if others:
        raise ValueError(
            f"the argument {others[0]!r} of {name!r} cannot be kept: it takes {takes!r}"
        )
    if not isinstance(given.get(takes), str):
        raise ValueError(f"a call of {name!r} whose argument {takes!r} is no text")
    return f"<{name}>{given[takes]}</{name}>"


def decoded(call: str) -> dict:
    """A call's JSON object."""
    try:
        return dict(json.loads(call))
    except (ValueError, TypeError):
        raise ValueError(f"a call that is not a JSON object: {str(call)[:80]!r}") from None
