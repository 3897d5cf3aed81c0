"""Log-probs and entropies of a large vocabulary: in chunks, against two textbook ways."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from extras.bench import models
from extras.bench.measure import figure, in_turn, ratio, repeats
from support.log_probs import logits_chunk, logp_in_chunks, stats_in_chunks

MIB = 2**20


def logprob(args) -> dict:
    """A vocabulary of 152,064 (Qwen2.5's) from hidden states of 896.

    Without a gradient: log_softmax of all logits, and our matrix products alone. No way of taking
    log-probs by the same products is faster than those. With it: log_softmax of all logits, and
    torch.utils.checkpoint for each of our chunks.
    """
    vocabulary, size = (150_000, 8) if args.light else (152_064, 896)
    torch.manual_seed(0)
    head = nn.Linear(size, vocabulary, bias=False)
    few, many = (300, 512) if args.light else (1024, 3072)
    return scored(args, head, many) | trained_on(args, head, few)


def scored(args, head: nn.Linear, tokens: int) -> dict:
    """Log-probs and entropies, without a gradient."""
    inputs = random_tokens(head, tokens, grad=False)
    ours = partial(torch.no_grad()(stats_in_chunks), head, *inputs, 1.0)
    other = {
        "log_softmax": partial(whole_stats, head, *inputs),
        "our products alone": partial(products_alone, head, inputs[0]),
    }
    title = f"logprob: {tokens:,} tokens, vocabulary {head.out_features:,}, no gradient"
    return compared(args, title, ours, other)


def trained_on(args, head: nn.Linear, tokens: int) -> dict:
    """Log-probs and the gradient of their sum."""
    inputs = random_tokens(head, tokens, grad=True)
    ours = partial(logp_in_chunks, head, *inputs, 1.0)
    other = {
        "log_softmax": partial(whole_logp, head, *inputs),
        "torch.utils.checkpoint": partial(checkpointed_logp, head, *inputs),
    }
    other = {name: partial(with_gradient, way, head) for name, way in other.items()}
    title = f"logprob: {tokens:,} tokens, vocabulary {head.out_features:,}, with gradient"
    return compared(args, title, partial(with_gradient, ours, head), other)


def random_tokens(head: nn.Linear, tokens: int, grad: bool) -> tuple[Tensor, Tensor]:
    """Hidden states and ids."""
    hidden = torch.randn(tokens, head.in_features, requires_grad=grad)
    return hidden, torch.randint(head.out_features, (tokens,))


def compared(args, title: str, ours, other: dict) -> dict:
    """Seconds and memory of other ways / ours."""
    mine = models.most_allocated(ours)
    figures = {f"{title}, memory of ours": figure([mine / MIB], "MiB")}
    for name, way in other.items():
        pairs = in_turn(way, ours, times=repeats(args))
        figures[f"{title}, seconds of {name} / ours"] = ratio(pairs)
        memory = (models.most_allocated(way), mine)
        figures[f"{title}, memory of {name} / ours"] = ratio([memory])
    return figures


@torch.no_grad()
def whole_stats(head: nn.Linear, hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The textbook way: all logits, log_softmax, gather, and the entropy."""
    log_p = head(hidden).float().log_softmax(-1)
    return log_p.gather(-1, ids[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def whole_logp(head: nn.Linear, hidden: Tensor, ids: Tensor) -> Tensor:
    """The log-probs alone, with their gradient."""
    return head(hidden).float().log_softmax(-1).gather(-1, ids[:, None])[:, 0]


def checkpointed_logp(head: nn.Linear, hidden: Tensor, ids: Tensor) -> Tensor:
    """The same by chunks, each of which autograd computes again."""
    chunk = logits_chunk(head.out_features)
    again = partial(checkpoint, partial(whole_logp, head), use_reentrant=False)
    return torch.cat([again(h, i) for h, i in zip(hidden.split(chunk), ids.split(chunk))])


def with_gradient(way, head: nn.Linear) -> None:
    """The log-probs and the gradient of their sum."""
    way().sum().backward()
    head.zero_grad(set_to_none=True)


@torch.no_grad()
def products_alone(head: nn.Linear, hidden: Tensor) -> None:
    """The matrix products of our chunks. A chunk's logits are freed before the next are made."""
    for part in hidden.split(logits_chunk(head.out_features)):
        head(part)
