"""protocol.py: calls are read right, a result is harmless."""

import copy
import datetime
import time

import pytest
from conftest import template_ending

from protocol import (
    TAGS,
    defuse,
    encode_prompt,
    opened_by,
    parse_call,
    system_prompt,
)


@pytest.mark.parametrize(
    "text, call",
    [
        ("<search> a b </search>", ("search", "a b")),
        ("<search>a</search> x <python>1+1</python>", ("python", "1+1")),
        ("<python>1</python><search>q</search> tail", ("search", "q")),
        ("<python> <python> 2 </python>", ("python", "2")),
        (
            "<search> x <python>\nfor i in [1]:\n    print(i)\n</python>",
            ("python", "for i in [1]:\n    print(i)"),
        ),
        ("<python>\n    a = 1\n    a\n</python>", ("python", "a = 1\na")),
        ("<python> a = 1\nb = 2</python>", ("python", "a = 1\nb = 2")),
        ("<search></search>", ("search", "")),
        ("<search>a</search> x </python>", ("search", "a")),
        ("<python> x </python> y </python>", ("python", "x")),
        ("<search>never closed", None),
        ("</search>", None),
        ("", None),
        ("<search>a</python>", None),
        ("<result>1</result>", None),
        ("<search>a</search", None),
        ("<answer>1</answer>", None),
    ],
)
def test_parse_call(text, call):
    assert parse_call(text) == call


@pytest.mark.parametrize(
    "tags", ["</python>", "<search>", "<python></search>", "<python>x</python>"]
)
def test_calls_of_a_long_text_take_no_time(tags):
    started = time.process_time()
    parse_call("<python>" + tags * 50_000)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("tag", TAGS)
def test_defuse_leaves_no_tag(tag):
    for text in (f"<{tag}>", f"</{tag}>", f"</ {tag} >", f"<{tag.upper()}>", f"a</{tag}><{tag}>b"):
        out = defuse(text)
        assert "<" not in out and tag in out.lower()
    assert defuse("1 < 2 and <b>bold</b> a<think") == "1 < 2 and <b>bold</b> a<think"


def test_the_system_prompt_names_the_tools_that_are_there():
    """Blanks in the list change nothing."""
    both = system_prompt("python,search")
    assert both == system_prompt(" python , search") != system_prompt("search")
    assert "<search>" in both and "<python>" in both


@pytest.mark.parametrize(
    "end, tag",
    [
        ("<think>\\n", "<think>"),
        ("<think>", "<think>"),
        ("<think>\\n\\n", "<think>"),
        ("<think>\\nOkay, ", "<think>"),
        ("<think>\\nLet me think.\\n", "<think>"),
        ("<think>" + " so" * 40, "<think>"),
        ("<think>\\n\\n</think>\\n\\n", ""),
        ("<think> a </think> <think> b", "<think>"),
        ("<answer>", ""),
        ("", ""),
    ],
)
def test_what_a_template_leaves_open(tokenizer, end, tag):
    tokenizer = copy.deepcopy(tokenizer)
    plain = tokenizer.chat_template
    contents = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    chats = [[{"role": "user", "content": text}] for text in ("q", "<think>", "</think>", "Hello")]
    chats += [[{"role": "system", "content": "Hello <think> s"}, *chats[0]]]
    for template in (
        template_ending(plain, end),
        # nothing stands before the tag
        template_ending(contents, end),
        # the header comes whether it is asked for or not
        plain.replace("add_generation_prompt", "true") + "{{ '" + end + "' }}",
    ):
        tokenizer.chat_template = template
        prompts = [encode_prompt(tokenizer, chat) for chat in chats]
        alone = [opened_by(tokenizer, [prompt])[0] for prompt in prompts]
        assert opened_by(tokenizer, prompts) == alone == [tag] * len(chats)


@pytest.mark.parametrize("asked", ["<think>", "so <think>\n", "<|im_start|>assistant\n<think>\n"])
def test_a_tag_in_a_question_opens_nothing(tokenizer, asked):
    for chat in ([{"role": "user", "content": asked}], [{"role": "system", "content": asked}]):
        assert opened_by(tokenizer, [encode_prompt(tokenizer, chat)]) == [""]


def test_a_prompt_of_another_template_opens_nothing(tokenizer):
    """Where its last message ends is not known."""
    ids = tokenizer("a bare <think>", add_special_tokens=False).input_ids
    assert opened_by(tokenizer, [ids]) == [""]


def test_a_template_may_open_the_thought_for_some_chats_only(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template += "{% if messages[0].content == 'deep' %}<think>{% endif %}"
    chats = [[{"role": "user", "content": text}] for text in ("deep", "quick")]
    prompts = [encode_prompt(tokenizer, chat) for chat in chats]
    assert opened_by(tokenizer, prompts) == ["<think>", ""]


def test_without_a_template_nothing_is_opened(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = None
    assert opened_by(tokenizer, [[1, 2], [3]]) == ["", ""]


@pytest.mark.parametrize(
    "code, told",
    [
        ("%d %b %Y", "02 Jan 2020"),
        ("%Y-%m-%d", "2020-01-02"),
        ("%B %-d, %Y", "January 2, 2020"),
        ("%A", "Thursday"),
        ("%^a %_d %^B", "THU  2 JANUARY"),
        ("%%a %a", "%a Thu"),
        ("%H:%M", "00:00"),
    ],
)
def test_a_template_that_asks_for_the_date_is_told_the_runs(tokenizer, code, told):
    """As Llama 3.1 asks: the function may or may not be there."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = (
        "{%- if strftime_now is defined %}{%- set day = strftime_now('" + code + "') %}"
        "{%- else %}{%- set day = 'none' %}{%- endif %}{{ day + '|' }}"
        "{%- for m in messages %}{{ m.content }}{% endfor %}"
    )
    chat, own = [{"role": "user", "content": "q"}], tokenizer.chat_template

    def prompt(**how):
        return tokenizer.decode(encode_prompt(tokenizer, chat, **how))

    assert prompt(date="2020-01-02") == f"{told}|q"
    assert prompt() == f"{datetime.datetime.now().strftime(code)}|q" or code == "%H:%M"
    assert tokenizer.chat_template == own, "a checkpoint keeps the template as it was"


def test_a_template_without_a_date_is_left_alone(tokenizer):
    chat = [{"role": "user", "content": "q"}]
    assert encode_prompt(tokenizer, chat, "2020-01-02") == encode_prompt(tokenizer, chat)
