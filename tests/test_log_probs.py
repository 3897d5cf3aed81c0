"""support/log_probs.py: exact log-probs and gradients, never more than a chunk's logits at once."""

import pytest
import torch
import torch.nn.functional as F

from support import log_probs
from support.log_probs import logp_in_chunks, stats_in_chunks


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_chunked_stats_are_exact_and_small(monkeypatch, bias, temperature):
    """Against log_softmax over all logits in float64, gradients included.

    Never more than a chunk's logits at once, in the backward pass neither.
    """
    torch.manual_seed(0)
    head = torch.nn.Linear(96, 600, bias=bias, dtype=torch.float64)
    hidden = torch.randn(70, 96, dtype=torch.float64, requires_grad=True)
    ids, weights = torch.randint(600, (70,)), torch.randn(70, dtype=torch.float64)
    inputs = [hidden, *head.parameters()]
    whole = (head(hidden) / temperature).log_softmax(-1)
    expected = whole.gather(1, ids[:, None])[:, 0]
    gradients = torch.autograd.grad((expected * weights).sum(), inputs)
    widest, linear = [], F.linear
    monkeypatch.setattr(F, "linear", lambda h, *rest: widest.append(len(h)) or linear(h, *rest))
    for chunk, calls in ((16, [16] * 4 + [6]), (35, [35, 35]), (70, [70])):
        monkeypatch.setattr(log_probs, "logits_chunk", lambda vocabulary, chunk=chunk: chunk)
        widest.clear()
        with torch.no_grad():
            scored, entropy = stats_in_chunks(head, hidden, ids, temperature)
        assert widest == calls
        torch.testing.assert_close(scored, expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(entropy, -(whole.exp() * whole).sum(-1), atol=1e-12, rtol=0)
        widest.clear()
        logp = logp_in_chunks(head, hidden, ids, temperature)
        assert torch.equal(logp, scored) and widest == calls
        for a, b in zip(torch.autograd.grad((logp * weights).sum(), inputs), gradients):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
        again = [] if chunk == 70 else calls
        assert sorted(widest[len(calls) :]) == sorted(again), "the logits are made again"


def test_chunked_stats_in_bfloat16(monkeypatch):
    """Gradients of bfloat16 logits whose log-probs are computed in float32: within 1%."""
    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(96, 600, bias=False), torch.randn(70, 96)
    ids = torch.randint(600, (70,))
    monkeypatch.setattr(log_probs, "logits_chunk", lambda vocabulary: 16)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        head.to(dtype)
        h = hidden.to(dtype).requires_grad_()
        logp = logp_in_chunks(head, h, ids, 1.0)
        with torch.no_grad():
            assert torch.equal(logp, stats_in_chunks(head, h, ids, 1.0)[0])
        assert logp.dtype == torch.float32
        gradients.append([x.float() for x in torch.autograd.grad(logp.sum(), [h, head.weight])])
    for exact, rounded in zip(*gradients):
        assert (exact - rounded).norm() < 0.01 * exact.norm()
