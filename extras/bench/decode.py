"""Decoding: our loop against Hugging Face's generate, and where the time of a step goes.

decode     new tokens per second: log-probs, entropies and stop checks included
anatomy    shares of matrix products, attention, cache, drawing, laying out weights
"""

import time
from contextlib import ExitStack
from functools import partial
from unittest.mock import patch

import torch

import sampling
from extras.bench import models
from extras.bench.measure import figure, in_turn, ratio, repeats, seconds
from kv_cache import KVCache
from policy import Policy
from support import cpu_decoder

# tokens of a prompt, new tokens: few, so that five pairs at each batch take minutes
SMOLLM2_LENGTHS = 16, 32


def decode(args) -> dict:
    """New tokens per second against Hugging Face's generate, prompts read by both."""
    figures = {}
    for name, folder in models.model_folders(args, "decode").items():
        policy, plain = models.endless_policy(folder), models.plain_model(folder)
        prompt, new = lengths(args, name)
        for rows in (1, 8) if args.light else (1, 8, 32, 64):
            prompts = [models.random_ids(policy, k, prompt) for k in range(rows)]
            theirs = partial(generate, plain, prompts, new)
            pairs = pairs_with(theirs, policy, prompts, new, n=repeats(args))
            title = f"decode: {name}, batch {rows}"
            figures |= {
                f"{title}, seconds of generate / ours": ratio(pairs),
                f"{title}, ours": tokens_per_second(pairs, rows * new),
            }
    return figures


def lengths(args, name: str) -> tuple[int, int]:
    """(tokens of a prompt, new tokens) for a model."""
    if args.light:
        return 8, 8
    return (16, 128) if "Llama" in name else SMOLLM2_LENGTHS


def pairs_with(
    theirs, policy: Policy, prompts: list[list[int]], new: int, *, n: int
) -> list[tuple[float, ...]]:
    """(seconds of a peer, of ours) in turn, one rollout of `new` tokens per prompt.

    The weights do not change, and are laid out once.
    """
    sampler = models.make_sampler(policy, len(prompts), new)
    ours = partial(sampler.initial, prompts, 1, range(len(prompts)))
    with policy.unsharded():
        return in_turn(theirs, ours, times=n)


def tokens_per_second(pairs: list[tuple[float, ...]], tokens: int) -> dict:
    """Our speed as a figure."""
    return figure([tokens / ours for _, ours in pairs], "tokens/s")


def generate(plain, prompts: list[list[int]], new: int) -> torch.Tensor:
    """Hugging Face's sampling from the whole distribution, defaults else (sdpa, dynamic cache)."""
    ids = torch.tensor(prompts)
    out = plain.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=new,
    )
    assert out.shape[1] == ids.shape[1] + new, "no id may end the generation"
    return out


# (owner, name) of what is timed
PARTS = {
    "matrix products": (cpu_decoder.Product, "__call__"),
    "attention": (cpu_decoder, "folded_attention"),
    "decoder and cache": (KVCache, "append"),
    "drawing": (sampling, "draw"),
    "laying out weights": (Policy, "for_sampling"),
    "making the cache": (Policy, "cache"),
}


def anatomy(args) -> dict:
    """Where our time goes, and our ratio to generate if only products and attention took time."""
    figures = {}
    for name, folder in models.model_folders(args, "anatomy").items():
        policy, plain = models.endless_policy(folder), models.plain_model(folder)
        prompt, new = lengths(args, name)
        for rows in (2,) if args.light else (1, 32, 64):
            prompts = [models.random_ids(policy, k, prompt) for k in range(rows)]
            theirs = partial(generate, plain, prompts, new)
            sampler = models.make_sampler(policy, rows, new)
            ours = partial(sampler.initial, prompts, 1, range(rows))
            title = f"anatomy: {name}, batch {rows}"
            figures |= parts_of(theirs, ours, title, n=repeats(args))
    return figures


def parts_of(theirs, ours, title: str, *, n: int) -> dict:
    """The share of each of PARTS, and the bound that the first two set."""
    measured = []
    pairs = in_turn(theirs, lambda: measured.append(shares(ours)), times=n)
    # the run that does not count comes first
    measured = measured[-len(pairs) :]
    figures = {f"{title}, {what}": figure([m[what] for m in measured], "share") for what in PARTS}
    bound = [
        (generated, whole * (m["matrix products"] + m["attention"]))
        for (generated, whole), m in zip(pairs, measured)
    ]
    name = f"{title}, seconds of generate / our matrix products and attention alone"
    return figures | {name: ratio(bound)}


def shares(work) -> dict[str, float]:
    """Shares of the seconds of `work` that calls of each of PARTS take.

    The first two are part of the third, but for the head's product. Of a packed decoder only.
    """
    spent = dict.fromkeys(PARTS, 0.0)
    with ExitStack() as changed:
        for what, (owner, name) in PARTS.items():
            changed.enter_context(patch.object(owner, name, timed(owner, name, what, spent)))
        whole = seconds(work)
    return {what: s / whole for what, s in spent.items()}


def timed(owner, name: str, what: str, spent: dict[str, float]):
    """The function, its seconds added to spent[what]. A plain one: it binds as before."""
    function = getattr(owner, name)

    def call(*args, **kwargs):
        began = time.perf_counter()
        out = function(*args, **kwargs)
        spent[what] += time.perf_counter() - began
        return out

    return call
