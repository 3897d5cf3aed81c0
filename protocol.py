"""How a model calls a tool: in tags, as in the paper.

    <python>code</python>  <search>query</search>   from the model; the closing tag ends its turn
    <result>text</result>                           from the environment alone

1. `closed_tag` ends a turn: the model has closed a tag.
2. `parse_call` reads the call from the model's own text; `calls_in` does both.
3. `defuse` makes a result harmless: it can neither open nor close a tag.
4. `encode_result` turns the result into token ids.
5. `encode_prompt`, `system_prompt`: a chat as ids, and what it tells the model of all this.
6. `fault_in`, `answer_part`: which rule of the format a response breaks, and where its answer is.
7. `opened_by`: the <think> that a chat template has opened for the model.

`Tags` holds all this for one set of tools. Calls as chat templates write them are in
support/native_calls.py, with the same methods; `protocol_of` there says which a run uses.
"""

import datetime
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from support.own_tools import OwnTool, own_tool
from support.plain_code import plain_code

# characters of a token, more than most have: what cannot fit is not even tokenized
LONGEST_TOKEN = 64
# of a tool: what it is, how it is called, an example
INSTRUCTIONS = {
    "search": (
        "a search engine over an encyclopedia",
        "to search, write <search> your query </search>",
        "<think> I need a fact. </think> <search> a query </search> "
        "<result> what was found </result> ",
    ),
    "python": (
        "a Python interpreter",
        "to compute, write <python> your code </python>",
        "<think> Now compute. </think> <python> print(6 * 7) </python> <result> 42 </result> ",
    ),
}


@dataclass(frozen=True)
class Asked:
    """A call as the model wrote it. fault: why it cannot be run, in words for the model."""

    name: str
    argument: str | dict
    fault: str = ""


@dataclass(frozen=True)
class Tags:
    """Calls and results between tags.

    tools: the names that a call may have. told: of which a prompt tells, comma-separated. template:
    further arguments of the chat template.
    """

    tools: tuple[str, ...] = ("python", "search")
    told: str = "python,search"
    template: dict = field(default_factory=dict, compare=False)
    name: str = "tags"

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

    def closed_tag(self, texts: list[str]) -> str | None:
        """The stop tag that the last token completes, or None.

        A tag spans several tokens in real vocabularies, and the last may hold text after the ">".

        Args: texts: of the policy's own tokens since the last tool result, one by one: a tag in a
              result must not count.
        """
        # a token before these cannot be part of a tag that the last one completes
        tail = "".join(texts[-max(map(len, self.stops)) :])
        before = len(tail) - len(texts[-1])
        for tag in self.stops:
            if tail.find(tag, max(0, before - len(tag) + 1)) >= 0:
                return tag
        return None

    def call_end(self, text: str) -> re.Match | None:
        """The first closing tag of a call in a text."""
        return re.search(f"</(?:{'|'.join(self.tools)})>", text)

    def forged_in(self, texts: list[str]) -> bool:
        """Has the policy just written what only the environment may write? texts: of a turn."""
        return self.closed_tag(texts) == self.forged

    def calls_in(self, texts: list[str], whole: Callable[[], str], ended: bool) -> list[Asked]:
        """The call that the last token completes, if it does.

        Args: texts: as in closed_tag. whole: the text of all of them, behind the <think> left open
              for them. ended: is the last token an end of turn? Here it completes nothing.
        """
        tag = self.closed_tag(texts)
        if not tag or tag == self.forged:
            return []
        call = self.parse_call(whole())
        if call:
            return [Asked(*call)]
        return [Asked(tag[2:-1], "", f"a closing {tag[2:-1]} tag without an opening one")]

    def parse_call(self, text: str) -> tuple[str, str] | None:
        """The last complete call in the model's own text: (tool name, argument), or None. Linear.

        A closing tag belongs to the nearest opening tag before it. The argument is stripped of
        white space and may be empty. Code comes as plain_code.
        """
        opened, call = {}, None
        for tag in re.finditer(rf"<(/?)({'|'.join(self.tools)})>", text):
            name = tag[2]
            if not tag[1]:
                opened[name] = tag.end()
            elif name in opened:
                call = name, text[opened.pop(name) : tag.start()]
        if not call:
            return None
        name, argument = call
        return name, plain_code(argument) if name == "python" else argument.strip()

    def defuse(self, text: str) -> str:
        """The text without tags of the format."""
        return without_tags(text, self.tags)

    def encode_result(self, tokenizer, text: str, room: int) -> list[int]:
        """Token ids of " <result>\\n{text}\\n</result>", the text cut so that all fit into `room`.

        The text gives neither a tag nor a special token, whatever it holds. The tags are cut only
        if the rollout has no more room: it ends there.
        """
        head, tail = _frame(tokenizer, len(tokenizer))
        text = whole_characters(text[: room * LONGEST_TOKEN])
        body = tokenizer(
            self.defuse(text), split_special_tokens=True, add_special_tokens=False
        ).input_ids
        return (head + body[: max(0, room - len(head) - len(tail))] + tail)[:room]

    def least_result(self, tokenizer) -> int:
        """Tokens of the shortest result: what stands around it, and one of its own."""
        head, tail = _frame(tokenizer, len(tokenizer))
        return len(head) + 1 + len(tail)

    def encode_results(self, tokenizer, texts: list[str], longest: int, room: int) -> list[int]:
        """Token ids of the results of one turn: here there is one.

        Args: longest: result with its tags, tokens, at least least_result. room: tokens that the
              rollout has left.
        """
        return self.encode_result(tokenizer, texts[0], min(longest, room))

    def encode_prompt(self, tokenizer, messages: list[dict], date: str = "") -> list[int]:
        """Token ids of a chat up to where the assistant begins; see below."""
        return encode_prompt(tokenizer, messages, date, **self.template)

    def turn_end(self, tokenizer) -> str:
        """What stands between a call and its result: here the closing tag is enough."""
        return ""

    def reopened(self, tokenizer) -> str:
        """The <think> that results leave open for the next turn: here none."""
        return ""

    def system_prompt(self) -> str:
        """What a model is told if a question is no chat."""
        return system_prompt(self.told)

    def fault_in(self, rollout) -> str:
        """Which rule of the format a response that has ended breaks first, "" if none.

        In the policy's own text: no <result>; every opened tag closed; at least one
        <think>..</think>; one <answer>..</answer>. A <think> that the chat template has opened
        counts.
        """
        text = rollout.policy_text
        if "<result>" in text or "</result>" in text:
            return "the policy wrote a <result>"
        for tag in ("think", *self.tools, "answer"):
            if text.count(f"<{tag}>") != text.count(f"</{tag}>"):
                return f"not every <{tag}> has its </{tag}>"
        if "<think>" not in text:
            return "no <think>"
        return "" if text.count("<answer>") == 1 else "not exactly one <answer>"

    def answer_part(self, rollout) -> str:
        """The part of a response that keeps the format in which its answer is boxed."""
        text = rollout.policy_text
        return text[text.index("<answer>") : text.index("</answer>")]


def whole_characters(text: str) -> str:
    """The text without half characters, which a tokenizer does not take."""
    return text.encode("utf-8", "replace").decode()


def without_tags(text: str, tags: tuple[str, ...]) -> str:
    """The text with the "<" of every <tag> and </tag> as "‹" (U+2039)."""
    # in any case and with a few blanks, since a model may read those as tags too
    tag = rf"<(?=\s{{0,9}}/?\s{{0,9}}(?:{'|'.join(tags)})\s{{0,9}}>)"
    return re.sub(tag, "‹", text, flags=re.IGNORECASE)


@functools.lru_cache(maxsize=4)
def _frame(tokenizer, vocabulary: int) -> tuple[list[int], list[int]]:
    """Token ids before and behind a result. vocabulary: its size, which new tokens change."""
    frame = (" <result>\n", "\n</result>")
    return tuple(tokenizer(text, add_special_tokens=False).input_ids for text in frame)


def encode_prompt(tokenizer, messages: list[dict], date: str = "", **template) -> list[int]:
    """Token ids of a chat up to where the assistant begins.

    date: 2026-01-31, what a template that asks for the date is told; "": today's. template: further
    arguments of the chat template.
    """
    how = {"add_generation_prompt": True, "return_dict": False} | template
    chat_template = tokenizer.get_chat_template(tools=how.get("tools")) if date else ""
    if "strftime_now" in chat_template:
        how["chat_template"] = _dated(chat_template, date)
    return tokenizer.apply_chat_template(messages, **how)


@functools.lru_cache(maxsize=4)
def _dated(template: str, date: str) -> str:
    """A chat template for which now is the first minute of a day.

    The function that it calls is shadowed by one of its own: transformers offers no other way.
    """
    day = datetime.datetime.fromisoformat(date)
    codes = set(re.findall("%[-_^]?[A-Za-z]", template))
    pairs = [("%%", "\0"), *((code, day.strftime(code)) for code in sorted(codes)), ("\0", "%")]
    told = "".join(f" | replace({old!r}, {new!r})" for old, new in pairs)
    # the line's end goes with the macro: jinja trims it
    macro = f"{{%- macro strftime_now(format) -%}}{{{{ format{told} }}}}{{%- endmacro %}}"
    return f"{macro}\n{template}"


def opened_by(tokenizer, prompts: list[list[int]]) -> list[str]:
    """The tag that each prompt leaves open for the response: "<think>" or "".

    Some chat templates end with <think>, or with the first words of a thought. Only what stands
    after the last message counts.
    """
    if not tokenizer.chat_template:
        return [""] * len(prompts)
    asked = "Hello"
    example = tokenizer.decode(encode_prompt(tokenizer, [{"role": "user", "content": asked}]))
    after = example.rpartition(asked)[2]
    # up to a <think>, what follows the last message is the same in all prompts
    start = after.partition("<think>")[0].strip() or after.strip()
    texts = [tokenizer.decode(prompt) for prompt in prompts]
    # from the last `start` on
    return [
        left_open(text[text.rfind(start) :]) if start and start in text else "" for text in texts
    ]


def left_open(text: str) -> str:
    """ "<think>" if a text opens one and does not close it, else ""."""
    return "<think>" if text.rfind("<think>") > text.rfind("</think>") else ""


def split_tools(tools: str) -> tuple[list[str], list[str]]:
    """The tools of a comma-separated list: those of this project, and places FILE.py:NAME."""
    names = list(filter(None, map(str.strip, tools.split(","))))
    own = [name for name in names if ".py:" in name]
    return [name for name in names if name not in own], own


def own_tools(tools: str) -> list[OwnTool]:
    """The tools of one's own in a comma-separated list.

    Raises: ValueError, a line for each that cannot be used.
    """
    found, lines = [], []
    for place in split_tools(tools)[1]:
        try:
            found.append(own_tool(place))
        except ValueError as problem:
            lines.append(str(problem))
    names = [tool.name for tool in found]
    if len(set(names)) < len(names):
        lines.append(f"--tools names two tools alike: {', '.join(names)}")
    if lines:
        raise ValueError("\n".join(lines))
    return found


def tags_of(tools: str, template: dict | None = None) -> Tags:
    """How calls of these tools are written in tags. The paper's two tags are always known."""
    return Tags((*PAPER.tools, *(tool.name for tool in own_tools(tools))), tools, template or {})


def _instructions(tools: str) -> list[tuple[str, str, str]]:
    """Of each tool: what it is, how it is called, an example."""
    asked, places = split_tools(tools)
    have = [text for name, text in INSTRUCTIONS.items() if name in asked]
    for tool in map(own_tool, places):
        what = f"{tool.name} ({tool.summary.rstrip('.')})"
        have.append(
            (what, f"to use {tool.name}, write <{tool.name}> {tool.usage} </{tool.name}>", "")
        )
    return have


def system_prompt(tools: str = "python,search") -> str:
    """What a model is told of the protocol if a question is no chat. tools: comma-separated."""
    have = _instructions(tools)
    called = "Reason inside <think> and </think>"
    if have:
        number = {1: "One tool is", 2: "Two tools are"}.get(len(have), f"{len(have)} tools are")
        how = "; ".join(use for _, use, _ in have)
        called = (
            f"{number} at hand: {' and '.join(what for what, _, _ in have)}. {called}. "
            f"{how[:1].upper()}{how[1:]}; what the tool returns follows between <result> and "
            "</result>. Reason and use tools as often as needed"
        )
    return (
        f"Answer the question by reasoning in steps. {called}, for instance: "
        f"{''.join(example for _, _, example in have)}"
        "<think> Done. </think> <answer> The answer is \\[ \\boxed{42} \\] </answer>. "
        "The last thing to write is <answer> ... </answer> with the exact final answer in "
        "\\boxed{}."
    )


# chat markers that end a turn, whatever the configuration of a model says
TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")
# the format of the paper, with its two tools
PAPER = Tags()
TAGS = PAPER.tags
STOP_TAGS = PAPER.stops
closed_tag = PAPER.closed_tag
parse_call = PAPER.parse_call
defuse = PAPER.defuse
encode_result = PAPER.encode_result
