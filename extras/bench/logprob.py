"""Log-probs and entropies of a large vocabulary: in chunks, against log_softmax over all logits."""

import types
from functools import partial

import torch
from torch import Tensor, nn

from extras.bench import models
from extras.bench.measure import figure, in_turn, ratio, repeats
from policy import Policy, logits_chunk

MIB = 2**20


def logprob(args) -> dict:
    """A vocabulary of 152,064 (Qwen2.5's) from hidden states of 896.

    Without a gradient also log_softmax against the chunks' matrix products alone: no way of taking
    log-probs by the same products is faster than those.
    """
    vocabulary, size = (150_000, 8) if args.light else (152_064, 896)
    torch.manual_seed(0)
    head = nn.Linear(size, vocabulary, bias=False)
    few, many = (300, 1024) if args.light else (1024, 3072)
    return measured(args, head, "no gradient", many) | measured(args, head, "with gradient", few)


def measured(args, head: nn.Linear, what: str, tokens: int) -> dict:
    """Seconds and memory of both ways."""
    vocabulary, size = head.weight.shape
    grad = what == "with gradient"
    hidden = torch.randn(tokens, size, requires_grad=grad)
    ids = torch.randint(vocabulary, (tokens,))
    # all of a policy that its log-probs need
    policy = types.SimpleNamespace(head=head, vocabulary=vocabulary)
    whole = partial(whole_logp if grad else whole_stats, head, hidden, ids)
    method = Policy.token_logp if grad else torch.no_grad()(Policy.token_stats)
    chunked = partial(method, policy, hidden, ids, 1.0)
    ways = [partial(with_gradient, way, head) if grad else way for way in (whole, chunked)]
    title = f"logprob: {tokens:,} tokens, vocabulary {vocabulary:,}, {what}"
    theirs, ours = (models.most_allocated(way) for way in ways)
    figures = {}
    if not grad:
        products = partial(products_alone, head, hidden)
        name = f"{title}, seconds of log_softmax / our products alone"
        figures[name] = ratio(in_turn(ways[0], products, times=repeats(args)))
    return figures | {
        f"{title}, seconds of log_softmax / ours": ratio(in_turn(*ways, times=repeats(args))),
        f"{title}, memory of ours / log_softmax": ratio([(ours, theirs)]),
        f"{title}, memory of ours": figure([ours / MIB], "MiB"),
    }


@torch.no_grad()
def whole_stats(head: nn.Linear, hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The textbook way: all logits, log_softmax, gather, and the entropy."""
    log_p = head(hidden).float().log_softmax(-1)
    return log_p.gather(-1, ids[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def whole_logp(head: nn.Linear, hidden: Tensor, ids: Tensor) -> Tensor:
    """The log-probs alone, with their gradient."""
    return head(hidden).float().log_softmax(-1).gather(-1, ids[:, None])[:, 0]


def with_gradient(way, head: nn.Linear) -> None:
    """The log-probs and the gradient of their sum."""
    way().sum().backward()
    head.zero_grad(set_to_none=True)


@torch.no_grad()
def products_alone(head: nn.Linear, hidden: Tensor) -> None:
    """The matrix products of our chunks. A chunk's logits are freed before the next are made."""
    for part in hidden.split(logits_chunk(head.out_features)):
        head(part)
