"""The memory of one GPU in a run: bytes by item, the peak of each phase, what lowers it.

    1. memory     bytes by item: weights, caches, passes over whole rollouts
    2. peaks      PHASES says which items meet; peaks adds them up
    3. advice     the one setting that helps most if they do not fit

Two layouts. With --shard (FSDP2) parameters, gradients and AdamW state are float32 and split over
the GPUs of a node; work is done in --dtype. While a GPU samples, scores and branches, it holds the
whole weights of that dtype; the reference's come on their own. Without --shard every GPU has
float32 copies. A branch copies its parent's prefix, so a live row has room for a whole rollout.
Not counted: the cold start, the CUDA context, communication buffers, fragmentation
(a few GiB in all), and everything in host memory.
"""

import dataclasses
import math

from config import Config
from extras.shape import Shape
from policy import micro_batches, padded_width
from rollout import Rollout
from support.draw import BLOCK
from support.log_probs import logits_chunk
from support.schedule import cache_parts
from support.shapes import Shapes, padded_keys, round_up

GIB = 2**30
ALWAYS = ("parameters", "AdamW state", "reference model")
AT_WORK = (*ALWAYS, "unsharded weights", "packed weights")
TO_FORK_FROM = ("KV cache to fork from", "hidden states to fork from")
# a phase has one of these at a time
MOMENTS = (
    "reading prompts, results *",
    "drawing a token *",
    "forward pass *",
    "scored logits *",
    "logits chunk *",
    "layer backward *",
)
READ, DRAW, FORWARD, SCORED, LOGITS, BACKWARD = MOMENTS
DECODING = (READ, DRAW)
# bytes per logit. Scored: float32 for itself, log-softmax, softmax, and one in between. Trained on
# in one chunk: itself, log-softmax and its gradient; in several: itself and softmax
SCORING, ONE_CHUNK, CHUNKS = 16, 12, 8
PHASES = {
    "load": ("parameters", "weights before they are split"),
    "sample": (*AT_WORK, "KV cache of prompts", "KV cache of initial rollouts", *DECODING),
    "score": (*AT_WORK, *TO_FORK_FROM, FORWARD, SCORED),
    "branch": (*AT_WORK, *TO_FORK_FROM, "KV cache of branches", *DECODING),
    "update": (
        *ALWAYS,
        "gradients",
        "weights and gradients in flight",
        "activations",
        LOGITS,
        BACKWARD,
    ),
}


def memory(
    shape: Shape, run: Config, gpus: int, checkpointing: bool | None = None, per_node: int = 8
) -> dict[str, int]:
    """Bytes on one GPU by item, every prompt and response being as long as the limits allow.

    Gradients exist during an update only; every pass sums them over the GPUs.
    Args:    checkpointing: None: as the run says. per_node: GPUs that share the weights.
    """
    if checkpointing is not None:
        run = dataclasses.replace(run, checkpointing=checkpointing)
    weights = weight_items(shape, run, min(gpus, per_node))
    return weights | cache_items(shape, run, gpus) | pass_items(shape, run, gpus)


def weight_items(shape: Shape, run: Config, parts: int) -> dict[str, int]:
    """Weights and what the optimizer keeps of them, split into `parts`."""
    P, width = shape.parameters, bytes_of(run)
    part = math.ceil(P / parts if run.shard else P) * 4
    # what samples has copies of weights: on a CPU in float32 of all that are read, on a GPU in
    # bfloat16 of those of queries, keys and values
    packed = 0
    if width == 4 and run.device == "cpu":
        packed = shape.read
    elif width == 2 and run.device != "cpu":
        packed = shape.layers * shape.hidden * (shape.q + 2 * shape.kv)
    return {
        "parameters": part,
        "gradients": part,
        "AdamW state": 2 * part,
        "reference model": part if run.kl_coef else 0,
        # as they were loaded, or the reference's beside the policy's parts
        "weights before they are split": run.shard * 4 * P,
        "unsharded weights": run.shard * width * P,
        # they live as long as weights are unsharded
        "packed weights": width * packed,
    }


def cache_items(shape: Shape, run: Config, gpus: int) -> dict[str, int]:
    """Keys and values, and the moments of the sampling loop."""
    width, T, shapes = bytes_of(run), run.max_tokens, shapes_of(run)
    prompts = math.ceil(run.prompts / gpus)
    parents = forked_together(run, gpus)
    forks = run.branches > 0
    initial = shapes.rows_for(prompts * run.initial)
    branches = shapes.rows_for(parents * run.branches * run.depth)
    # one call of prompts is kept
    prompt_rows = min(prompts, shapes.prompt_rows)
    prompt_keys = padded_keys(round_up(run.max_prompt, run.prefill_chunk))
    parent_keys, capacity = padded_keys(width_of_pass(run)), live_capacity(run)
    logits = initial * shape.vocabulary
    drawn_at_once = logits if shapes.cuda else min(logits, BLOCK + shape.vocabulary)
    reading = (
        reading_bytes(shape, run, shapes.prompt_rows, prompt_keys),
        reading_bytes(shape, run, shapes.result_rows, capacity),
    )
    return {
        "KV cache of initial rollouts": cache_bytes(shape, initial, capacity, width),
        "KV cache of prompts": cache_bytes(shape, prompt_rows, prompt_keys, width),
        "KV cache to fork from": forks * cache_bytes(shape, parents, parent_keys, width),
        "hidden states to fork from": forks * parents * T * shape.hidden * width,
        "KV cache of branches": forks * cache_bytes(shape, branches, capacity, width),
        # five more float32 numbers per logit
        DRAW: 4 * logits + 20 * drawn_at_once,
        READ: max(reading),
    }


def pass_items(shape: Shape, run: Config, gpus: int) -> dict[str, int]:
    """A pass over whole rollouts, forward and backward."""
    width, W = bytes_of(run), width_of_pass(run)
    rows = len(micro_batches(minibatch_of(run, gpus), run.micro_tokens)[0])
    tokens, responses = rows * W, rows * run.max_tokens
    # the last norm; the responses' part of its output, and the gradient of that part
    around = shape.hidden * (tokens * (4 + width) + 2 * responses * width)
    again = run.checkpointing * layer_activations(shape, width)
    backward = (shape.intermediate + 3 * shape.hidden) * width + again
    logits = logits_at_once(shape, responses)
    # what a pass adds to the gradient of the output matrix; in one chunk it follows the logits
    output = shape.vocabulary * shape.hidden * width
    if responses > logits_chunk(shape.vocabulary):
        training = CHUNKS * logits + output
    else:
        training = max(ONE_CHUNK * logits, 4 * logits + output)
    in_flight = width * (2 * shape.root + 3 * shape.layer) + 4 * (shape.root + shape.layer)
    return {
        FORWARD: forward_bytes(shape, tokens, width),
        "weights and gradients in flight": run.shard * in_flight,
        "activations": activations(shape, tokens, width, run.checkpointing),
        SCORED: SCORING * logits + around,
        LOGITS: training + around,
        BACKWARD: tokens * backward,
    }


def bytes_of(run: Config) -> int:
    """Bytes of a number at work."""
    return 2 if run.dtype == "bfloat16" else 4


def longest(run: Config) -> Rollout:
    """A rollout as long as the limits allow."""
    return Rollout([0] * run.max_prompt, 0, ids=[0] * run.max_tokens)


def width_of_pass(run: Config) -> int:
    """Tokens of a row of a pass over the longest rollouts, padding included."""
    return padded_width([longest(run)])


def shapes_of(run: Config) -> Shapes:
    """The shapes of the sampler's calls, as Sampler chooses them."""
    cuda = run.device != "cpu"
    constant = run.constant_rows and not cuda and run.dtype == "float32"
    return Shapes(run.decode_rows, constant, cuda)


def live_capacity(run: Config) -> int:
    """Tokens that a live row has room for: Sampler's, whose decode steps on a GPU are one ahead."""
    shapes = shapes_of(run)
    ahead, chunk = int(shapes.cuda), shapes.chunk(run.prefill_chunk)
    return shapes.row_capacity(run.max_prompt, run.max_tokens, chunk, ahead)


def cache_bytes(shape: Shape, rows: int, capacity: int, width: int) -> int:
    """Keys and values of `rows` rows and a scratch row, numbers of `width` bytes."""
    return 2 * shape.layers * (rows + 1) * shape.kv * capacity * width


def forward_bytes(shape: Shape, tokens: int, width: int) -> int:
    """Most bytes at a time of a forward pass: the MLP of a layer."""
    return tokens * (3 * shape.intermediate + 4 * shape.hidden) * width


def logits_at_once(shape: Shape, tokens: int) -> int:
    """Logits that exist at a time, for so many tokens."""
    return min(logits_chunk(shape.vocabulary), tokens) * shape.vocabulary


def reading_bytes(shape: Shape, run: Config, rows: int, keys: int) -> int:
    """Most bytes at a time of a call that reads prompts or results."""
    width, queries = bytes_of(run), rows * shapes_of(run).chunk(run.prefill_chunk)
    # of one layer
    copied = 2 * rows * shape.kv * keys * width
    # the mask, and what is added to the scores: a row for every head of a key
    mask = queries * keys * (1 + width * shape.heads // shape.kv_heads)
    return copied + mask + forward_bytes(shape, queries, width)


def layer_activations(shape: Shape, width: int) -> int:
    """Bytes per token that the backward pass of a layer needs."""
    # a norm keeps its input in float32 and normalised, its output, and a factor per vector
    norms = 2 * (shape.hidden * (4 + 2 * width) + 4)
    if shape.qk_norm:
        norms += (shape.q + shape.kv) * (4 + width) + 4 * (shape.heads + shape.kv_heads)
    # query, key, value, output, log-sum-exp
    attention = 2 * (shape.q + shape.kv) * width + 4 * shape.heads
    # gate, its activation, up, product
    mlp = 4 * shape.intermediate * width
    return norms + attention + mlp


def activations(shape: Shape, tokens: int, width: int, checkpointing: bool) -> int:
    """Bytes held for the backward pass of a micro-batch; with checkpointing each layer's input."""
    per_layer = shape.hidden * width if checkpointing else layer_activations(shape, width)
    return shape.layers * tokens * per_layer


def minibatch_of(run: Config, gpus: int) -> list[Rollout]:
    """The initial rollouts of a mini-batch on the GPU that has most of them, at their longest."""
    return [longest(run)] * (math.ceil(run.minibatch / gpus) * run.initial)


def forked_together(run: Config, gpus: int) -> int:
    """How many rollouts, at their longest, are kept at once to fork from.

    Of --branch_ahead mini-batches; whole prompts, as many as --fork_tokens admits.
    """
    return len(cache_parts(minibatch_of(run, gpus) * run.branch_ahead, run)[0])


def peaks(items: dict[str, int]) -> dict[str, int]:
    """Most bytes at any time of each phase: all its items, but of MOMENTS only the largest."""
    found = {}
    for phase, names in PHASES.items():
        held = sum(items[name] for name in names if name not in MOMENTS)
        moments = [items[name] for name in names if name in MOMENTS]
        found[phase] = held + max(moments, default=0)
    return found


def most(shape: Shape, run: Config, gpus: int, per_node: int = 8) -> int:
    """Most bytes at any time on one GPU."""
    return max(peaks(memory(shape, run, gpus, per_node=per_node)).values())


def advice(
    shape: Shape, run: Config, gpus: int, limit: float, per_node: int = 8
) -> tuple[str, int]:
    """(flag and value, peak): the one setting that brings the peak below the limit.

    Of a flag the value nearest to the present one counts. First comes what computes nothing again,
    then what costs no GPU. If none brings it below: the flag that lowers the peak most.
    """
    more_gpus = [n for n in (gpus << k for k in range(1, 6)) if n <= per_node or n % per_node == 0]
    tries = {
        "decode_rows": halves(run.decode_rows),
        "micro_tokens": smaller_passes(run),
        "fork_tokens": fewer_forks(run, gpus),
        "checkpointing": [] if run.checkpointing else [True],
        "gpus": more_gpus,
    }
    costs = {"checkpointing": 1, "gpus": 2}
    found = []
    for name, values in tries.items():
        options = []
        for value in values:
            changed = run if name == "gpus" else dataclasses.replace(run, **{name: value})
            peak = most(shape, changed, value if name == "gpus" else gpus, per_node)
            cost = costs.get(name, 0) if peak <= limit else 0
            options.append((peak > limit, cost, peak, f"--{name} {str(value).lower()}"))
        fitting = [option for option in options if not option[0]]
        found += fitting[:1] or sorted(options)[:1]
    _, _, peak, flag = min(found)
    return flag, peak


def halves(n: int) -> list[int]:
    """n / 2, n / 4, ... 1, rounded down."""
    return [n >> k for k in range(1, n.bit_length())]


def smaller_passes(run: Config) -> list[int]:
    """Halves of --micro_tokens, down to the longest rollout: it is never split."""
    one = width_of_pass(run)
    return [max(n, one) for n in halves(run.micro_tokens) if 2 * n > one]


def fewer_forks(run: Config, gpus: int) -> list[int]:
    """--fork_tokens for 1/2, 1/4, ... of the prompts that a GPU forks at once, down to one."""
    if not run.branches:
        return []
    of_prompt = run.initial * padded_keys(width_of_pass(run))
    values = [n * of_prompt for n in halves(math.ceil(run.minibatch / gpus) * run.branch_ahead)]
    return [n for n in values if not run.fork_tokens or n < run.fork_tokens]


def without_checkpointing(
    shape: Shape, run: Config, gpus: int, limit: float, per_node: int = 8
) -> str:
    """A sentence if the run stays below the limit without --checkpointing.

    Perhaps in smaller passes. Empty if checkpointing is needed, or off.
    """
    if not run.checkpointing:
        return ""
    for budget in [run.micro_tokens, *smaller_passes(run)]:
        changed = dataclasses.replace(run, checkpointing=False, micro_tokens=budget)
        peak = most(shape, changed, gpus, per_node)
        if peak <= limit:
            smaller = "" if budget == run.micro_tokens else f" with --micro_tokens {budget}"
            return f"--checkpointing is not needed{smaller}: {peak / GIB:.1f} GiB without it"
    return ""
