"""methods/gigpo.py: credit of rollouts and of turns that began in the same state."""

import statistics

import pytest
import torch
from method_parts import by_hand, config_of, stepped

from methods import gigpo
from support.ranks import Ranks


def scores(values):
    """In population deviations from their mean."""
    mean, s = statistics.fmean(values), statistics.pstdev(values) + 1e-6
    return [(x - mean) / s for x in values]


def credited(*rollouts):
    gigpo.two_level_credit(list(rollouts), config_of("gigpo"), Ranks())
    return [r.advantage.tolist() for r in rollouts]


def test_credit_by_hand():
    """Three rollouts of 3, 1 and 2 turns: only their first turns began in one state."""
    mine = [
        by_hand(1.0, "1101011", ids=[1, 2, 9, 3, 9, 4, 5]),
        by_hand(1.0, "11", ids=[6, 7]),
        by_hand(-1.0, "101", ids=[1, 8, 2]),
    ]
    rows = credited(*mine)
    e = scores([1.0, 1.0, -1.0])
    s = scores([0.95**2, 1.0, -0.95])
    expected = [
        [e[0] + s[0]] * 2 + [0, e[0], 0, e[0], e[0]],
        [e[1] + s[1]] * 2,
        [e[2] + s[2], 0, e[2]],
    ]
    for row, wanted in zip(rows, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)


def test_turns_of_the_same_state_are_compared_wherever_they_are():
    """The second turns of 0 and 1 began after the same tokens, that of 2 after others; rollout 3
    is of another prompt, though its tokens are the same.
    """
    mine = [
        by_hand(1.0, "1011", ids=[1, 9, 3, 3]),
        by_hand(0.0, "101", ids=[1, 9, 4]),
        by_hand(0.0, "101", ids=[2, 9, 3]),
        by_hand(1.0, "1011", group=4, ids=[1, 9, 3, 3]),
    ]
    rows = credited(*mine)
    e, first, second = scores([1.0, 0.0, 0.0]), scores([0.95, 0.0, 0.0]), scores([1.0, 0.0])
    expected = [
        [e[0] + first[0], 0, e[0] + second[0], e[0] + second[0]],
        [e[1] + first[1], 0, e[1] + second[1]],
        [e[2] + first[2], 0, e[2]],
        [0, 0, 0, 0],
    ]
    for row, wanted in zip(rows, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)


def test_turns_of():
    masks = {"110010": [(0, 2), (4, 5)], "1": [(0, 1)], "011": [(1, 3)], "00": [], "": []}
    for mask, turns in masks.items():
        assert gigpo.turns_of([m == "1" for m in mask]) == turns


@pytest.mark.slow
def test_a_step(agent, tools, prompts):
    """As many turns as calls and one; later turns earn A_E, the first ones more."""
    _, rollouts = stepped(agent, tools, prompts, "gigpo")
    later = 0
    for r in rollouts:
        turns = gigpo.turns_of(r.mask)
        starts = [0] + sorted({c.end for c in r.calls if c.end < len(r.ids)})
        assert [start for start, _ in turns] == starts
        others = [x for x in rollouts if x.group == r.group]
        e = dict(zip(map(id, others), scores([x.reward for x in others])))[id(r)]
        for start, end in turns[1:]:
            met = sum(x.ids[:start] == r.ids[:start] for x in others)
            if met == 1:
                wanted = torch.full((end - start,), e)
                torch.testing.assert_close(r.advantage[start:end], wanted, atol=1e-4, rtol=0)
                later += 1
        steps = [0.95 ** (len(gigpo.turns_of(x.mask)) - 1) * x.reward for x in others]
        s = dict(zip(map(id, others), scores(steps)))[id(r)]
        assert r.advantage[0].item() == pytest.approx(e + s, abs=1e-4)
    assert later > 0
