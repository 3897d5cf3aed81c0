"""How a model calls a tool, in tags as in the paper: what a call is, which tags stop a turn, and how a result is written back.

parse_call    the last complete <python>..</python> or <search>..</search>
defuse        makes a result harmless: it can never open or close a tag
encode_result the token ids of a result
"""

import re
import textwrap

TOOL_TAGS = ("python", "search")


TAGS = ("think", "answer", "result") + TOOL_TAGS
# only the environment may open a result: a policy that writes this tag has made one up
FORGED = "<result>"
STOP_TAGS = (*(f"</{tag}>" for tag in TOOL_TAGS), FORGED)


def parse_call(text: str) -> tuple[str, str] | None:
    """The last complete call in the model's own text: (tool name, argument), or None.

    A closing tag belongs to the nearest opening one before it. The argument is stripped of surrounding white space and may be empty; code that begins on
    a line of its own is freed of common indentation.
    """
    for close in reversed(list(re.finditer(rf"</({'|'.join(TOOL_TAGS)})>", text))):
        name, start = close[1], text.rfind(f"<{close[1]}>", 0, close.start())
        argument = text[start + len(name) + 2 : close.start()]
        if start >= 0 and f"</{name}>" not in argument:
            own_line = not argument.split("\n", 1)[0].strip()
            return name, (textwrap.dedent(argument) if own_line else argument).strip()
    return None


def defuse(text: str) -> str:
    """Tool text in which no tag is left: the "<" of every <tag> and </tag> of this protocol becomes "‹" (U+2039), whatever its case."""
    return re.sub(
        rf"<(?=\s{{0,9}}/?\s{{0,9}}(?:{'|'.join(TAGS)})\s{{0,9}}>)", "‹", text, flags=re.IGNORECASE
    )


def encode_result(tokenizer, text: str, room: int) -> list[int]:
    """Token ids of " <result>\\n{text}\\n</result>", the text cut to fit into `room` ids. The text gives no tag and no special token, whatever it holds."""
    head, tail = (
        tokenizer(part, add_special_tokens=False).input_ids
        for part in (" <result>\n", "\n</result>")
    )
    body = tokenizer(defuse(text), add_special_tokens=False, split_special_tokens=True).input_ids
    return (head + body[: max(0, room - len(head) - len(tail))] + tail)[:room]
