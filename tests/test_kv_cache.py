"""kv_cache.py: appended rows against whole forward passes, room, and bits on a CPU."""

import pytest
import torch
from conftest import sampler_for, untrained

from kv_cache import causal_repeated, folded_attention
from policy import Policy
from support.shapes import padded_keys


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_appended_rows_equal_a_whole_pass(family, tokenizer):
    """Rows of other lengths, appended raggedly, copied and gone on with: logits within 1e-4."""
    policy = Policy(untrained(family, tokenizer), tokenizer)
    torch.manual_seed(0)
    ids = torch.randint(policy.vocabulary, (3, 40))
    cache, fork = policy.cache(3, 64), policy.cache(1, 64)
    with torch.no_grad():
        n = torch.tensor([12, 5, 9])
        cache.append(policy.decoder, ids[:, :12], n, slice(0, 3), 64)
        more = torch.stack([row[k : k + 8] for row, k in zip(ids, n.tolist())])
        hidden = cache.append(policy.decoder, more, torch.tensor([8, 1, 0]), slice(0, 3), 64)
        for row, held in ((0, 20), (1, 6)):
            whole = policy.model(ids[row : row + 1, :held]).logits[0, -1]
            torch.testing.assert_close(policy.head(hidden[row]), whole, atol=1e-4, rtol=0)
        assert cache.length.tolist() == [20, 6, 9, 0]
        before = cache.kv.clone()
        fork.copy(0, cache, 0, 7)
        hidden = fork.append(policy.decoder, ids[1:2, :6], torch.tensor([6]), slice(0, 1), 64)
        whole = policy.model(torch.cat([ids[:1, :7], ids[1:2, :6]], 1)).logits[0, -1]
        torch.testing.assert_close(policy.head(hidden[0]), whole, atol=1e-4, rtol=0)
        assert torch.equal(cache.kv, before), "a fork leaves its parent as it is"


@pytest.mark.parametrize("heads, keys", [(4, 4), (6, 2), (8, 1)])
def test_repeated_keys_are_grouped_ones(heads, keys):
    torch.manual_seed(0)
    query = torch.randn(2, heads, 9, 8)
    key, value = torch.randn(2, 2, keys, 9, 8).unbind()
    grouped = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=0.3, enable_gqa=True
    )
    repeated = causal_repeated(query, key, value, 0.3)
    torch.testing.assert_close(repeated, grouped.transpose(1, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["sliding_window", "softcap", "s_aux", "position_bias"])
def test_attention_it_does_not_compute_is_refused(name):
    with pytest.raises(ValueError, match=name):
        folded_attention(torch.nn.Identity(), None, None, None, None, **{name: 30})


def test_a_long_row_and_one_with_much_to_read_fit_together(agent):
    """A call goes on for the row that has most to read; one that is done needs no more room."""
    sampler, cache = sampler_for(agent, {}), agent.cache(2, 128)
    sampler._extend(cache, [0], [0], [list(range(100))], 2)
    hidden = sampler._extend(cache, [0, 1], [100, 0], [[5], list(range(60))], 2)
    alone = sampler._extend(agent.cache(1, 128), [0], [0], [[*range(100), 5]], 2)
    torch.testing.assert_close(hidden[0], alone[0], atol=1e-5, rtol=0)
    assert cache.length.tolist()[:2] == [101, 60]


def test_a_full_cache_says_so(agent):
    with pytest.raises(ValueError, match="the cache has 64"):
        sampler_for(agent, {})._extend(agent.cache(1, 64), [0], [0], [list(range(70))], 1)


def attended(queries, keys, values, T, seen):
    """folded_attention of one query head per key head over T slots, of which `seen` are visible."""
    mask = torch.zeros(len(queries), 1, queries.shape[2], T)
    mask.masked_fill_(torch.arange(T) >= seen[:, None, None, None], -torch.inf)
    key, value = keys[:, :, :T], values[:, :, :T]
    return folded_attention(None, queries, key, value, mask, queries.shape[-1] ** -0.5)[0]


@pytest.mark.parametrize("dim", [16, 64, 128])
@pytest.mark.parametrize("rows", [1, 2, 4, 7, 28])
def test_bits_do_not_depend_on_the_slots_looked_at(dim, rows):
    """Whatever sizes padded_keys gives: a row's sums are split alike in all of them."""
    torch.manual_seed(dim + rows)
    keys, values = torch.randn(6, 2, 1600, dim), torch.randn(6, 2, 1600, dim)
    queries = torch.randn(6, 2, rows, dim)
    sizes = sorted({padded_keys(n) for n in range(1, 1500)})
    for shorter, size in zip([0, *sizes], sizes):
        seen = torch.randint(shorter, size, (6,)) + 1
        out = attended(queries, keys, values, size, seen)
        for larger in (s for s in sizes if s > size):
            again = attended(queries, keys, values, larger, seen)
            assert torch.equal(out, again), f"{size} and {larger} slots"


@pytest.mark.parametrize("rows", [3, 5, 6, 8, 13, 64])
def test_bits_do_not_depend_on_the_row(rows):
    """Kernels that work on many numbers at once do the last few of a tensor by another routine."""
    torch.manual_seed(rows)
    order, seen = torch.randperm(rows), torch.randint(1, 64, (rows,))
    keys, values = torch.randn(rows, 2, 64, 24), torch.randn(rows, 2, 64, 24)
    queries = torch.randn(rows, 2, 2, 24)
    out = attended(queries, keys, values, 64, seen)
    again = attended(queries[order], keys[order], values[order], 64, seen[order])
    assert torch.equal(out[order], again)
