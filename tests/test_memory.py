"""extras/memory.py: bytes by item against what a small model really allocates, peaks, advice."""

import dataclasses
import random
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import untrained

import appo
from config import Config, read_settings
from extras import memory as items_of
from extras.bench.models import most_allocated
from extras.memory import (
    CHUNKS,
    GIB,
    ONE_CHUNK,
    PHASES,
    SCORING,
    activations,
    advice,
    fewer_forks,
    live_capacity,
    logits_at_once,
    memory,
    peaks,
    reading_bytes,
    smaller_passes,
)
from extras.shape import forward_flops, read_shape
from policy import Policy, padded_width
from rollout import Rollout
from sampling import Sampler
from support import log_probs
from support.draw import draw
from support.gpu_decoder import FlashDecoder
from support.log_probs import logp_in_chunks, stats_in_chunks
from support.models import recompute_activations
from support.sampling_params import SamplingParams
from support.shapes import padded_keys

# ---- against what is really allocated: float32, one process

CONFIGS = Path(__file__).parents[1] / "configs"
N, PROMPT, RESPONSE, CHUNK = 4, 64, 448, 256


@pytest.fixture(params=["llama", "qwen3"])
def small(request, tokenizer, tmp_path, monkeypatch):
    """(policy, shape, settings, rollouts at the limits): a prompt, N rollouts, a pass an update."""
    model = untrained(
        request.param,
        tokenizer,
        vocab_size=3000,
        hidden_size=128,
        num_hidden_layers=4,
        intermediate_size=640,
        head_dim=32,
    )
    model.config.save_pretrained(tmp_path)
    for module in (log_probs, items_of):
        # as few as with a vocabulary of 100,000
        monkeypatch.setattr(module, "logits_chunk", lambda vocabulary: CHUNK)
    run = Config(
        model=str(tmp_path),
        device="cpu",
        prompts=1,
        minibatch=1,
        micro_tokens=N * (PROMPT + RESPONSE),
        max_prompt=PROMPT,
        max_tokens=RESPONSE,
        decode_rows=6,
        prefill_chunk=32,
    )
    return Policy(model, tokenizer), read_shape(str(tmp_path)), run, at_the_limits(3000)


def at_the_limits(vocabulary: int) -> list[Rollout]:
    draw, T = random.Random(0), RESPONSE

    def words(k):
        return draw.choices(range(vocabulary), k=k)

    rollouts = [Rollout(words(PROMPT), n, ids=words(T), mask=[True] * T) for n in range(N)]
    for r in rollouts:
        r.logp_old, r.advantage = torch.zeros(T), torch.randn(T)
    return rollouts


def close(measured: float, planned: float, within: float = 0.1) -> bool:
    return abs(measured - planned) <= within * measured


def size(*tensors) -> int:
    return sum(x.untyped_storage().nbytes() for x in tensors)


def saved_bytes(policy, work) -> int:
    """Bytes of the distinct storages that autograd saved during `work`, parameters aside."""
    seen, alive, own = {}, [], {p.untyped_storage().data_ptr() for p in policy.model.parameters()}

    def pack(x):
        # or its address would be given to another
        alive.append(x)
        if x.untyped_storage().data_ptr() not in own:
            seen[x.untyped_storage().data_ptr()] = size(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        work()
    return sum(seen.values())


def test_parameters_gradients_and_optimizer(small):
    policy, shape, run, rollouts = small
    items, parameters = memory(shape, run, 1), list(policy.model.parameters())
    optimizer, seen = torch.optim.AdamW(parameters, lr=1e-6), []
    optimizer.register_step_pre_hook(lambda *_: seen.append(size(*(p.grad for p in parameters))))
    appo.update(policy, optimizer, rollouts, run)
    assert items["parameters"] == size(*parameters)
    assert [items["gradients"]] == seen and all(p.grad is None for p in parameters), (
        "gradients live as long as an update"
    )
    assert close(
        size(*(x for state in optimizer.state.values() for x in state.values())),
        items["AdamW state"],
    )


def brief(policy, run) -> Sampler:
    """A sampler whose rollouts end with their first token; its memory is that of the longest."""
    policy.stop_ids = set(range(policy.vocabulary))
    return Sampler(policy, {}, SamplingParams.of(run))


@pytest.mark.parametrize("constant_rows", [True, False])
def test_caches(small, constant_rows, monkeypatch):
    policy, shape, run, rollouts = small
    made, cache = [], policy.cache

    def spied(*args):
        made.append(cache(*args))
        return made[-1]

    monkeypatch.setattr(policy, "cache", spied)
    # a call of prompts has a quarter of the rows
    for rows, prompts in ((6, 1), (6, 7), (12, 2), (12, 5)):
        part = dataclasses.replace(
            run, prompts=prompts, decode_rows=rows, constant_rows=constant_rows
        )
        items, sampler = memory(shape, part, 1), brief(policy, part)
        sampler.initial([[5] * PROMPT] * prompts, run.initial, list(range(prompts)))
        sizes = [size(cache.kv) for cache in made]
        assert sizes == [items["KV cache of initial rollouts"], items["KV cache of prompts"]]
        made.clear()
    scored = policy.score(rollouts, 1.0, run.micro_tokens, keep_cache=True)
    assert items["KV cache to fork from"] == size(scored.kv)
    assert items["hidden states to fork from"] == size(scored.states)
    points = [list(range(1, 1 + run.branches))] * len(rollouts)
    sampler.branches(rollouts, points, scored)
    assert [size(x.kv) for x in made[1:]] == [items["KV cache of branches"]]


def test_peaks_of_sampling_and_branching(small):
    """All that a run of the sampler allocates: caches, packed weights, prompts, a token."""
    policy, shape, run, rollouts = small
    run = dataclasses.replace(run, decode_rows=32, prompts=9)
    items, sampler = memory(shape, run, 1), brief(policy, run)
    elsewhere = items["parameters"] + items["AdamW state"]
    prompts = [[5] * PROMPT] * run.prompts
    sampling = most_allocated(lambda: sampler.initial(prompts, run.initial, [0] * run.prompts))
    assert close(sampling, peaks(items)["sample"] - elsewhere)
    scored = policy.score(rollouts, 1.0, run.micro_tokens, keep_cache=True)
    points = [list(range(1, 1 + run.branches))] * len(rollouts)
    branching = most_allocated(lambda: sampler.branches(rollouts, points, scored))
    forked_from = size(scored.kv, scored.states)
    assert close(branching + forked_from, peaks(items)["branch"] - elsewhere)


@pytest.mark.parametrize("packed", [False, True])
def test_reading_a_result(small, packed):
    policy, shape, run, _ = small
    rows, S, slots = 8, run.prefill_chunk, live_capacity(run)
    cache, where = policy.cache(rows, slots), torch.arange(rows)
    ids, n = torch.zeros(rows, S, dtype=torch.long), torch.full((rows,), S)
    with policy.unsharded():
        decoder = policy.for_sampling()[0] if packed else policy.decoder
        reading = most_allocated(lambda: cache.append(decoder, ids, n, where, slots))
    planned = reading_bytes(shape, run, rows, slots)
    # the model itself frees a layer's keys before its MLP
    assert close(reading, planned) if packed else 0.7 * planned < reading < planned


@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"),
    reason="nothing is packed without AVX2",
)
def test_packed_weights(small):
    policy, shape, run, _ = small

    def pack():
        with policy.unsharded():
            assert policy.for_sampling()[0] is not policy.decoder

    items = memory(shape, run, 1)
    assert close(most_allocated(pack), items["packed weights"], 0.01)


def test_weights_side_by_side_on_a_gpu(small):
    """What a FlashDecoder copies; biases are not counted."""
    policy, shape, run, _ = small
    layers = FlashDecoder(policy.model).layers
    copied = sum(layer.qkv[0].numel() for layer in layers)
    on_gpu = dataclasses.replace(run, device="cuda", dtype="bfloat16", shard=True)
    assert memory(shape, on_gpu, 1)["packed weights"] == 2 * copied > 0
    in_float32 = dataclasses.replace(on_gpu, dtype="float32")
    assert memory(shape, in_float32, 1)["packed weights"] == 0


def test_parts_of_a_minibatch(small):
    """--fork_tokens: what is kept to fork from is of as many prompts as fit, of one at least."""
    _, shape, run, _ = small
    whole = dataclasses.replace(run, prompts=8, minibatch=8)
    W = padded_keys(padded_width(at_the_limits(3000)))
    for budget, kept in ((0, 8), (10**9, 8), (3 * N * W, 3), (3 * N * W - 1, 2), (1, 1)):
        items, few = (
            memory(shape, dataclasses.replace(whole, fork_tokens=budget), 1),
            memory(shape, dataclasses.replace(run, prompts=kept, minibatch=kept), 1),
        )
        assert all(
            items[name] == few[name] for name in items if "fork" in name or "branches" in name
        )
    assert fewer_forks(whole, 2) == [2 * N * W, N * W] and fewer_forks(
        dataclasses.replace(whole, fork_tokens=2 * N * W), 1
    ) == [N * W]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_tensors_that_autograd_saves(small, checkpointing):
    policy, shape, run, rollouts = small
    if checkpointing:
        recompute_activations(policy.model), policy.model.train()
    items = memory(shape, run, 1, checkpointing)
    width, T = padded_width(rollouts), RESPONSE
    # the last norm; the responses' part of its output
    last = N * shape.hidden * (width * 8 + T * 4)
    assert close(
        saved_bytes(policy, lambda: policy.logp(rollouts, 1.0)),
        items["activations"] + last,
        0.01,
    )


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
# the logits are the most, or a layer is
@pytest.mark.parametrize("vocabulary", [3000, 1024])
def test_peak_of_an_update(small, tokenizer, checkpointing, vocabulary):
    policy, shape, run, rollouts = small
    if vocabulary != shape.vocabulary:
        changed = policy.model.config.to_diff_dict() | {"vocab_size": vocabulary}
        policy = Policy(untrained(policy.model.config.model_type, tokenizer, **changed), tokenizer)
        shape, rollouts = (
            dataclasses.replace(shape, vocabulary=vocabulary),
            at_the_limits(vocabulary),
        )
    if checkpointing:
        recompute_activations(policy.model), policy.model.train()
    run = dataclasses.replace(run, checkpointing=checkpointing)
    items, optimizer = memory(shape, run, 1), torch.optim.AdamW(policy.model.parameters(), lr=1e-6)
    appo.update(policy, optimizer, rollouts, run)
    # the profiler sees only what is allocated from here on
    optimizer.zero_grad(set_to_none=True)
    elsewhere = items["parameters"] + items["AdamW state"]
    assert close(
        most_allocated(lambda: appo.update(policy, optimizer, rollouts, run)),
        peaks(items)["update"] - elsewhere,
    )


def test_peak_of_the_scoring_pass(small):
    policy, shape, run, rollouts = small
    items = memory(shape, run, 1)
    scoring = most_allocated(lambda: policy.score(rollouts, 1.0, run.micro_tokens, keep_cache=True))
    assert close(
        scoring,
        items["KV cache to fork from"]
        + items["hidden states to fork from"]
        + max(items["logits chunk *"], items["forward pass *"]),
    )
    width = padded_width(rollouts)
    with torch.no_grad():
        reading = most_allocated(
            lambda: policy.decoder(
                input_ids=torch.zeros(N, width, dtype=torch.long), use_cache=False
            )
        )
    assert close(reading, items["forward pass *"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
# one chunk, whose logits are kept; several, whose are computed again
@pytest.mark.parametrize("M", [CHUNK, 4 * CHUNK])
def test_logits_chunk(small, dtype, M):
    policy, shape, run, _ = small
    policy.model.to(dtype).requires_grad_(False)
    hidden = torch.randn(M, shape.hidden, dtype=dtype, requires_grad=True)
    ids = torch.zeros(M, dtype=torch.long)
    logits = logits_at_once(shape, M)
    head, training = policy.head, ONE_CHUNK * logits
    if M > CHUNK:
        # the gradients of the output matrix and of the hidden states
        outer = (shape.vocabulary + M) * shape.hidden
        training = CHUNKS * logits + outer * hidden.element_size()
    update = most_allocated(lambda: logp_in_chunks(head, hidden, ids, 1.0).sum().backward())
    scoring = most_allocated(lambda: torch.no_grad()(stats_in_chunks)(head, hidden, ids, 1.0))
    assert close(update, training) and close(scoring, SCORING * logits)


def test_gradients_of_the_output_matrix(small, monkeypatch):
    """What a pass adds to the gradient of the output matrix is one matrix, whatever its chunks."""
    policy, shape, run, _ = small
    for module in (log_probs, items_of):
        # few logits beside the matrix
        monkeypatch.setattr(module, "logits_chunk", lambda vocabulary: 8)
    hidden, ids = torch.randn(64, shape.hidden), torch.zeros(64, dtype=torch.long)
    way = partial(logp_in_chunks, policy.head, hidden, ids, 1.0)
    measured = most_allocated(lambda: way().sum().backward())
    gradient = 4 * shape.vocabulary * shape.hidden
    assert close(measured, gradient + CHUNKS * logits_at_once(shape, N * RESPONSE))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_in_bfloat16(small, checkpointing):
    policy, shape, run, rollouts = small
    policy.model.to(torch.bfloat16)
    if checkpointing:
        recompute_activations(policy.model), policy.model.train()
    width, T = padded_width(rollouts), RESPONSE
    # as above
    last = N * shape.hidden * (width * 6 + T * 2)
    saved = saved_bytes(policy, lambda: policy.logp(rollouts, 1.0))
    assert close(saved, activations(shape, N * width, 2, checkpointing) + last, 0.02)


def test_drawing(small):
    policy, shape, run, _ = small
    logits, u = (
        torch.randn(run.decode_rows, shape.vocabulary),
        torch.rand(run.decode_rows, dtype=torch.float64),
    )
    measured = size(logits) + most_allocated(lambda: draw(logits, u, 1.0))
    assert close(measured, memory(shape, run, 1)["drawing a token *"]), measured / logits.numel()


def test_flops_as_torch_counts_them(small):
    from torch.utils.flop_counter import FlopCounterMode

    policy, shape, _, rollouts = small
    # the counter does not know the fused attention of the CPU
    policy.model.set_attn_implementation("eager")
    width, T = padded_width(rollouts), RESPONSE
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        policy.logp(rollouts, 1.0)
    assert close(counter.get_total_flops(), forward_flops(shape, N * width, width, N * T)), (
        "eager attention looks at all of the width"
    )


# ---- by hand


def test_sharded_items_by_hand():
    run = Config(
        model="m",
        decode_rows=64,
        micro_tokens=8 * 6144,
        shard=True,
        dtype="bfloat16",
        checkpointing=True,
        device="cuda",
    )
    shape, items = (
        read_shape("Qwen/Qwen2.5-7B-Instruct"),
        memory(read_shape("Qwen/Qwen2.5-7B-Instruct"), run, 8),
    )
    P = 7_615_616_512
    assert (
        items["parameters"],
        items["gradients"],
        items["AdamW state"],
        items["unsharded weights"],
    ) == (P // 2, P // 2, P, 2 * P)
    assert (
        items["KV cache of initial rollouts"] == 2 * 28 * 65 * 4 * 6656 * 128 * 2
        and items["KV cache of branches"] == 2 * 28 * 25 * 4 * 6656 * 128 * 2
        and items["KV cache to fork from"] == 2 * 28 * 9 * 4 * 6144 * 128 * 2
    )
    assert items["reference model"] == 0
    assert memory(shape, dataclasses.replace(run, kl_coef=0.001), 8)["reference model"] == P // 2
    grpo = memory(shape, dataclasses.replace(run, branches=0, future_weight=0.0), 8)
    assert grpo["KV cache to fork from"] == grpo["hidden states to fork from"] == 0
    alone = memory(shape, dataclasses.replace(run, shard=False, dtype="float32"), 1)
    assert (
        alone["parameters"],
        alone["unsharded weights"],
        alone["weights and gradients in flight"],
    ) == (4 * P, 0, 0)


def test_weights_are_split_within_a_node_and_copied_across():
    run = read_settings(["--config", str(CONFIGS / "qwen3-14b-search.json"), "--data", "d"])
    shape = read_shape(run.model)
    one, two, wide = (
        memory(shape, run, 8),
        memory(shape, run, 16),
        memory(shape, run, 16, per_node=16),
    )
    for name in ("parameters", "gradients", "AdamW state"):
        assert one[name] == two[name] == pytest.approx(2 * wide[name], rel=1e-9)
    assert two["KV cache to fork from"] < one["KV cache to fork from"], (
        "but prompts are shared by all"
    )


def test_loading_holds_the_whole_float32_weights():
    run = read_settings(["--config", str(CONFIGS / "qwen2.5-7b-reasoning.json"), "--data", "d"])
    items = memory(read_shape(run.model), run, 8)
    assert peaks(items)["load"] == 4 * 7_615_616_512 + items["parameters"]


def test_every_item_has_a_phase_and_the_peak_counts_one_moment():
    shape, run = read_shape("Qwen/Qwen3-8B"), Config(model="m", kl_coef=0.001, micro_tokens=12288)
    items = memory(shape, run, 8)
    assert set(items) == {name for names in PHASES.values() for name in names}
    held = sum(size for name, size in items.items() if name in PHASES["update"] and "*" not in name)
    assert peaks(items)["update"] == held + max(items["logits chunk *"], items["layer backward *"])


def test_passes_grow_with_the_budget_between_one_rollout_and_all():
    shape, run = (
        read_shape("Qwen/Qwen2.5-7B-Instruct"),
        Config(model="m", shard=True, dtype="bfloat16"),
    )

    def held(budget):
        return memory(shape, dataclasses.replace(run, micro_tokens=budget), 8)["activations"]

    assert (
        held(1) == held(6144)
        and held(12288) == 2 * held(6144)
        and held(8 * 6144) == held(10**9) == 8 * held(6144)
    )
    assert smaller_passes(dataclasses.replace(run, micro_tokens=20000)) == [10000, 6144]


def test_advice_is_a_setting_that_fits():
    run = read_settings(
        [
            "--config",
            str(CONFIGS / "qwen2.5-7b-reasoning.json"),
            "--data",
            "d",
            "--prompts",
            "512",
            "--rows",
            "256",
        ]
    )
    shape = read_shape(run.model)
    assert max(peaks(memory(shape, run, 8)).values()) > 80 * GIB
    flag, peak = advice(shape, run, 8, 80 * GIB)
    assert (
        flag == "--decode_rows 128"
        and peak
        == max(peaks(memory(shape, dataclasses.replace(run, decode_rows=128), 8)).values())
        <= 80 * GIB
    )
    assert advice(shape, dataclasses.replace(run, decode_rows=1, micro_tokens=1), 1, 8 * GIB)[
        0
    ].startswith("--gpus")
