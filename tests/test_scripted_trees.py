"""Every method's tree, drawn by a policy whose probabilities are written down.

A response is a path through CHAIN: the next token depends on the last one alone. So the entropy of
every token is known, and with it where a method has to fork.
"""

import dataclasses
import importlib
import math

import pytest
import torch
from conftest import CONFIG, one_step, prompts_for
from transformers import LlamaConfig, LlamaForCausalLM

import appo
from config import ALGOS
from methods.trained_branches import after_results
from policy import Policy
from rollout import Rollout

# "a" is thought of alone; "b" is followed by two words, each one of five
FIVE, FIVE_MORE, FOUR = ("c", "d", "e", "f", "g"), ("h", "i", "k", "l", "m"), ("n", "o", "r", "s")
CHAIN = {
    "x": {"<think>": 1.0},
    "<think>": {"a": 0.5, "b": 0.5},
    "a": {"</think>": 1.0},
    "b": dict.fromkeys(FIVE, 0.2),
    **{word: dict.fromkeys(FIVE_MORE, 0.2) for word in FIVE},
    **{word: {"</think>": 1.0} for word in FIVE_MORE},
    "</think>": {"<python>": 1.0},
    "<python>": {"1": 0.6, "2": 0.4},
    "1": {"</python>": 1.0},
    "2": {"</python>": 1.0},
    "</result>": {"<answer>": 1.0},
    "<answer>": dict.fromkeys(FOUR, 0.25),
    **{word: {"</answer>": 1.0} for word in FOUR},
    "</answer>": {"<|im_end|>": 1.0},
}
WITHOUT = ("grpo", "dr_grpo", "dapo", "reinforce_pp", "reinforce_pp_baseline", "gppo", "cispo")
WITHOUT += ("gigpo", "tempo")
PROMPTS = 12


@pytest.fixture
def scripted(tokenizer) -> Policy:
    """One layer that adds nothing: the logits are a row of the table for the last token."""
    V = len(tokenizer)
    wide = -(-V // 8) * 8
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=V,
            hidden_size=wide,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=wide // 8,
            num_key_value_heads=1,
            head_dim=8,
            rms_norm_eps=0.0,
            tie_word_embeddings=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    table = torch.zeros(V, V)
    for last, nexts in CHAIN.items():
        row = torch.full((V,), -40.0)
        for text, p in nexts.items():
            row[token_id(tokenizer, text)] = math.log(p)
        table[token_id(tokenizer, last)] = row
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(V, wide))
        # the norm makes a one of every token sqrt(wide)
        model.lm_head.weight[:, :V] = table.T / math.sqrt(wide)
    return Policy(model, tokenizer)


def token_id(tokenizer, text: str) -> int:
    [i] = tokenizer(text).input_ids
    return i


def grown(scripted, tools, tokenizer, algo, **changes) -> list[list[Rollout]]:
    """The rollouts of each prompt after one step, all of them checked against the chain."""
    settings = ALGOS[algo] | dict(prompts=PROMPTS, minibatch=PROMPTS, initial=2) | changes
    config = dataclasses.replace(CONFIG, algo=algo, **settings)
    words = [token_id(tokenizer, word) for word in FOUR]

    def reward(r: Rollout) -> float:
        """Another one for every answer."""
        return float(words.index(r.ids[-3]))

    step = appo.step if algo == "appo" else importlib.import_module(f"methods.{algo}").step
    prompts = prompts_for([[token_id(tokenizer, "x")]] * PROMPTS, reward)
    _, rollouts = one_step(scripted, tools, prompts, config, step=step)
    for r in rollouts:
        check_path(scripted, r)
    groups = dict.fromkeys(r.group for r in rollouts)
    return [[r for r in rollouts if r.group == group] for group in groups]


def check_path(policy: Policy, r: Rollout) -> None:
    """Its tokens are a path, its numbers are those of the table, its prefix is its parent's."""
    texts = ["x", *(policy.text[i] for i in r.ids)]
    assert r.finish == "stop" and len(r.calls) == 1 and texts[-1] == "<|im_end|>"
    for t, own in enumerate(r.mask):
        if not own:
            continue
        nexts = CHAIN[texts[t]]
        assert r.sampled_logp[t] == pytest.approx(math.log(nexts[texts[t + 1]]), abs=1e-4)
        assert r.sampled_entropy[t] == pytest.approx(entropy(nexts), abs=1e-4)
    [call] = r.calls
    assert call.argument in ("1", "2") and f"\n{call.argument}\n" in policy.decode(
        r.ids[call.start : call.end]
    )
    if r.parent:
        assert r.ids[: r.fork_at] == r.parent.ids[: r.fork_at] and len(r.ids) > r.fork_at


def entropy(nexts: dict[str, float]) -> float:
    return -sum(p * math.log(p) for p in nexts.values())


def long_thought(policy: Policy, r: Rollout) -> bool:
    """Does it begin with "b"?"""
    return policy.text[r.ids[1]] == "b"


def second_turn(r: Rollout) -> int:
    """Where the turn behind the result begins."""
    return r.calls[0].end


def forks(tree: list[Rollout], parent: Rollout) -> list[int]:
    """Where a rollout was forked, in order."""
    return sorted(x.fork_at for x in tree if x.parent is parent)


def initial(tree: list[Rollout]) -> list[Rollout]:
    return [r for r in tree if r.parent is None]


def kinds(policy: Policy, trees: list[list[Rollout]]) -> set[int]:
    """How many of a prompt's two initial rollouts begin with "b"."""
    return {sum(long_thought(policy, r) for r in initial(tree)) for tree in trees}


@pytest.mark.parametrize("algo", WITHOUT)
def test_rollouts_without_branches(scripted, tools, tokenizer, algo):
    trees = grown(scripted, tools, tokenizer, algo, initial=4)
    assert len(trees) >= PROMPTS and all(len(tree) == 4 for tree in trees)
    assert all(r.parent is None for tree in trees for r in tree)
    firsts = [long_thought(scripted, r) for tree in trees for r in tree]
    assert 0.25 < sum(firsts) / len(firsts) < 0.75, "drawn with probability 0.5"
    if algo == "tempo":
        for r in (r for tree in trees for r in tree):
            own = [t for t, mine in enumerate(r.mask) if mine and r.sampled_entropy[t] < 1e-4]
            credit = r.advantage[own]
            assert float(credit.max() - credit.min()) < 1e-5, "nothing was chosen"


@pytest.mark.parametrize("algo, updates", [("appo", 1), ("ahead", 2)])
def test_appo_forks_where_the_policy_is_uncertain(scripted, tools, tokenizer, algo, updates):
    """Until the first update Omega is 1: the two tokens of most entropy.

    Of `ahead`, the branches of both updates are drawn before the first. In a rollout with "a" they
    are the answer, ln 4, and "a" itself, ln 2; with "b" both words behind it, ln 5.
    """
    minibatch = PROMPTS // updates
    trees = grown(scripted, tools, tokenizer, algo, branches=2, minibatch=minibatch)
    assert kinds(scripted, trees) == {0, 1, 2}
    for tree in trees:
        assert len(tree) == 2 * 3
        for r in initial(tree):
            want = [2, 3] if long_thought(scripted, r) else [1, second_turn(r) + 1]
            assert forks(tree, r) == want
    drawn = [long_thought(scripted, x) for tree in trees for x in tree if x.fork_at == 1]
    assert 0.1 < sum(drawn) / len(drawn) < 0.9, "the token is drawn anew"


def test_branches_of_branches(scripted, tools, tokenizer):
    """B = 1, L = 2: two branches of a rollout; the one from its best token is forked once more."""
    trees = grown(scripted, tools, tokenizer, "deep", branches=1, depth=2)
    for tree in trees:
        for r in initial(tree):
            first, second = [2, 3] if long_thought(scripted, r) else [second_turn(r) + 1, 1]
            assert forks(tree, r) == sorted([first, second])
            [best] = [x for x in tree if x.parent is r and x.fork_at == first]
            # the next token, another word or the tag behind an answer
            assert forks(tree, best) == [first + 1]
            [other] = [x for x in tree if x.parent is r and x.fork_at == second]
            assert forks(tree, other) == []


def test_the_released_code_pools_the_points_of_a_prompt(scripted, tools, tokenizer):
    """N B = 4 points a prompt, by entropy in standard deviations of its rollout.

    "a": 2.5 for the answer, 0.9 for "a". "b": 1.7 for both words, 1.3 for the answer. So of two
    different rollouts "b" gets three. The chosen token is kept, what follows it is drawn.
    """
    scripted.reference = scripted
    trees = grown(scripted, tools, tokenizer, "released", branches=2)
    assert kinds(scripted, trees) == {0, 1, 2}
    for tree in trees:
        mixed = kinds(scripted, [tree]) == {1}
        for r in initial(tree):
            answer = second_turn(r) + 2
            if long_thought(scripted, r):
                assert forks(tree, r) == ([3, 4, answer] if mixed else [3, 4])
            else:
                assert forks(tree, r) == ([answer] if mixed else [2, answer])


def test_arpo_branches_where_entropy_has_risen(scripted, tools, tokenizer):
    """Mean entropy of the second turn is ln 4 / 4 = 0.35, of the first 0.23 or, with "b", 0.57.

    M = 4. What nobody branches for is spent on fresh rollouts.
    """
    trees = grown(scripted, tools, tokenizer, "arpo", branches=1)
    assert kinds(scripted, trees) == {0, 1, 2}
    for tree in trees:
        assert len(tree) == 4
        for r in tree:
            fresh = r.parent is None or r.fork_at == 0
            at_results = [t for t in forks(tree, r) if t]
            if long_thought(scripted, r) or not fresh:
                assert at_results == []
            elif r.parent is None:
                assert at_results == [second_turn(r)]
        unspent = 2 - sum(not long_thought(scripted, r) for r in initial(tree))
        drawn_anew = [x for x in tree if x.parent and x.fork_at == 0]
        # a fresh rollout with "a" is forked too while there is budget
        assert len(drawn_anew) == unspent or (
            unspent == 2 and len(drawn_anew) == 1 and forks(tree, drawn_anew[0]) != []
        )


def test_the_released_arpo_branches_by_chance(scripted, tools, tokenizer):
    """Behind a result or from the start. P is 0.57 with "a", 0.37 with "b"."""
    trees = grown(scripted, tools, tokenizer, "arpo_released", branches=1)
    assert all(len(tree) == 4 for tree in trees)
    tried = [r for tree in trees for r in initial(tree)]
    for tree in trees:
        for x in (x for x in tree if x.parent):
            assert x.fork_at in (0, second_turn(x.parent))
    forked = [any(forks(tree, r)) for tree in trees for r in initial(tree)]
    assert len(tried) == 2 * PROMPTS and 0.2 < sum(forked) / len(forked) < 0.75
    assert any(long_thought(scripted, r) and yes for r, yes in zip(tried, forked)), (
        "above_threshold"
    )


def test_tree_grpo_forks_prompts_and_turns(scripted, tools, tokenizer):
    """Two nodes of each rollout, the prompt or the second turn, about as often."""
    trees = grown(scripted, tools, tokenizer, "tree_grpo", branches=2)
    places = []
    for tree in trees:
        assert len(tree) == 2 * 3
        for r in initial(tree):
            places += [t > 0 for t in forks(tree, r)]
            assert set(forks(tree, r)) <= {0, *after_results(r, CONFIG)} and second_turn(r) > 0
    assert len(places) == 4 * PROMPTS and 0.25 < sum(places) / len(places) < 0.75


def test_our_tree_forks_the_second_turn(scripted, tools, tokenizer):
    trees = grown(scripted, tools, tokenizer, "tree", branches=3)
    for tree in trees:
        assert len(tree) == 2 * 4
        for r in initial(tree):
            assert forks(tree, r) == [second_turn(r)] * 3
            mine = [x for x in tree if x is r or x.parent is r]
            before = mean_reward(mine) - mean_reward([x for x in tree if x not in mine])
            behind = r.reward - mean_reward([x for x in mine if x is not r])
            want = [before if t < second_turn(r) else behind for t in range(len(r.ids))]
            want = torch.tensor(want)[torch.tensor(r.mask)]
            torch.testing.assert_close(r.advantage[torch.tensor(r.mask)], want, atol=1e-6, rtol=0)


def mean_reward(rollouts: list[Rollout]) -> float:
    return sum(r.reward for r in rollouts) / len(rollouts)
