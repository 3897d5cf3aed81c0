"""Numbers on a GPU: sampling, forks and fresh passes agree; greedy ids are those of generate."""

import dataclasses
import math
import random
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

import appo
from config import Config
from extras.bench.gpu_model import (
    TINY,
    Sizes,
    agent,
    no_ends,
    open_world,
    settings,
)
from extras.bench.measure import at_least, at_most, figure
from policy import Policy
from rollout import Rollout
from sampling import Sampler
from support.sampling_params import SamplingParams
from support.seeds import mix_seed

# nats; what tests/test_sampling.py asks for on the CPU
FLOAT32 = {"logp": 1e-4, "logp, mean": 1e-5, "entropy": 2e-4}
# far below what a wrong prefix gives: the control
BFLOAT16 = {"logp": 0.5, "logp, mean": 0.1, "entropy": 0.5}


@dataclass
class Given:
    """What a step's sampling is given."""

    policy: Policy
    tools: dict
    prompts: list[list[int]]
    run: Config


def numbers_agree(args, sizes: Sizes, device: str, world: Path) -> dict:
    """In float32 on a small model, in bfloat16 at the real shape."""
    tokenizer, tools, prompts = open_world(world)
    run = settings(**sizes.tree)
    figures = {}
    for shape, dtype, bounds in ((TINY, "float32", FLOAT32), (sizes.shape, "bfloat16", BFLOAT16)):
        policy = agent(shape, tokenizer, dtype, device)
        given = Given(policy, tools, prompts[: run.prompts], run)
        name = f"{dtype}, {shape.parameters / 1e6:.4g} M"
        figures |= agreement(args, name, given, bounds)
        # its memory is free before the next model is made
        del policy, given
    for tool in tools.values():
        tool.close()
    return figures


def agreement(args, name: str, given: Given, bounds: dict) -> dict:
    """A step's sampling, and what fresh passes say of the numbers that it recorded."""
    sampler, initial, branches = sampled_tree(given)
    figures = tree_figures(args, name, given, sampler, initial + branches)
    figures[f"{name}: branches"] = figure([len(branches)], "")
    for what, rollouts in (("sampled - scored", initial), ("fork - fresh pass", branches)):
        logp, entropy = gaps(given, rollouts)
        mean = statistics.fmean(logp or [math.nan])
        title = f"{name}: {what}"
        figures |= at_most(args, f"{title}, log-prob", logp, bounds["logp"])
        figures |= at_most(args, f"{title}, entropy", entropy, bounds["entropy"])
        figures |= at_most(args, f"{title}, log-prob, mean", [mean], bounds["logp, mean"])
    wrong, _ = gaps(given, [after_a_wrong_prefix(r) for r in branches if r.fork_at > 1])
    mean, bound = statistics.fmean(wrong or [math.nan]), 3 * bounds["logp, mean"]
    control = f"{name}: control, one token less in the prefix, mean"
    return figures | at_least(args, control, mean, bound, "nats")


def tree_figures(args, name: str, given: Given, sampler: Sampler, rollouts: list[Rollout]) -> dict:
    """Tokens computed for a tree, and its tool calls. A branch counts from where it leaves."""
    unique = sum(map(len, given.prompts)) + sum(len(r.ids) - r.fork_at for r in rollouts)
    calls = [call for r in rollouts for call in r.calls if not r.inherits(call)]
    per_unique = sampler.count["computed"] / unique
    figures = {f"{name}: computed / unique tokens": figure([per_unique], "")}
    for tool in given.tools:
        statuses = [call.status for call in calls if call.name == tool]
        lost = sum(status in ("infra", "") for status in statuses)
        figures |= at_least(args, f"{name}: {tool} calls", len(statuses), 1, "")
        figures |= at_most(args, f"{name}: {tool} calls without an answer", [lost], 0, "")
    return figures


def sampled_tree(given: Given) -> tuple[Sampler, list[Rollout], list[Rollout]]:
    """Everything of a step before its first update: (sampler, initial rollouts, branches)."""
    policy, run = given.policy, given.run
    sampler = Sampler(policy, given.tools, SamplingParams.of(run))
    seeds = [mix_seed(run.seed, i) for i in range(len(given.prompts))]
    initial = sampler.initial(given.prompts, run.initial, seeds)
    appo.score_start(policy, [initial], run)
    cache = appo.score_now(policy, initial, run)
    appo.set_omega(initial, run)
    points = appo.decision_points(policy, initial, run)
    return sampler, initial, sampler.branches(initial, points, cache)


def gaps(given: Given, rollouts: list[Rollout]) -> tuple[list[float], list[float]]:
    """abs(recorded while sampling - of a fresh pass), of log-probs and of entropies.

    At the tokens that each rollout drew itself.
    """
    given.policy.score(rollouts, given.run.temperature, given.run.micro_tokens)
    drawn = [(r, t) for r in rollouts for t in range(r.fork_at, len(r.ids)) if r.mask[t]]
    logp = [abs(r.sampled_logp[t] - float(r.logp[t])) for r, t in drawn]
    return logp, [abs(r.sampled_entropy[t] - float(r.entropy[t])) for r, t in drawn]


def after_a_wrong_prefix(r: Rollout) -> Rollout:
    """The first token that a branch drew itself, as if the one before its fork were not there."""
    fields = ("ids", "mask", "sampled_logp", "sampled_entropy")
    kept = [*range(r.fork_at - 1), r.fork_at]
    changed = {name: [getattr(r, name)[t] for t in kept] for name in fields}
    return dataclasses.replace(r, **changed, fork_at=r.fork_at - 1)


def equals_generate(args, sizes: Sizes, device: str, world: Path) -> dict:
    """50 greedy tokens after prompts of several lengths.

    Where ids part, generate preferred its own by a log-prob below 1e-3: a tie.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(world / "model")
    policy = no_ends(agent(TINY, tokenizer, "float32", device))
    run = settings(decode_rows=3, max_prompt=64, max_tokens=50, prefill_chunk=16, temperature=1.0)
    draw = random.Random(0)
    prompts = [draw.choices(range(len(tokenizer)), k=k) for k in (1, 5, 23, 60)]
    sampler = Sampler(policy, {}, SamplingParams.of(run))
    ours = sampler.initial(prompts, 1, [0] * len(prompts), temperature=0)
    policy.model.set_attn_implementation("sdpa")
    lost = [lost_against_generate(policy, p, r.ids) for p, r in zip(prompts, ours)]
    parted = sum(x is not None for x in lost)
    different = len({i for r in ours for i in r.ids})
    title = "greedy, float32"
    return (
        at_most(args, f"{title}: log-prob lost against generate", [x or 0.0 for x in lost], 1e-3)
        | {f"{title}: rows that part from generate at a tie": figure([parted], "")}
        | at_least(args, f"{title}: different ids in 200 tokens", different, 10, "")
    )


def lost_against_generate(policy: Policy, prompt: list[int], ids: list[int]) -> float | None:
    """Where our greedy ids part from generate's: how much likelier its id is. None: nowhere."""
    given = torch.tensor([prompt], device=policy.device)
    out = policy.model.generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=len(ids),
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    theirs = out.sequences[0, len(prompt) :].tolist()
    for t, (own, other) in enumerate(zip(ids, theirs)):
        if own != other:
            logits = out.logits[t][0]
            return float(logits[other] - logits[own])
    return None
