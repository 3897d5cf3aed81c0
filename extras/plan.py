"""What a run will cost, before any model or data is loaded: `python -m extras.plan --config F`.

    1. read_shape    the sizes of the model, from its config.json or, offline, from a table of names
    2. work          rollouts, tokens and optimizer steps of a training step
    3. memory        bytes on one GPU by item; PHASES says which of them meet, peaks adds them up
    4. advice        the one setting that helps most if they do not fit
    5. seconds       FLOPs and bytes moved over what a GPU can do: a lower bound
    `plan` puts them in a table.

Two layouts. With --shard FSDP2: parameters, gradients and AdamW state are float32 and split over the GPUs of a node, work is done in --dtype, whole weights of that
dtype are gathered on every GPU while it samples and scores (the reference's, if there is one, before the policy's). Without it: float32 copies, nothing split.
Not counted: the cold start, CUDA context, communication buffers and fragmentation (a few GiB), and everything in host memory.
"""

import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import transformers

import train
from appo import PASS_BLOCK, logits_chunk
from config import Config, read_settings
from model import key_slots, round_up
from sampling import DRAW_BLOCK, GRAPH_BLOCK, SHARE_FROM, row_sizes
from support.settings import free, parser_for, problems, typed

GIB = 2**30


@dataclass(frozen=True)
class Hardware:
    """What the plan is made for: flags beside those of train.py."""

    gpus: int = free(8, "GPUs of the run", 1)
    gpus_per_node: int = free(
        8, "GPUs of a node: weights are split within it and copied across nodes", 1
    )
    gpu_gib: float = free(80.0, "memory of a GPU, GiB", 0)
    gpu_bandwidth: float = free(3350.0, "memory bandwidth of a GPU, GB/s (H100 SXM 3350)", 1e-9)
    gpu_tflops: float = free(
        990.0,
        "dense matrix products of a GPU, TFLOP/s (H100 SXM: 990 bfloat16, as on several GPUs; 67 float32)",
        1e-9,
    )
    questions: int = free(10000, "training questions, if --data cannot be counted", 1)
    length: int = free(
        0, "mean response in the estimate of seconds, tokens; 0: the limit --max_tokens", 0
    )
    fork_depth: float = free(
        0.5, "mean share of its parent that a branch keeps, in the same estimate", 0
    )

    def __post_init__(self):
        found = problems(Hardware, vars(self), rules)
        if found:
            raise ValueError("\n".join(found))


def rules(h):
    """The broken rules between the numbers of the hardware: (their names, what is wrong)."""
    if h.fork_depth > 1:
        yield ("fork_depth",), f"--fork_depth must be in [0, 1], got {h.fork_depth}"
    if h.gpus > h.gpus_per_node and h.gpus % h.gpus_per_node:
        whole = f"--gpus must be whole nodes of --gpus_per_node {h.gpus_per_node}"
        yield ("gpus", "gpus_per_node"), f"{whole}, got {h.gpus}"


def read_flags(argv: list[str]) -> tuple[Hardware, list[str]]:
    """The flags of a plan, and those that are left for the run."""
    parser = parser_for(
        Hardware,
        prog="python -m extras.plan",
        description="What a run will cost. All flags of train.py and:",
    )
    flags, rest = parser.parse_known_args(argv)
    return Hardware(**typed(Hardware, flags)), rest


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder like Llama's: grouped-query attention, a gated MLP, two RMS norms a layer. bias: of q, k and v (Qwen2); qk_norm: Qwen3's."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    bias: bool
    qk_norm: bool

    @property
    def q(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        attention = (
            2 * self.hidden * (self.q + self.kv)
            + self.bias * (self.q + 2 * self.kv)
            + self.qk_norm * 2 * self.head_dim
        )
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def root(self) -> int:
        """Parameters outside the layers: embedding, output matrix unless tied to it, last norm."""
        return (2 - self.tied) * self.vocabulary * self.hidden + self.hidden

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + self.root


# model_type: (bias, qk_norm)
FAMILIES = {"llama": (False, False), "qwen2": (True, False), "qwen3": (False, True)}
TABLE = {
    "qwen2.5-0.5b": ("qwen2", 24, 896, 4864, 14, 2, 64, 151936, True),
    "qwen2.5-1.5b": ("qwen2", 28, 1536, 8960, 12, 2, 128, 151936, True),
    "qwen2.5-3b": ("qwen2", 36, 2048, 11008, 16, 2, 128, 151936, True),
    "qwen2.5-7b": ("qwen2", 28, 3584, 18944, 28, 4, 128, 152064, False),
    "qwen2.5-14b": ("qwen2", 48, 5120, 13824, 40, 8, 128, 152064, False),
    "qwen3-8b": ("qwen3", 36, 4096, 12288, 32, 8, 128, 151936, False),
    "qwen3-14b": ("qwen3", 40, 5120, 17408, 40, 8, 128, 151936, False),
    "llama-3.1-8b": ("llama", 32, 4096, 14336, 32, 8, 128, 128256, False),
}


def read_shape(model: str) -> Shape:
    """From the config.json of a folder or of a name that was fetched before, else from TABLE by name (-Instruct and -Base do not matter).

    Raises: ValueError if there is neither, or the model is not of a family in FAMILIES.
    """
    try:
        c = transformers.AutoConfig.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError):
        name = Path(model).name.lower().removesuffix("-instruct").removesuffix("-base")
        if name not in TABLE or Path(model).exists():
            raise ValueError(
                f"--model {model}: no config.json can be read there, and by name only these are known: {', '.join(TABLE)}"
            ) from None
        family, *sizes = TABLE[name]
        return Shape(*sizes, *FAMILIES[family])
    if (
        c.model_type not in FAMILIES
        or getattr(c, "attention_bias", False)
        or getattr(c, "mlp_bias", False)
    ):
        raise ValueError(
            f"--model {model}: the plan knows the layers of {', '.join(FAMILIES)} without further biases, this is a {c.model_type}"
        )
    dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    return Shape(
        c.num_hidden_layers,
        c.hidden_size,
        c.intermediate_size,
        c.num_attention_heads,
        c.num_key_value_heads,
        dim,
        c.vocab_size,
        c.tie_word_embeddings,
        *FAMILIES[c.model_type],
    )


def count_questions(path: str) -> int | None:
    """Questions in a file without parsing them, or None: lines of a .jsonl, what a .parquet says of itself (with pyarrow)."""
    if path.endswith(".jsonl") and Path(path).is_file():
        with open(path, "rb") as lines:
            return sum(1 for line in lines if line.strip())
    if path.endswith(".parquet") and Path(path).is_file():
        try:
            from pyarrow.parquet import read_metadata
        except ImportError:
            return None
        return read_metadata(path).num_rows
    return None


def work(run: Config, length: int, fork_depth: float) -> dict[str, int]:
    """Rollouts, tokens and optimizer steps of one training step on all GPUs. Responses have `length` tokens, branches keep fork_depth of them."""
    initial = run.prompts * run.initial
    branches = initial * run.branches * run.ppo_epochs
    return {
        "initial rollouts": initial,
        "branches": branches,
        "tokens sampled": initial * length + round(branches * (1 - fork_depth) * length),
        "tokens trained on": initial * length * run.ppo_epochs,
        "optimizer steps": run.prompts // run.minibatch * run.ppo_epochs,
    }


#  memory

ALWAYS = ("parameters", "AdamW state", "reference model")
# of these a phase has one at a time
MOMENTS = (
    "drawing a token *",
    "reading a result *",
    "forward pass *",
    "logits chunk *",
    "layer backward *",
)
PHASES = {
    "load": ("parameters", "weights before they are split"),
    "sample": ALWAYS
    + (
        "gathered weights",
        "packed weights",
        "KV cache of prompts",
        "KV cache of initial rollouts",
        "drawing a token *",
        "reading a result *",
    ),
    "score": ALWAYS
    + (
        "gathered weights",
        "KV cache to fork from",
        "hidden states to fork from",
        "forward pass *",
        "logits chunk *",
    ),
    "branch": ALWAYS
    + (
        "gathered weights",
        "packed weights",
        "KV cache to fork from",
        "hidden states to fork from",
        "KV cache of branches",
        "drawing a token *",
        "reading a result *",
    ),
    "update": ALWAYS
    + (
        "gradients",
        "weights and gradients in flight",
        "activations",
        "logits chunk *",
        "layer backward *",
    ),
}


def cache_bytes(shape: Shape, rows: int, slots: int, width: int) -> int:
    """A Cache with its scratch row: 2 x layers x (rows + 1) x key heads x slots x head_dim numbers of `width` bytes."""
    return 2 * shape.layers * (rows + 1) * shape.kv * key_slots(slots) * width


def layer_activations(shape: Shape, width: int) -> int:
    """Bytes that the backward pass of a layer needs, per token.

    Norms: input in float32, normalised input, output. Attention: query, key, value, output, log-sum-exp. MLP: gate, its activation, up, product.
    """
    norms = 2 * (shape.hidden * (4 + 2 * width) + 4) + shape.qk_norm * (
        (shape.q + shape.kv) * (4 + width) + 4 * (shape.heads + shape.kv_heads)
    )
    return (
        norms + 2 * (shape.q + shape.kv) * width + 4 * shape.heads + 4 * shape.intermediate * width
    )


def activations(shape: Shape, tokens: int, width: int, checkpointing: bool) -> int:
    """Bytes held for the backward pass of a micro-batch: all of every layer, or with checkpointing each layer's input only."""
    return (
        shape.layers
        * tokens
        * (shape.hidden * width if checkpointing else layer_activations(shape, width))
    )


def memory(
    shape: Shape, run: Config, gpus: int, checkpointing: bool | None = None, per_node: int = 8
) -> dict[str, int]:
    """Bytes on one GPU by item, every prompt and response being as long as the limits allow. run: a config.Config. per_node: GPUs that share the weights.

    Gradients exist during an update only; every pass sums them over the GPUs. checkpointing: None: as the run says.
    """
    sharded, P = run.shard, shape.parameters
    width, checkpointing = (
        2 if run.dtype == "bfloat16" else 4,
        run.checkpointing if checkpointing is None else checkpointing,
    )
    shard = math.ceil(P / min(gpus, per_node) if sharded else P) * 4
    W, T = round_up(run.max_prompt + run.max_tokens, PASS_BLOCK), run.max_tokens
    # of a mini-batch on this GPU
    rollouts = math.ceil(run.minibatch / gpus) * run.initial
    parents = forked_together(run, rollouts)
    # of a pass; a rollout is never split
    tokens = max(W, min(run.micro_tokens, rollouts * W))
    # last norm; the responses' part of its output, and its gradient
    around = shape.hidden * (tokens * (4 + width) + 2 * tokens * T // W * width)
    backward = (shape.intermediate + 3 * shape.hidden) * width + checkpointing * layer_activations(
        shape, width
    )
    forks, cuda = run.branches > 0, run.device != "cpu"
    sizes = row_sizes(run.decode_rows, run.constant_rows and not cuda and run.dtype == "float32")
    rows = lambda starts: next(size for size in sizes if size >= min(starts, run.decode_rows))
    # then a live row holds what it has not in common with its parent
    share = cuda or T >= SHARE_FROM
    own = lambda new: round_up(
        (new if share else run.max_prompt + T) + run.prefill_chunk + cuda,
        GRAPH_BLOCK if cuda else 1,
    )
    initial = rows(math.ceil(run.prompts / gpus) * run.initial)
    logits = initial * shape.vocabulary
    # per key looked at; a CPU's kernel keeps none
    scores = cuda * max(1, run.decode_rows // 8) * run.prefill_chunk * shape.heads * (4 + width)
    return {
        "parameters": shard,
        "gradients": shard,
        "AdamW state": 2 * shard,
        "reference model": shard if run.kl_coef else 0,
        # as they were loaded, or the reference's beside the policy's parts
        "weights before they are split": sharded * 4 * P,
        "gathered weights": sharded * width * P,
        # see PackedDecoder
        "packed weights": (not cuda and width == 4)
        * 4
        * (shape.layers * shape.layer + shape.vocabulary * shape.hidden),
        "KV cache of initial rollouts": cache_bytes(shape, initial, own(T), width),
        "KV cache of prompts": cache_bytes(
            shape,
            min(math.ceil(run.prompts / gpus), run.decode_rows + max(1, run.decode_rows // 4)),
            round_up(run.max_prompt, run.prefill_chunk),
            width,
        ),
        "KV cache to fork from": forks * cache_bytes(shape, parents, W, width),
        "hidden states to fork from": forks * parents * T * shape.hidden * width,
        "KV cache of branches": forks
        * cache_bytes(shape, rows(parents * run.branches), own(T - 1), width),
        # five more float32 numbers per logit
        "drawing a token *": 4 * logits
        + 20 * (logits if cuda else min(logits, DRAW_BLOCK + shape.vocabulary)),
        "reading a result *": scores * (key_slots(W) + own(T)),
        "forward pass *": tokens * (3 * shape.intermediate + 4 * shape.hidden) * width,
        "weights and gradients in flight": sharded
        * (2 * (2 * shape.root + 3 * shape.layer) + 4 * (shape.root + shape.layer)),
        "activations": activations(shape, tokens, width, checkpointing),
        # per logit: itself; four float32 for softmax, entropy, gradient
        "logits chunk *": min(logits_chunk(shape.vocabulary), tokens * T // W)
        * shape.vocabulary
        * (16 + width)
        + around,
        "layer backward *": tokens * backward,
    }


def forked_together(run: Config, rollouts: int) -> int:
    """Of `rollouts` at their longest, how many are kept at once for branches to fork from: whole prompts, as --fork_tokens admits. (Of shorter ones more, which take no
    more memory.)"""
    longest = key_slots(round_up(run.max_prompt + run.max_tokens, PASS_BLOCK))
    return (
        min(rollouts, max(1, run.fork_tokens // (run.initial * longest)) * run.initial)
        if run.fork_tokens
        else rollouts
    )


def peaks(items: dict[str, int]) -> dict[str, int]:
    """Most bytes at any time of each phase: all its items, but of MOMENTS only the largest."""
    moments = {
        phase: [items[name] for name in names if name in MOMENTS] for phase, names in PHASES.items()
    }
    return {
        phase: sum(items[name] for name in names if name not in MOMENTS)
        + max(moments[phase], default=0)
        for phase, names in PHASES.items()
    }


def advice(
    shape: Shape, run: Config, gpus: int, limit: float, per_node: int = 8
) -> tuple[str, int]:
    """(flag and value, peak): of --rows, --micro_tokens, --fork_tokens, --checkpointing and --gpus the one that brings the peak below the limit, or else lowers it most.

    Of each flag the value nearest to the present one that fits; what costs no GPU comes first, and before it what computes nothing again.
    """
    tries = {
        "decode_rows": halves(run.decode_rows),
        "micro_tokens": smaller_passes(run),
        "fork_tokens": fewer_forks(run, gpus),
        "checkpointing": [] if run.checkpointing else [True],
        "gpus": [n for n in (gpus << k for k in range(1, 6)) if n <= per_node or n % per_node == 0],
    }
    found = []
    for cost, (name, values) in enumerate(tries.items()):
        options = []
        for value in values:
            changed = run if name == "gpus" else dataclasses.replace(run, **{name: value})
            options.append(
                (
                    most(shape, changed, value if name == "gpus" else gpus, per_node),
                    f"--{name} {str(value).lower()}",
                    max(cost, 2),
                )
            )
        fitting = [x for x in options if x[0] <= limit]
        found += fitting[:1] or [min(options)] if options else []
    peak, flag, _ = min(found, key=lambda x: (x[0] > limit, x[2] if x[0] <= limit else 0, x[0]))
    return flag, peak


def halves(n: int) -> list[int]:
    """n / 2, n / 4, ... 1, rounded down."""
    return [n >> k for k in range(1, n.bit_length())]


def smaller_passes(run: Config) -> list[int]:
    """Halves of --micro_tokens, down to the longest rollout: it is never split."""
    longest = round_up(run.max_prompt + run.max_tokens, PASS_BLOCK)
    return [max(n, longest) for n in halves(run.micro_tokens) if 2 * n > longest]


def fewer_forks(run: Config, gpus: int) -> list[int]:
    """--fork_tokens for 1/2, 1/4, ... of a mini-batch's prompts on a GPU, down to one."""
    longest = key_slots(round_up(run.max_prompt + run.max_tokens, PASS_BLOCK))
    now = math.ceil(run.minibatch / gpus)
    return (
        [
            n * run.initial * longest
            for n in halves(now)
            if not run.fork_tokens or n * run.initial * longest < run.fork_tokens
        ]
        if run.branches
        else []
    )


def most(shape: Shape, run: Config, gpus: int, per_node: int = 8) -> int:
    """Most bytes at any time on one GPU."""
    return max(peaks(memory(shape, run, gpus, per_node=per_node)).values())


def without_checkpointing(
    shape: Shape, run: Config, gpus: int, limit: float, per_node: int = 8
) -> str:
    """What the run would hold if no layer were computed again, if that is below the limit, perhaps with smaller passes: a sentence, "" if checkpointing is needed or off."""
    if run.checkpointing:
        for budget in [run.micro_tokens, *smaller_passes(run)]:
            peak = most(
                shape,
                dataclasses.replace(run, checkpointing=False, micro_tokens=budget),
                gpus,
                per_node,
            )
            if peak <= limit:
                smaller = "" if budget == run.micro_tokens else f" with --micro_tokens {budget}"
                return f"--checkpointing is not needed{smaller}: {peak / GIB:.1f} GiB without it"
    return ""


def forward_flops(shape: Shape, tokens: float, context: float, with_logits: float) -> float:
    """FLOPs of reading `tokens` tokens, each of which looks at `context` others on average, and of the logits of `with_logits` of them.

    2 x layer parameters x tokens  +  4 x layers x context x (heads x head_dim) x tokens  +  2 x vocabulary x hidden x with_logits
    """
    return (
        shape.layers * tokens * (2 * shape.layer + 4 * context * shape.q)
        + 2 * shape.vocabulary * shape.hidden * with_logits
    )


def decode_bytes(
    shape: Shape, width: int, rows: int, rollouts: float, length: float, context: float
) -> float:
    """Bytes read to decode `length` tokens of each rollout, `rows` at once: all weights per loop step, and `context` keys and values per token."""
    # numbers; per token
    weights, kv = (
        shape.layers * shape.layer + shape.vocabulary * shape.hidden,
        2 * shape.layers * shape.kv,
    )
    return width * length * (max(1.0, rollouts / rows) * weights + rollouts * context * kv)


def seconds(shape: Shape, run: Config, hardware: Hardware) -> dict[str, tuple[float, float]]:
    """(arithmetic, reading weights and caches) of each phase of a training step, seconds: a phase takes at least the larger.

    Tools, communication, launches, padding and cache copies are left out. update: 3 forward passes, 4 if layers are computed again.
    """
    P, T = run.max_prompt, hardware.length or run.max_tokens
    width, prompts = 2 if run.dtype == "bfloat16" else 4, run.prompts / hardware.gpus
    rollouts, keeps = prompts * run.initial, hardware.fork_depth
    branches, new = rollouts * run.branches * run.ppo_epochs, (1 - hardware.fork_depth) * T
    whole = forward_flops(shape, rollouts * (P + T), (P + T) / 2, rollouts * T)
    early = run.branch_when == "step" and run.branches > 0
    # as appo.logp_at_start says
    before = 1 if early else (run.dtype == "bfloat16") * (1 - run.minibatch / run.prompts)
    passes = before + run.ppo_epochs + (run.kl_coef > 0)
    # branches come mini-batch by mini-batch
    at_once = min(
        run.decode_rows, forked_together(run, rollouts * run.minibatch / run.prompts) * run.branches
    )
    # mean tokens before the one that is drawn
    first, later = P + T / 2, P + (1 + keeps) / 2 * T
    # a parent's are read once for all its forks
    read = {
        "sample": P / run.initial + T / 2,
        "branch": (P + keeps * T) / max(1, run.branches) + new / 2,
    }
    flops = {
        "sample": forward_flops(shape, prompts * P, P / 2, 0)
        + forward_flops(shape, rollouts * T, first, rollouts * T),
        "score": passes * whole,
        "branch": forward_flops(shape, branches * new, later, branches * new),
        "update": (3 + run.checkpointing) * run.ppo_epochs * whole,
    }
    moved = {
        "sample": decode_bytes(
            shape, width, min(run.decode_rows, rollouts), rollouts, T, read["sample"]
        ),
        "branch": decode_bytes(shape, width, at_once, branches, new, read["branch"])
        if branches
        else 0.0,
    }
    return {
        phase: (
            flops[phase] / (hardware.gpu_tflops * 1e12),
            moved.get(phase, 0.0) / (hardware.gpu_bandwidth * 1e9),
        )
        for phase in flops
    }


def plan(run: Config, hardware: Hardware) -> str:
    """The whole plan as text. run: a config.Config with a model."""
    if hardware.length > run.max_tokens:
        raise ValueError(
            f"--length {hardware.length} is above --max_tokens {run.max_tokens}: no response is so long"
        )
    shape, gpus = read_shape(run.model), hardware.gpus
    how = f"{'sharded (FSDP2)' if run.shard else 'a copy on each'}, {run.dtype}{', layers computed again in the backward pass' * run.checkpointing}"
    head = (
        f"{run.model}: {shape.parameters / 1e9:.3f} B parameters ({shape.layers} layers, hidden {shape.hidden}, {shape.heads} heads on "
        f"{shape.kv_heads} keys, vocabulary {shape.vocabulary})\n{gpus} GPU{'s' * (gpus > 1)} of {hardware.gpu_gib:g} GiB: {how}"
    )
    # the model, its float32 copy if it is in bfloat16, AdamW state
    saved = ((2 if run.dtype == "bfloat16" else 4) + 8 + 4 * run.shard) * shape.parameters
    kept = 1 + math.ceil(run.steps / run.save_every)
    # one more while it is written; the reference stays
    kept = min(kept, run.keep_checkpoints + 1 + (run.kl_coef > 0)) if run.keep_checkpoints else kept
    disk = (
        f"disk: {saved / GIB:.1f} GiB a checkpoint, {kept * saved / GIB:.0f} GiB for the {kept} that are there at most "
        f"(--save_every {run.save_every}, --keep_checkpoints {run.keep_checkpoints})"
    )
    return "\n\n".join(
        [
            head,
            work_table(run, hardware),
            memory_table(shape, run, hardware),
            seconds_table(shape, run, hardware),
            disk,
        ]
    )


def table(head: list, rows: list[list]) -> str:
    """Lines with the first column to the left and the others to the right."""
    cells = [[str(x) for x in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0])] + [x.rjust(w) for x, w in zip(row[1:], widths[1:])]
        ).rstrip()
        for row in cells
    )


def work_table(run: Config, hardware: Hardware) -> str:
    """Rollouts, tokens and optimizer steps, a step, an epoch and the run."""
    counted = count_questions(run.data)
    questions = counted or hardware.questions
    per_step, epoch = work(run, run.max_tokens, hardware.fork_depth), questions // run.prompts
    rows = [
        [name, f"{n:,}", f"{n * epoch:,}", f"{n * run.steps:,}"] for name, n in per_step.items()
    ]
    source = f"{questions:,} questions ({run.data if counted else '--questions'})"
    note = f"Responses of {run.max_tokens} tokens, the limit; a branch keeps {hardware.fork_depth:g} of its parent (--fork_depth); epoch: {source}."
    return (
        table(["work", "a step", f"an epoch, {epoch} steps", f"the run, {run.steps} steps"], rows)
        + "\n"
        + note
    )


def memory_table(shape: Shape, run: Config, hardware: Hardware) -> str:
    """GiB on each GPU by item and phase, whether it fits, and what would help if not."""
    items = memory(shape, run, hardware.gpus, per_node=hardware.gpus_per_node)
    top, limit = peaks(items), hardware.gpu_gib * GIB
    rows = [
        [name] + [f"{size / GIB:.2f}" if name in names else "" for names in PHASES.values()]
        for name, size in items.items()
        if size
    ]
    rows.append(["peak"] + [f"{top[phase] / GIB:.2f}" for phase in PHASES])
    other = not run.checkpointing
    what = f"Activations with{'' if other else 'out'} gradient checkpointing: {memory(shape, run, hardware.gpus, other)['activations'] / GIB:.2f} GiB"
    needless = without_checkpointing(shape, run, hardware.gpus, 0.9 * limit, hardware.gpus_per_node)
    verdict = f"fits: {max(top.values()) / GIB:.1f} of {hardware.gpu_gib:g} GiB{needless and '; ' + needless}"
    if max(top.values()) > limit:
        flag, then = advice(shape, run, hardware.gpus, limit, hardware.gpus_per_node)
        verdict = f"DOES NOT FIT: {max(top.values()) / GIB:.1f} of {hardware.gpu_gib:g} GiB; of one setting {flag} helps most: {then / GIB:.1f} GiB"
    return f"{table(['GiB on each GPU', *PHASES], rows)}\n* for a moment: only the largest of a phase counts. {what}.\n{verdict}"


def seconds_table(shape: Shape, run: Config, hardware: Hardware) -> str:
    """The lower bound of the seconds of a step, by phase."""
    times = seconds(shape, run, hardware)
    rows = [
        [name] + [f"{times[phase][k]:.1f}" for phase in times] + [""]
        for k, name in enumerate(("arithmetic", "weights and caches read"))
    ]
    total = sum(map(max, times.values()))
    rows.append(["at least"] + [f"{max(t):.1f}" for t in times.values()] + [f"{total:.1f}"])
    note = (
        f"A lower bound at {hardware.gpu_tflops:g} TFLOP/s and {hardware.gpu_bandwidth:g} GB/s, responses of {hardware.length or run.max_tokens} "
        f"tokens; tools, communication and launches take more. The run: {total * run.steps / 3600:.1f} hours."
    )
    return table(["seconds a step", *times, "all"], rows) + "\n" + note


def main(argv: list[str]) -> None:
    """Print what a run would cost. Without --model that of the bundled world."""
    hardware, rest = read_flags(argv)
    run = read_settings(rest)
    print(plan(run if run.model else train.with_world(run), hardware))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as problem:
        sys.exit(f"plan: {problem}")
