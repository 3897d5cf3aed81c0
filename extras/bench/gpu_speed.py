"""Decoding speed on a GPU: against generate, and against the reading of weights and caches."""

import copy
import random
import statistics
from pathlib import Path

import torch
import transformers

from extras.bench.gpu_model import Sizes, agent, no_ends, sampler_of, settings
from extras.bench.measure import figure, ratio, seconds
from extras.shape import decode_bytes
from model import Policy
from sampling import sample_initial


def decode_speed(args, sizes: Sizes, device: str, world: Path) -> dict:
    """Rows decode at temperature 1, in turn with Hugging Face's generate.

    Our rows share one prompt, or share one by fours. Generate's DynamicCache holds as long a
    context for each row. A token's seconds are the difference of a long and a short run over their
    difference in tokens: prompts, forks and set-up are in both.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(world / "model")
    policy = no_ends(agent(sizes.shape, tokenizer, "bfloat16", device))
    rows, draw = sizes.rows, random.Random(0)
    prompts = [draw.choices(range(len(tokenizer)), k=sizes.context) for _ in range(rows // 4)]
    ours, theirs = Ours(policy, sizes), Theirs(policy, prompts[0], rows)
    times = []
    # the first one warms up
    for _ in range(sizes.repeats + 1):
        generate = per_token(theirs, sizes.tokens)
        forks = timed(ours, 1, prompts[:1], rows) - timed(ours, 1, prompts[:1], 1)
        one_prompt = per_token(ours, sizes.tokens, prompts[:1], rows)
        by_fours = per_token(ours, sizes.tokens, prompts, 4)
        times.append([generate, one_prompt, by_fours, forks])
    return speed_figures(times[1:], args.gpu_bandwidth, sizes, policy.dtype.itemsize, device)


class Ours:
    """Our loop; called, it samples `tokens` tokens of so many rollouts of each prompt."""

    def __init__(self, policy: Policy, sizes: Sizes):
        run = settings(
            decode_rows=sizes.rows,
            max_prompt=sizes.context,
            max_tokens=max(sizes.tokens),
            prefill_chunk=min(512, sizes.context),
        )
        self.policy, self.sampler = policy, sampler_of(policy, {}, run)

    def __call__(self, tokens: int, prompts: list[list[int]], rollouts: int) -> None:
        self.policy.model.set_attn_implementation("folded")
        self.sampler.max_tokens = tokens
        sample_initial(self.sampler, prompts, rollouts, list(range(len(prompts))))


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


def per_token(work, tokens: tuple[int, int], *how) -> float:
    """Seconds of a token step, from a short and a long run."""
    short, long = tokens
    return max(timed(work, long, *how) - timed(work, short, *how), 1e-9) / (long - short)


def speed_figures(
    times: list[list[float]], bandwidth: float, sizes: Sizes, width: int, device: str
) -> dict:
    """Names say what is aimed at on an H100 with the real model's shape.

    times: seconds per token step of generate, of rows that share one prompt, of rows that share by
    fours; seconds of forking all rows but one. width: bytes of a number. bandwidth: GB/s; its limit
    is reading all weights, every prompt once and every row's own keys.
    """
    rows, aims = sizes.rows, device != "cpu"
    name = f"decode, {rows} rows of {sizes.context} tokens"
    figures = {f"{name}: generate": middle([rows / t[0] for t in times])}
    for k, prompts in ((1, 1), (2, rows // 4)):
        what = "one prompt" if prompts == 1 else f"{prompts} prompts"
        title, pairs = f"{name}, {what}", [(t[0], t[k]) for t in times]
        figures[f"{title}: ours"] = middle([rows / t[k] for t in times])
        figures[f"{title}: ours / generate{' (aimed at: 3)' * aims}"] = ratio(pairs)
        if aims:
            context = sizes.context * prompts / rows + sum(sizes.tokens) / 2
            read = decode_bytes(sizes.shape, width, rows, rows, 1, context)
            limit = read / (bandwidth * 1e9)
            share = ratio([(limit, t[k]) for t in times])
            figures[f"{title}: share of {bandwidth:g} GB/s (aimed at: 0.5)"] = share
    forks = f"forks of {rows - 1} rows at {sizes.context} tokens{' (aimed at: below 50)' * aims}"
    return figures | {forks: figure([1000 * t[3] for t in times], "ms")}


def middle(values: list[float]) -> dict:
    """Median and range of tokens per second."""
    return figure(values, "tokens/s") | {"value": statistics.median(values)}
