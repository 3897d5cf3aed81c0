"""support/latex.py: what stands in \\boxed{}."""

import time

import pytest

from support.latex import last_boxed


@pytest.mark.parametrize(
    "text, inside",
    [
        ("\\boxed{1}", "1"),
        ("a \\boxed{1} b \\boxed{\\frac{1}{2}} c", "\\frac{1}{2}"),
        ("\\boxed{a{b}c}", "a{b}c"),
        ("\\boxed{1} \\boxed{2", "1"),
        ("\\boxed", None),
        ("", None),
        ("\\boxed{}", ""),
    ],
)
def test_last_boxed(text, inside):
    assert last_boxed(text) == inside


def test_last_boxed_is_linear():
    started = time.process_time()
    assert (
        last_boxed("\\boxed{" * 200_000) is None
        and last_boxed("\\boxed{" * 100_000 + "}" * 100_000) == ""
    )
    assert time.process_time() - started < 3
