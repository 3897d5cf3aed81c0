"""methods/ahead.py: with one mini-batch it is appo; who draws, and whose Omega counts."""

import dataclasses

import pytest
import torch
from conftest import CONFIG, one_step
from method_parts import assert_a_step_is_appos

import appo
from config import Config, read_settings
from extras.memory import forked_together
from extras.plan import scoring_passes
from methods import ahead

SMALL = dict(prompts=4, minibatch=1, initial=2, branches=2)
AHEAD = dataclasses.replace(CONFIG, **SMALL, algo="ahead", branch_ahead=2, lr=1e-2)


@pytest.mark.slow
def test_one_minibatch_ahead_is_appo_bit_for_bit(agent_folder, tools, prompts):
    """In parts, over two epochs."""
    settings = SMALL | dict(minibatch=2, fork_tokens=1, ppo_epochs=2)
    own = dict(algo="ahead", branch_ahead=1)
    assert_a_step_is_appos(agent_folder, tools, prompts, ahead.step, settings, own)


def test_two_minibatches_branch_together(agent, tools, prompts, monkeypatch):
    """Points by the policy before the first of two updates; Omega by that before its own."""
    events, score = [], appo.score_now
    update = appo.update

    def scored(policy, rollouts, config):
        events.append(("score", sorted({r.group for r in rollouts}), config.branches))
        return score(policy, rollouts, config)

    def updated(policy, optimizer, batch, config):
        now = [dataclasses.replace(r) for r in batch]
        with policy.unsharded():
            policy.score(now, config.temperature, config.micro_tokens)
        for r, omega in zip(batch, appo.omega_of(now, config.half_life, config)):
            close = dict(atol=1e-4, rtol=1e-4, msg="not of the policy as it is now")
            torch.testing.assert_close(r.omega, omega[: len(r.ids)], **close)
        events.append(("update", sorted({r.group for r in batch}), config.branches))
        return update(policy, optimizer, batch, config)

    monkeypatch.setattr(appo, "score_now", scored)
    monkeypatch.setattr(appo, "update", updated)
    numbers, tree = one_step(agent, tools, prompts, AHEAD, step=ahead.step)
    kinds = [(kind, len(groups), B) for kind, groups, B in events]
    # both branch; the first is updated on; the second is scored anew, and updated on
    round_ = [("score", 2, 2), ("update", 1, 2), ("score", 1, 0), ("update", 1, 2)]
    assert kinds == round_ * 2
    for k in (0, 4):
        first, second = events[k + 1][1], events[k + 3][1]
        assert events[k][1] == sorted(first + second) and events[k + 2][1] == second
    initial = [r for r in tree if r.parent is None]
    branches = [r for r in tree if r.parent is not None]
    assert len(initial) == 8 and numbers["branches"] == len(branches)
    assert numbers["optimizer_steps"] == 4
    before = [r for r in initial if r.group in events[0][1]]
    assert all(r.degenerate for r in before), "no update came before their points were chosen"
    late = [r for r in initial if r.group in events[3][1]]
    assert any((r.omega != 1).any() for r in late), "one came before their credit was given"


def test_its_settings():
    assert read_settings(["--algo", "ahead"]).branch_ahead == 2 and Config().branch_ahead == 1
    with pytest.raises(ValueError, match="--branch_ahead 4 is for --algo ahead, got --algo appo"):
        read_settings(["--branch_ahead", "4"])
    with pytest.raises(ValueError, match="--branch_ahead 3 must divide the 2 mini-batches"):
        read_settings(["--algo", "ahead", "--branch_ahead", "3"])
    with pytest.raises(ValueError) as told:
        read_settings(["--prompts", "6", "--minibatch", "4"])
    assert str(told.value) == "--prompts must be a multiple of --minibatch, got 6 and 4"


def test_the_plan_knows_it():
    run = dataclasses.replace(Config(), algo="ahead", branch_ahead=4)
    assert forked_together(run, 8) == 4 * forked_together(Config(), 8) == 4 * 8
    assert scoring_passes(Config()) == 2 and scoring_passes(run) == 2.75
