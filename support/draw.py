"""Drawing a token: inverse CDF from a number in [0, 1), greedy, or from the likeliest tokens.

    1. draw   ids, their log-probs, and the entropies of the distributions they came from
    2. pick   the inverse CDF, in blocks of the vocabulary
    3. penalised   logits that make what a row has seen less likely, for evaluation only

Axes: R rows, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import TopKLogitsWarper, TopPLogitsWarper

# on a CPU a draw takes the rows of about so many logits at once: they stay in the processor's cache
BLOCK = 2**19


def draw(
    logits: Tensor, u: Tensor, temperature: float, top_p: float = 1.0, top_k: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token per row by inverse CDF; the likeliest one at temperature 0.

    Args:    logits: (R, V). u: (R,) in [0, 1). top_p, top_k: for evaluation only; training needs
             the defaults, the whole distribution.
    Returns: ids (R,), logp (R,), entropy (R,) of the whole distribution, whatever top_p and top_k
             left of it; at temperature 0 those of temperature 1.
    """
    rows = BLOCK // logits.shape[1] + 1
    if logits.device.type == "cpu" and len(logits) > rows:
        parts = zip(logits.split(rows), u.split(rows))
        drawn = [draw(x, y, temperature, top_p, top_k) for x, y in parts]
        return tuple(map(torch.cat, zip(*drawn)))
    scaled = logits if temperature in (0, 1) else logits / temperature
    # not log_p.exp(): its bits depend on which row of the tensor a number stands in
    log_p, p = scaled.log_softmax(-1), scaled.softmax(-1)
    # the clamp: 0 * -inf would be NaN
    entropy = -torch.linalg.vecdot(p, log_p.clamp(min=-1e4))
    if temperature == 0:
        ids = logits.argmax(-1)
        return ids, log_p.gather(-1, ids[:, None])[:, 0], entropy
    if top_k:
        scaled = TopKLogitsWarper(top_k)(None, scaled.double())
    if top_p < 1:
        scaled = TopPLogitsWarper(top_p)(None, scaled.double())
    ids = pick(p if top_p == 1 and not top_k else scaled.softmax(-1), u)
    return ids, log_p.gather(-1, ids[:, None])[:, 0], entropy


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits under Hugging Face's repetition penalty, before temperature, top-p and top-k.

    Where seen: logits / penalty if positive, logits * penalty if negative; elsewhere as they are.
    Args: logits: (R, V). seen: (R, V), bool. penalty: 1 changes nothing.
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def pick(weights: Tensor, u: Tensor, block: int = 256) -> Tensor:
    """Inverse CDF: the first index whose cumulative weight exceeds u of the whole.

    First a block of the vocabulary, by its sum in float64, then the index in it: a cumulative sum
    over a large vocabulary costs more than all else in a draw.

    Args:    weights: (R, V) >= 0. u: (R,) in [0, 1).
    Returns: (R,) long; never an index of weight 0.
    """
    blocks = F.pad(weights, (0, -weights.shape[1] % block)).view(len(weights), -1, block)
    outer, rest = _find(blocks.sum(-1, dtype=torch.float64), u[:, None])
    chosen = blocks.gather(1, outer[:, :, None].expand(-1, -1, block))[:, 0]
    inner, _ = _find(chosen.double(), rest)
    # weights that are not finite are found nowhere; whoever drew sees it at the log-prob
    return (outer * block + inner)[:, 0].clamp(max=weights.shape[1] - 1)


def _find(sums: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """(R, n) weights, (R, 1) share of the whole -> the index, and how far into it, in [0, 1)."""
    ends = sums.cumsum(-1)
    last = ends[:, -1:]
    target = torch.minimum(share * last, last.nextafter(torch.zeros_like(share)))
    at = torch.searchsorted(ends, target, right=True).clamp(max=sums.shape[1] - 1)
    size = sums.gather(-1, at)
    return at, ((target - ends.gather(-1, at) + size) / size).clamp(0, 1)
