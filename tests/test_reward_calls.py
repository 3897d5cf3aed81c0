"""support/reward_calls.py: rewards in threads, numbers of any kind, failures."""

import asyncio
import math
import sys
import threading
import time

import numpy
import pytest
import torch

from rollout import Rollout
from support.reward_calls import LONGEST, Rewards, broken_rewards, fill_failed, shortened


def rollouts_of(*groups):
    return [Rollout([1], seed, group, finish="stop") for seed, group in enumerate(groups)]


def rewarded(rollouts, reward):
    rewards = Rewards(reward)
    for r in rollouts:
        rewards.begin(r)
    rewards.set(rollouts)
    return rollouts


@pytest.mark.parametrize(
    "given, reward, parts",
    [
        (1, 1.0, {}),
        (True, 1.0, {}),
        (-0.5, -0.5, {}),
        (numpy.float32(0.25), 0.25, {}),
        (torch.tensor(0.5), 0.5, {}),
        ({"reward": 2}, 2.0, {}),
        ({"reward": 1.0, "length": 7, "ok": False}, 1.0, {"length": 7.0, "ok": 0.0}),
    ],
)
def test_what_counts_as_a_number(given, reward, parts):
    (r,) = rewarded(rollouts_of(0), lambda r: given)
    assert (r.reward, r.reward_parts, r.reward_fault) == (reward, parts, "")


class Unshown:
    """Neither a number nor a text."""

    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "given",
    [None, math.nan, math.inf, "high", [], {}, {"score": 1}, {"reward": None}]
    + [{"reward": 1, "length": math.nan}, {"reward": 1, "how": "well"}, torch.zeros(2)]
    + ["0.7", {"reward": "1"}, {"reward": 1, "long": 10**400}, torch.zeros(1, device="meta")]
    + [Unshown()],
)
def test_what_does_not(given):
    (r,) = rewarded(rollouts_of(0), lambda r: given)
    assert r.reward == 0 and r.reward_parts == {}
    assert r.reward_fault.startswith("it returned ") and "not a number" in r.reward_fault


def test_a_failed_reward_is_the_mean_of_its_group():
    """Of the initial rollouts and of the branches each: it gives no credit."""
    rollouts = rollouts_of(0, 0, 0, 1, 1)
    for r in rollouts:
        r.sampled_logp = []
    branches = [rollouts[0].fork(0), rollouts[0].fork(0)]
    values = dict(zip(map(id, rollouts + branches), [1.0, 3.0, None, None, None, 5.0, None]))

    def reward(r):
        return 1 / 0 if values[id(r)] is None else values[id(r)]

    rewarded(rollouts + branches, reward)
    assert [r.reward for r in rollouts] == [1, 3, 2, 0, 0]
    assert [x.reward for x in branches] == [5, 5]
    assert [bool(r.reward_fault) for r in rollouts] == [False, False, True, True, True]
    (line,) = broken_rewards(rollouts)
    assert line.startswith("the reward of 3 of 5 rollouts failed: ZeroDivisionError: division")
    assert "test_reward_calls.py, line" in line


def test_what_failed_in_a_tree_earns_the_mean_of_the_whole_tree():
    """Where branches are trained with their parents: else all failed branches would earn 0."""
    (root,) = rollouts_of(0)
    root.ids, root.mask = [5, 6], [True, True]
    root.sampled_logp = root.sampled_entropy = [0.0, 0.0]
    branches = [root.fork(1) for _ in range(3)]
    root.reward, branches[0].reward = 1.0, 0.0
    for r in branches[1:]:
        r.reward_fault = "it raised"
    fill_failed([root, *branches], lambda r: r.group)
    assert [r.reward for r in (root, *branches)] == [1.0, 0.0, 0.5, 0.5]


class Mute(Exception):
    """Its message cannot be had."""

    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "problem", [asyncio.CancelledError(), KeyboardInterrupt(), GeneratorExit(), Mute()]
)
def test_whatever_a_reward_raises_is_its_failure(problem):
    def reward(rollout):
        raise problem

    (r,) = rewarded(rollouts_of(0), reward)
    assert r.reward == 0 and r.reward_fault.startswith(type(problem).__name__)


def test_a_reward_that_exits_has_failed():
    (r,) = rewarded(rollouts_of(0), lambda r: sys.exit("why"))
    assert r.reward_fault.startswith("SystemExit: why")


def test_each_is_asked_once_and_many_at_once():
    """64 rewards that each wait for all others would never end one after the other."""
    together, count = threading.Barrier(64, timeout=20), []

    def reward(r):
        count.append(r.seed)
        together.wait()
        return r.seed

    rollouts = rewarded(rollouts_of(*range(64)), reward)
    assert sorted(count) == list(range(64))
    assert [r.reward for r in rollouts] == list(range(64))


def test_a_reward_begins_before_it_is_waited_for():
    begun = threading.Event()
    rewards = Rewards(lambda r: begun.set() or 1.0)
    (r,) = rollouts_of(0)
    rewards.begin(r)
    assert begun.wait(20)
    rewards.set([r])
    assert r.reward == 1


def test_no_thread_is_left():
    before = threading.active_count()
    rewarded(rollouts_of(*range(8)), lambda r: 0)
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_text_for_the_screen():
    assert shortened("short") == "short"
    assert shortened("a" * 400 + "b" * 400) == "a" * 300 + " ... " + "b" * 300
    assert len(shortened("x" * LONGEST)) == LONGEST
