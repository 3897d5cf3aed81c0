"""methods/arpo.py, trained_branches.py: where a rollout branches, who is trained, what it earns."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import CONFIG, judge, one_step, sampler_for, snapshot

from appo import rewards_of
from config import ALGOS, Config
from methods import arpo, arpo_released, trained_branches
from policy import Policy
from rollout import Call, Rollout
from support.seeds import BRANCHES, mix_seed, uniform

SIZES = dict(initial=4, branches=1, prompts=4, minibatch=2)
ARPO = dataclasses.replace(CONFIG, **ALGOS["arpo"] | SIZES, algo="arpo")
BYTES = SimpleNamespace(vocabulary=256)


def member(group, seed, turns, parent=None, at=0):
    """A rollout of turns: the entropy of each turn's tokens; a result of two tokens in between."""
    r = Rollout([1], seed, group, parent=parent, fork_at=at)
    for n, entropies in enumerate(turns):
        if n:
            place = len(r.ids)
            r.append([9, 9], False, [0.0] * 2, [0.0] * 2)
            r.calls.append(Call("python", "", "ok", 0.0, place, place + 2, True))
        r.append([5] * len(entropies), True, [-1.0] * len(entropies), entropies)
    return r


class Script:
    """Grows branches that are written down: each goes on with the turns of its parent."""

    def __init__(self, fresh):
        self.fresh, self.asked = fresh, []

    def __call__(self, rollouts, points):
        grown = [(r, t) for r, places in zip(rollouts, points) for t in places]
        self.asked.append([(r.group, r.seed, t) for r, t in grown])
        return [self.branch(r, t) for r, t in grown]

    def branch(self, r, t):
        x = r.fork(t)
        if t:
            x.append(r.ids[t:], True, r.sampled_logp[t:], r.sampled_entropy[t:])
            x.mask, x.calls = list(r.mask), list(r.calls)
            return x
        new = member(r.group, x.seed, self.fresh)
        new.parent = r
        return new


def test_rise_of_entropy_worked_out_by_hand():
    """The first 20 tokens count, of a shorter turn its mean 20 times; a result's tokens do not."""
    r = member(0, 0, [[1.0] * 20 + [7.0] * 5, [3.0] * 4, [0.5] * 30])
    second, third = trained_branches.after_results(r, ARPO)
    assert (second, third) == (27, 33)
    assert arpo.entropy_rise(r, 27, 256) == pytest.approx(20 * (3.0 - 1.0) / math.log(256))
    assert arpo.entropy_rise(r, 33, 256) == pytest.approx(20 * (0.5 - 1.0) / math.log(256))


@pytest.mark.parametrize(
    "rise, chance", [(0.0, 0.5), (1.0, 0.7), (-1.0, 0.3), (3.0, 1.0), (-3.0, 0.0)]
)
def test_the_two_rules(rise, chance):
    assert arpo.by_chance(rise) == pytest.approx(chance)
    assert arpo.above_threshold(rise) == (rise > 0)


def test_no_fork_beyond_the_budget():
    r = member(0, 0, [[1.0] * 3, [1.0] * 3, [1.0] * 3])
    assert trained_branches.after_results(r, ARPO) == [5, 10]
    for most, places in ((14, [5, 10]), (13, [5]), (8, [])):
        short = dataclasses.replace(ARPO, max_tokens=most, min_new=4)
        assert trained_branches.after_results(r, short) == places


def test_no_fork_where_no_turn_follows():
    """A native call whose result did not fit ends its rollout; two of tags may share one end."""
    r = member(0, 0, [[1.0] * 3, [1.0] * 2])
    r.calls.append(Call("python", "", "ok", 0.0, len(r.ids) - 1, len(r.ids), True))
    assert trained_branches.after_results(r, ARPO) == [5]
    r.calls.append(Call("python", "", "ok", 0.0, 2, 4, True))
    assert trained_branches.after_results(r, ARPO) == [5], "token 4 is a result's"


def test_the_budget_is_spent_round_by_round():
    """Prompt 0: rises at its first results, in order of birth. Prompt 1 has no tool call."""
    config = dataclasses.replace(ARPO, initial=3)
    up, down = [[1.0] * 2, [2.0] * 2, [0.5] * 2], [[1.0] * 2, [0.5] * 2, [2.0] * 2]
    mine = [member(0, n, turns) for n, turns in enumerate((down, up, down))]
    mine += [member(1, n, [[1.0] * 2]) for n in range(3)]
    fork = Script(fresh=[[1.0] * 2, [2.0] * 2])
    branches = arpo.branch_after_results(BYTES, mine, config, fork, arpo.above_threshold)
    assert fork.asked[0] == [(0, 1, 4), (1, 0, 0)], "first results; a fresh rollout of prompt 1"
    fresh = branches[1]
    # the last members of both prompts: prompt 0 has two left, taken in order of birth
    assert fork.asked[1] == [(0, 0, 8), (0, 2, 8), (1, fresh.seed, 4)]
    assert len(fork.asked) == 3 and fork.asked[2] == [(1, 0, 0)]
    assert [x.group for x in branches] == [0, 1, 0, 0, 1, 1] and branches[3].parent is mine[2]
    assert branches[0].parent is mine[1] and branches[4].parent is fresh


def test_fresh_rollouts_wait_until_none_can_branch():
    """Entropy rises nowhere: two rounds of no, then a fresh rollout, whose own round it is next."""
    mine = [member(0, n, [[1.0] * 2, [0.5] * 2, [0.5] * 2]) for n in range(2)]
    config = dataclasses.replace(ARPO, initial=2)
    fork = Script(fresh=[[1.0] * 2, [0.5] * 2])
    branches = arpo.branch_after_results(BYTES, mine, config, fork, arpo.above_threshold)
    fresh = [(0, 0, 0)]
    assert fork.asked == [[], [], fresh, [], fresh] and len(branches) == 2


def test_a_branch_may_branch_and_the_chance_is_its_own():
    """With probability 1/2: a rollout branches if the random number of its seed says so."""
    config = dataclasses.replace(ARPO, initial=2, branches=40)
    mine = [member(0, n, [[1.0] * 2] * 3) for n in range(2)]
    fork = Script(fresh=[[1.0] * 2] * 3)
    branches = arpo.branch_after_results(BYTES, mine, config, fork, arpo.by_chance)
    everyone = mine + branches
    assert len(everyone) == 82 and any(x.fork_at and x.parent.fork_at for x in branches)
    drawn = {(seed, t) for asked in fork.asked for _, seed, t in asked}
    for r in everyone[:40]:
        for t in (t for t in trained_branches.after_results(r, config) if t > r.fork_at):
            u = uniform(torch.tensor([mix_seed(r.seed, BRANCHES)]), torch.tensor([t]))
            assert ((r.seed, t) in drawn) == (float(u) < 0.5)
    assert len({r.seed for r in everyone}) == 82


@pytest.mark.slow
@pytest.mark.parametrize("algo", [arpo, pytest.param(arpo_released, marks=pytest.mark.slow)])
def test_a_step(agent_folder, tools, prompts, algo):
    """M members of every prompt, all trained, credited as one group; the same ones again."""
    policy = Policy.load(str(agent_folder))
    before = [p.clone() for p in policy.model.parameters()]
    metrics, rollouts = one_step(policy, tools, prompts, ARPO, step=algo.step)
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.model.parameters()))
    assert all(math.isfinite(x) for x in metrics.values()) and metrics["skipped"] == 0
    assert len(rollouts) == 4 * 8 and metrics["branches"] == 16
    assert metrics["optimizer_steps"] == 2
    assert metrics["tokens_trained"] == sum(sum(r.mask) for r in rollouts), "a prefix per member"
    assert metrics["computed_per_unique"] <= 1
    for group in range(4):
        tree = [r for r in rollouts if r.group == group]
        rewards = torch.tensor([judge(r) for r in tree], dtype=torch.float64)
        z = (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-6)
        assert len(tree) == 8 and all(r.reward == judge(r) for r in tree)
        for r, a in zip(tree, z.tolist()):
            torch.testing.assert_close(r.advantage, a * torch.tensor(r.mask, dtype=torch.float32))
    for x in (r for r in rollouts if r.parent is not None):
        assert x.fork_at == 0 or x.fork_at in {c.end for c in x.parent.calls}
        assert x.ids[: x.fork_at] == x.parent.ids[: x.fork_at]
        assert x.sampled_logp[: x.fork_at] == x.parent.sampled_logp[: x.fork_at]
        assert x.fork_at <= ARPO.max_tokens - ARPO.min_new and len(x.ids) > x.fork_at
    assert any(x.fork_at for x in rollouts)
    again, same = one_step(Policy.load(str(agent_folder)), tools, prompts, ARPO, step=algo.step)
    assert [snapshot(r) for r in rollouts] == [snapshot(r) for r in same]
    assert again["loss"] == metrics["loss"]


@pytest.mark.parametrize("fork_tokens, most", [(0, 8), pytest.param(1, 1, marks=pytest.mark.slow)])
def test_growth_in_parts(agent, tools, rollouts, monkeypatch, fork_tokens, most):
    """Parents of a pass: a mini-batch's, or one by one. The recorded log-probs are the policy's."""
    _, mine = rollouts
    points = [[0, 0], []] + [trained_branches.after_results(r, ARPO)[:1] for r in mine[2:]]
    config = dataclasses.replace(ARPO, fork_tokens=fork_tokens, minibatch=2)
    rewards, sizes, score = rewards_of([SimpleNamespace(reward=judge)] * 8), [], Policy.score
    monkeypatch.setattr(Policy, "score", lambda *a, **k: sizes.append(len(a[1])) or score(*a, **k))
    grown = trained_branches.forked(agent, sampler_for(agent, tools), mine, points, config, rewards)
    rewards.set(grown)
    assert max(sizes) == most and sum(sizes) == sum(map(bool, points)) > 8
    asked = [(r, t) for r, places in zip(mine, points) for t in places]
    assert [(x.parent, x.fork_at) for x in grown] == asked
    assert all(x.reward == judge(x) for x in grown)
    assert grown[0].ids != grown[1].ids, "two fresh rollouts of one prompt"
    score(agent, grown, 1.0, 1024)
    for x in grown:
        logp, own = torch.tensor(x.sampled_logp), torch.tensor(x.mask)
        torch.testing.assert_close(x.logp[own], logp[own], atol=1e-4, rtol=0)


def test_settings_without_use_are_refused():
    for algo in ("arpo", "arpo_released", "tree_grpo"):
        assert Config(algo=algo, future_weight=0.0)
        for wrong in ({"future_weight": 0.5}, {"future_weight": 0.0, "branches": 0}):
            with pytest.raises(ValueError, match=f"--algo {algo} trains branches"):
                Config(algo=algo, **wrong)
