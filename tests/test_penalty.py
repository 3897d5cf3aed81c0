"""The repetition penalty and the budgets of single tools, in the sampler, beside Hugging Face."""

import random
from types import SimpleNamespace

import pytest
import torch
from conftest import sampler_for, untrained
from transformers import RepetitionPenaltyLogitsProcessor

from extras.world.student import build_tokenizer, syllables
from policy import Policy
from protocol import Asked, Tags
from support.draw import penalised
from support.sampling_params import budgets_of, too_many_calls
from support.schedule import check_step
from tools import ToolResult

PENALTY = 1.3


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer(*syllables(random.Random("penalty")))
    untrained("qwen2", tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Policy.load(str(folder))


def hugging_face(policy, prompt, tokens, penalty):
    """Its greedy response."""
    how = dict(do_sample=False, max_new_tokens=tokens, repetition_penalty=penalty)
    with torch.no_grad():
        ids = policy.model.generate(torch.tensor([prompt]), eos_token_id=None, **how)
    return ids[0, len(prompt) :].tolist()


def test_the_formula_is_hugging_face_s():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 40, generator=generator) * 3
    ids = torch.randint(40, (5, 12), generator=generator)
    seen = torch.zeros(5, 40, dtype=torch.bool).scatter_(1, ids, True)
    for penalty in (1.1, 0.7):
        expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
        assert torch.equal(penalised(logits, seen, penalty), expected)
    assert torch.equal(penalised(logits, seen, 1.0), logits)


PROMPTS = [[5, 9, 11, 30, 9], [40, 41], [7] * 9, [100, 3, 50, 51], [12], [13, 60, 61]]


def test_greedy_rollouts_are_those_of_generate(policy, monkeypatch):
    """More prompts than rows, so that slots are used again. No tag counts here."""
    monkeypatch.setattr(policy, "stop_ids", set())
    monkeypatch.setattr(policy, "closing", set())
    responses = {}
    for penalty in (1.0, PENALTY):
        sampler = sampler_for(policy, {}, decode_rows=4, max_tokens=24, repetition_penalty=penalty)
        rollouts = sampler.initial(PROMPTS, 1, [1] * len(PROMPTS), temperature=0)
        responses[penalty] = [r.ids for r in rollouts]
        expected = [hugging_face(policy, prompt, 24, penalty) for prompt in PROMPTS]
        assert responses[penalty] == expected
    assert responses[1.0] != responses[PENALTY]


class Once(Tags):
    """Calls a tool after the fifth token, whatever it is."""

    def forged_in(self, texts):
        return False

    def calls_in(self, texts, whole, ended):
        return [Asked("python", "x")] if len(texts) == 5 else []


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_a_tool_s_result_counts_as_seen_and_forgotten_tokens_do_not(policy, monkeypatch, lag):
    """Every token is the likeliest by a full pass over what stands before it.

    With a lag, as on a GPU, a row draws tokens after its call that are forgotten.
    """
    monkeypatch.setattr(policy, "stop_ids", set())
    monkeypatch.setattr(policy, "closing", set(range(len(policy.text))))
    tool = SimpleNamespace(run=lambda argument: ToolResult("ok", "12 14 15", 0.0))
    how = dict(decode_rows=4, max_tokens=48, repetition_penalty=PENALTY, lag=lag, max_calls=1)
    sampler = sampler_for(policy, {"python": tool}, **how)
    sampler.protocol = Once()
    rollouts = sampler.initial(PROMPTS, 1, [1] * len(PROMPTS), temperature=0)
    for r in rollouts:
        assert len(r.calls) == 1 and not all(r.mask)
        for t, own in enumerate(r.mask):
            before = torch.tensor([r.prompt + r.ids[:t]])
            with torch.no_grad():
                logits = policy.model(before).logits[:, -1].float()
            best = RepetitionPenaltyLogitsProcessor(PENALTY)(before, logits).argmax()
            assert not own or r.ids[t] == best, t


def test_training_refuses_a_penalty(policy):
    sampler = sampler_for(policy, {}, repetition_penalty=PENALTY)
    with pytest.raises(ValueError, match="its repetition_penalty 1"):
        check_step(policy, sampler, [1], None)


class Always(Once):
    """Calls python after every second token of a turn."""

    def calls_in(self, texts, whole, ended):
        return [Asked("python", "x")] if len(texts) == 2 else []


def test_a_tool_s_own_budget_ends_a_rollout(policy, monkeypatch):
    monkeypatch.setattr(policy, "stop_ids", set())
    monkeypatch.setattr(policy, "closing", set(range(len(policy.text))))
    tool = SimpleNamespace(run=lambda argument: ToolResult("ok", "1", 0.0))
    for budgets, calls in (("python=2,search=9", 2), ("search=1", 4), ("", 4)):
        how = dict(max_tokens=100, max_calls=4, max_tool_calls=budgets)
        sampler = sampler_for(policy, {"python": tool}, **how)
        sampler.protocol = Always()
        (r,) = sampler.initial(PROMPTS[:1], 1, [1], temperature=0)
        assert (r.finish, len(r.calls)) == ("calls", calls), budgets


def test_budgets():
    assert budgets_of("python=5, search=10") == {"python": 5, "search": 10} and budgets_of("") == {}
    for wrong in ("python", "python=", "=3", "python=-1", "python=x"):
        with pytest.raises(ValueError, match="--max_tool_calls must be NAME=N,NAME=N"):
            budgets_of(wrong)
    paper = SimpleNamespace(max_calls=15, max_tool_calls="python=5,search=10")
    assert not too_many_calls(["python"] * 5 + ["search"] * 10, paper)
    assert too_many_calls(["python"] * 6, paper) and too_many_calls(["search"] * 11, paper)
    # a tool without a budget of its own
    assert not too_many_calls(["other"] * 15, paper) and too_many_calls(["other"] * 16, paper)
