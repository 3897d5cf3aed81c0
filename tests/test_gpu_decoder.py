"""support/gpu_decoder.py against the modules it is made from, its kernel done by arithmetic."""

import pytest
import torch
from conftest import untrained
from fake_cuda import CUDA, Device, flash
from test_cpu_decoder import KINDS, shaken

from policy import Policy
from support import gpu_decoder
from support.gpu_decoder import FLASH, FlashDecoder, attention, fits


@pytest.fixture
def arithmetic(monkeypatch):
    monkeypatch.setattr(gpu_decoder, "FLASH", flash)


def read_by_steps(policy, decoder, by_lengths: bool):
    """Five rows of 4 to 12 tokens, then eight steps of one token; the last row stops after two.

    Returns: hidden states of all steps, logits of the last, and the cache.
    """
    torch.manual_seed(1)
    cache, ids = policy.cache(6, 64), torch.randint(policy.vocabulary, (5, 20))
    cache.append(decoder, ids[:, :12], torch.tensor([4, 12, 7, 9, 5]), slice(0, 5), 64)
    states = []
    for k in range(8):
        n = torch.tensor([1, 1, 1, 1, int(k < 2)])
        end = None if by_lengths else 64
        states.append(cache.append(decoder, ids[:, 12 + k, None], n, slice(0, 5), end)[: 4 + n[4]])
    assert cache.length.tolist() == [12, 20, 15, 17, 7, 0, 0]
    kv = [cache.kv[:, row, : cache.length[row]] for row in range(5)]
    with torch.no_grad():
        return [
            torch.cat(states),
            decoder.head(states[-1]) if by_lengths else policy.head(states[-1]),
            *kv,
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_by_lengths_compute_what_the_modules_do(kind, tokenizer, arithmetic):
    """Within 3e-6 of the largest number, in float32."""
    policy = shaken(kind, tokenizer)
    plain = read_by_steps(policy, policy.decoder, by_lengths=False)
    ours = read_by_steps(policy, FlashDecoder(policy.model), by_lengths=True)
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine, theirs, atol=3e-6 * theirs.abs().max().item(), rtol=0)


def test_a_row_reads_its_own_keys_and_no_others(arithmetic):
    torch.manual_seed(0)
    kv, query = torch.randn(4, 10, 2, 2, 8), torch.randn(3, 6, 8)
    used = torch.tensor([1, 10, 4], dtype=torch.int32)
    rows = torch.arange(4, dtype=torch.int32)
    out = attention(query, kv, (rows, rows * 10), used, 0.3)
    for row, n in enumerate(used.tolist()):
        keys, values = kv[row, :n].repeat_interleave(3, 2).unbind(1)
        scores = torch.einsum("hd,lhd->hl", query[row], keys) * 0.3
        exact = torch.einsum("hl,lhd->hd", scores.softmax(-1), values)
        torch.testing.assert_close(out[row], exact, atol=1e-6, rtol=0)


def test_the_kernel_takes_what_it_is_given():
    """PyTorch's own operator, on tensors without numbers: names, order and types of arguments."""
    with torch.device("meta"):
        kv, query = torch.empty(4, 10, 2, 2, 8).bfloat16(), torch.empty(3, 6, 8).bfloat16()
        used, rows = torch.ones(3, dtype=torch.int32), torch.arange(4, dtype=torch.int32)
        out = attention(query, kv, (rows, rows * 10), used, 0.3)
    assert out.shape == query.shape and out.dtype == query.dtype
    names = [argument.name for argument in FLASH.default._schema.arguments]
    given = "query key value cum_seq_q cum_seq_k max_q max_k dropout_p is_causal return_debug_mask"
    assert names[:10] == given.split() and {"scale", "seqused_k"} <= set(names)


def test_a_model_on_a_cpu_or_in_float32_keeps_its_modules(tokenizer):
    model = untrained("llama", tokenizer)
    assert not fits(model.to(torch.bfloat16), torch.bfloat16)
    with Device():
        model = untrained("llama", tokenizer).to(str(CUDA))
        assert fits(model, torch.bfloat16) and not fits(model, torch.float32)


def test_a_policy_samples_with_it_where_it_fits(tokenizer, monkeypatch):
    monkeypatch.setattr(gpu_decoder, "fits", lambda model, dtype: dtype == torch.bfloat16)
    policy = Policy(untrained("llama", tokenizer).to(torch.bfloat16), tokenizer)
    assert policy.for_sampling()[0] is policy.decoder
    with policy.unsharded():
        decoder, head = policy.for_sampling()
        assert isinstance(decoder, FlashDecoder) and head is policy.head
        assert policy.for_sampling()[0] is decoder
    assert policy.for_sampling()[0] is policy.decoder
