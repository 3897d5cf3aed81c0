"""methods/grpo.py: it is appo without branches and future term, for less."""

import dataclasses

import pytest
import torch
from conftest import CONFIG, one_step, snapshot

import appo
from config import ALGOS
from methods import grpo
from policy import Policy

PLAIN = dataclasses.replace(CONFIG, **ALGOS["grpo"])


@pytest.mark.parametrize("epochs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_grpo_equals_appo_without_branches(agent_folder, tools, prompts, epochs):
    """The same rollouts; parameters within 1e-6: logp_old is the sampler's, not the scorer's."""
    results = []
    for step in (appo.step, grpo.step):
        policy = Policy.load(str(agent_folder))
        optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.1)
        config = dataclasses.replace(PLAIN, ppo_epochs=epochs)
        metrics, rollouts = one_step(policy, tools, prompts, config, optimizer=optimizer, step=step)
        results.append((metrics, rollouts, list(policy.model.parameters())))
    (ours, mine, a), (theirs, other, b) = results
    assert [snapshot(r) for r in mine] == [snapshot(r) for r in other]
    for x, y in zip(a, b):
        torch.testing.assert_close(x, y, atol=1e-6, rtol=0)
    for name in ("reward", "loss", "grad_norm", "kl_old", "tokens_trained"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-5), name
    for r, s in zip(mine, other):
        torch.testing.assert_close(r.advantage, s.advantage, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype, passes", [("float32", 0), ("bfloat16", 2)])
def test_scoring_passes(agent_folder, tools, prompts, monkeypatch, dtype, passes):
    """None in float32; in bfloat16 sampler and trainer round otherwise: one a mini-batch."""
    made, score = [], Policy.score
    monkeypatch.setattr(Policy, "score", lambda *a, **k: made.append(1) or score(*a, **k))
    policy = Policy.load(str(agent_folder), dtype=dtype)
    metrics, _ = one_step(policy, tools, prompts, PLAIN, step=grpo.step)
    assert len(made) == passes and metrics["branches"] == 0 and metrics["omega"] == 1
