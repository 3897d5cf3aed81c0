"""protocol.py: calls are read right, a result is harmless."""

import pytest

from protocol import TAGS, defuse, opened_by, parse_call, system_prompt


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
