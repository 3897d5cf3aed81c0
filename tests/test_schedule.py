"""support/schedule.py: mini-batches, epochs, parts, and steps that are refused."""

import dataclasses
from types import SimpleNamespace

import pytest
from conftest import CONFIG, judge, prompts_for, sampler_for
from test_policy import of_lengths

from policy import padded_width
from rollout import Call, Rollout
from support.ranks import Ranks
from support.schedule import (
    Prompts,
    cache_parts,
    check_step,
    equal_passes,
    in_epochs,
    refuse_broken_tools,
    split_minibatches,
)
from support.shapes import padded_keys
from tools import Unavailable


class Two(Ranks):
    """One of two ranks; the other has three passes."""

    rank, world = 1, 2

    def max(self, values):
        return [max(3, *values)]


def test_further_prompts_follow_those_of_the_step():
    asked = Prompts(lambda round: [10 * round, 10 * round + 1])
    assert asked == [0, 1]
    assert asked.more() == range(2, 4) and asked.more() == range(4, 6)
    assert asked == [0, 1, 10, 11, 20, 21]


def test_minibatches_are_a_partition_in_an_order_of_the_seed():
    asked = [SimpleNamespace(seed=seed) for seed in range(8)]
    config = dataclasses.replace(CONFIG, prompts=8, minibatch=4)
    batches = split_minibatches(asked, config)
    assert sorted(sum(batches, [])) == list(range(8)) and [len(b) for b in batches] == [4, 4]
    assert batches == split_minibatches(asked, config) and batches != [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert split_minibatches(asked, config, Two()) == [batch[1::2] for batch in batches]
    other = split_minibatches([SimpleNamespace(seed=99), *asked[1:]], config)
    assert other != batches


def test_epochs_are_the_same_minibatches_in_new_orders():
    asked, batches = [SimpleNamespace(seed=5)], [[k] for k in range(6)]
    three = in_epochs(batches, asked, dataclasses.replace(CONFIG, ppo_epochs=3))
    epochs = [three[start : start + 6] for start in (0, 6, 12)]
    assert epochs[0] == batches and all(sorted(e) == batches for e in epochs)
    assert len({str(e) for e in epochs}) == 3


def test_parts_of_cache_parts_fit():
    mine = of_lengths(*[20, 100, 30, 70] * 4)
    slots = CONFIG.initial * padded_keys(padded_width(mine))
    for tokens, sizes in ((0, [16]), (1, [4] * 4), (2 * slots, [8, 8]), (3 * slots, [12, 4])):
        parts = cache_parts(mine, dataclasses.replace(CONFIG, fork_tokens=tokens))
        assert [len(part) for part in parts] == sizes and sum(parts, []) == mine
    assert cache_parts([], CONFIG) == []


def test_every_rank_makes_as_many_passes():
    mine = of_lengths(30, 100)
    passes = equal_passes(mine, 10**6, Two())
    assert [len(part) for part in passes] == [2, 1, 1]
    assert [not any(r.mask) for part in passes[1:] for r in part] == [True, True]


@pytest.mark.parametrize("broken", [3, 2])
def test_a_step_of_broken_tools_is_refused(broken):
    calls = [Call("search", "", "infra" if k < broken else "ok", 0.0, 0, 0) for k in range(4)]
    rollouts = [Rollout([1], 0, calls=calls)]
    if broken == 2:
        return refuse_broken_tools(rollouts, Ranks(), {})
    with pytest.raises(Unavailable, match="3 of 4 calls failed .* \\(search 3\\)"):
        refuse_broken_tools(rollouts, Ranks(), {})
    tools = {"search": SimpleNamespace(problem="no disk")}
    with pytest.raises(Unavailable, match="\\(search 3: no disk\\)"):
        refuse_broken_tools(rollouts, Ranks(), tools)


def test_a_step_that_would_go_wrong_is_refused(agent, tools, prompts):
    asked = prompts_for(prompts[:4], judge)
    for changes, config, message in (
        (dict(temperature=0.5), CONFIG, "sampler's temperature is 0.5"),
        (dict(max_tokens=64), CONFIG, "sampler's max_tokens is 64"),
        (dict(top_k=5), CONFIG, "top_k 0"),
        ({}, dataclasses.replace(CONFIG, kl_coef=0.1), "needs a reference"),
        ({}, dataclasses.replace(CONFIG, prompts=8, minibatch=8), "4 prompts cannot be split"),
    ):
        with pytest.raises(ValueError, match=message):
            sampler = sampler_for(agent, tools, **dict(max_tokens=CONFIG.max_tokens) | changes)
            check_step(agent, sampler, asked, config)
