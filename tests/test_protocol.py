"""protocol.py: calls are read right, a result is harmless."""

import ast
import contextlib
import copy
import datetime
import io
import time
from pathlib import Path

import pytest

from protocol import (
    TAGS,
    defuse,
    encode_prompt,
    opened_by,
    parse_call,
    plain_code,
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


HERE = Path(__file__).resolve().parent


def printed(code: str) -> str:
    """What code of these tests prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    return out.getvalue().strip()


# What stands between the tags, and what it prints.
DRESSED = [
    # fences
    ("\n```python\nprint(1)\n```\n", "1"),
    (" ```py\nx = 1\nprint(x)\n``` ", "1"),
    ("```\nprint(1)\n```", "1"),
    ("~~~python\nprint(1)\n~~~", "1"),
    ("```Python3\nprint(1)", "1"),
    ("```print(1)```", "1"),
    ("```python print(1) ```", "1"),
    ("\n    ```python\n    for i in [1]:\n        print(i)\n    ```\n", "1"),
    ("````python\nprint('```')\n````", "```"),
    ("```python\nprint('''\n```\n''')\n```", "```"),
    ("``` python \r\nx = 1\r\nprint(x)\r\n```", "1"),
    ("```tool_code\nprint(1)\n```", "1"),
    # line ends
    ("\r\n    x = 1\r\n    print(x)\r\n", "1"),
    ("x = 1\r\nprint(x)", "1"),
    ("x = 1\rprint(x)", "1"),
    # characters of no width
    ("\ufeffprint(1)", "1"),
    ("\u200b\n    x = 1\n    print(x)\n\u200b", "1"),
    (" \u2060 print('a\u200bb')", "a\u200bb"),
    ("```python\n\ufeffprint(1)\n```", "1"),
    # a first line beside the tag
    (" x=1\n print(x) ", "1"),
    (" x = 1\n    y = 2\n    print(x + y)\n    ", "3"),
    (" import math\n\tprint(math.floor(1.5))\n", "1"),
    (" def f(x):\n     return x\n print(f(1))\n", "1"),
    (" if 0: print(2)\n else: print(1)\n", "1"),
    (" x = [1,\n      2]\n print(x)\n", "[1, 2]"),
    (" x = 1  # one\n  # two\n  print(x)", "1"),
    # strings over several lines
    (" x = 1\n  s = '''a\n  b'''\n  print(s)", "a\n  b"),
    ("\n  s = '''a\n    b\n  '''\n  print(s, 1)\n", "a\n    b\n   1"),
    ("\n\tprint(f'''{1}\n\t2''')\n\tprint(3)\n", "1\n\t2\n3"),
    # code that begins on its own line
    ("\n    s = 1\n    if s:\n        print(s)\n", "1"),
]


@pytest.mark.parametrize("argument, out", DRESSED)
def test_the_dress_of_code_is_taken_off(argument, out):
    name, code = parse_call(f"<python>{argument}</python>")
    assert name == "python" and printed(code) == out


@pytest.mark.parametrize(
    "code",
    [
        "x = '''a\n   \n  b'''\nprint(x)",
        "for i in [1]:\n    print(i)\n    print(i)",
        "if 1:\n  x = '''\n    a'''\n  print(x)",
        "x = (1,\n     2)",
        "print('```')",
        "~~~5",
        "x = '\u200b'",
        "s = '''\n```python\n'''",
        "print(\n  1)\nx = 1",
    ],
)
def test_valid_code_stays_as_it_is(code):
    compile(code, "", "exec")
    for around in ("{}", " {} ", "\n{}\n"):
        assert parse_call(f"<python>{around.format(code)}</python>") == ("python", code)


@pytest.mark.parametrize(
    "code",
    [
        # more is wrong than the margin
        "x = 1\n    y = 2\n  z = 3\n   a = 4",
        "x = (1\n  y = 2",
        "x = 1\n  y = 2\nz = 3",
    ],
)
def test_what_would_change_a_meaning_is_not_mended(code):
    assert plain_code(code) == code


@pytest.mark.parametrize("name", ["protocol", "tools", "rewards", "branching", "rollout"])
@pytest.mark.parametrize("beside_the_tag", [True, False])
def test_indented_code_means_what_it_meant_in_a_block(name, beside_the_tag):
    """Files of this project, with strings over several lines, against Python's own parser."""
    lines = (HERE.parent / f"{name}.py").read_text().replace("\n\n", "\n").splitlines()
    block = "\n".join("    " + line for line in lines)
    meant = [ast.dump(node) for node in ast.parse("if 1:\n" + block).body[0].body]
    # the first line of each file opens a string, so it gets a line before it
    argument = (" pass\n" if beside_the_tag else "\n    pass\n") + block + "\n"
    code = plain_code(argument)
    assert [ast.dump(node) for node in ast.parse(code).body[1:]] == meant


def test_a_search_keeps_its_marks():
    for query in ("```python", "a\n    b", "~~~x~~~", "\ufeffa"):
        assert parse_call(f"<search>\n{query}\n</search>") == ("search", query)


def test_dress_of_long_code_takes_no_time():
    started = time.process_time()
    texts = ["`", "~", "```\n", "\ufeff ", "(", "x\n ", "'''\n ", "-", "lambda:", "{1:", "\t\n"]
    for text in texts:
        plain_code(text * (19_000 // len(text)))
        plain_code("x\n " + text * (19_000 // len(text)))
        plain_code(" " + text * 10**5)
        plain_code("~~~" + text * 10**5 + "x")
    assert time.process_time() - started < 6


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
    "prompt, tag",
    [
        ("<|im_start|>assistant\n<think>\n", "<think>"),
        ("assistant\n<think>", "<think>"),
        ("assistant<think>\n\n", "<think>"),
        ("assistant\n<think>\n\n</think>\n\n", ""),
        ("Reason inside <think> and </think>.<|im_end|>\n<|im_start|>assistant\n", ""),
        ("end with <think>.\n", ""),
    ],
)
def test_what_a_prompt_leaves_open(prompt, tag):
    assert opened_by(prompt) == tag


@pytest.mark.parametrize(
    "code, told",
    [
        ("%d %b %Y", "02 Jan 2020"),
        ("%Y-%m-%d", "2020-01-02"),
        ("%B %-d, %Y", "January 2, 2020"),
        ("%A", "Thursday"),
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
