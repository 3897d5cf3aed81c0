"""support/phrases.py: what is said around an answer, and what must stay."""

import pytest

from support.phrases import without_phrases, without_side


@pytest.mark.parametrize(
    "text, answer",
    [
        ("The answer is 42", "42"),
        ("\\text{The final answer is } 42", "42"),
        ("\\boxed{\\text{Answer: } 42}", "42"),
        ("So the answer is approximately 3.14", "3.14"),
        ("**Answer:** 42", "42"),
        ("The answer is not 42", "not 42"),
        ("Answer: no", "no"),
        ("Option B", "B"),
        ("The correct answer is choice (B).", "B"),
        ("B)", "B"),
        ("42 (since 6 times 7 is 42)", "42"),
        ("$5", "\\$5"),
        ("$5$", "$5$"),
        ("$5x", "$5x"),
        ("$18 an hour", "\\$18 per hour"),
        ("5 each", "5"),
        ("k\\pi, \\text{where } k \\text{ is an integer}", "k\\pi, k \\in \\mathbb{Z}"),
        ("f(x)=x \\text{ for all } x", "f(x)=x"),
    ],
)
def test_the_answer_alone(text, answer):
    assert without_phrases(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "The answer isn't 42",
        "The wrong answer is 42",
        "not about 5",
        "about x",
        "42 (since 42 is wrong)",
        "42 (since it is even) or 43",
        "Options A and B",
        "f(x)=x for all x>0",
        "f(x)=x for all y",
        "k\\pi, k an even integer",
        "k an integer",
        "A",
        "A.B.",
        "each",
    ],
)
def test_what_stays(text):
    assert without_phrases(text) == text


def test_which_side_is_measured():
    assert without_side("5 years old") == ("5 years", "old")
    assert without_side("\\text{6 feet tall}") == ("\\text{6 feet}", "tall")
    assert without_side("3 years older") == ("3 years older", "")
