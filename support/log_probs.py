"""Log-probs of many hidden states, the logits of one chunk of tokens at a time.

    1. stats_in_chunks   log-probs and entropies, without a gradient             (Eq. 3)
    2. logp_in_chunks    log-probs with their gradient; it makes the logits again

The logits of all tokens at once would be the largest tensor of a training step.
Axes: M tokens, D hidden, V vocabulary. head: the output layer, a Linear from D to V.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from branching import token_stats


def logits_chunk(vocabulary: int) -> int:
    """Tokens whose logits exist at once: 2^25 numbers, but 128 tokens at least."""
    return max(128, 2**25 // vocabulary)


def stats_in_chunks(head, hidden: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """branching.token_stats of hidden states (M, D): log-probs and entropies, (M,) each."""
    chunk = logits_chunk(head.out_features)
    parts = [
        token_stats(head(h), i, temperature) for h, i in zip(hidden.split(chunk), ids.split(chunk))
    ]
    logp, entropy = (torch.cat(part) for part in zip(*parts))
    return logp, entropy


def logp_in_chunks(head, hidden: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """log p[id] (M,) with its gradient; to the bit the log-probs of stats_in_chunks."""
    chunk = logits_chunk(head.out_features)
    if len(hidden) <= chunk:
        return _logp(head(hidden), ids, temperature)
    return ChunkedLogp.apply(hidden, head.weight, head.bias, ids, temperature, chunk)


class ChunkedLogp(torch.autograd.Function):
    """log p[id] with p = softmax(logits / temperature), its gradient written out.

        d logp / d logits = (onehot(id) - p) / temperature

    One gradient of the output layer is summed over the chunks. torch.utils.checkpoint for each
    chunk holds two at once, and takes longer: docs/speed.md.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, ids, temperature, chunk):
        ctx.save_for_backward(hidden, weight, bias, ids)
        ctx.temperature, ctx.chunk = temperature, chunk
        pairs = zip(hidden.split(chunk), ids.split(chunk))
        return torch.cat([_logp(F.linear(h, weight, bias), i, temperature) for h, i in pairs])

    @staticmethod
    @once_differentiable
    def backward(ctx, d_logp):
        hidden, weight, bias, ids = ctx.saved_tensors
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        d_bias = None if bias is None else torch.zeros_like(bias)
        scale = d_logp[:, None] / ctx.temperature  # (M, 1)
        rows = (x.split(ctx.chunk) for x in (hidden, ids[:, None], scale, d_hidden))
        for h, i, d, d_h in zip(*rows):
            p = _scaled(F.linear(h, weight, bias), ctx.temperature).softmax(-1)
            d_logits = p.mul_(-d).scatter_add_(1, i, d).to(weight.dtype)
            torch.mm(d_logits, weight, out=d_h)
            d_weight.addmm_(d_logits.T, h)
            if bias is not None:
                d_bias += d_logits.sum(0)
            # before those of the next chunk are made
            del p, d_logits
        return d_hidden, d_weight, d_bias, None, None, None


def _logp(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """log p[id] from logits (M, V); without the entropy, which needs no gradient."""
    return -F.cross_entropy(_scaled(logits, temperature), ids, reduction="none")


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """logits / temperature in float32; float64 stays."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits if temperature == 1 else logits / temperature
