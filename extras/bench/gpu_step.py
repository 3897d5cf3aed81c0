"""A whole step on a GPU, and its memory phase by phase against the plan."""

import dataclasses
import math
from pathlib import Path

import torch
import torch.distributed as dist

import appo
from config import Config
from extras.bench.gpu_model import Sizes, agent, open_world, settings
from extras.bench.measure import at_least, at_most, figure, ratio
from extras.memory import GIB, memory, peaks
from extras.shape import Shape
from policy import Policy
from rollout import Rollout
from sampling import Sampler
from support.metrics import Meter
from support.models import recompute_activations
from support.optimizers import adamw
from support.processes import join_ranks, local
from support.sampling_params import SamplingParams
from support.seeds import mix_seed


class Peaks:
    """Most bytes allocated on the GPU during each phase; nothing on a CPU. A meter's `note`."""

    def __init__(self):
        self.bytes, self.phase, self.real = {}, None, torch.cuda.is_available()

    def __call__(self, phase: str) -> None:
        """A phase begins."""
        if self.real:
            torch.cuda.synchronize()
            most = torch.cuda.max_memory_allocated()
            self.bytes[self.phase] = max(self.bytes.get(self.phase, 0), most)
            torch.cuda.reset_peak_memory_stats()
        self.phase = phase


def step_float32(args, sizes: Sizes, device: str, world: Path) -> dict:
    """A step whose weights are float32 copies."""
    return whole_step(args, sizes, settings(width=4, device=device, **sizes.step), world)


def step_bfloat16(args, sizes: Sizes, device: str, world: Path) -> dict:
    """A step in bfloat16 with float32 weights in shards, all on one process."""
    layout = {"shard": True, "dtype": "bfloat16", "device": device}
    return whole_step(args, sizes, settings(width=4, **layout, **sizes.step), world)


def whole_step(args, sizes: Sizes, run: Config, world: Path) -> dict:
    """One step of as many layers as fit, measured."""
    tokenizer, tools, prompts = open_world(world)
    layers = sizes.shape.layers
    if run.device != "cpu":
        layers = layers_that_fit(sizes.shape, run, torch.cuda.mem_get_info()[0])
    sharded = ", sharded over one process" * run.shard
    print(f"a step in {run.dtype}{sharded}: {layers} of {sizes.shape.layers} layers", flush=True)
    if run.shard:
        join_ranks(run)
    shape = dataclasses.replace(sizes.shape, layers=layers)
    prompts = at_the_limit(prompts, run)
    try:
        policy = agent(shape, tokenizer, "float32", run.device)
        return measured_step(args, policy, shape, run, tools=tools, prompts=prompts)
    finally:
        for tool in tools.values():
            tool.close()
        if run.shard:
            dist.destroy_process_group()


def layers_that_fit(shape: Shape, run: Config, free: int) -> int:
    """Most layers that need at most 85% of `free` bytes, by the plan and at the end of an update.

    There a GPU holds weights, gradients, AdamW's two moments, and the square roots of all second
    moments, which AdamW makes at once.
    """

    def needed(layers: int) -> int:
        part = dataclasses.replace(shape, layers=layers)
        planned = peaks(memory(part, run, 1))
        return max(*planned.values(), 5 * 4 * part.parameters)

    fitting = [n for n in range(1, shape.layers + 1) if needed(n) <= 0.85 * free]
    if not fitting:
        raise ValueError(f"not one layer fits into {free / GIB:.1f} GiB")
    return fitting[-1]


def at_the_limit(prompts: list[list[int]], run: Config) -> list[list[int]]:
    """Prompts of exactly max_prompt tokens, for the plan is made for the longest."""
    return [(p * (run.max_prompt // len(p) + 1))[: run.max_prompt] for p in prompts[: run.prompts]]


def measured_step(
    args, policy: Policy, shape: Shape, run: Config, *, tools: dict, prompts: list
) -> dict:
    """A step, what it did to the weights, its numbers, and its memory against the plan."""
    recompute_activations(policy.model)
    if run.shard:
        policy.shard(run.dtype)
    optimizer = adamw(policy.model.parameters(), run.lr, run.weight_decay)
    sampler, peak = Sampler(policy, tools, SamplingParams.of(run)), Peaks()
    asked = [
        appo.Prompt(ids, mix_seed(run.seed, 1, i), share_of_digits) for i, ids in enumerate(prompts)
    ]
    before = some_numbers(policy)
    peak("start")
    meter = Meter(sampler, peak)
    rollouts = appo.step(policy, optimizer, sampler, asked, run, meter)
    # ends the last phase
    metrics = meter.numbers(rollouts, policy.ranks)
    name = f"step, {run.dtype}, {shape.layers} layers"
    figures = changed_figures(args, name, before, some_numbers(policy))
    figures |= step_figures(args, name, metrics)
    shorter = sum(len(r.ids) < run.max_tokens for r in rollouts)
    figures |= at_most(args, f"{name}: rollouts shorter than the limit", [shorter], 0, "")
    planned = peaks(memory(shape, run, 1))
    for phase in [phase for phase in planned if phase in peak.bytes]:
        figures[f"{name}: peak of {phase}"] = figure([peak.bytes[phase] / GIB], "GiB")
        figures[f"{name}: peak of {phase} / plan"] = ratio([(peak.bytes[phase], planned[phase])])
    return figures


def changed_figures(args, name: str, before: dict, after: dict) -> dict:
    """Every matrix moved, and stayed finite."""
    still = sum(torch.equal(before[k], after[k]) for k in before)
    broken = sum(not bool(v.isfinite().all()) for v in after.values())
    return at_most(args, f"{name}: matrices that did not move", [still], 0, "") | at_most(
        args, f"{name}: matrices not finite", [broken], 0, ""
    )


def step_figures(args, name: str, metrics: dict[str, float]) -> dict:
    """What the step says of itself: finite, no update skipped."""
    broken = sum(not math.isfinite(x) for x in metrics.values())
    figures = at_most(args, f"{name}: metrics not finite", [broken], 0, "")
    figures |= at_most(args, f"{name}: updates skipped", [metrics["skipped"]], 0, "")
    figures |= at_least(args, f"{name}: optimizer steps", metrics["optimizer_steps"], 2, "")
    units = {"computed_per_unique": "", "sampler_gap": "nats"}
    units |= {"degenerate_later": "share", "grad_norm": ""}
    for key, unit in units.items():
        figures[f"{name}: {key}"] = figure([metrics[key]], unit)
    for key in metrics:
        if key.startswith("seconds_"):
            figures[f"{name}: {key.removeprefix('seconds_')}"] = figure([metrics[key]], "s")
    return figures


def some_numbers(policy: Policy) -> dict[str, torch.Tensor]:
    """The first thousand numbers of every matrix of the layers, on the host."""
    return {
        name: local(p.detach()).flatten()[:1000].cpu().clone()
        for name, p in policy.model.named_parameters()
        if p.ndim == 2 and "layers" in name
    }


def share_of_digits(rollout: Rollout) -> float:
    """A made-up reward that differs from rollout to rollout."""
    text = rollout.policy_text
    return sum(c.isdigit() for c in text) / max(len(text), 1)
