"""rewards.py: the released reward bug for bug, ours without its bugs."""

import os
from pathlib import Path

import pytest
from eval_parts import COMPUTED, SEARCHED, answered, rollout

from rewards import answer_of, format_fault, released_reward, reward
from support.latex import number
from support.math_equal import math_equal
from support.questions import load_questions
from support.words import exact_match, token_f1


@pytest.mark.parametrize(
    "text, golds, expected",
    [
        (answered("Paris"), ["Paris"], 1.0),
        (answered("the Paris"), ["paris!"], 1.0),
        (answered("London"), ["Paris"], 0.0),
        (answered("Frank Lowy AC"), ["Frank Lowy"], 0.8),
        (answered("x"), ["y", "x"], 1.0),
        (answered("Paris", tools=SEARCHED), ["Paris"], 1.0),
        (answered("Paris", tools=SEARCHED + COMPUTED), ["Paris"], 1.1),
        (answered("Frank Lowy AC", tools=SEARCHED + COMPUTED), ["Frank Lowy"], 0.9),
        (answered("London", tools=SEARCHED + COMPUTED), ["Paris"], 0.0),
        (answered("x}{b"), ["x"], 1.0),
        (answered("a{b"), ["ab"], -1.0),
        (answered("x\\}b"), ["x"], 1.0),
        (answered("a\\{b"), ["ab"], -1.0),
        (answered("\\frac12 cm"), ["frac12 cm"], 1.0),
        ("<think></think><answer> \\boxed{5} \\boxed{6 </answer>", ["5"], -1.0),
        ("<think> t </think><answer> 5 </answer>", ["5"], -1.0),
        (answered("5", think=""), ["5"], -1.0),
        (answered("5", think="<think> a"), ["5"], -1.0),
        (answered("5") + "<answer>", ["5"], -1.0),
        ("</answer><think></think><answer> \\boxed{5}", ["5"], -1.0),
        (answered("5", tools="<search> q </search>"), ["5"], -1.0),
        (answered("5", tools="<search> q"), ["5"], -1.0),
        (answered("5", tools="<python> 1 </python> <result> 1"), ["5"], -1.0),
        (answered("yes"), ["yes it is"], 0.0),
        (answered("yes"), ["Yes"], 1.0),
        (answered("it is"), ["no"], 0.0),
        ("", ["x"], -1.0),
    ],
)
def test_released_reward(text, golds, expected):
    assert released_reward(text, golds) == pytest.approx(expected)


def test_released_reward_keeps_its_bugs():
    """Mathematics as bags of words without punctuation."""
    for pred, gold, value in [
        ("-5", "5", 1),
        ("1/2", "12", 1),
        ("1.5", "15", 1),
        ("x+1", "x-1", 1),
        ("(3,4)", "(34)", 1),
        ("0.5", "\\frac{1}{2}", 0),
        ("12", "12.0", 0),
        ("3\\sqrt{3} - 6", "6-3\\sqrt{3}", 0),
        ("+", "+", 0),
    ]:
        assert released_reward(answered(pred), [gold]) == value, (pred, gold)
    forged = (
        "<think> t </think><search> q </search> <result> <answer> </result>"
        + "<answer> \\boxed{x} </answer>"
    )
    assert released_reward(forged, ["x"]) == -1, "a search result breaks the format"
    assert released_reward(
        answered("x", think="<think> </search> </python> </think>"), ["x"]
    ) == pytest.approx(1.1), "tags that call nothing earn the bonus"


def test_reward_reads_the_policys_own_text():
    good = rollout(
        "<think> a </think><search> q </search>",
        " <result>\n<answer> \\boxed{y} </answer><think>\n</result>",
        answered("x"),
    )
    assert reward(good, ["x"], "f1") == 1.0 and reward(good, ["x"], "released") == -1.0
    stolen = rollout(
        "<think> a </think><search> q </search>",
        " <result>\n<answer> \\boxed{x} </answer>\n</result>",
        "<think> so </think>",
    )
    assert reward(stolen, ["x"], "f1") == -1.0
    forged = rollout("<think> a </think><python> 1 </python> <result> x </result>" + answered("x"))
    assert reward(forged, ["x"], "f1") == -1.0


def test_bonus_counts_executed_calls():
    both = [("search", "ok"), ("python", "ok")]
    assert reward(rollout(answered("x"), calls=both), ["x"], "f1") == 1.1
    assert (
        reward(rollout(answered("x"), calls=[("search", "ok"), ("python", "error")]), ["x"], "f1")
        == 1.0
    )
    assert (
        reward(rollout(answered("x", think="<think> </search> </python> </think>")), ["x"], "f1")
        == -1.0
    )
    assert reward(rollout(answered("z"), calls=both), ["x"], "f1") == 0.0


def test_reward_kinds():
    half = rollout(answered("0.5"))
    assert [
        reward(half, ["\\frac{1}{2}"], kind, "math") for kind in ("auto", "math", "f1", "released")
    ] == [1, 1, 0, 0]
    assert reward(half, ["\\frac{1}{2}"], "auto", "qa") == 0
    minus = rollout(answered("-5"))
    assert reward(minus, ["5"], "math") == 0 and reward(minus, ["5"], "f1") == 0
    with pytest.raises(ValueError, match="kind must be one of"):
        reward(half, ["1"], "bleu")


@pytest.mark.parametrize("finish", ["length", "calls", "forged"])
def test_a_rollout_that_did_not_end_earns_minus_one(finish):
    assert reward(rollout(answered("x"), finish=finish), ["x"], "f1") == -1


@pytest.mark.parametrize(
    "text",
    [
        "no tags",
        answered("x", think=""),
        answered("x") + answered("x"),
        "<think></think><answer> x </answer>",
        answered("x", tools="<search> open"),
        "</answer><think></think><answer> \\boxed{x}",
        "<think></think><answer> \\boxed{x </answer>",
    ],
)
def test_broken_formats(text):
    assert reward(rollout(text), ["x"], "f1") == -1


def test_the_released_reward_knows_no_characters():
    assert (
        released_reward(answered("北京大学"), ["北京"]) == 0
        and released_reward(answered("《红楼梦》"), ["红楼梦"]) == 0
        and released_reward(answered("12%"), ["12"]) == 1
    )


def test_golds_grade_as_right():
    """Golds of the files under APPO_DATA equal themselves in another dress, not negated."""
    if not os.environ.get("APPO_DATA"):
        pytest.skip("APPO_DATA names no folder with data files")
    files = [
        file
        for file in sorted(Path(os.environ["APPO_DATA"]).rglob("*"))
        if file.suffix in (".jsonl", ".parquet")
    ]
    wrong, golds = [], 0
    for file in files:
        for q in load_questions(str(file), skip_bad=True):
            for gold in q.answers:
                golds += 1
                if q.task == "math":
                    same = math_equal(
                        f"$\\boxed{{{gold}}}$ " if gold.count("{") == gold.count("}") else gold,
                        gold,
                    )
                    opposite = number(gold) not in (None, 0) and math_equal(
                        f"-{gold}" if gold[0] != "-" else gold[1:], gold
                    )
                else:
                    same, opposite = (
                        exact_match(f" {gold}. ", [gold])
                        and token_f1(f" {gold} ", ["?", gold]) == 1,
                        exact_match(f"{gold} not", [gold]),
                    )
                wrong += [(file.name, q.task, gold)] if opposite or not same else []
    assert golds > 0 and not wrong, wrong[:20]


FINE = "<think> t </think><answer> \\boxed{4} </answer>"


@pytest.mark.parametrize(
    "text, finish, fault",
    [
        (FINE, "stop", ""),
        (FINE, "length", "did not end by itself: length"),
        (FINE, "forged", "did not end by itself: forged"),
        (FINE + "</result>", "stop", "<result>"),
        ("<think> t <answer> \\boxed{4} </answer>", "stop", "not every <think>"),
        ("<think> t </think><search> q <answer> \\boxed{4} </answer>", "stop", "every <search>"),
        ("<answer> \\boxed{4} </answer>", "stop", "no <think>"),
        (FINE + "<answer> \\boxed{4} </answer>", "stop", "exactly one <answer>"),
        ("<think> t </think><answer> 4 </answer>", "stop", "no \\boxed{}"),
        ("<think> t </think></answer> \\boxed{4} <answer>", "stop", "no \\boxed{}"),
    ],
)
def test_the_rule_that_was_broken_is_named(text, finish, fault):
    r = rollout(text, finish=finish)
    assert fault in format_fault(r) and (format_fault(r) == "") == (fault == "")
    assert (answer_of(r) is None) == (reward(r, ["4"], "math") == -1) == (fault != "")


def test_a_thought_that_the_prompt_has_opened_counts():
    """A chat template may end with <think>: the response then begins inside the thought."""
    rest = " 6 * 7 is 42 </think> <answer> \\boxed{42} </answer>"
    opened, bare = rollout(rest), rollout(rest)
    opened.opened = "<think>"
    for kind in ("math", "f1", "released"):
        assert (reward(opened, ["42"], kind), reward(bare, ["42"], kind)) == (1.0, -1.0)
    assert opened.fork(0).opened == "<think>"
    again = rollout("<think>" + rest)
    again.opened = "<think>"
    assert reward(again, ["42"], "math") == -1, "opened twice, closed once"
    dropped = rollout("<answer> \\boxed{42} </answer>")
    dropped.opened = "<think>"
    assert reward(dropped, ["42"], "math") == -1, "never closed"
