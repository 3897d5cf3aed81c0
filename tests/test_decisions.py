"""extras/world/decisions.py: against traces that go wrong, malformed rollouts, a tiny policy."""

import dataclasses
import itertools
import random
import re

import pytest

from extras.world.decisions import decision_recall, decisions, hops_of
from extras.world.facts import Question
from extras.world.modes import MODES, OPERATORS, RELATIONS, VERSIONS
from extras.world.traces import trace


def tokens_of(tokenizer, text):
    """(texts, mask) of a response; what stands in <result> is a tool's."""
    texts, mask = [], []
    for piece in re.split(r"( <result>.*?</result>)", text, flags=re.S):
        ids = tokenizer(piece, add_special_tokens=False).input_ids
        texts += [tokenizer.decode([i]) for i in ids]
        mask += [not piece.startswith(" <result>")] * len(ids)
    return texts, mask


def told(q, mode, wrong):
    """The trace that decides wrong where `wrong` says so; openers and names are all alike."""
    hop = tuple(float(r not in wrong) for r in RELATIONS)
    choices = {
        "version": (float("version" not in wrong),) * 2,
        "python": float("python" not in wrong),
    }
    choices |= {"operator": (float("operator" not in wrong),) * 3, "hop": hop}
    mode = dataclasses.replace(mode, **choices, openers=("So",), skew=0.0)
    return trace(q, ["Belmor"], mode, random.Random(1))


@pytest.mark.parametrize("name", MODES)
def test_decisions_are_where_right_and_wrong_traces_part(tokenizer, name):
    """Every set of wrong decisions against none: the first token that differs, in both."""
    mode = MODES[name]
    hops = RELATIONS[: mode.hops]
    for version, operator in itertools.product(VERSIONS, OPERATORS):
        q = Question("Durnex", hops, "height", version, operator, 3)
        right, mask = tokens_of(tokenizer, told(q, mode, ()))
        found = decisions(right, mask, hops_of(q.text(mode)))
        parted = set()
        ways = (*hops, "version", "operator", "python")
        for wrong in itertools.chain.from_iterable(
            itertools.combinations(ways, n) for n in range(1, len(ways) + 1)
        ):
            other, own = tokens_of(tokenizer, told(q, mode, wrong))
            t = next(t for t, (a, b) in enumerate(zip(right, other)) if a != b)
            assert t in decisions(other, own, mode.hops), (wrong, "".join(other))
            parted.add(t)
        assert set(found) == parted, [right[t] for t in parted ^ set(found)]
        assert list(found) == sorted(found) and set(found.values()) == {
            "hop",
            "version",
            "operator",
            "python",
        }


def test_of_several_relations(tokenizer):
    text = (
        "<think> Then So the fort of Durnex</think><search> fort of Durnex</search> <result>\n"
        "The fort of Durnex is Belmor.\n</result><think> Now the port of Belmor</think>"
        "<search> port of Belmor</search> <result>\nNo results\n</result><think> So old height of"
        " Belmor</think><search> old height of Belmor</search> <result>\n7\n</result><think> So use"
        " 7 times 3</think><think> So done</think><answer> \\boxed{7}</answer>"
    )
    texts, mask = tokens_of(tokenizer, text)
    words = [(texts[t], kind) for t, kind in decisions(texts, mask, hops=2).items()]
    assert words == [
        (" the", "hop"),
        (" fort", "hop"),
        (" the", "hop"),
        (" old", "version"),
        (" times", "operator"),
        ("<think>", "python"),
    ]
    assert hops_of("What is the new height of the port of the fort of Durnex times 3?") == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<think>",
        "<think> So",
        "<think> So the",
        "<think> So the height of Durnex</think>",
        "<think>So the capital of Durnex</think>",
        " So the capital of Durnex, use 3 times 4",
        "<think> So renew it</think><think> So newer height</think>",
        "<think> use times 3</think><python> 3</python>",
        "<think> So done</think><answer> \\boxed{3}</answer>",
        "<answer> new</answer><python> 3 * 4</python>",
        " <result>\n<think> So new height of Durnex</think>\n</result>",
        "<think> So <result>\n new height\n</result> new height",
    ],
)
def test_malformed_rollouts_decide_nothing(tokenizer, text):
    assert decisions(*tokens_of(tokenizer, text)) == {}


def test_a_rollout_that_is_cut_off_has_those_before(tokenizer):
    texts, mask = tokens_of(tokenizer, "<think> So new hei</think><think> use 12 plus")
    assert [(texts[t], kind) for t, kind in decisions(texts, mask).items()] == [
        (" new", "version"),
        (" plus", "operator"),
    ]


def test_words_of_several_tokens():
    """A tokenizer of letters: the first letter that differs, behind the space or the "<"."""
    text = "<think> So the port of X</think><think> use 12 plus 3</think><python>"
    found = decisions(list(text), [True] * len(text))
    starts = {text.index("the port"): "hop", text.index("plus"): "operator"}
    assert found == starts | {text.index("python"): "python"}


def test_rollouts_of_a_tiny_policy(agent, rollouts):
    _, mine = rollouts
    kinds = []
    for r in mine:
        texts = [agent.text[i] for i in r.ids]
        found = decisions(texts, r.mask)
        assert all(r.mask[t] for t in found)
        allowed = {"hop": {" the"}, "version": {" new", " old"}}
        allowed |= {"operator": {f" {word}" for word in OPERATORS}}
        allowed |= {"python": {"<python>", "<think>", "<answer>"}}
        assert all(texts[t] in allowed[kind] for t, kind in found.items())
        kinds.append(list(found.values()))
    assert sum(len(found) >= 3 for found in kinds) > len(mine) / 2
    assert {"hop", "version", "operator", "python"} == {kind for found in kinds for kind in found}


def test_recall():
    points = [[3, 9, 20], [1, 2], [5], []]
    decided = [{3: "hop", 9: "version", 12: "operator", 14: "python"}, {4: "hop"}, {}, {2: "hop"}]
    assert decision_recall(points, decided) == {
        "recall": 2 / 6,
        "precision": 2 / 5,
        "after_last": 1 / 5,
    }
    assert set(decision_recall([], []).values()) == {0.0}
