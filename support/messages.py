"""The messages of a worked example or of a question, in any common form of the field.

1. chat_of          the messages of a row, as text that a rollout could hold
2. message_of       one message as role and text; a question's chat is read by it too
3. refuse_row, refuse_fields    a field that cannot be kept is named, not dropped
4. with_thought     a thought in a field of its own is written in <think> ... </think>
5. call_text        a call in a field of its own is written between tags
6. result_in        the result that a message of a user or a tool consists of
7. is_imitated      False for "weight": 0 and the like
8. text_of          the text of a message's content
"""

import json
import re

from protocol import PAPER, Tags

ROLES = {
    "system": "system",
    "developer": "system",
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
# fields of a call, and of what is within its field "function"
CALL = ("id", "type", "index", "function", "name", "arguments", "parameters")


def chat_of(row: dict, tags: Tags = PAPER) -> list[dict]:
    """The messages of a row, each {"role": system, user, assistant or tool, "content": text}.

    An assistant's message that is not to be imitated has "imitated": False besides; "weight": 0 of
    the row holds for all its messages.
    Raises: ValueError, KeyError or TypeError if the row has none of the known forms, or holds
            what cannot be kept.
    """
    if not isinstance(row, dict):
        raise TypeError(f"a row must be an object, not {type(row).__name__}")
    refuse_row(row)
    said = row.get("messages", row.get("conversations"))
    said = _alpaca(row) if said is None else said
    if row.get("system"):
        said = [{"role": "system", "content": row["system"]}, *said]
    chat = [message_of(m, tags) for m in said]
    for message in chat:
        refuse_surrogates("text", message["content"])
    if not is_imitated(row):
        chat = [m | {"imitated": False} if m["role"] == "assistant" else m for m in chat]
    return chat


def refuse_row(row: dict) -> None:
    """ValueError naming a field of a row that says what cannot be kept."""
    chat = row.get("messages") is not None or row.get("conversations") is not None
    for field in (*CALLS, *THOUGHTS * chat):
        if not is_empty(row.get(field)):
            raise ValueError(f"the row's field {field!r} cannot be kept: it belongs to a message")
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
    """The messages of {"history": [[question, answer]], "instruction", "input", "output"}.

    A thought in a field of the row belongs to the output.
    """
    asked = "\n".join(filter(None, (row["instruction"], row.get("input"))))
    turns = [*(row.get("history") or []), (asked, row["output"])]
    said = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return [*said[:-1], said[-1] | {field: row[field] for field in THOUGHTS if field in row}]


def message_of(message: dict, tags: Tags = PAPER) -> dict:
    """A message of any form as role and text; "imitated": False besides if it says so.

    tags: how calls are written here.

    Raises: ValueError or TypeError for what is no message or cannot be kept.
    """
    if not isinstance(message, dict):
        raise ValueError(f"a message must be an object, not {type(message).__name__}")
    if "role" not in message and "from" in message:
        names = {"from": "role", "value": "content"}
        message = {names.get(field, field): value for field, value in message.items()}
    role, content = message.get("role"), message.get("content")
    kind = ROLES.get(role) if isinstance(role, str) else None
    if not kind:
        raise ValueError(f"unknown role {role!r}; known are {', '.join(ROLES)}")
    refuse_fields(message, kind)
    if kind not in ("assistant", "call") and content is None:
        raise ValueError(f"a message of {role} has no content")
    text = "" if content is None else text_of(content)
    if kind in ("user", "tool"):
        kind, text = result_in(kind, text)
    if kind not in ("assistant", "call"):
        return {"role": kind, "content": text}
    said = call_text(decoded(text), tags) if kind == "call" else _with_calls(text, tags)
    text = with_thought(message, said, tags)
    calls = "".join(call_text(call, tags) for call in calls_of(message))
    refuse_surrogates("call", calls)
    said = {"role": "assistant", "content": text + calls}
    return said if is_imitated(message) else said | {"imitated": False}


def _with_calls(text: str, tags: Tags) -> str:
    """An assistant's text, with Qwen's <tool_call> ... </tool_call> as the policy writes calls."""
    outside, *parts = split_tags(text, "tool_call")
    calls = [call_text(decoded(call), tags) for call in parts[::2]]
    text = outside + "".join(call + after.lstrip() for call, after in zip(calls, parts[1::2]))
    left = re.search("</?tool_(?:call|response)>", text)
    if left:
        raise ValueError(f"{left[0]} in the assistant's text cannot be kept: it is not paired here")
    return text


def split_tags(text: str, name: str) -> list[str]:
    """The text outside of and within <name> ... </name>, in turn. Linear.

    What is not closed is outside.
    """
    parts, place, start, end = [], 0, f"<{name}>", f"</{name}>"
    while (at := text.find(start, place)) >= 0 and (close := text.find(end, at)) >= 0:
        parts += [text[place:at], text[at + len(start) : close]]
        place = close + len(end)
    return [*parts, text[place:]]


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


def with_thought(message: dict, text: str, tags: Tags = PAPER) -> str:
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
    tag = re.search(f"</?(?:{'|'.join(tags.tags)})>", _unwrapped(thought))
    if tag:
        raise ValueError(f"the field {field!r} holds {tag[0]}: a thought holds no tag")
    if text.count("<think>") != text.count("</think>"):
        raise ValueError(f"the field {field!r} cannot be kept: a <think> in the text is not paired")
    text = re.sub(r"<think>\s*+</think>\s*+", "", text)
    # whole words: 4 is not in 14
    words = rf"(?<!\w){re.escape(thoughts.pop())}(?!\w)"
    written = split_tags(text, "think")[1::2]
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
    parts = split_tags(text, "tool_response")
    found, alone = parts[1::2], len(parts) > 1 and not "".join(parts[::2]).strip()
    if alone and len(found) > 1:
        raise ValueError("several <tool_response> at once: several calls at once are not known")
    if alone:
        return "tool", found[0].removeprefix("\n").removesuffix("\n")
    if kind == "user" and re.search("</?tool_response>", text):
        raise ValueError("a <tool_response> beside other text of the user cannot be kept")
    return kind, text


def calls_of(message: dict) -> list[dict]:
    """The calls that a message holds beside its text."""
    calls = [call for call in message.get("tool_calls") or [] if not is_empty(call)]
    lone = message.get("function_call")
    return calls if is_empty(lone) else [*calls, lone]


def call_text(call: dict, tags: Tags = PAPER) -> str:
    """A call as the policy writes it here: <name>argument</name>.

    Args:   call: {"name", "arguments"}, an object or its JSON, perhaps within "function". Some
            write "parameters" for "arguments".
    Raises: ValueError for a tool that is not here, for an argument that it does not take, and for
            another field.
    """
    call = decoded(call)
    function = decoded(call.get("function") or call)
    for field, value in (call | function).items():
        if field not in CALL and not is_empty(value):
            raise ValueError(f"the field {field!r} of a call cannot be kept")
    name, given = function.get("name"), function.get("arguments", function.get("parameters"))
    # parquet gives every call the arguments of all
    given = {key: value for key, value in decoded(given).items() if value is not None}
    if name not in tags.tools:
        raise ValueError(
            f"a call of {name!r} with {len(given)} arguments; tools are {', '.join(tags.tools)}, "
            "each with one text"
        )
    if name not in ARGUMENTS:
        return f"<{name}>{_own_argument(given)}</{name}>"
    takes = ARGUMENTS[name]
    others = [key for key in given if key != takes]
    if others:
        raise ValueError(
            f"the argument {others[0]!r} of {name!r} cannot be kept: it takes {takes!r}"
        )
    if not isinstance(given.get(takes), str):
        raise ValueError(f"a call of {name!r} whose argument {takes!r} is no text")
    return f"<{name}>{given[takes]}</{name}>"


def _own_argument(given: dict) -> str:
    """The arguments of a tool of one's own between tags: one text as it is, else JSON."""
    values = list(given.values())
    alone = len(values) == 1 and isinstance(values[0], str)
    return values[0] if alone else json.dumps(given, ensure_ascii=False)


def decoded(call: dict | str) -> dict:
    """An object, or the one that is written in JSON."""
    try:
        return call if isinstance(call, dict) else dict(json.loads(call))
    except (ValueError, TypeError):
        raise ValueError(f"a call that is not a JSON object: {str(call)[:80]!r}") from None


def text_of(content) -> str:
    """The text of a chat message: a string, or a list of {"type": "text", "text": ...}.

    Raises: TypeError for anything else. ValueError naming a part or a field that cannot be kept.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise TypeError("a message's content must be text")
    for part in content:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type")
            raise ValueError(f"a content part of type {kind!r} cannot be kept: only text can")
        for field, value in part.items():
            if field not in ("type", "text") and not is_empty(value):
                raise ValueError(f"the field {field!r} of a content part cannot be kept")
    return "".join(part["text"] for part in content)


def refuse_surrogates(what: str, *texts: str) -> None:
    """ValueError for half a character, such as \\ud800: JSON takes it, a tokenizer does not."""
    for text in texts:
        if half := re.search("[\ud800-\udfff]", text):
            raise ValueError(
                f"has a lone surrogate, {ascii(half[0])}, in its {what}: no Unicode text"
            )
