"""plan.py: settings of the paper's runs, parameter counts, memory against what a small model really allocates, FLOPs, and the printed plan."""

import dataclasses
import math
import random

import pytest
import torch
import transformers
from conftest import untrained

import appo
import model
import sampling
import train
from appo import PASS_BLOCK
from config import LAPTOP, Config, read_settings
from extras import plan
from extras.bench.models import most_allocated
from extras.plan import (
    Hardware,
    activations,
    forward_flops,
    memory,
    peaks,
    read_shape,
    seconds,
    work,
)
from model import Policy, key_slots, recompute_activations, round_up
from sampling import Rollout, Sampler, draw, sample_initial

CONFIGS = LAPTOP.parent
GIB = 2**30


# ---- the files in configs/

# As in the paper: prompts, minibatch, N, B, b, half-life, response budget, KL, steps (reasoning 2 epochs of 78, search 5 of 8).
PAPER = {
    "qwen2.5-7b-reasoning": (128, 16, 4, 3, 0.5, 32, 4096, 0, 156),
    "llama3.1-8b-reasoning": (128, 16, 4, 3, 0.5, 32, 4096, 0, 156),
    "qwen3-8b-search": (128, 16, 4, 3, 0.5, 32, 8192, 0, 40),
    "qwen3-14b-search": (128, 16, 4, 3, 0.5, 32, 8192, 0, 40),
}
# As in the released scripts, which draw N branches a prompt: B = 1 with branch_pool "prompt". Steps: epochs x whole batches of 10,000 or 1,071.
RELEASED = {
    "qwen2.5-7b-reasoning-released": (96, 16, 8, 1, 1.0, 64, 6144, 0.001, 208),
    "llama3.1-8b-reasoning-released": (96, 16, 8, 1, 1.0, 64, 6144, 0.001, 208),
    "qwen3-8b-search-released": (128, 16, 8, 1, 1.0, 64, 10000, 0.001, 40),
    "qwen3-14b-search-released": (64, 8, 6, 1, 1.0, 64, 6192, 0.001, 80),
}
COMMON = dict(
    lr=1e-6,
    weight_decay=0.01,
    clip_grad=1.0,
    clip_low=0.2,
    clip_high=0.28,
    clip_c=3.0,
    ppo_epochs=1,
    temperature=1.0,
    topk=10,
    future_clip=(1.0, 1.2),
)
MODELS = {
    "qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
    "llama3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen3-14b": "Qwen/Qwen3-14B",
}


def model_of(name: str) -> str:
    return MODELS[name.split("-reasoning")[0].split("-search")[0]]


@pytest.mark.parametrize("name", PAPER | RELEASED)
def test_config_holds_the_papers_numbers(name):
    run = read_settings(["--config", str(CONFIGS / f"{name}.json"), "--data", "d.jsonl"])
    sizes = (
        run.prompts,
        run.minibatch,
        run.initial,
        run.branches,
        run.future_weight,
        run.half_life,
        run.max_tokens,
        run.kl_coef,
        run.steps,
    )
    assert sizes == (PAPER | RELEASED)[name] and (run.model, run.data) == (
        model_of(name),
        "d.jsonl",
    )
    assert {key: getattr(run, key) for key in COMMON} == COMMON
    search, released = "search" in name, name in RELEASED
    assert (run.max_prompt, run.max_calls, run.tool_timeout) == (
        (2000, 6, 120.0) if search else (2048, 3, 30.0)
    )
    method = (
        run.branch_at,
        run.branch_pool,
        run.branch_when,
        run.dual,
        run.aggregate,
        run.score_half_life,
        run.fipo_guards,
        run.reward,
    )
    assert method + (run.cold_batch,) == (
        ("keep", "prompt", "step", "sum", "token-mean", math.inf, True, "released", 16)
        if released
        else ("resample", "rollout", "minibatch", "avg", "seq-mean", 32, False, "auto", 128)
    )
    if not released:
        assert (
            run.cold_lr,
            run.cold_epochs,
            run.cold_max_tokens,
            run.cold_weight_decay,
            run.cold_steps,
        ) == (7e-6, 3, 4096, 0.1, 0)
    else:
        assert (run.cold_schedule, run.cold_warmup, run.cold_weight_decay, run.cold_max_tokens) == (
            "cosine",
            0.1,
            0,
            15000,
        )


def test_every_config_is_in_the_table():
    assert {file.stem for file in CONFIGS.glob("*.json")} == {
        *PAPER,
        *RELEASED,
        "laptop",
        "smollm2",
    }


# ---- parameter counts

PUBLISHED = {
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B-Base": 14_768_307_200,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
}


def on_meta(name: str):
    """The model of a name in plan.TABLE, without storage."""
    family, layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary, tied = plan.TABLE[
        name
    ]
    config = transformers.AutoConfig.for_model(
        family,
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_as_published_and_as_transformers_counts_them(name):
    shape, short = (
        read_shape(name),
        name.split("/")[1].lower().removesuffix("-instruct").removesuffix("-base"),
    )
    assert (
        shape.parameters == PUBLISHED[name] == sum(p.numel() for p in on_meta(short).parameters())
    )


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_shape_of_a_folder(family, tied, tokenizer, tmp_path):
    model = untrained(family, tokenizer, tie_word_embeddings=tied, head_dim=24)
    model.config.save_pretrained(tmp_path)
    assert read_shape(str(tmp_path)).parameters == sum(p.numel() for p in model.parameters())


def test_unknown_models(tmp_path):
    for name in ("nobody/knows-this", str(tmp_path)):
        with pytest.raises(
            ValueError,
            match="no config.json can be read there, and by name only these are known: qwen2.5-0.5b",
        ):
            read_shape(name)
    transformers.GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="this is a gpt2"):
        read_shape(str(tmp_path))


# ---- memory against what is really allocated: float32, one process

N, PROMPT, RESPONSE, CHUNK = 4, 64, 448, 256


@pytest.fixture(params=["llama", "qwen3"])
def small(request, tokenizer, tmp_path, monkeypatch):
    """(policy, shape, settings, rollouts at the limits): one prompt, N rollouts, one pass per update."""
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
    for module in (appo, plan):
        # as few as with a vocabulary of 100,000
        monkeypatch.setattr(module, "logits_chunk", lambda vocabulary: CHUNK)
    run = Config(
        model=str(tmp_path),
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
    words = lambda k: draw.choices(range(vocabulary), k=k)
    return [
        Rollout(words(PROMPT), n, ids=words(T), mask=[True] * T, logp=[0.0] * T, entropy=[0.0] * T)
        for n in range(N)
    ]


def close(measured: float, planned: float, within: float = 0.1) -> bool:
    return abs(measured - planned) <= within * measured


def size(*tensors) -> int:
    return sum(x.untyped_storage().nbytes() for x in tensors)


def one_update(policy, run, rollouts, optimizer) -> None:
    mask = torch.ones(N, RESPONSE, dtype=torch.bool)
    appo.update(
        policy, optimizer, rollouts, torch.zeros(mask.shape), torch.randn(mask.shape), mask, run
    )


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
    one_update(policy, run, rollouts, optimizer)
    assert items["parameters"] == size(*parameters)
    assert [items["gradients"]] == seen and all(p.grad is None for p in parameters), (
        "gradients live as long as an update"
    )
    assert close(
        size(*(x for state in optimizer.state.values() for x in state.values())),
        items["AdamW state"],
    )


@pytest.mark.parametrize("share_from", [RESPONSE, RESPONSE + 1], ids=["forks share", "forks copy"])
def test_caches(small, share_from, monkeypatch):
    policy, shape, run, rollouts = small
    for module in (plan, sampling):
        monkeypatch.setattr(module, "SHARE_FROM", share_from)
    sampler, made, open_ = (
        Sampler(policy, {}, run.decode_rows, run.max_tokens, 1, chunk=run.prefill_chunk),
        [],
        Sampler._open,
    )
    sampler._open = lambda starts: (
        open_(sampler, starts)
        or made.append([size(cache.kv) for cache in (sampler.live.cache, sampler.live.parent)])
    )
    # no more prompts than rows and a quarter
    for prompts in (3, run.decode_rows, run.decode_rows + 4):
        items = memory(shape, dataclasses.replace(run, prompts=prompts), 1)
        sample_initial(sampler, [[5] * PROMPT] * prompts, run.initial, list(range(prompts)))
        assert made.pop() == [items["KV cache of initial rollouts"], items["KV cache of prompts"]]
    scored = appo.score(policy, rollouts, 1.0, run.micro_tokens, keep_cache=True)
    assert items["KV cache to fork from"] == size(scored.cache.kv)
    assert items["hidden states to fork from"] == size(scored.hidden)
    appo.grow_branches(
        sampler, rollouts, scored, [list(range(1, 1 + run.branches))] * len(rollouts), run
    )
    assert made[0][0] == items["KV cache of branches"]


@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"),
    reason="nothing is packed without AVX2",
)
def test_packed_weights(small):
    policy, shape, run, _ = small

    def pack():
        with policy.packed():
            assert policy.pack

    assert close(most_allocated(pack), memory(shape, run, 1)["packed weights"], 0.01)


def test_parts_of_a_minibatch(small):
    """--fork_tokens: what is kept to fork from is that of as many prompts as fit, of one at least; tests/test_appo.py counts them in a step."""
    _, shape, run, _ = small
    whole = dataclasses.replace(run, prompts=8, minibatch=8)
    W = key_slots(round_up(PROMPT + RESPONSE, PASS_BLOCK))
    for budget, kept in ((0, 8), (10**9, 8), (3 * N * W, 3), (3 * N * W - 1, 2), (1, 1)):
        items, few = (
            memory(shape, dataclasses.replace(whole, fork_tokens=budget), 1),
            memory(shape, dataclasses.replace(run, prompts=kept, minibatch=kept), 1),
        )
        assert all(
            items[name] == few[name] for name in items if "fork" in name or "branches" in name
        )
    assert plan.fewer_forks(whole, 2) == [2 * N * W, N * W] and plan.fewer_forks(
        dataclasses.replace(whole, fork_tokens=2 * N * W), 1
    ) == [N * W]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_tensors_that_autograd_saves(small, checkpointing):
    policy, shape, run, rollouts = small
    if checkpointing:
        recompute_activations(policy.model), policy.model.train()
    items = memory(shape, run, 1, checkpointing)
    width, T = appo.padded_width(rollouts), RESPONSE
    # the last norm; the responses' part of its output
    last = N * shape.hidden * (width * 8 + T * 4)
    assert close(
        saved_bytes(policy, lambda: appo.score_rows(policy, rollouts, 1.0)),
        items["activations"] + last,
        0.01,
    )


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
    one_update(policy, run, rollouts, optimizer)
    # the profiler sees only what is allocated from here on
    optimizer.zero_grad(set_to_none=True)
    elsewhere = items["parameters"] + items["AdamW state"]
    assert close(
        most_allocated(lambda: one_update(policy, run, rollouts, optimizer)),
        peaks(items)["update"] - elsewhere,
    )


def test_peak_of_the_scoring_pass(small):
    policy, shape, run, rollouts = small
    items = memory(shape, run, 1)
    scoring = most_allocated(
        lambda: appo.score(policy, rollouts, 1.0, run.micro_tokens, keep_cache=True)
    )
    assert close(
        scoring,
        items["KV cache to fork from"]
        + items["hidden states to fork from"]
        + max(items["logits chunk *"], items["forward pass *"]),
    )
    width = appo.padded_width(rollouts)
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
    stats = lambda: appo.chunked_stats(policy, hidden, torch.zeros(M, dtype=torch.long), 1.0)[0]
    chunk = CHUNK * shape.vocabulary * (16 + dtype.itemsize)
    assert close(most_allocated(lambda: stats().sum().backward()), chunk)
    assert 0.7 * chunk < most_allocated(torch.no_grad()(stats)) < 1.01 * chunk, (
        "less without a gradient"
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_in_bfloat16(small, checkpointing):
    policy, shape, run, rollouts = small
    policy.model.to(torch.bfloat16)
    if checkpointing:
        recompute_activations(policy.model), policy.model.train()
    width, T = appo.padded_width(rollouts), RESPONSE
    # as above
    last = N * shape.hidden * (width * 6 + T * 2)
    saved = saved_bytes(policy, lambda: appo.score_rows(policy, rollouts, 1.0))
    assert close(saved, activations(shape, N * width, 2, checkpointing) + last, 0.02)


def test_drawing(small):
    policy, shape, run, _ = small
    logits, u = (
        torch.randn(run.decode_rows, shape.vocabulary),
        torch.rand(run.decode_rows, dtype=torch.float64),
    )
    measured = size(logits) + most_allocated(lambda: draw(logits, u, 1.0))
    assert close(measured, memory(shape, run, 1)["drawing a token *"]), measured / logits.numel()


# ---- sharding, work, seconds


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
        items["gathered weights"],
    ) == (P // 2, P // 2, P, 2 * P)
    assert (
        items["KV cache of initial rollouts"] == 2 * 28 * 65 * 4 * 4608 * 128 * 2
        and items["KV cache of branches"] == 2 * 28 * 25 * 4 * 4608 * 128 * 2
        and items["KV cache to fork from"] == 2 * 28 * 9 * 4 * 6144 * 128 * 2
    )
    assert items["reference model"] == 0
    assert memory(shape, dataclasses.replace(run, kl_coef=0.001), 8)["reference model"] == P // 2
    grpo = memory(shape, dataclasses.replace(run, branches=0, future_weight=0.0), 8)
    assert grpo["KV cache to fork from"] == grpo["hidden states to fork from"] == 0
    alone = memory(shape, dataclasses.replace(run, shard=False, dtype="float32"), 1)
    assert (
        alone["parameters"],
        alone["gathered weights"],
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
    with pytest.raises(ValueError, match="--gpus must be whole nodes of --gpus_per_node 8, got 12"):
        Hardware(gpus=12)


def test_loading_holds_the_whole_float32_weights():
    run = read_settings(["--config", str(CONFIGS / "qwen2.5-7b-reasoning.json"), "--data", "d"])
    items = memory(read_shape(run.model), run, 8)
    assert peaks(items)["load"] == 4 * 7_615_616_512 + items["parameters"]


@pytest.mark.parametrize("keep, kl, kept", [(0, 0.0, 5), (2, 0.0, 3), (2, 0.1, 4), (9, 0.0, 5)])
def test_checkpoints_that_are_kept(keep, kl, kept, capsys):
    text = printed(
        capsys, "--config", CONFIGS / "qwen2.5-7b-reasoning.json", "--keep", keep, "--kl_coef", kl
    )
    assert (
        f"disk: 99.3 GiB a checkpoint, {99.295 * kept:.0f} GiB for the {kept} that are there at most (--save_every 50, --keep {keep})"
        in text
    )


def test_a_length_above_the_limit_is_refused(capsys):
    with pytest.raises(ValueError, match="--length 9999 is above --max_tokens 4096"):
        printed(capsys, "--config", CONFIGS / "qwen2.5-7b-reasoning.json", "--length", 9999)


def test_every_item_has_a_phase_and_the_peak_counts_one_moment():
    shape, run = read_shape("Qwen/Qwen3-8B"), Config(model="m", kl_coef=0.001, micro_tokens=12288)
    items = memory(shape, run, 8)
    assert set(items) == {name for names in plan.PHASES.values() for name in names}
    held = sum(
        size for name, size in items.items() if name in plan.PHASES["update"] and "*" not in name
    )
    assert peaks(items)["update"] == held + max(items["logits chunk *"], items["layer backward *"])


def test_work_by_hand():
    names = (
        "initial rollouts",
        "branches",
        "tokens sampled",
        "tokens trained on",
        "optimizer steps",
    )
    assert work(Config(), 4096, 0.5) == dict(
        zip(names, (512, 1536, 512 * 4096 + 1536 * 2048, 512 * 4096, 8))
    )
    assert work(Config(branches=0, future_weight=0.0, ppo_epochs=2), 100, 0.5) == dict(
        zip(names, (512, 0, 51200, 102400, 16))
    )


def test_flops_as_torch_counts_them(small):
    from torch.utils.flop_counter import FlopCounterMode

    policy, shape, _, rollouts = small
    # the counter does not know the fused attention of the CPU
    policy.model.set_attn_implementation("eager")
    width, T = appo.padded_width(rollouts), RESPONSE
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        appo.score_rows(policy, rollouts, 1.0)
    assert close(counter.get_total_flops(), forward_flops(shape, N * width, width, N * T)), (
        "eager attention looks at all of the width"
    )


def test_seconds_scale_and_follow_the_settings():
    shape, run, hardware = (
        read_shape("Qwen/Qwen2.5-7B-Instruct"),
        Config(model="m", decode_rows=16, shard=True, dtype="bfloat16", checkpointing=True),
        Hardware(),
    )
    base = seconds(shape, run, hardware)
    twice = seconds(
        shape, run, dataclasses.replace(hardware, gpu_tflops=2 * 990.0, gpu_bandwidth=2 * 3350.0)
    )
    assert all(
        a == pytest.approx(2 * b) for phase in base for a, b in zip(base[phase], twice[phase])
    )
    score = base["score"][0]
    assert base["update"][0] == pytest.approx(4 / (1 + 7 / 8) * score), (
        "3 passes and one of computing again; a look at all, logp_old of all mini-batches but the first of 8"
    )
    for changes, share in (
        (dict(dtype="float32"), 1),
        (dict(branch_when="step"), 2),
        (dict(branch_when="step", branches=0), 15 / 8),
        (dict(kl_coef=0.1), 23 / 8),
        (dict(dtype="float32", ppo_epochs=2), 2),
    ):
        assert seconds(shape, dataclasses.replace(run, **changes), hardware)["score"][
            0
        ] == pytest.approx(share * 8 / 15 * score), changes
    assert seconds(shape, dataclasses.replace(run, branches=0, future_weight=0.0), hardware)[
        "branch"
    ] == (0, 0)
    assert (
        seconds(shape, dataclasses.replace(run, decode_rows=32), hardware)["sample"][1]
        < base["sample"][1]
    ), "weights are read half as often"
    weights = (7_615_616_512 - 152064 * 3584) * 2
    # prompts are read once for their 4 rollouts
    keys = 64 * 4096 * (2048 / 4 + 2048) * 2 * 28 * 4 * 128 * 2
    assert base["sample"][1] == pytest.approx((4096 * 4 * weights + keys) / 3350e9, rel=1e-4)


# ---- the printed plan


@pytest.fixture
def nothing_loaded(monkeypatch):
    def loaded(*args, **kwargs):
        raise AssertionError("a model, a tokenizer or data was loaded")

    for module, name in (
        (model.AutoModelForCausalLM, "from_pretrained"),
        (model.AutoTokenizer, "from_pretrained"),
        (train, "load_questions"),
    ):
        monkeypatch.setattr(module, name, loaded)


def printed(capsys, *flags) -> str:
    plan.main([*map(str, flags)])
    return capsys.readouterr().out


@pytest.mark.parametrize("name", PAPER | RELEASED)
def test_plan_of_every_config(name, capsys, nothing_loaded):
    text = printed(
        capsys, "--config", CONFIGS / f"{name}.json", "--gpus", 16 if "14b" in name else 8
    )
    assert (
        model_of(name) in text
        and "peak" in text
        and "at least" in text
        and "disk:" in text
        and "fits:" in text
    )


def test_plan_counts_the_data(capsys, nothing_loaded, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"question": "a", "answer": "1"}\n' * 300 + "\n")
    flags = ("--model", "Qwen/Qwen2.5-0.5B", "--data", tmp_path / "d.jsonl", "--gpus", 1)
    assert f"300 questions ({tmp_path / 'd.jsonl'})" in printed(
        capsys, *flags
    ) and "an epoch, 2 steps" in printed(capsys, *flags)
    assert "500 questions (--questions)" in printed(
        capsys, "--model", "Qwen/Qwen2.5-0.5B", "--questions", 500
    )
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.table({"question": ["a"] * 700}), tmp_path / "d.parquet")
    assert plan.count_questions(str(tmp_path / "d.parquet")) == 700


def test_advice_is_a_setting_that_fits(capsys, nothing_loaded):
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
    flag, peak = plan.advice(shape, run, 8, 80 * GIB)
    assert (
        flag == "--rows 128"
        and peak
        == max(peaks(memory(shape, dataclasses.replace(run, decode_rows=128), 8)).values())
        <= 80 * GIB
    )
    text = printed(
        capsys, "--config", CONFIGS / "qwen2.5-7b-reasoning.json", "--prompts", 512, "--rows", 256
    )
    assert "DOES NOT FIT" in text and "of one setting --rows 128 helps most" in text
    assert plan.advice(shape, dataclasses.replace(run, decode_rows=1, micro_tokens=1), 1, 8 * GIB)[
        0
    ].startswith("--gpus")


def test_passes_grow_with_the_budget_between_one_rollout_and_all():
    shape, run = (
        read_shape("Qwen/Qwen2.5-7B-Instruct"),
        Config(model="m", shard=True, dtype="bfloat16"),
    )
    held = lambda budget: memory(shape, dataclasses.replace(run, micro_tokens=budget), 8)[
        "activations"
    ]
    assert (
        held(1) == held(6144)
        and held(12288) == 2 * held(6144)
        and held(8 * 6144) == held(10**9) == 8 * held(6144)
    )
    assert plan.smaller_passes(dataclasses.replace(run, micro_tokens=20000)) == [10000, 6144]


def test_checkpointing_only_where_it_is_needed(capsys, nothing_loaded):
    """It is on in every run of the paper that would not fit without it and leave a tenth of the memory, whatever the passes; where it is not needed the plan says
    so, and where it would help."""
    for name in PAPER | RELEASED:
        run = read_settings(["--config", str(CONFIGS / f"{name}.json"), "--data", "d"])
        needed = not plan.without_checkpointing(
            read_shape(run.model),
            dataclasses.replace(run, checkpointing=True),
            16 if "14b" in name else 8,
            0.9 * 80 * GIB,
        )
        assert run.checkpointing == needed, name
    reasoning = ("--config", CONFIGS / "qwen2.5-7b-reasoning.json")
    on = ("--checkpointing", "--micro_tokens", 49152)
    assert "--checkpointing is not needed with --micro_tokens 6144: 61." in printed(
        capsys, *reasoning, *on, "--gpu_gib", 70
    )
    assert "--checkpointing is not needed: " in printed(capsys, *reasoning, *on, "--gpu_gib", 500)
    off = read_settings(
        [
            "--config",
            str(CONFIGS / "qwen2.5-7b-reasoning.json"),
            "--data",
            "d",
            "--checkpointing",
            "false",
            "--rows",
            "1",
            "--micro_tokens",
            "6144",
        ]
    )
    shape = read_shape(off.model)
    flag, peak = plan.advice(shape, off, 8, 60 * GIB)
    assert flag == "--checkpointing true" and peak <= 60 * GIB < plan.most(shape, off, 8)
    read_settings(["--config", str(CONFIGS / "qwen2.5-7b-reasoning.json"), *flag.split()])


def test_plan_of_the_bundled_world(world, capsys, nothing_loaded):
    text = printed(
        capsys,
        "--config",
        LAPTOP,
        "--model",
        world / "model",
        "--data",
        world / "train.jsonl",
        "--gpus",
        1,
    )
    assert (
        "1 GPU of 80 GiB: a copy on each, float32" in text
        and "200 questions" in text
        and "fits:" in text
    )


def test_bad_flags_of_a_plan(capsys):
    with pytest.raises(ValueError, match="--gpus must be >= 1"):
        plan.main(["--gpus", "0", "--model", "m"])
    with pytest.raises(ValueError, match=r"--fork_depth must be in \[0, 1\]"):
        plan.main(["--fork_depth", "1.5", "--model", "m"])
    for main, flags in ((plan.main, ["--gpu", "8", "--model", "m"]), (train.main, ["--gpus", "8"])):
        with pytest.raises(ValueError, match="unknown flag --gpu"):
            main(flags)
    with pytest.raises(ValueError, match="python -m extras.plan, with the same flags"):
        train.main(["--plan", "--model", "m"])
    with pytest.raises(SystemExit):
        read_settings(["--help"])
    assert "extras.plan with the same flags prints what the run will cost" in " ".join(
        capsys.readouterr().out.split()
    )
