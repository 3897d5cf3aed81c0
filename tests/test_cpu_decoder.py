"""support/cpu_decoder.py against the modules that it is made from, and its bits."""

import pytest
import torch
import transformers
from conftest import rolled, untrained

from policy import Policy
from support.cpu_decoder import Norm, PackedDecoder, Product, fits

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
    """A policy no parameter of which is 0 or 1:
    norms and biases too have to be where they belong.
    """
    policy = Policy(
        untrained(kind.split(",")[0], tokenizer, initializer_range=0.1, **KINDS[kind]), tokenizer
    )
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return policy


def read_twice(policy, decoder, head):
    """Rows of 12 tokens, then 1 to 5 more, then three of the rows in another order.

    Returns: hidden states, logits, and the cache.
    """
    torch.manual_seed(1)
    cache, ids = policy.cache(5, 64), torch.randint(policy.vocabulary, (5, 17))
    cache.append(decoder, ids[:, :12], torch.full((5,), 12), slice(0, 5), 64)
    hidden = cache.append(decoder, ids[:, 12:], torch.arange(1, 6), slice(0, 5), 64)
    some = torch.tensor([3, 0, 4])
    more = cache.append(decoder, ids[:3, :2], torch.full((3,), 2), some, 64)
    hidden = torch.cat([hidden, more])
    with torch.no_grad():
        return hidden, head(hidden), cache.kv[:, :5]


@packs
@pytest.mark.parametrize("kind", KINDS)
def test_the_packed_decoder_computes_what_the_modules_do(kind, tokenizer):
    """Within 3e-6 of the largest number."""
    policy = shaken(kind, tokenizer)
    plain = read_twice(policy, policy.decoder, policy.head)
    packed = PackedDecoder(policy.model)
    for ours, theirs in zip(read_twice(policy, packed, packed.head), plain):
        torch.testing.assert_close(ours, theirs, atol=3e-6 * theirs.abs().max().item(), rtol=0)


@packs
def test_every_run_packs_the_weights_as_they_are(tokenizer, prompts):
    """After an update that no version counter of a tensor shows: fused AdamW's."""
    policy = shaken("qwen2", tokenizer)

    def gap(rollouts):
        policy.score(rollouts, 1.0, 4096)
        return max((torch.tensor(r.sampled_logp) - r.logp).abs().max() for r in rollouts)

    _, before = rolled(policy, {}, prompts[:4], max_tokens=20)
    policy.logp(before, 1.0).sum().backward()
    torch.optim.AdamW(policy.model.parameters(), lr=0.03, fused=True).step()
    _, after = rolled(policy, {}, prompts[:4], max_tokens=20)
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
        assert not fits(model)
    assert fits(untrained("llama", tokenizer))


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
