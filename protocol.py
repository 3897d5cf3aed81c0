"""How a model calls a tool: in tags, as in the paper.

    <python>code</python>  <search>query</search>   from the model; the closing tag ends its turn
    <result>text</result>                           from the environment alone

1. `parse_call` reads the call from the model's own text.
2. `defuse` makes a result harmless: it can neither open nor close a tag.
3. `encode_result` turns the result into token ids.

`Tags` holds all that is particular to this format. Another format is another class with the same
attributes and methods. Imports no other file of this project.
"""

import re
import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Tags:
    """Calls and results between tags. tools: the names that a call may have."""

    tools: tuple[str, ...] = ("python", "search")

    @property
    def tags(self) -> tuple[str, ...]:
        """All tags of the format, by name."""
        return ("think", "answer", "result", *self.tools)

    @property
    def forged(self) -> str:
        """Only the environment may open a result: a policy that writes this tag has made one up."""
        return "<result>"

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings at which the model's turn ends."""
        return (*(f"</{name}>" for name in self.tools), self.forged)

    def parse_call(self, text: str) -> tuple[str, str] | None:
        """The last complete call in the model's own text: (tool name, argument), or None.

        A closing tag belongs to the nearest opening tag before it. The argument is stripped of
        white space and may be empty. Code that begins on its own line loses common indentation.
        """
        for close in reversed(list(re.finditer(rf"</({'|'.join(self.tools)})>", text))):
            name = close[1]
            start = text.rfind(f"<{name}>", 0, close.start())
            argument = text[start + len(f"<{name}>") : close.start()]
            if start < 0 or f"</{name}>" in argument:
                continue
            if not argument.split("\n", 1)[0].strip():
                argument = textwrap.dedent(argument)
            return name, argument.strip()
        return None

    def defuse(self, text: str) -> str:
        """The text without tags: the "<" of every <tag> and </tag> becomes "‹" (U+2039)."""
        # in any case and with a few blanks, since a model may read those as tags too
        tag = rf"<(?=\s{{0,9}}/?\s{{0,9}}(?:{'|'.join(self.tags)})\s{{0,9}}>)"
        return re.sub(tag, "‹", text, flags=re.IGNORECASE)

    def encode_result(self, tokenizer, text: str, room: int) -> list[int]:
        """Token ids of " <result>\\n{text}\\n</result>", the text cut so that all fit into `room`.

        The text gives neither a tag nor a special token, whatever it holds.
        """
        plain = {"add_special_tokens": False}
        head = tokenizer(" <result>\n", **plain).input_ids
        tail = tokenizer("\n</result>", **plain).input_ids
        body = tokenizer(self.defuse(text), split_special_tokens=True, **plain).input_ids
        return (head + body[: max(0, room - len(head) - len(tail))] + tail)[:room]


def encode_prompt(tokenizer, messages: list[dict]) -> list[int]:
    """Token ids of a chat up to where the assistant begins."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


# chat markers that end a turn, whatever the configuration of a model says
TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>")
# the format of the paper, with its two tools
_PAPER = Tags()
TOOL_TAGS = _PAPER.tools
TAGS = _PAPER.tags
FORGED = _PAPER.forged
STOP_TAGS = _PAPER.stops
parse_call = _PAPER.parse_call
defuse = _PAPER.defuse
encode_result = _PAPER.encode_result
