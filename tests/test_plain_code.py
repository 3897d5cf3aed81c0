"""support/plain_code.py: code is run without the dress that models give it, and means the same."""

import ast
import contextlib
import io
import time
from pathlib import Path

import pytest

from protocol import parse_call
from support.plain_code import plain_code

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
    ("```{python}\nprint(1)\n```", "1"),
    ("```{.python .numberLines}\nprint(1)\n```", "1"),
    # text around one block
    ("Here's the code:\n```python\nprint(1)\n```", "1"),
    ("```python\nprint(1)\n```\nThis prints 1.", "1"),
    ("So:\n\n  ```\n  x = 1\n  print(x)\n  ```\n\nIt's 1.", "1"),
    ("So:\n```python\nprint('''\n```\n''')\n```", "```"),
    # blocks are joined; beside Python's the others are none
    ("a\n```\nx = 1\n```\nb\n```\nprint(x)\n```", "1"),
    ("```python\nx = 1\n```\n```python\nprint(x)\n```", "1"),
    ("```py\nif 1:\n  x = 1\n```\nthen\n```py\n  print(x)\n```\nend", "1"),
    ("```python\nprint(1)\n```\nOutput:\n```\n1 and more\n```", "1"),
    ("```bash\npip install x\n```\n```Python3\nprint(1)\n```", "1"),
    # a fence in a fence
    ("````\n```python\nprint(1)\n```\n````", "1"),
    ("```\n```python\nprint(1)\n```\n```", "1"),
    ("So:\n````markdown\nthis\n```python\nprint(1)\n```\n````\nIt's 1.", "1"),
    # half a fence
    ("print(1)\n```", "1"),
    ("x = 1\nprint(x)\n  ```  \n", "1"),
    ("```python print(1)\n```", "1"),
    ("Here's the code:\n```python\nprint(1)", "1"),
    # a session
    (">>> print(1)", "1"),
    (" >>> x = 1\n >>> print(x)\n 1\n", "1"),
    (">>> for i in [1]:\n...     print(i)\n...\n1\n>>> y = 2", "1"),
    ("```python\n>>> s = '''a\n... b'''\n>>> print(s)\na\nb\n```", "a\nb"),
    # line ends
    ("\r\n    x = 1\r\n    print(x)\r\n", "1"),
    ("x = 1\r\nprint(x)", "1"),
    ("x = 1\rprint(x)", "1"),
    # characters of no width
    ("\ufeffprint(1)", "1"),
    ("\u200b\n    x = 1\n    print(x)\n\u200b", "1"),
    (" \u2060 print('a\u200bb')", "a\u200bb"),
    ("```python\n\ufeffprint(1)\n```", "1"),
    ("\u202aprint(1)\u202c", "1"),
    ("\u2066\u00ad print(1)", "1"),
    ("\u202a```python\nprint(1)\n```\u202c", "1"),
    ("x = 1\n\ufeffprint(x)", "1"),
    ("if 1:\n\u200b  x = 1\n  \u200bprint(x)", "1"),
    ("print('''a\n\u200bb''')", "a\n\u200bb"),
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
    ("\n    s = '''\nhello\n'''\n    print(s)\n", "hello"),
    (" x = 1\n    s = '''\nhello\n'''\n    print(s)\n", "hello"),
    ('\n    s = \'it\\\'s\' # it\'s\n    t = """\nb \'\n"""\n    print(s, t)\n', "it's \nb '"),
    # comments in the first column
    ("    x = 1\n# note\n    print(x)", "1"),
    ("\n    x = 1\n# it's '''\n    print(x)\n", "1"),
    # no-break spaces
    ("\n\u00a0\u00a0x = 1\n\u00a0 print(x)\n\u00a0", "1"),
    ("if 1:\n\u00a0\u00a0print(1)", "1"),
    ("if 1:\n  print('''a\n\u00a0b''')", "a\n\u00a0b"),
    # other wide spaces
    ("if 1:\n\u2003print(1)", "1"),
    ("\u3000x = 1\n\u3000print(x)", "1"),
    ("\n\u2003\u2003x = 1\n\u2003\u2003print(x)", "1"),
    ("if 1:\n\u3000\tx = 1\n\u3000\tprint(x)", "1"),
    ("if 1:\n  print('''a\n\u3000b''')", "a\n\u3000b"),
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
        "s = '''\n```python\nx\n```\n'''",
        "print(\n  1)\nx = 1",
        "s = '''\n>>> x\n```\n\u3000\ufeffy\n'''",
        'def f():\n    """Say.\n\n    >>> f()\n    1\n    """\n    return 1',
        "x = 'a\u00adb\u3000c'  # \u202a.",
        "s = 'a\\\n```\\\n\u3000b'",
        'x = \'it\\\\\'\n\ny = "\\""',
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
        # no session
        ">>>x = 1",
        ">>> x = 1\n>>>x",
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


LONG = ["`", "~", "```\n", "\ufeff ", "(", "x\n ", "'''\n ", "-", "lambda:", "{1:", "\t\n"]
LONG += ["'''\\", "\n```\n", "\n\u00a0", "'\\", '"\\', "f'{\\", "'", "\n>>> ", "\n... "]
LONG += ["\u200b", "\u3000", "\n\u200b", "````\n```\n", "b'\\", "a'\\\n"]


@pytest.mark.slow
@pytest.mark.parametrize("text", LONG)
def test_dress_of_long_code_takes_no_time(text):
    """Also of a string that never ends."""
    started, few = time.process_time(), 19_000 // len(text)
    for before, times in (("", few), ("x\n ", few), ("x\n '", few), (">>> x\n", few)):
        plain_code(before + text * times)
    for before in (" ", "~~~", "```\n", "x\n "):
        plain_code(before + text * (300_000 // len(text)) + "x")
    assert time.process_time() - started < 4
