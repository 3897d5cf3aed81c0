"""support/draw.py against the distribution, and Hugging Face's warpers."""

import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from support.draw import draw
from support.seeds import uniform


def test_draw_follows_the_distribution():
    logits = torch.tensor([[0.0, 2.0, -torch.inf, 1.0, -3.0]])
    n = 200_000
    ids, logp, entropy = draw(
        logits.expand(n, -1), uniform(torch.full((n,), 5), torch.arange(n)), 0.8
    )
    p = (logits[0] / 0.8).softmax(-1)
    counts = torch.bincount(ids, minlength=5).double()
    assert counts[2] == 0
    keep = p > 0
    # chi-squared, 3 degrees of freedom, 0.1 % level
    assert ((counts[keep] - n * p[keep]) ** 2 / (n * p[keep])).sum() < 16.3
    torch.testing.assert_close(logp, p[ids].log(), atol=1e-5, rtol=0)
    edge = draw(logits.expand(2, -1), torch.tensor([0.0, 1 - 2**-53]), 1.0)[0]
    assert edge.tolist() == [0, 4]


def test_draw_greedy():
    ids, logp, _ = draw(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([0.99]), 0)
    assert ids.tolist() == [1] and logp.item() == pytest.approx(
        torch.tensor([1.0, 3.0, 2.0]).log_softmax(0)[1].item()
    )


@pytest.mark.parametrize(
    "top_p, top_k, temperature",
    [
        (1.0, 0, 1.0),
        (0.9, 0, 1.0),
        (1.0, 3, 0.7),
        (0.8, 5, 0.6),
        (1e-6, 0, 1.0),
        (0.95, 20, 0.6),
        (1.0, 1000, 1.0),
    ],
)
def test_only_what_the_warpers_leave_is_drawn(top_p, top_k, temperature):
    """Never another token; log-probs and entropy are the whole distribution's within 1e-5."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(50, 40, generator=generator, dtype=torch.float64) * 2
    left = logits / temperature
    left = TopKLogitsWarper(top_k)(None, left) if top_k else left
    left = TopPLogitsWarper(top_p)(None, left) if top_p < 1 else left
    log_p = (logits / temperature).log_softmax(-1)
    for u in (0.0, 0.3, 0.5, 1 - 2**-53):
        where = torch.full((50,), u, dtype=torch.float64)
        ids, logp, entropy = draw(logits, where, temperature, top_p, top_k)
        whole = -(log_p.exp() * log_p).sum(-1)
        torch.testing.assert_close(entropy.double(), whole, atol=1e-5, rtol=0)
        ends = left.softmax(-1).cumsum(-1)
        expected = (ends <= u * ends[:, -1:]).sum(-1)
        assert torch.isfinite(left).gather(1, ids[:, None]).all()
        assert u == 1 - 2**-53 or torch.equal(ids, expected)
        exact = log_p.gather(1, ids[:, None])[:, 0]
        torch.testing.assert_close(logp.double(), exact, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [3, 5, 6, 8, 13, 64])
def test_a_draw_does_not_depend_on_its_row(rows):
    """Bit for bit: the last few numbers of a tensor are computed by another routine."""
    torch.manual_seed(rows)
    order, logits = torch.randperm(rows), torch.randn(rows, 750) * 3
    u = torch.rand(rows, dtype=torch.float64)
    for a, b in zip(draw(logits, u, 1.0), draw(logits[order], u[order], 1.0)):
        assert torch.equal(a[order], b)
