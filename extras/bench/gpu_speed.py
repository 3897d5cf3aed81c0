"""Decoding speed on a GPU: against generate, and against the reading of weights and caches.

Also what a fork costs there, against a fresh prefill.
"""

import copy
import dataclasses
import random
import statistics
from pathlib import Path

import torch
import transformers

from extras.bench.gpu_model import Sizes, agent, no_ends
from extras.bench.measure import figure, ratio, seconds
from extras.shape import decode_bytes
from policy import Policy
from sampling import Sampler
from support.sampling_params import SamplingParams
from support.shapes import padded_keys, round_up

# rows of a prompt
FORKS = 4


def decode_speed(args, sizes: Sizes, device: str, world: Path) -> dict:
    """Rows decode at temperature 1, in turn with Hugging Face's generate.

    Four of our rows copy each prompt. Generate's DynamicCache holds as long a context for each row.
    A token's seconds are the difference of a long and a short run over their difference in tokens:
    prompts, forks and set-up are in both.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(world / "model")
    policy = no_ends(agent(sizes.shape, tokenizer, "bfloat16", device))
    rows, draw = sizes.rows, random.Random(0)
    prompts = [draw.choices(range(len(tokenizer)), k=sizes.context) for _ in range(rows // FORKS)]
    ours, theirs = Ours(policy, sizes, prompts), Theirs(policy, prompts[0], rows)
    times = []
    # the first one warms up
    for _ in range(sizes.repeats + 1):
        generate = per_token(theirs, sizes.tokens)
        times.append([generate, per_token(ours, sizes.tokens), *ours.starting()])
    figures = speed_figures(times[1:], args.gpu_bandwidth, sizes, policy.dtype.itemsize, device)
    return figures | entropy_figures(sizes, device)


def entropy_figures(sizes: Sizes, device: str) -> dict:
    """The entropy of a draw by vecdot, as support/draw.py has it, against a product and a sum.

    vecdot is a batch of products of two vectors, which may keep few parts of a GPU busy. Above 1
    the sum is faster: then draw.py should take it on a GPU, and on a GPU only, for its bits differ.
    """
    p, log_p = torch.rand(2, sizes.rows, sizes.shape.vocabulary, device=device)
    ways = (lambda: torch.linalg.vecdot(p, log_p), lambda: (p * log_p).sum(-1))
    times = []
    # the first one warms up
    for _ in range(sizes.repeats + 1):
        times.append([timed(lambda way=way: [way() for _ in range(20)]) for way in ways])
    return {"entropy of a draw: seconds by vecdot / by sum": ratio(times[1:])}


class Ours:
    """Our loop; called, it samples `tokens` tokens of four rollouts of each prompt."""

    def __init__(self, policy: Policy, sizes: Sizes, prompts: list[list[int]]):
        self.policy, self.prompts = policy, prompts
        self.params = SamplingParams(
            decode_rows=sizes.rows,
            max_tokens=max(sizes.tokens),
            max_calls=0,
            max_result_tokens=64,
            prefill_chunk=min(512, sizes.context),
        )

    def __call__(self, tokens: int) -> None:
        self.sampler(tokens).initial(self.prompts, FORKS, list(range(len(self.prompts))))

    def starting(self) -> tuple[float, float]:
        """Seconds of forking a row, and of the prefill of a prompt; means over all of them."""
        prompts, length = len(self.prompts), len(self.prompts[0])
        capacity = padded_keys(round_up(length, self.params.prefill_chunk))
        read, live = (self.policy.cache(rows, capacity) for rows in (prompts, FORKS * prompts))
        prefill = timed(self.sampler(1).prefill, self.prompts, read)

        def fork() -> None:
            for row in range(live.scratch):
                live.copy(row, read, row // FORKS, length)

        return timed(fork) / live.scratch, prefill / prompts

    def sampler(self, tokens: int) -> Sampler:
        """A sampler of the plain model, whose attention generate has changed."""
        self.policy.model.set_attn_implementation("folded")
        return Sampler(self.policy, {}, dataclasses.replace(self.params, max_tokens=tokens))


class Theirs:
    """Hugging Face's generate after a prompt that was read before; called, it adds tokens."""

    def __init__(self, policy: Policy, prompt: list[int], rows: int):
        self.model, self.rows = policy.model, rows
        self.ids = torch.tensor([prompt], device=policy.device)
        self.model.set_attn_implementation("sdpa")
        with torch.no_grad():
            self.cache = self.model(
                self.ids[:, :-1],
                use_cache=True,
                past_key_values=transformers.DynamicCache(),
                logits_to_keep=1,
            ).past_key_values

    def __call__(self, tokens: int) -> None:
        self.model.set_attn_implementation("sdpa")
        cache, whole = copy.deepcopy(self.cache), self.ids.repeat(self.rows, 1)
        cache.batch_repeat_interleave(self.rows)
        self.model.generate(
            whole,
            attention_mask=torch.ones_like(whole),
            past_key_values=cache,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=0,
        )


def timed(work, *how) -> float:
    """Seconds until the device has done it."""

    def done() -> None:
        work(*how)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return seconds(done)


def per_token(work, tokens: tuple[int, int]) -> float:
    """Seconds of a token step, from a short and a long run."""
    short, long = tokens
    return max(timed(work, long) - timed(work, short), 1e-9) / (long - short)


def speed_figures(
    times: list[list[float]], bandwidth: float, sizes: Sizes, width: int, device: str
) -> dict:
    """Names say what is aimed at on an H100 with the real model's shape.

    times: seconds per token step of generate and of ours; seconds of a fork and of the prefill of a
    prompt. width: bytes of a number. bandwidth: GB/s; its limit is reading all weights and the keys
    and values of every row.
    """
    rows, aims = sizes.rows, device != "cpu"
    generate, own, forks, prefills = zip(*times)
    name = f"decode, {rows} rows of {sizes.context} tokens"
    figures = {
        f"{name}: generate": middle([rows / t for t in generate]),
        f"{name}: ours": middle([rows / t for t in own]),
        f"{name}: ours / generate{' (aimed at: 3)' * aims}": ratio(list(zip(generate, own))),
    }
    if aims:
        context = sizes.context + sum(sizes.tokens) / 2
        read = decode_bytes(sizes.shape, width, rows, rows, 1, context)
        share = ratio([(read / (bandwidth * 1e9), t) for t in own])
        figures[f"{name}: share of {bandwidth:g} GB/s (aimed at: 0.6)"] = share
    many, title = f"{rows} rows of {sizes.context} tokens", f"a row of {sizes.context} tokens"
    return figures | {
        f"{many}, forked in{' (aimed at: 50)' * aims}": figure(
            [1000 * rows * t for t in forks], "ms"
        ),
        f"{title}, seconds of fresh prefill / fork": ratio(list(zip(prefills, forks))),
    }


def middle(values: list[float]) -> dict:
    """Median and range of tokens per second."""
    return figure(values, "tokens/s") | {"value": statistics.median(values)}
