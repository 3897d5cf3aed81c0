"""APPO, Agentic Procedural Policy Optimization (arXiv 2606.12384): one training step of a language-model agent that uses tools, top to bottom.

    1. prefill          each prompt goes through the model once; its N initial rollouts fork from that cache
    2. Sampler.run      one loop decodes many rows in lockstep; a tool result is appended to the live cache; nothing is computed twice
    3. score            a forward pass over whole rollouts: log-probs, entropies, and the cache that branches fork from
    4. future_value     Omega from the log-probs now and those at the start of the step                        (branching.py, Eq. 4)
    5. branch_points    the B best tokens of each rollout by branching score                                   (branching.py, Eq. 5)
    6. grow_branches    resample from those tokens with the current policy: a branch forks its parent's cache and runs the same loop, tools included
    7. credit           two groups, initial rollouts and branches, then the future term                        (advantage.py, Eq. 6-7)
    8. update           clipped policy gradient on the initial rollouts; branches never enter the loss         (advantage.py, Eq. 8)
    `step` puts them in order: 1-2 once, then for every mini-batch of prompts 3-8. Of several processes (Ranks) each does 1-7 for its share of the prompts, with
    whole weights (Policy.gathered); the update is that of the whole mini-batch.

Differs from the paper in: a mini-batch in which the policy has not moved yet has Omega = 1 everywhere, where Eq. 5 is undefined; there entropy alone chooses.
Differs from the released code in: branches are drawn before every update with the current policy, not once per step with the old one; a fork starts from the
cache, not from a new prefill; only calls made in the rollout itself count against its limit; no token that the policy did not sample is trained on; a rollout
whose policy writes <result> itself, a made-up tool result, ends there.

Axes: R rows of the live cache, B rows of a call, S new tokens per row, N rollouts, T response tokens, W tokens of prompt and response, D hidden, V vocabulary.
"""
import argparse
import dataclasses
import math
import platform
import time
import types
import unicodedata
import warnings
from collections import Counter, OrderedDict, deque
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
import transformers
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from advantage import dual_group_advantage, policy_loss, scale_by_future
from branching import both_above_average, branching_score, choose_branch_points, future_value, omega_is_constant, token_stats
from tools import STATUSES, TAGS, ToolResult, Unavailable, defuse, parse_call

warnings.filterwarnings("ignore", message=".*past_key_values.* is deprecated")     # renamed in transformers 5.24, gone in 5.40; 5.17 knows no other name
KEY_BLOCK = 64                      # slots of a cache that attention looks at come in this many, see key_slots
PASS_BLOCK = 16                     # rows of a pass over whole rollouts are as long as a multiple of this
ROUNDING = 1e-4                     # nats: in float32 the sampler's log-probs equal those of a scoring pass within this
SHARE_FROM = 256                    # on a CPU, budgets up to this many tokens: a fork copies what it shares, which is faster there; README
GRAPH_BLOCK = 512                   # and on CUDA in this many, for there is a graph for each number of them
FORGED = "<result>"                 # only the environment may open a result: a policy that writes this tag has made one up
STOP_TAGS = ("</python>", "</search>", FORGED)
TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>")


def option(default, text, low=None, choices=None):
    """A field of a configuration with its help text (units, range, source), the least value it takes, or all the values it takes."""
    return field(default=default, metadata={"help": text, "low": low, "choices": choices})


def check_options(config) -> None:
    """Raise ValueError naming the flag whose value has the wrong type, is out of its range or none of its choices."""
    for f in dataclasses.fields(config):
        value, low, choices = getattr(config, f.name), f.metadata["low"], f.metadata["choices"]
        right = {float: (int, float), tuple[float, float]: tuple, tuple[str, ...]: tuple}.get(f.type, f.type)
        pair = f.type == tuple[float, float] and isinstance(value, tuple) and not (len(value) == 2 and all(type(x) in (int, float) for x in value))
        if not isinstance(value, right) or pair or (isinstance(value, bool) and f.type is not bool):
            raise ValueError(f"--{f.name} must be {'two numbers' if right is tuple else f.type.__name__}, got {value!r}")
        if low is not None and not value >= low:
            raise ValueError(f"--{f.name} must be >= {low}, got {value}")
        if choices and value not in choices:
            raise ValueError(f"--{f.name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def add_flags(parser, kind) -> None:
    """A flag for every field of a configuration; those that are not given stay out of the parsed arguments."""
    def boolean(text: str) -> bool:
        if text.lower() not in ("true", "false"):
            raise argparse.ArgumentTypeError(f"true or false, not {text!r}")
        return text.lower() == "true"
    for f in dataclasses.fields(kind):
        special = {tuple[float, float]: dict(nargs=2, type=float), tuple[str, ...]: dict(nargs="+"), bool: dict(nargs="?", const=True, type=boolean)}
        how = special.get(f.type, dict(type=f.type, choices=f.metadata["choices"]))
        shown = f"{f.metadata['help']} (default {f.default})" if f.default not in ("", ()) else f.metadata["help"]
        parser.add_argument(f"--{f.name}", default=argparse.SUPPRESS, help=shown.replace("%", "%%"), **how)


def versions() -> dict:
    """What a result depends on besides its settings."""
    return {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}


@dataclass(frozen=True)
class Config:
    """Everything that the method is told, with the paper's values as defaults (preset "paper"); train.py makes a flag of every field."""
    initial: int = option(4, "N: initial rollouts per prompt (paper 4)", 1)
    branches: int = option(3, "B: branch points per initial rollout; 0 with --b 0 is GRPO (paper 3)", 0)
    b: float = option(0.5, "weight of the future term in the credit (paper 0.5, released code 1.0)", 0)
    half_life: float = option(32.0, "decay of the future sum in the credit, tokens; inf: none (paper 32, released code 64)", 1e-9)
    score_half_life: float = option(32.0, "decay of the future sum in the branching score, tokens (paper 32, released code inf)", 1e-9)
    decay_over: str = option("all", "what makes a step of decay: every token, tool results too, or policy tokens only", choices=("all", "policy"))
    score_clip: tuple[float, float] = option((0.8, 1.2), "bounds of Omega in the branching score")
    future_clip: tuple[float, float] = option((1.0, 1.2), "bounds of Omega in the credit (paper's implementation 1.0 1.2)")
    branch_at: str = option("resample", "a branch draws the chosen token anew (paper) or keeps it (released code)", choices=("resample", "keep"))
    branch_pool: str = option("rollout", "B points in every rollout (paper) or the N*B best of all rollouts of a prompt (released code)",
                              choices=("rollout", "prompt"))
    branch_when: str = option("minibatch", "draw branches with the current policy before every update (paper) or once before the first (released code)",
                              choices=("minibatch", "step"))
    prefer_positive: bool = option(True, "choose tokens above average in entropy and Omega first, then by entropy; false: Eq. 5 alone")
    exclude_punct: bool = option(True, "never branch at punctuation, unless it opens a tag")
    min_new: int = option(4, "a branch point leaves at least this many tokens of the budget", 1)
    dual: str = option("avg", "credit from both groups: their average (paper), sum (released code), Eq. 6 as printed, or one group",
                       choices=("avg", "sum", "literal", "off"))
    std_correction: int = option(0, "group std: 0 population (released APPO code), 1 unbiased (verl's GRPO)", choices=(0, 1))
    clip_low: float = option(0.2, "ratio clip below 1, in [0, 1]", 0)
    clip_high: float = option(0.28, "ratio clip above 1", 0)
    clip_c: float = option(3.0, "dual clip of the ratio for negative credit; inf: none", 1)
    surrogate: str = option("ppo", "the clipped loss: PPO's, GPPO's (clipped tokens keep a bounded gradient) or CISPO's (clipped weight on log-probs)",
                            choices=("ppo", "gppo", "cispo"))
    aggregate: str = option("seq-mean", "every rollout weighs the same (Eq. 8) or every token (released code)", choices=("seq-mean", "token-mean"))
    norm: str = option("init", "seq-mean divides by the initial rollouts or by all M = N(B+1) of Eq. 8", choices=("init", "budget"))
    kl_coef: float = option(0.0, "weight of the KL to the starting model; 0 never loads one (paper 0, released code 0.001)", 0)
    fipo_guards: bool = option(False, "the released code's guards: log-ratios above log 3 leave the future sum; Omega in [0.8, 1] where credit < 0 and "
                                      "ratio > 6; rows with more than one dual-clipped token give no policy gradient")
    temperature: float = option(1.0, "of sampling and of every log-prob and entropy", 1e-3)
    max_tokens: int = option(4096, "response budget, tokens, tool results included (paper 4096 reasoning, 8192 search)", 1)
    max_calls: int = option(3, "tool calls per rollout; one more ends it as truncated", 0)
    max_result_tokens: int = option(2048, "longest tool result, tokens", 8)
    prompts: int = option(128, "prompts per step, a multiple of --minibatch (paper 128)", 1)
    minibatch: int = option(16, "prompts per update (paper 16: 8 updates a step)", 1)
    ppo_epochs: int = option(1, "passes over the step's rollouts; branches are drawn anew in each", 1)
    micro_tokens: int = option(49152, "tokens per forward or backward pass over whole rollouts, padding included; a longer rollout is a pass of its own: memory and "
                                      "speed only", 1)
    checkpointing: bool = option(False, "recompute each layer's activations in the backward pass: memory for a third more time")
    clip_grad: float = option(1.0, "the gradient norm is clipped to this", 0)

    def __post_init__(self):
        check_options(self)
        for name in ("score_clip", "future_clip"):
            if not 0 < getattr(self, name)[0] <= getattr(self, name)[1]:
                raise ValueError(f"--{name} must be two numbers 0 < low <= high, got {getattr(self, name)}")
        if self.clip_low > 1:
            raise ValueError(f"--clip_low must be in [0, 1], got {self.clip_low}")
        if self.branch_when == "step" and self.ppo_epochs > 1:
            raise ValueError(f"--branch_when step draws the branches once: it needs --ppo_epochs 1, got {self.ppo_epochs}")
        if self.prompts % self.minibatch:
            raise ValueError(f"--prompts must be a multiple of --minibatch, got {self.prompts} and {self.minibatch}")


PRESETS = {"paper": {},
           "released": dict(initial=8, branches=1, b=1.0, half_life=64.0, score_half_life=float("inf"), branch_at="keep", branch_pool="prompt", branch_when="step",
                            exclude_punct=False, dual="sum", aggregate="token-mean", kl_coef=0.001, fipo_guards=True, prompts=96, max_tokens=6144)}
ALGOS = {"appo": {}, "grpo": dict(branches=0, b=0.0)}


# ------------------------------------------------------------------------------------------------------------------------------- model, cache, randomness

def folded_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, forks=None, **kwargs):
    """Grouped-query attention that does not copy the keys: heads that share a key head become further query positions. Without a mask: fresh rows, plain
    causal attention. forks: the rows go on from rows of another cache, see Forks."""
    for name in ("sliding_window", "softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ValueError(f"{type(module).__name__} wants {name}={kwargs[name]}, which this sampling loop does not compute")
    if attention_mask is None:
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    B, H, S, D = query.shape
    G = H // key.shape[1]
    query = query.reshape(B, -1, G * S, D)
    if attention_mask.shape[2] != G * S:                                  # not from Cache.append: transformers made it
        attention_mask = attention_mask.repeat(1, 1, G, 1)
    if forks is None:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
    else:
        out = fork_attention(query, key, value, attention_mask, scaling, forks, module.layer_idx)
    return out.view(B, H, S, D).transpose(1, 2).contiguous(), None


def fork_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float, forks: "Forks", layer: int) -> Tensor:
    """Attention over a row's own keys and over its parent's, which stay where they are and are read once for all forks of that parent.

        softmax over both = w x softmax over own + (1 - w) x softmax over the parent's,   w = sigmoid(lse_own - lse_parent)

    Args:    query: (B, heads, Q, D), the grouped heads' queries side by side. key, value: (B, heads, end, D), own. bias: (B, 1, Q, end), 0 or -inf.
    Returns: (B, heads, Q, D).
    """
    B, heads, Q, D = query.shape
    keys, values = forks.parent.k[layer][forks.rows], forks.parent.v[layer][forks.rows]                  # (P, heads, T, D)
    P, n = len(keys), len(forks.seat) // len(keys)
    own, own_lse = attend(query, key, value, bias, scaling)
    seated = query[forks.seat].view(P, n, heads, Q, D).transpose(1, 2).reshape(P, heads, n * Q, D)
    old, old_lse = attend(seated, keys, values, forks.bias, scaling)
    unseat = lambda x: x.view(P, heads, n, Q, -1).transpose(1, 2).reshape(P * n, heads, Q, -1)[forks.place]
    w = torch.sigmoid(own_lse - unseat(old_lse)).to(own.dtype)
    return torch.lerp(unseat(old), own, w)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Attention with the log-sum-exp of its scores: (..., Q, D) and (..., Q, 1) float32. bias is added to the scores."""
    if query.device.type == "cpu":                                        # fused; elsewhere no such kernel takes every mask
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=bias.to(query.dtype), scale=scaling)
        return out, lse[..., None]
    scores = (query @ key.transpose(-1, -2)).float().mul_(scaling).add_(bias)
    lse = scores.logsumexp(-1, keepdim=True)
    return scores.sub_(lse).exp_().to(value.dtype) @ value, lse


AttentionInterface.register("folded", folded_attention)
AttentionMaskInterface.register("folded", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def check_config(config, name: str) -> None:
    """Refuse a model that cannot be forked by copying a cache prefix. Needs its configuration only.

    Raises: ValueError naming the model if it is not a causal language model or a layer does not attend to everything before it.
    """
    kinds = config.architectures or []
    if kinds and not any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
        raise ValueError(f"{name} is a {kinds[0]}, not a causal language model (...ForCausalLM)")
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layers != {"full_attention"} or (getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)):
        raise ValueError(f"{name} uses sliding-window or other partial attention (layer types {sorted(layers)}, "
                         f"sliding_window {getattr(config, 'sliding_window', None)}); a fork needs full attention: Qwen2.5, Qwen3, Llama 3 and SmolLM2 have it")


def load_tokenizer(path: str):
    """The tokenizer of a model, after its configuration was checked; no weight is read. ValueError if there is no such model or it cannot be forked."""
    def read(kind):
        try:
            return kind.from_pretrained(path)
        except (OSError, ValueError) as problem:
            reason = str(problem).strip().splitlines()[0]
            raise ValueError(f"--model {path} is neither a folder with a Hugging Face model nor a name that can be fetched: {reason}") from None
    check_config(read(AutoConfig), path)
    return read(AutoTokenizer)


class Ranks:
    """The processes that share a step, each with prompts of its own. One alone needs no torch.distributed. Every method is a collective: all ranks call it."""

    @property
    def rank(self) -> int:
        return dist.get_rank() if dist.is_initialized() else 0

    @property
    def world(self) -> int:
        return dist.get_world_size() if dist.is_initialized() else 1

    def sum(self, values: list[float]) -> list[float]:
        """Element by element over the ranks, in float64."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: list[float]) -> list[float]:
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: list[float], how) -> list[float]:
        total = torch.tensor(values, dtype=torch.float64)
        if self.world > 1:
            dist.all_reduce(total, how)
        return total.tolist()

    def gather(self, thing) -> list:
        """What each rank holds, in the order of ranks, on all of them."""
        things = [thing]
        if self.world > 1:
            things = [None] * self.world
            dist.all_gather_object(things, thing)
        return things

    def share(self, items: list) -> list:
        """This rank's part of a list that all ranks have: every world-th item."""
        return items[self.rank::self.world]


class Policy:
    """A causal language model with what the loop needs to know of it.

    decoder (ids -> hidden states), head (hidden states -> logits), text (of every id), stop_ids (end a turn), closing (ids that may close a tag).

    Args:    model: from AutoModelForCausalLM; its attention is set to folded_attention. tokenizer: its tokenizer.
    Raises:  ValueError if the model's logits are more than head(hidden state) (soft caps, scaled logits).
    """
    def __init__(self, model, tokenizer):
        check_config(model.config, type(model).__name__)
        model.set_attn_implementation("folded")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.decoder, self.head, self.device, self.dtype = model.get_decoder(), model.get_output_embeddings(), model.device, model.dtype
        self.shards, self.through = [], lambda function, *arguments: function(*arguments)
        self.vocabulary = model.config.vocab_size
        size = min(len(tokenizer), self.vocabulary)
        self.text = [tokenizer.decode([i]) for i in range(size)] + [""] * (self.vocabulary - size)
        self.closing = {i for i, text in enumerate(self.text) if ">" in text}
        self.stop_ids = self._stop_ids()
        with torch.no_grad():
            x = torch.arange(8, device=self.device)[None] % self.vocabulary
            if not torch.equal(model(x).logits, self.head(self.decoder(x).last_hidden_state)):
                raise ValueError(f"{type(model).__name__} computes its logits by more than its output matrix; this loop would sample from another distribution")

    @classmethod
    def load(cls, path: str, dtype: str = "float32", device: str = "cpu") -> "Policy":
        """From a Hugging Face folder or name; the configuration is checked before any weight is read. ValueError as in check_config."""
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"--device {device}: this PyTorch sees no GPU; use --device cpu")
        tokenizer = load_tokenizer(path)
        return cls(AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), attn_implementation="folded").to(device), tokenizer)

    def shard(self, dtype: str, mesh=None) -> "Policy":
        """Split the float32 weights over the ranks (FSDP2), and with them their gradients and the optimiser's state; at work they are whole and in `dtype`.

        Gradients are summed over the ranks, not averaged. Outside `gathered` every call must go through `through`, on all ranks alike. mesh: a device mesh of
        one dimension, or of two to copy the shards over the first (HSDP); all ranks by default.
        """
        mixed = MixedPrecisionPolicy(param_dtype=getattr(torch, dtype), reduce_dtype=torch.float32)
        for module in [*self.decoder.layers, self.model]:                 # embedding, last norm and head in one group: tied weights stay tied
            fully_shard(module, mesh=mesh, mp_policy=mixed)
        self.shards = [module for module in self.model.modules() if isinstance(module, FSDPModule)]
        for module in self.shards:
            module.set_force_sum_reduction_for_comms(True)                # gloo has no division in its reductions
            module.set_gradient_divide_factor(1.0)
        self.model.run = types.MethodType(lambda model, function, *arguments: function(*arguments), self.model)
        register_fsdp_forward_method(self.model, "run")
        self.through, self.dtype = self.model.run, getattr(torch, dtype)
        with torch.no_grad():                                             # the very first call has to go through the root
            self.through(lambda: self.decoder(input_ids=torch.zeros(1, 1, dtype=torch.long, device=self.device)).last_hidden_state)
        for module in self.shards:                                        # the root stays whole after a forward pass; an optimizer must be given its shards
            module.reshard()
        return self

    @contextmanager
    def gathered(self):
        """Whole weights on every rank: any number of forward passes, each rank its own, without a word between them. FSDP2's hooks are off meanwhile: what is called
        is the plain model, which a CUDA graph can record."""
        for module in self.shards:
            module.unshard()
        hooks, through = [(module._forward_pre_hooks, module._forward_hooks) for module in self.shards], self.through
        for module in self.shards:
            module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
        self.through = lambda function, *arguments: function(*arguments)
        with torch.no_grad():
            yield
        self.through = through
        for module, (before, after) in zip(self.shards, hooks):
            module._forward_pre_hooks, module._forward_hooks = before, after
            module.reshard()

    def reduce_gradients(self, ranks: Ranks) -> None:
        """Sum the gradients of copied weights over the ranks; those of sharded weights have been summed by the backward pass."""
        if ranks.world > 1 and not self.shards:
            for p in self.model.parameters():
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                dist.all_reduce(p.grad)

    def _stop_ids(self) -> set[int]:
        """Ids that end a turn: what the model's configuration names, and the usual chat markers if the vocabulary has them."""
        named = [self.model.config.eos_token_id, self.model.generation_config.eos_token_id if self.model.generation_config else None]
        ids = {i for entry in named if entry is not None for i in (entry if isinstance(entry, (list, tuple)) else [entry])}
        known = self.tokenizer.get_vocab()
        return ids | {known[marker] for marker in TURN_ENDS if marker in known}

    def tensor(self, values: list) -> Tensor:
        """Numbers on the model's device, without waiting for what it is doing."""
        x = torch.tensor(values)
        return x.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else x

    def decode(self, ids: list[int]) -> str:
        """Text of ids, tags and special tokens included."""
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def closed_tag(self, ids: list[int]) -> str | None:
        """The stop tag that the last of these ids completes, or None. Tags span several tokens in real vocabularies, and the last may hold text after the ">".

        Args: ids: the policy's own tokens since the last tool result; a tag in a result must not count.
        """
        if not ids or ids[-1] not in self.closing:
            return None
        tail = "".join(self.text[i] for i in ids[-max(map(len, STOP_TAGS)):])
        last = len(self.text[ids[-1]])
        return next((tag for tag in STOP_TAGS if tail.find(tag, max(0, len(tail) - last - len(tag) + 1)) >= 0), None)


class Cache:
    """Keys and values of many rows, (layer, row, key head, slot, dim); each row has its own length and so its own next slot. No left padding.

    Slots at and beyond a row's length hold anything finite (padding, the steps of a row that waits); no query ever sees them before they are written again.
    One row more than asked for is scratch: padding rows of a call write there.
    """
    is_compileable, is_sliding = False, (False,)

    def __init__(self, policy: Policy, rows: int, slots: int):
        c = policy.model.config
        dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        slots = key_slots(slots)
        shape = (c.num_hidden_layers, rows + 1, c.num_key_value_heads, slots, dim)
        self.k = torch.zeros(shape, dtype=policy.dtype, device=policy.device)      # zeros: a NaN under the mask would still spread
        self.v = torch.zeros_like(self.k)
        self.length = torch.zeros(rows + 1, dtype=torch.long, device=policy.device)
        self.slots, self.scratch, self.fresh = slots, rows, False
        self.groups = c.num_attention_heads // c.num_key_value_heads

    def update(self, k: Tensor, v: Tensor, layer: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Called by every attention layer with the new keys and values (B, heads, S, dim): store them, return what the queries may look at."""
        if self.fresh:
            self.k[layer, self.rows, :, :k.shape[2]], self.v[layer, self.rows, :, :k.shape[2]] = k, v
            return k, v
        self.k[layer][self.at_row, :, self.at] = k.transpose(1, 2)
        self.v[layer][self.at_row, :, self.at] = v.transpose(1, 2)
        return self.k[layer][self.rows, :, :self.end], self.v[layer][self.rows, :, :self.end]

    def copy(self, row: int, other: "Cache", source: int, length: int) -> None:
        """Row `row` becomes the first `length` tokens of a row of another cache."""
        self.k[:, row, :, :length] = other.k[:, source, :, :length]
        self.v[:, row, :, :length] = other.v[:, source, :, :length]

    def get_seq_length(self, layer: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query, layer: int = 0) -> tuple[int, int]:
        return (query if isinstance(query, int) else query.shape[0]), 0

    def get_query_offset(self, layer: int = 0) -> int:
        return 0

    @torch.no_grad()
    def append(self, policy: Policy, ids: Tensor, n: Tensor, rows: slice | Tensor, end: int, forks: "Forks | None" = None) -> Tensor:
        """Put tokens behind the rows' last ones and read them. Nothing here waits for the device.

        Args:    ids: (B, S) long, right-padded. n: (B,) how many of each count, 0 for none. rows: (B,) long or a slice, the rows they belong to; all tensors on
                 the policy's device. end: key_slots of the last slot that counts. forks: what the rows share with rows of another cache.
        Returns: hidden state of each row's last token, (B, D); rubbish where n is 0. Raises ValueError if the cache has no room.
        """
        if end > self.slots:
            raise ValueError(f"a row has no room: {end} slots are needed, the cache has {self.slots}")
        length, device = self.length[rows], policy.device
        self.rows, self.end, self.at = rows, end, length[:, None] + torch.arange(ids.shape[1], device=device)          # at: (B, S) slots
        self.at_row = torch.arange(len(self.length), device=device)[rows][:, None]
        mask = (torch.arange(end, device=device) <= self.at[:, :, None])[:, None].repeat(1, 1, self.groups, 1)           # (B, 1, G S, end)
        positions, extra = self.at, {}
        if forks is not None:
            forks.bias = visible_bias(forks.seen().repeat_interleave(mask.shape[2], 1)[:, None])                         # (P, 1, n G S, T)
            mask, positions, extra = visible_bias(mask), positions + forks.shared[:, None], {"forks": forks}
        hidden = policy.decoder(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=self, use_cache=True, **extra).last_hidden_state
        self.length[rows] = length + n
        return hidden[torch.arange(len(n), device=device), (n - 1).clamp(min=0)]


def visible_bias(visible: Tensor) -> Tensor:
    """What is added to attention scores: 0 where a key may be looked at, else -inf. float32."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, -math.inf)


@dataclass
class Forks:
    """Rows of a call, each of which goes on from the first tokens of a row of another cache without a copy of them.

    Every parent has n seats; rows of the same parent sit side by side, so that its keys are read once for all of them. Empty seats hold any row.

    Args: parent: the other cache. rows: a slice or (P,) long, its rows. seat: (P n,) long, the row of the call on each seat. place: (B,) long, the seat of each
          row. shared: (B,) long, tokens of its parent that belong to each row, >= 1.
    """
    parent: Cache
    rows: slice | Tensor
    seat: Tensor
    place: Tensor
    shared: Tensor
    bias: Tensor | None = None                         # (P, 1, n Q, T), set by Cache.append

    def seen(self) -> Tensor:
        """(P, n, T) bool: the keys of its parent that whoever is on a seat may look at."""
        P = self.rows.stop - self.rows.start if isinstance(self.rows, slice) else len(self.rows)
        return torch.arange(self.parent.slots, device=self.seat.device) < self.shared[self.seat].view(P, -1, 1)


def extend(policy: Policy, cache: Cache, rows: list[int], held: list[int], ids: list[list[int]], batch: int, chunk: int,
           origins: "tuple[Cache, list[int], list[int]] | None" = None) -> Tensor:
    """Append a list of tokens to each row, in calls of one constant shape (batch, chunk): the bits of a row then depend on nothing but its own tokens.

    Args:    held: tokens that each row holds already. origins: (parent cache, row there, tokens shared with it) if the rows are forks.
    Returns: hidden state of each row's last token, (len(rows), D).
    """
    last = [None] * len(rows)
    for start in range(0, len(rows), batch):
        members = range(start, min(start + batch, len(rows)))
        pad, forks = batch - len(members), None
        if origins:
            parent, parents, shared = origins
            seats = torch.arange(batch, device=policy.device)
            forks = Forks(parent, policy.tensor([parents[j] for j in members] + [0] * pad), seats, seats, policy.tensor([shared[j] for j in members] + [1] * pad))
        where = policy.tensor([rows[j] for j in members] + [cache.scratch] * pad)
        for offset in range(0, max(len(ids[j]) for j in members), chunk):
            parts = [ids[j][offset:offset + chunk] for j in members] + [[]] * pad
            block, n = policy.tensor([part + [0] * (chunk - len(part)) for part in parts]), policy.tensor([len(part) for part in parts])
            end = key_slots(max(held[j] + min(offset, len(ids[j])) for j in members) + chunk)             # padding is written too
            hidden = cache.append(policy, block, n, where, end, forks)
            last = [hidden[j - start] if j in members and parts[j - start] else h for j, h in enumerate(last)]
    return torch.stack(last)


def encode_result(tokenizer, text: str, room: int) -> list[int]:
    """Token ids of " <result>\\n{text}\\n</result>", the text cut to fit into `room` ids. The text gives no tag and no special token, whatever it holds."""
    head, tail = (tokenizer(part, add_special_tokens=False).input_ids for part in (" <result>\n", "\n</result>"))
    body = tokenizer(defuse(text), add_special_tokens=False, split_special_tokens=True).input_ids
    return (head + body[:max(0, room - len(head) - len(tail))] + tail)[:room]


def encode_prompt(tokenizer, messages: list[dict]) -> list[int]:
    """Token ids of a chat up to where the assistant begins."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def round_up(x: int, multiple: int) -> int:
    """The smallest multiple that is not below x."""
    return -(-x // multiple) * multiple


def row_sizes(rows: int, constant: bool) -> list[int]:
    """How many rows a decode call may have, in rising order: always `rows`, or its eighths and, below the first of them, powers of two."""
    return [rows] if constant else sorted({round_up(rows * k, 8) // 8 for k in range(1, 9)} | {2**k for k in range(rows.bit_length()) if 8 * 2**k < rows})


def key_slots(length: int) -> int:
    """How many slots attention looks at for `length` tokens: 64, 128, 192, 256, 512, 512 + 64, ...

    On a CPU a sum over keys is made in blocks of 512, and the matrix library halves a block of more than 384 but not a smaller one; with these sizes a row's bits
    depend neither on its neighbours' lengths nor on its own padding.
    """
    slots = round_up(length, KEY_BLOCK)
    return slots if slots % 512 <= 256 else round_up(slots, 512)


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from (run seed, step, prompt, rollout, branch): splitmix64 over the parts in order."""
    state = 0
    for part in parts:
        state = (state ^ (part & (2**64 - 1))) + 0x9E3779B97F4A7C15 & (2**64 - 1)
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        state = (state ^ state >> 27) * 0x94D049BB133111EB & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


def uniform(seed: Tensor, position: Tensor) -> Tensor:
    """A number in [0, 1) for each (seed, position), both (B,) int64: counter-based, so there is no generator state to keep. float64."""
    right = lambda x, n: (x >> n) & ((1 << (64 - n)) - 1)                 # logical shift of a signed integer
    def scramble(x):
        x = (x ^ right(x, 30)) * -4658895280553007687                     # splitmix64's constants as signed integers; the products wrap
        x = (x ^ right(x, 27)) * -7723592293110705685
        return x ^ right(x, 31)
    return right(scramble(scramble(seed) + position * -7046029254386353131), 11).double() * 2.0**-53


def draw(logits: Tensor, u: Tensor, temperature: float, top_p: float = 1.0, top_k: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token per row by inverse CDF; greedy at temperature 0, its log-prob and entropy then those of temperature 1.

    Args:    logits: (R, V). u: (R,) in [0, 1). top_p, top_k: see `narrowed`; training needs the defaults, everything.
    Returns: ids (R,) long, logp (R,), entropy (R,): of the whole distribution, whatever top_p and top_k left of it, as token_stats would give them.
    """
    if temperature == 0:
        ids = logits.argmax(-1)
        return ids, *token_stats(logits, ids)
    scaled = logits if temperature == 1 else logits / temperature
    log_p = scaled.log_softmax(-1)
    p = log_p.exp()
    entropy = -torch.linalg.vecdot(p, log_p.clamp(min=-1e4))              # the clamp: 0 * -inf would be NaN
    ids = pick(p if top_p == 1 and not top_k else narrowed(logits.double() / temperature, top_p, top_k).softmax(-1), u)
    return ids, log_p.gather(-1, ids[:, None])[:, 0], entropy


def pick(weights: Tensor, u: Tensor, block: int = 256) -> Tensor:
    """Inverse CDF: the first index whose cumulative weight exceeds u of the whole, (R,) long; never one of weight 0.

    First the block of the vocabulary, by its sum in float64, then the index in it: a cumulative sum over a large vocabulary costs more than all else in a draw.
    weights: (R, V) >= 0. u: (R,) in [0, 1).
    """
    def find(sums: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:       # (R, n), (R, 1) -> the index, and how far into it, in [0, 1)
        ends = sums.cumsum(-1)
        target = torch.minimum(share * ends[:, -1:], ends[:, -1:].nextafter(torch.zeros_like(share)))
        at = torch.searchsorted(ends, target, right=True)
        size = sums.gather(-1, at)
        return at, ((target - ends.gather(-1, at) + size) / size).clamp(0, 1)
    blocks = F.pad(weights, (0, -weights.shape[1] % block)).view(len(weights), -1, block)
    outer, rest = find(blocks.sum(-1, dtype=torch.float64), u[:, None])
    inner, _ = find(blocks.gather(1, outer[:, :, None].expand(-1, -1, block))[:, 0].double(), rest)
    return (outer * block + inner)[:, 0]


def narrowed(logits: Tensor, top_p: float, top_k: int) -> Tensor:
    """Logits (R, V) with -inf outside the top_k likeliest tokens (0: all), and of these outside the fewest that hold top_p of the probability."""
    if top_k:
        logits = logits.masked_fill(logits < logits.topk(min(top_k, logits.shape[-1])).values[:, -1:], -math.inf)
    if top_p < 1:
        ranked, order = logits.sort(dim=-1, descending=True, stable=True)
        before = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1)      # probability of all likelier tokens
        logits = logits.masked_fill((before >= top_p).scatter(-1, order, before >= top_p), -math.inf)
    return logits


# ------------------------------------------------------------------------------------------------------------------------------------ rollouts, sampling

@dataclass
class Call:
    """A tool call: ids[start:end] of its rollout are the result (mask False)."""
    name: str
    argument: str
    status: str
    seconds: float
    start: int
    end: int


@dataclass(eq=False)
class Rollout:
    """One prompt and everything after it. ids, mask, logp and entropy have one length for ever; tool tokens have mask False and 0 for the other two.

    logp and entropy are those of the policy that sampled the token. finish: "stop" (end of turn), "length" (budget), "calls" (one call too many),
    "forged" (the policy wrote <result> itself). A branch has a parent and shares ids[:fork_at] with it.
    """
    prompt: list[int]
    seed: int
    group: int = 0                                     # index of its prompt in this step: rollouts of one prompt are compared with each other
    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    parent: "Rollout | None" = None
    fork_at: int = 0
    finish: str = ""
    pieces: list[tuple[bool, str]] = field(default_factory=list)     # (written by the policy?, text), in order
    reward: float = 0.0
    notes: dict[str, Tensor] = field(default_factory=dict)           # (T,) each, for the log: logp_old, future_value, branching_score, advantage

    @property
    def text(self) -> str:
        """The response as the policy saw it, tool results included."""
        return "".join(text for _, text in self.pieces)

    @property
    def policy_text(self) -> str:
        """The response without tool results."""
        return "".join(text for own, text in self.pieces if own)

    @property
    def truncated(self) -> bool:
        return self.finish in ("length", "calls")

    def append(self, ids: list[int], mask: bool, logp: list[float], entropy: list[float]) -> None:
        """Add tokens to all four lists at once."""
        assert len(ids) == len(logp) == len(entropy), "a token, its log-prob and its entropy are born together"
        self.ids += ids
        self.mask += [mask] * len(ids)
        self.logp += logp
        self.entropy += entropy

    def fork(self, at: int, seed: int) -> "Rollout":
        """A branch that shares ids[:at] and the calls completed in them."""
        calls = [c for c in self.calls if c.end <= at]
        return Rollout(self.prompt, seed, self.group, self.ids[:at], self.mask[:at], self.logp[:at], self.entropy[:at], calls, parent=self, fork_at=at)


@dataclass
class Start:
    """Where a row begins: the first len(prompt) + fork_at tokens of a row of a cache, and the hidden state (D,) that predicts the next one."""
    rollout: Rollout
    cache: Cache
    row: int
    hidden: Tensor


@dataclass
class Row:
    """A live row: its slot, the row of the parents' cache that it goes on from, the tokens that it reads there, and those of a tool result that the model has not
    read yet."""
    rollout: Rollout
    slot: int
    parent: int
    shared: int                                        # 0: the row holds a copy
    unread: list[int] = field(default_factory=list)
    since: int = 0                                     # decode step at which its result came

    @property
    def own(self) -> int:
        """Tokens that its slot of the cache holds."""
        return len(self.rollout.prompt) + len(self.rollout.ids) - self.shared - len(self.unread)


class Live:
    """What a decode step reads and writes, all on the device: a cache of the live rows' own tokens, and numbers per row.

    hidden predicts the row's next token; seed and position decide what is drawn; running is 1 for rows that decode and 0 for those that wait; shared: see
    Forks; drawn: ids, log-probs, entropies of the last step. seat and place: see Forks.
    """
    def __init__(self, policy: Policy, rows: int, slots: int, parent: Cache, seats: int):
        self.policy, self.cache, self.parent = policy, Cache(policy, rows, slots), parent
        whole = lambda *size: torch.zeros(*size, dtype=torch.long, device=policy.device)
        self.hidden = torch.zeros(rows, policy.model.config.hidden_size, dtype=policy.dtype, device=policy.device)
        self.seed, self.position, self.running, self.place, self.shared, self.seat = *whole(5, rows), whole(seats)
        self.shared += 1
        self.drawn = torch.zeros(3, rows, dtype=torch.float64, device=policy.device)

    def move(self, slots: list[int], to: list[int], length: int) -> None:
        """Rows change their slots; none of them holds more than `length` tokens."""
        source, target = self.policy.tensor(slots), self.policy.tensor(to)
        for x in (self.cache.k, self.cache.v):
            x[:, target, :, :length] = x[:, source, :, :length]
        for x in (self.cache.length, self.hidden, self.seed, self.position, self.shared):
            x[target] = x[source]


class Graphs:
    """Calls a function; from its second call with the same key on it replays what the device did then, as a CUDA graph. Valid as long as the same memory is used;
    what the function depends on besides that memory has to be in the key.

    Args: record: function -> object with replay(), see cuda_graphs; None: nothing is recorded.
    """
    def __init__(self, record):
        self.record, self.graphs, self.seen = record, {}, set()

    def __call__(self, key: tuple, function) -> None:
        if self.record is None or key not in self.seen:                   # the first call warms up: libraries allocate what a recording may not
            self.seen.add(key)
            return function()
        if key not in self.graphs:
            self.graphs[key] = self.record(function)
        self.graphs[key].replay()


def cuda_graphs():
    """A recorder for Graphs whose graphs share their scratch memory: none of them reads what another one left there."""
    pool = torch.cuda.graph_pool_handle()

    def record(function):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            function()
        return graph
    return record


class Sampler:
    """Decodes many rollouts in lockstep; see `run`.

    Each turn of the loop: free slots take waiting starts; results that have come are appended in groups; all running rows draw a token and read it. A row that
    calls a tool waits in its slot without holding up the others. Where forks share, rows hold their own tokens only: those before a fork are read where they are.

    On a CPU in float32 the shapes of all calls are constant, (rows, 1), (rows/4, chunk) and (rows/8, chunk), so that the tokens of a row do not depend on what else is being
    sampled. Elsewhere, or without constant_rows, only as many rows are decoded as are left, rounded up to eighths of `rows` (below that to powers of two).

    Args:    tools: name -> object with run(argument) -> ToolResult. rows: live rows, >= 1. max_tokens, max_calls,
             max_result_tokens, temperature: see Config; temperature 0 is greedy. chunk: tokens per row and call when prompts and results are read.
             tool_threads: calls that run at once. top_p, top_k: see `narrowed`; for evaluation only. constant_rows: see above. lag: decode steps that are
             launched before the tokens of an earlier one are looked at, so that the device never waits for the host; 1 on CUDA, and a row then decodes one
             token in vain when its turn ends. share: forks read their parents' keys and values in place, or else copy them; None: whichever is faster
             on the device, see SHARE_FROM.
    """
    PATIENCE = 8        # decode steps that a result waits for others to be appended with

    def __init__(self, policy: Policy, tools: dict, rows: int, max_tokens: int, max_calls: int, max_result_tokens: int = 2048,
                 temperature: float = 1.0, chunk: int = 16, tool_threads: int = 8, top_p: float = 1.0, top_k: int = 0, constant_rows: bool = True,
                 lag: int | None = None, share: bool | None = None):
        if rows < 1 or chunk < 1:
            raise ValueError(f"rows and chunk must be >= 1, got {rows} and {chunk}")
        self.policy, self.tools, self.rows, self.chunk = policy, tools, rows, chunk
        self.max_tokens, self.max_calls, self.max_result_tokens, self.temperature = max_tokens, max_calls, max_result_tokens, temperature
        self.top_p, self.top_k = top_p, top_k
        cuda = policy.device.type == "cuda"
        self.lag = int(cuda) if lag is None else lag
        self.record = cuda_graphs if cuda else lambda: None
        self.share = cuda or max_tokens > SHARE_FROM if share is None else share
        self.block, self.grid = (GRAPH_BLOCK, 8) if cuda else (1, 1)      # key lengths, and the parents that a call looks at, are rounded up to these
        self.sizes = row_sizes(rows, constant_rows and not cuda and policy.dtype == torch.float32)
        self.batch = max(1, rows // 8)       # rows per call when results are read
        self.pool = ThreadPoolExecutor(tool_threads)
        self.count = Counter()          # computed: tokens put through the model; sampled: of them, drawn; row_calls: rows decoded, running or not
        self.live = None

    def run(self, starts: list[Start], temperature: float | None = None) -> None:
        """Complete the rollouts of all starts, in place; more starts than rows wait for a free slot. Rows begin in the order given.

        The starts share one cache. Memory: as many rows as there are starts, at most `rows`, of the longest budget that is left, only while this runs.
        """
        if not starts:
            return
        self._open(starts)
        self.now = self.temperature if temperature is None else temperature
        self.waiting, self.running, self.in_tool, self.ready, self.drawn, self.steps = deque(starts), {}, {}, [], deque(), 0
        while self.waiting or self.running or self.in_tool or self.ready or self.drawn:
            self._admit()
            self._collect()
            if self.ready and (len(self.ready) >= self.batch or not self.running or self.steps - self.ready[0].since >= self.PATIENCE):
                self._read_results()
            if self.running:
                self._decode()
            while len(self.drawn) > (self.lag if self.running else 0):
                self._look(*self.drawn.popleft())
            if self.in_tool and not (self.running or self.ready or self.waiting and self.free):
                wait(self.in_tool, return_when=FIRST_COMPLETED)
        self.live = self.graphs = None

    def prefill(self, prompts: list[list[int]]) -> tuple[Cache, Tensor]:
        """Each prompt through the model once: a cache with one row per prompt, and the hidden states (P, D) that predict the first response token."""
        cache, rows = Cache(self.policy, len(prompts), round_up(max(map(len, prompts)), self.chunk)), list(range(len(prompts)))
        hidden = extend(self.policy, cache, rows, [0] * len(prompts), prompts, max(1, self.rows // 4), self.chunk)
        self.count["computed"] += sum(map(len, prompts))
        return cache, hidden

    def _open(self, starts: list[Start]) -> None:
        """Memory for these starts: only as many rows, and slots in them, as they can use."""
        parents = Counter(s.row for s in starts)
        if any(s.cache is not starts[0].cache for s in starts):
            raise ValueError("the starts of a run must share one cache")
        self.bucket = next(size for size in self.sizes if size >= min(len(starts), self.sizes[-1]))
        room = max(len(s.rollout.prompt) + self.max_tokens - self._shared(s.rollout) for s in starts) + self.chunk + self.lag
        seats = round_up(len(starts[0].cache.length), self.grid) * max(parents.values())
        self.live = Live(self.policy, self.bucket, round_up(room, self.block), starts[0].cache, seats)
        self.free, self.graphs, self.marks = list(range(self.bucket))[::-1], Graphs(self.record()), None
        self.parents, self.seats = slice(0, 0), 0

    def _shared(self, rollout: Rollout) -> int:
        """Tokens that a fork reads where they are."""
        return len(rollout.prompt) + rollout.fork_at if self.share else 0

    def _admit(self) -> None:
        """Waiting starts take free slots."""
        rows, hidden = [], []
        while self.free and self.waiting:
            start = self.waiting.popleft()
            row = Row(start.rollout, self.free[-1], start.row, self._shared(start.rollout))
            if len(start.rollout.ids) >= self.max_tokens:
                self._finish(row, "length")
                continue
            self.running[self.free.pop()] = row
            rows, hidden = rows + [row], hidden + [start.hidden]
        if rows:
            self._set_running(rows, torch.stack(hidden))
            if self.share:
                self._seat()
            for row in rows if not self.share else ():
                self.live.cache.copy(row.slot, self.live.parent, row.parent, row.own)

    def _set_running(self, rows: list[Row], hidden: Tensor) -> None:
        """Rows decode from now on, from these hidden states (len(rows), D)."""
        at, live, tensor = self.policy.tensor([row.slot for row in rows]), self.live, self.policy.tensor
        self.running.update({row.slot: row for row in rows})
        live.hidden[at], live.cache.length[at], live.shared[at] = hidden, tensor([row.own for row in rows]), tensor([row.shared for row in rows])
        live.seed[at], live.position[at] = tensor([row.rollout.seed for row in rows]), tensor([len(row.rollout.ids) for row in rows])

    def _seat(self) -> None:
        """Give every row in a slot a seat among those of its parent."""
        rows = [*self.running.values(), *self.in_tool.values(), *self.ready]
        low = min(row.parent for row in rows) // self.grid * self.grid
        high = min(round_up(max(row.parent for row in rows) + 1, self.grid), len(self.live.parent.length))
        n, taken, seat, place = max(Counter(row.parent for row in rows).values()), Counter(), [0] * (high - low), [0] * self.bucket
        seat *= n
        for row in rows:
            where = (row.parent - low) * n + taken[row.parent]
            taken[row.parent] += 1
            seat[where], place[row.slot] = row.slot, where
        self.parents = slice(low, high)
        self.seats = len(seat)
        self.live.seat[:len(seat)], self.live.place[:len(place)] = self.policy.tensor(seat), self.policy.tensor(place)

    def _shrink(self) -> None:
        """When nothing waits any more and fewer rows are left, move them together and decode no more than that."""
        rows = [*self.running.values(), *self.in_tool.values(), *self.ready]
        size = next(size for size in self.sizes if size >= len(rows))
        if self.waiting or size >= self.bucket:
            return
        movers, free = [row for row in rows if row.slot >= size], sorted(set(range(size)) - {row.slot for row in rows})
        to = free[:len(movers)]
        if movers:
            self.live.move([row.slot for row in movers], to, max(row.own for row in movers) + self.lag)
        for row, slot in zip(movers, to):
            if self.running.pop(row.slot, None):
                self.running[slot] = row
            row.slot = slot
        self.bucket, self.free = size, free[len(movers):]
        if self.share:
            self._seat()

    def _decode(self) -> None:
        """Launch a step: every running row draws a token and reads it."""
        self._shrink()
        marks = [int(slot in self.running) for slot in range(self.bucket)]
        if marks != self.marks:
            self.marks, self.live.running[:self.bucket] = marks, self.policy.tensor(marks)
        end = round_up(key_slots(max(row.own for row in self.running.values()) + len(self.drawn) + 1), self.block)
        self.graphs((self.bucket, end, self.parents.start, self.parents.stop, self.seats), partial(self._step, end))
        drawn = self.live.drawn[:, :self.bucket].to("cpu", non_blocking=True, copy=True)
        ready = torch.cuda.Event() if drawn.is_pinned() else None
        if ready:
            ready.record()
        self.drawn.append((drawn, ready, [(row, row.slot, len(row.rollout.calls)) for row in self.running.values()]))
        self.steps += 1
        self.count += Counter(row_calls=self.bucket, computed=len(self.running))

    @torch.no_grad()
    def _step(self, end: int) -> None:
        """Draw a token in every row and read it; only the device knows which."""
        live, B = self.live, self.bucket
        ids, logp, entropy = draw(self.policy.head(live.hidden[:B]).float(), uniform(live.seed[:B], live.position[:B]), self.now, self.top_p, self.top_k)
        live.drawn[:, :B] = torch.stack([ids.double(), logp.double(), entropy.double()])
        live.position[:B] += live.running[:B]
        forks = Forks(live.parent, self.parents, live.seat[:self.seats], live.place[:B], live.shared[:B]) if self.share else None
        live.hidden[:B] = live.cache.append(self.policy, ids[:, None], live.running[:B], slice(0, B), end, forks)

    def _look(self, drawn: Tensor, ready, rows: list[tuple[Row, int, int]]) -> None:
        """The tokens of a step join their rollouts. Of a row whose turn had ended before, what it drew since is dropped."""
        if ready:
            ready.synchronize()
        ids, logp, entropy = drawn.tolist()
        for row, slot, turn in rows:
            if self.running.get(row.slot) is row and len(row.rollout.calls) == turn:
                row.rollout.append([int(ids[slot])], True, [logp[slot]], [entropy[slot]])
                self.count["sampled"] += 1
                self._after_token(row, int(ids[slot]))

    def _after_token(self, row: Row, token: int) -> None:
        """End of turn, a closed tool tag, the end of the budget, or nothing."""
        r = row.rollout
        if token in self.policy.stop_ids:
            return self._finish(row, "stop")
        turn = r.ids[r.calls[-1].end if r.calls else 0:]
        tag = self.policy.closed_tag(turn)
        if tag == FORGED:
            self._finish(row, "forged")
        elif tag and len(r.calls) >= self.max_calls:
            self._finish(row, "calls")
        elif len(r.ids) >= self.max_tokens:
            self._finish(row, "length")
        elif tag:
            call = parse_call(self.policy.decode(turn)) or (tag[2:-1], None)
            r.calls.append(Call(*call, "", 0.0, len(r.ids), len(r.ids)))
            del self.running[row.slot]
            self.in_tool[self.pool.submit(self._call, *call)] = row

    def _call(self, name: str, argument: str | None) -> ToolResult:
        """Run a tool, in a thread of the pool."""
        if argument is None:
            return ToolResult("error", f"Error: a closing {name} tag without an opening one", 0.0)
        if name not in self.tools:
            return ToolResult("error", f"Error: there is no {name} tool here", 0.0)
        return self.tools[name].run(argument)

    def _collect(self) -> None:
        """Results that have come join their rollouts. Encoded here, in the main thread: the tokenizer is not made for several."""
        for future in [f for f in self.in_tool if f.done()]:
            row, result = self.in_tool.pop(future), future.result()
            r = row.rollout
            ids = encode_result(self.policy.tokenizer, result.text, min(self.max_result_tokens, self.max_tokens - len(r.ids)))
            r.append(ids, False, [0.0] * len(ids), [0.0] * len(ids))
            call = r.calls[-1]
            call.status, call.seconds, call.argument, call.end = result.status, result.seconds, call.argument or "", len(r.ids)
            row.unread, row.since = ids, self.steps
            if len(r.ids) < self.max_tokens:
                self.ready.append(row)
            else:
                self._finish(row, "length")

    def _read_results(self) -> None:
        """Put the results that have come through the model; their rows run again."""
        rows, self.ready = self.ready, []
        held, origins = [row.own for row in rows], (self.live.parent, [row.parent for row in rows], [row.shared for row in rows]) if self.share else None
        slots = [row.slot for row in rows]
        self.live.cache.length[self.policy.tensor(slots)] = self.policy.tensor(held)      # with a lag the row has drawn further
        hidden = extend(self.policy, self.live.cache, slots, held, [row.unread for row in rows], self.batch, self.chunk, origins)
        self.count["computed"] += sum(len(row.unread) for row in rows)
        for row in rows:
            row.unread = []
        self._set_running(rows, hidden)

    def _finish(self, row: Row, reason: str) -> None:
        r = row.rollout
        r.finish = reason
        bounds = [0, *(edge for call in r.calls for edge in (call.start, call.end)), len(r.ids)]
        r.pieces = [(k % 2 == 0, self.policy.decode(r.ids[a:b])) for k, (a, b) in enumerate(zip(bounds, bounds[1:])) if b > a]
        self.running.pop(row.slot, None)
        if row.slot not in self.free:
            self.free.append(row.slot)


# ------------------------------------------------------------------------------------------------------------------------------------------- scoring

def response_tensors(rollouts: list[Rollout], device) -> tuple[Tensor, Tensor]:
    """ids (N, T) long and mask (N, T) bool of the responses, right-padded."""
    T = max([1, *(len(r.ids) for r in rollouts)])
    ids, mask = torch.zeros(len(rollouts), T, dtype=torch.long), torch.zeros(len(rollouts), T, dtype=torch.bool)
    for n, r in enumerate(rollouts):
        ids[n, :len(r.ids)], mask[n, :len(r.ids)] = torch.tensor(r.ids, dtype=torch.long), torch.tensor(r.mask, dtype=torch.bool)
    return ids.to(device), mask.to(device)


def recorded(rollouts: list[Rollout], device) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies as recorded while sampling, (N, T) each, 0 where mask is False."""
    numbers = torch.zeros(2, len(rollouts), max([1, *(len(r.ids) for r in rollouts)]))
    for n, r in enumerate(rollouts):
        numbers[:, n, :len(r.ids)] = torch.tensor([r.logp, r.entropy])
    return tuple(numbers.to(device))


def padded_width(rollouts: list[Rollout]) -> int:
    """Tokens of the longest prompt and response together, rounded up: what every row of a pass over these rollouts is padded to."""
    return round_up(max([1, *(len(r.prompt) + len(r.ids) for r in rollouts)]), PASS_BLOCK)


def passes(rollouts: list[Rollout], budget: int) -> list[list[int]]:
    """Which rollouts go through the model together: indices, the longest first, as many to a pass as rows x padded_width <= budget allows, but at least one.

    Sorted, rows of a pass are about as long as each other: little padding; and the largest pass comes first, so that memory that does not suffice shows at
    once. Decided by lengths and order alone, ties by index.
    """
    packed, width = [], 0
    for n in sorted(range(len(rollouts)), key=lambda n: -len(rollouts[n].prompt) - len(rollouts[n].ids)):
        if not packed or (len(packed[-1]) + 1) * width > budget:
            packed.append([])
            width = padded_width([rollouts[n]])
        packed[-1].append(n)
    return packed


def equal_passes(rollouts: list[Rollout], budget: int, ranks: Ranks) -> tuple[list[Rollout], list[list[int]]]:
    """`passes`, as many on every rank: FSDP's collectives need that. A rank with fewer makes up for them with passes of one more rollout, which has no policy
    token. A collective.

    Returns: rollouts and that one, indices into them.
    """
    packed = passes(rollouts, budget)
    missing = int(ranks.max([len(packed)])[0]) - len(packed)
    return rollouts + [Rollout([0], 0, ids=[0], mask=[False])], packed + [[len(rollouts)]] * missing


def logits_chunk(vocabulary: int) -> int:
    """Tokens whose logits exist at once: 256, or more where the vocabulary is small."""
    return max(256, 2**25 // vocabulary)


def chunked_stats(policy: Policy, hidden: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """token_stats of (M, D) hidden states, never holding more logits than logits_chunk says; with gradient those of each chunk, if there are several, are computed
    again in the backward pass.

    Returns: logp (M,), entropy (M,), float32. The entropy carries no gradient.
    """
    def stats(h, i):
        logp, entropy = token_stats(policy.head(h), i, temperature)
        return logp, entropy.detach()
    chunk = logits_chunk(policy.vocabulary)
    again = torch.is_grad_enabled() and len(hidden) > chunk
    run = (lambda h, i: checkpoint(stats, h, i, use_reentrant=False)) if again else stats
    parts = [run(h, i) for h, i in zip(hidden.split(chunk), ids.split(chunk))]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


@dataclass
class Scored:
    """What a pass over whole rollouts leaves: logp, entropy (N, T), 0 where mask is False; hidden (N, T, D) and the cache if they were asked for."""
    logp: Tensor
    entropy: Tensor
    hidden: Tensor | None
    cache: Cache | None


def score_rows(policy: Policy, rollouts: list[Rollout], temperature: float, cache: Cache | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """One causal pass over prompts and responses, padded on the right to padded_width W. The trainer and the scoring pass both come through here.

    Args:    cache: keeps keys and values of the rows cache.rows, which the caller has set.
    Returns: logp, entropy (B, T), 0 where mask is False; with a cache the hidden states (B, W, D), otherwise None.
    """
    ids, mask = response_tensors(rollouts, policy.device)
    whole = torch.zeros(len(rollouts), padded_width(rollouts), dtype=torch.long)
    for b, r in enumerate(rollouts):
        whole[b, :len(r.prompt) + len(r.ids)] = torch.tensor(r.prompt + r.ids)
    first, (row, t) = torch.tensor([len(r.prompt) - 1 for r in rollouts], device=policy.device), mask.nonzero(as_tuple=True)
    places = row * whole.shape[1] + first[row] + t                        # (M,) where the M policy tokens are predicted

    def whole_pass():
        hidden = policy.decoder(input_ids=whole.to(policy.device), past_key_values=cache, use_cache=cache is not None).last_hidden_state
        stats = chunked_stats(policy, hidden.flatten(0, 1).index_select(0, places), ids[mask], temperature)
        return *stats, None if cache is None else hidden
    logp, entropy, hidden = policy.through(whole_pass)
    zeros = torch.zeros(mask.shape, dtype=logp.dtype, device=mask.device)
    return zeros.masked_scatter(mask, logp), zeros.masked_scatter(mask, entropy), hidden


@torch.no_grad()
def score(policy: Policy, rollouts: list[Rollout], temperature: float, budget: int, keep_cache: bool = False) -> Scored:
    """Log-probs and entropies of rollouts under the current policy, in passes of at most `budget` tokens; with keep_cache also what branches start from.

    The same rollouts in the same order give the same bits as long as the weights are the same.
    """
    N, T = len(rollouts), max([1, *(len(r.ids) for r in rollouts)])
    logp, entropy = torch.zeros(2, N, T, device=policy.device)
    cache, hidden = None, None
    if keep_cache and rollouts:                                           # a rank may have no share of this mini-batch
        cache = Cache(policy, N, padded_width(rollouts))
        cache.fresh = True
        hidden = torch.zeros(N, T, policy.model.config.hidden_size, dtype=policy.dtype, device=policy.device)
    for rows in passes(rollouts, budget):
        if cache is not None:
            cache.rows = torch.tensor(rows, device=policy.device)
        *stats, states = score_rows(policy, [rollouts[n] for n in rows], temperature, cache)
        logp[rows, :stats[0].shape[1]], entropy[rows, :stats[0].shape[1]] = stats
        for n, own in zip(rows, () if states is None else states):        # own: (W, D), of which what predicts the response is kept
            start, length = len(rollouts[n].prompt) - 1, len(rollouts[n].ids)
            hidden[n, :length] = own[start:start + length]
    if cache is not None:
        cache.fresh = False
    return Scored(logp, entropy, hidden, cache)


# ----------------------------------------------------------------------------------------------------------------------------------------- branching

@dataclass
class Look:
    """A mini-batch under the current policy, compared with the start of the step; all (N, T) but `scored`.

    omega feeds the credit, score_omega the branching score: the same unless their half-lives differ.
    """
    scored: Scored
    mask: Tensor
    logp_old: Tensor
    log_ratio: Tensor
    omega: Tensor
    score_omega: Tensor


def look(policy: Policy, rollouts: list[Rollout], logp_old: Tensor | None, config: Config, keep_cache: bool) -> Look:
    """The scoring pass under the current policy and the future value of every token (Eq. 4). Without branches and with b = 0 nothing asks for either: in float32
    there is no pass then, and Omega stands for 1.

    Args: logp_old: (N, T) log-probs at the start of the step; None: the policy has not moved since, this pass gives them, and Omega is exactly 1.
          keep_cache: branches will start from the pass' cache.
    """
    mask = response_tensors(rollouts, policy.device)[1]
    if not config.branches and not config.b and policy.dtype == torch.float32:
        logp, entropy = recorded(rollouts, policy.device)                 # nothing asks for Omega: what was recorded while sampling will do
        return Look(Scored(logp, entropy, None, None), mask, logp, torch.zeros_like(logp), torch.ones_like(logp), torch.ones_like(logp))
    scored = score(policy, rollouts, config.temperature, config.micro_tokens, keep_cache)
    logp_old = scored.logp if logp_old is None else without_rounding(logp_old, scored.logp, mask)
    limit = math.log(3.0) if config.fipo_guards else math.inf
    omega = future_value(scored.logp, logp_old, mask, config.half_life, config.decay_over, limit)
    score_omega = future_value(scored.logp, logp_old, mask, config.score_half_life, config.decay_over)
    return Look(scored, mask, logp_old, scored.logp - logp_old, omega, score_omega)


def without_rounding(logp_old: Tensor, logp: Tensor, mask: Tensor) -> Tensor:
    """logp_old, but logp itself in rollouts where the two differ by no more than ROUNDING at every policy token; all (N, T).

    There a policy that has moved cannot be told from one that has not, since the sampler rounds otherwise than the scoring pass; summed over many tokens that
    noise would pass for an order of Omega.
    """
    apart = torch.where(mask, logp - logp_old, 0.0).abs().amax(-1, keepdim=True)           # (N, 1)
    return torch.where(apart <= ROUNDING, logp, logp_old)


def branch_candidates(policy: Policy, rollout: Rollout, config: Config, T: int) -> list[bool]:
    """Tokens where a branch may start, (T,): policy tokens with a letter, digit or symbol in them, or that open a tag; not the first, not an end of turn, and
    with at least min_new tokens of the budget left. With branch_at="keep" also not the last token before a result or the end."""
    ids, mask, ok = rollout.ids, rollout.mask, [False] * T
    keep = config.branch_at == "keep"
    never = policy.stop_ids | {policy.tokenizer.pad_token_id}
    for t in range(1, min(len(ids), config.max_tokens - config.min_new + 1 - keep)):
        ends_turn = keep and (t + 1 >= len(ids) or not mask[t + 1])
        if mask[t] and ids[t] not in never and not ends_turn:
            ok[t] = bool(policy.text[ids[t]].strip()) and (not config.exclude_punct or _has_content(policy, ids, t))
    return ok


def _has_content(policy: Policy, ids: list[int], t: int) -> bool:
    """Not punctuation alone; the "<" or "</" of a tag counts as content, for which tag comes is a decision."""
    text = policy.text[ids[t]]
    symbols = "+-*=^%\\$" if "<" in text else "+-*/=^%\\$"
    if any(c in symbols or c.isalnum() or (ord(c) > 127 and unicodedata.category(c)[0] not in "PZ") for c in text):
        return True
    tail = "".join(policy.text[i] for i in ids[t:t + 10])
    return any(c == "<" and tail[i + 1:].removeprefix("/").startswith(tuple(tag + ">" for tag in TAGS)) for i, c in enumerate(text))


def branch_points(policy: Policy, rollouts: list[Rollout], now: Look, config: Config) -> tuple[list[list[int]], Tensor]:
    """The tokens of each rollout to branch at, best first, and the numbers (N, T) that ranked them.

    These are branching scores; where neither entropy nor Omega varies the choice is uniform and the row holds the random numbers that made it, drawn from
    the rollout's seed. With branch_pool="prompt" the rollouts must come prompt by prompt, config.initial each.
    """
    entropy, mask = now.scored.entropy, now.mask
    scores = branching_score(entropy, now.score_omega, mask, config.score_clip)
    flat = (scores == 0).all(-1)
    for n in flat.nonzero()[:, 0].tolist():
        seed = torch.full((mask.shape[1],), mix_seed(rollouts[n].seed, 1))
        scores[n] = uniform(seed, torch.arange(mask.shape[1])).to(scores)
    allowed = torch.tensor([branch_candidates(policy, r, config, mask.shape[1]) for r in rollouts], device=mask.device)
    preferred = both_above_average(entropy, now.score_omega, mask, config.score_clip) | flat[:, None] if config.prefer_positive else None
    top_up = entropy if config.prefer_positive else None
    if config.branch_pool == "rollout":
        return choose_branch_points(scores, allowed, config.branches, preferred, top_up), scores
    N, T = config.initial, mask.shape[1]                                                  # one long row per prompt
    pool = lambda x: None if x is None else x.reshape(-1, N * T)
    points = [[] for _ in rollouts]
    for p, chosen in enumerate(choose_branch_points(pool(scores), pool(allowed), N * config.branches, pool(preferred), pool(top_up))):
        for place in chosen:
            points[p * N + place // T].append(place % T)
    return points, scores


def grow_branches(sampler: Sampler, rollouts: list[Rollout], scored: Scored, points: list[list[int]], config: Config, epoch: int = 0) -> list[Rollout]:
    """Sample a branch from every branch point with the current policy, from the scoring pass' cache.

    Args:    scored: of these rollouts, with its cache. points: token indices per rollout. epoch: PPO epoch, so that each draws anew.
    Returns: the branches, complete, rollout by rollout in the order of their points.
    """
    starts = []
    for n, (rollout, places) in enumerate(zip(rollouts, points)):
        for k, t in enumerate(places):
            at = t + (config.branch_at == "keep")
            branch = rollout.fork(at, mix_seed(rollout.seed, 1 + epoch, 1 + k))
            starts.append(Start(branch, scored.cache, n, scored.hidden[n, at]))
    sampler.run(starts)
    return [s.rollout for s in starts]


# ------------------------------------------------------------------------------------------------------------------------------------- credit and update

def credit(rollouts: list[Rollout], branches: list[Rollout], omega: Tensor, ratio: Tensor, mask: Tensor, config: Config) -> Tensor:
    """Advantage of every token of the initial rollouts: Eq. 6 prompt by prompt, then Eq. 7.

    Args:    branches: of these rollouts, any number, in any order. omega, ratio: (N, T) Omega and exp(logp now - logp_old). mask: (N, T) bool.
    Returns: (N, T), 0 under mask == False.
    """
    adv = torch.zeros_like(omega)
    for group in dict.fromkeys(r.group for r in rollouts):
        rows = [n for n, r in enumerate(rollouts) if r.group == group]
        place = {id(rollouts[n]): k for k, n in enumerate(rows)}
        grown = [x for x in branches if id(x.parent) in place]
        numbers = lambda values, dtype: torch.tensor(values, dtype=dtype, device=omega.device)
        rewards, branch_rewards = numbers([rollouts[n].reward for n in rows], torch.float64), numbers([x.reward for x in grown], torch.float64)
        parent, fork_at = numbers([place[id(x.parent)] for x in grown], torch.long), numbers([x.fork_at for x in grown], torch.long)
        adv[rows] = dual_group_advantage(rewards, branch_rewards, parent, fork_at, mask[rows], config.dual, config.std_correction).to(adv.dtype)
    return scale_by_future(adv, omega, config.b, config.future_clip, ratio if config.fipo_guards else None)


def update(policy: Policy, optimizer, rollouts: list[Rollout], logp_old: Tensor, adv: Tensor, mask: Tensor, config: Config,
           logp_ref: Tensor | None = None, ranks: Ranks = Ranks()) -> dict:
    """One optimiser step on the initial rollouts. However they are split into passes and over ranks, the gradient is that of the whole: the normaliser is the
    mini-batch's.

    A gradient that is not finite changes nothing: "skipped" is 1 then, on all ranks.

    Args:    rollouts: this rank's of the mini-batch. logp_old, adv: (N, T), no gradient through them. mask: (N, T) bool. logp_ref: (N, T) under the reference,
             needed if config.kl_coef > 0.
    Returns: stats of policy_loss over the whole mini-batch, "loss", "padding", "skipped", and "grad_norm" before clipping.
    """
    tokens, count = ranks.sum([int(mask.sum()), len(rollouts)])
    total = tokens if config.aggregate == "token-mean" else count * ((config.branches + 1) if config.norm == "budget" else 1)
    padded, packed = equal_passes(rollouts, config.micro_tokens, ranks)
    logp_old, adv, mask, logp_ref = (x if x is None else F.pad(x, (0, 0, 0, 1)) for x in (logp_old, adv, mask, logp_ref))
    sums, top = Counter(read=sum(len(r.prompt) + len(r.ids) for r in rollouts)), 0.0
    optimizer.zero_grad(set_to_none=True)
    policy.model.train(config.checkpointing)
    for rows in packed:
        part = [padded[n] for n in rows]
        logp, _, _ = score_rows(policy, part, config.temperature)
        old, credit, own, ref = (x if x is None else x[rows, :logp.shape[1]] for x in (logp_old, adv, mask, logp_ref))
        loss, stats = policy_loss(logp, old, credit, own, config.clip_low, config.clip_high, config.clip_c, config.aggregate, total, ref, config.kl_coef,
                                  1 if config.fipo_guards else None, config.surrogate)
        loss.backward()
        share = stats.pop("tokens") / max(tokens, 1)
        top = max(top, stats.pop("ratio_max"))
        sums.update({name: share * value for name, value in stats.items()} | {"loss": loss.item(), "slots": len(rows) * padded_width(part)})
    policy.model.eval()
    norm = apply_gradients(policy, [optimizer], config.clip_grad, ranks)
    sums = dict(zip(sums, ranks.sum(list(sums.values()))))
    return sums | {"padding": 1 - sums.pop("read") / sums.pop("slots"), "ratio_max": ranks.max([top])[0], "grad_norm": norm,
                   "skipped": float(not math.isfinite(norm))}


def apply_gradients(policy: Policy, optimizers: list, clip: float, ranks: Ranks) -> float:
    """Sum the gradients over the ranks, clip their norm and step, unless it is not finite; the norm before clipping, the same on all ranks."""
    policy.reduce_gradients(ranks)
    norm = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), clip)
    norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    for optimizer in optimizers:
        if math.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return norm


# ---------------------------------------------------------------------------------------------------------------------------------------------- one step

def sample_initial(sampler: Sampler, prompts: list[list[int]], n: int, seeds: list[int], temperature: float | None = None, groups=None) -> list[Rollout]:
    """n rollouts of every prompt, prompt by prompt; each prompt is read once. seeds: one per prompt. temperature: the sampler's unless given. groups: what
    the rollouts of each prompt carry as their group, its index by default."""
    if not prompts:
        return []
    cache, hidden = sampler.prefill(prompts)
    groups = range(len(prompts)) if groups is None else groups
    starts = [Start(Rollout(prompt, mix_seed(seeds[p], k), groups[p]), cache, p, hidden[p]) for p, prompt in enumerate(prompts) for k in range(n)]
    sampler.run(starts, temperature)
    return [s.rollout for s in starts]


def split_minibatches(prompts: int, config: Config, seed: int) -> list[list[int]]:
    """Mini-batches of the indices of prompts, drawn from the seed; for each further PPO epoch the same ones in a new order. A prompt's N rollouts stay together:
    they are a group."""
    drawn = lambda n, epoch: torch.randperm(n, generator=torch.Generator().manual_seed(mix_seed(seed, epoch))).tolist()
    order = drawn(prompts, 0)
    batches = [order[start:start + config.minibatch] for start in range(0, prompts, config.minibatch)]
    return batches + [batches[k] for epoch in range(1, config.ppo_epochs) for k in drawn(len(batches), epoch)]


class Clock:
    """Seconds per phase: `with clock("sample"): ...` adds to clock.seconds["sample"], and tells note(phase) that it begins."""
    def __init__(self, note):
        self.seconds, self.note = Counter(), note

    @contextmanager
    def __call__(self, phase: str):
        self.note(phase)
        started = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[phase] += time.perf_counter() - started


def grow(policy: Policy, sampler: Sampler, rollouts: list[Rollout], now: Look, reward, config: Config,
         epoch: int = 0) -> tuple[list[Rollout], Tensor, float]:
    """Choose branch points, sample their branches and reward them; the cache that they came from is given back.

    Returns: branches, the numbers (N, T) that ranked the tokens, and the share of rollouts whose Omega was constant, so that entropy alone chose.
    """
    if not rollouts:
        return [], now.scored.entropy, 0.0
    points, scores = branch_points(policy, rollouts, now, config)
    branches = grow_branches(sampler, rollouts, now.scored, points, config, epoch) if config.branches else []
    now.scored.cache = now.scored.hidden = None
    for branch in branches:
        branch.reward = reward(branch, branch.group)
    return branches, scores, float(omega_is_constant(now.score_omega, now.mask, config.score_clip).float().mean())


def step(policy: Policy, optimizer, sampler: Sampler, prompts: list[list[int]], seeds: list[int], reward, config: Config, order_seed: int,
         reference: Policy | None = None, ranks: Ranks = Ranks(), note=lambda phase: None) -> tuple[dict, list[Rollout]]:
    """One step of APPO: initial rollouts of all prompts, then an update per mini-batch of prompts, each with branches drawn from the policy as it is then.

    Of several ranks each takes its share of every mini-batch's prompts, with their rollouts and branches. They meet before the first update, in each update
    and at the end; none waits for another while it samples.

    Args:    prompts: token ids of all ranks; their number is a multiple of config.minibatch. seeds: one integer per prompt: mix_seed(run seed, step, prompt
             index). reward: function of (rollout, index of the prompt) -> float. order_seed: decides which prompts share a mini-batch.
             reference: the frozen model of the KL term, needed if config.kl_coef > 0. note: told the name of each phase as it begins.
    Returns: (metrics, rollouts): one number per name, over all ranks, defined in the README; this rank's initial rollouts, then its branches.
    Raises:  ValueError if the sampler or the reference does not fit the configuration; Unavailable, on all ranks and before any update, if most tool calls
             failed for reasons of infrastructure: rewards would be those of broken tools.
    """
    check_step(sampler, prompts, config, reference)
    clock, sampler.count = Clock(note), Counter()
    batches = split_minibatches(len(prompts), config, order_seed)
    place = [batches.index(batch) for batch in batches]                   # where a mini-batch came first: it keeps its logp_old in later epochs
    batches = [ranks.share(batch) for batch in batches]
    mine = sorted({p for batch in batches for p in batch})
    with clock("sample"), policy.gathered():
        initial = sample_initial(sampler, [prompts[p] for p in mine], config.initial, [seeds[p] for p in mine], groups=mine)
        for r in initial:
            r.reward = reward(r, r.group)
    with clock("wait"):
        check_calls(initial, ranks)
    batches = [[r for p in batch for r in initial if r.group == p] for batch in batches]
    first_epoch, early, branches, log = batches[:max(place) + 1], [], [], []
    with clock("score"):
        old, ref = logp_at_start(policy, first_epoch, config), [None] * len(first_epoch)
        if config.kl_coef:
            with reference.gathered():
                ref = [score(reference, rows, config.temperature, config.micro_tokens).logp for rows in first_epoch]
    if config.branch_when == "step" and config.branches:
        with clock("branch"), policy.gathered():
            for k, rows in enumerate(first_epoch):
                now = look(policy, rows, None, config, True)
                old[k] = now.logp_old
                early.append(grow(policy, sampler, rows, now, reward, config))
    for i, (k, rows) in enumerate(zip(place, batches)):
        with policy.gathered():
            with clock("score"):
                now = look(policy, rows, old[k], config, keep_cache=config.branches > 0 and not early)
            with clock("branch"):
                grown, scores, degenerate = early[i] if early else grow(policy, sampler, rows, now, reward, config, i * config.ppo_epochs // len(batches))
        old[k] = now.logp_old if old[k] is None else old[k]
        adv = credit(rows, grown, now.omega, now.log_ratio.exp(), now.mask, config)
        with clock("update"):
            stats = update(policy, optimizer, rows, now.logp_old, adv, now.mask, config, ref[k], ranks)
        for n, r in enumerate(rows):
            per_token = {"logp_old": now.logp_old, "future_value": now.omega, "branching_score": scores, "advantage": adv}
            r.notes = {name: x[n, :len(r.ids)] for name, x in per_token.items()}
        branches += grown
        log.append(stats | watch(now, rows) | {"degenerate": degenerate, "rows": len(rows)})
    note("wait")
    return summarise(initial, branches, log, sampler, clock, ranks), initial + branches


def logp_at_start(policy: Policy, batches: list[list[Rollout]], config: Config) -> list[Tensor | None]:
    """logp_old of every mini-batch, (N, T), before the first update; None for the first, whose own look runs before the policy has moved.

    The others': in float32 as recorded while sampling, within ROUNDING of what a scoring pass would give; in bfloat16, where sampler and trainer differ by up
    to 0.17, from that pass; none yet if the looks that draw all branches before the first update (branch_when="step") will give them.
    """
    if config.branch_when == "step" and config.branches:
        return [None] * len(batches)
    if policy.dtype == torch.float32:
        return [None] + [recorded(rows, policy.device)[0] for rows in batches[1:]]
    with policy.gathered():
        return [None] + [score(policy, rows, config.temperature, config.micro_tokens).logp for rows in batches[1:]]


def check_calls(initial: list[Rollout], ranks: Ranks) -> None:
    """Raise Unavailable, on all ranks alike, if more than half of the tool calls of these rollouts failed for reasons of infrastructure."""
    calls = Counter((c.name, c.status == "infra") for r in initial for c in r.calls)
    calls = sum(ranks.gather(calls), Counter())
    failed = {name: n for (name, infra), n in calls.items() if infra}
    if 2 * sum(failed.values()) > calls.total():
        each = ", ".join(f"{name} {n}" for name, n in failed.items())
        raise Unavailable("tools", f"{sum(failed.values())} of {calls.total()} calls failed for reasons of infrastructure ({each})")


def check_step(sampler: Sampler, prompts: list, config: Config, reference: Policy | None) -> None:
    """Refuse what would waste a step or bias it without a word."""
    if sampler.top_p < 1 or sampler.top_k:
        raise ValueError("training samples from the whole distribution: the sampler's top_p must be 1 and its top_k 0")
    for name in ("temperature", "max_tokens"):
        if getattr(sampler, name) != getattr(config, name):
            raise ValueError(f"the sampler's {name} is {getattr(sampler, name)}, the configuration's {getattr(config, name)}: they must be the same")
    if config.kl_coef and reference is None:
        raise ValueError(f"kl_coef = {config.kl_coef} needs a reference policy")
    if not prompts or len(prompts) % config.minibatch:
        raise ValueError(f"{len(prompts)} prompts cannot be split into mini-batches of {config.minibatch}")


def watch(now: Look, rollouts: list[Rollout]) -> dict:
    """Numbers of one mini-batch before its update, over its policy tokens."""
    mask = now.mask
    mean = lambda x: float(x.mean()) if len(x) else 0.0
    omega, gap = now.omega[mask], (recorded(rollouts, mask.device)[0] - now.logp_old)[mask].abs()
    return {"entropy": mean(now.scored.entropy[mask]), "omega": mean(omega), "omega_std": float(omega.std(correction=0)) if len(omega) else 0.0,
            "omega_max": float(omega.max()) if len(omega) else 0.0, "drift": mean(now.log_ratio[mask].abs()),
            "sampler_gap": float(gap.max()) if len(omega) else 0.0, "trained": len(omega)}


def summarise(initial: list[Rollout], branches: list[Rollout], log: list[dict], sampler: Sampler, clock: Clock, ranks: Ranks) -> dict:
    """The numbers of one step over all ranks; each is defined in the README. What is gathered is a few numbers per rollout."""
    facts = [{"group": r.group, "reward": r.reward, "finish": r.finish, "length": len(r.ids), "prompt": len(r.prompt), "calls": len(r.calls)} for r in initial]
    forks = [{"reward": r.reward, "at": r.fork_at, "length": len(r.ids), "parent": len(r.parent.ids)} for r in branches]
    statuses = [c.status for r in initial for c in r.calls] + [c.status for r in branches for c in r.calls if c.start > r.fork_at]
    every = ranks.gather((facts, forks, statuses, log, sampler.count, clock.seconds))
    facts, forks, statuses = (sum((part[k] for part in every), []) for k in range(3))
    log, first, count = [e for part in every for e in part[3]], [part[3][0] for part in every], sum((part[4] for part in every), Counter())
    later, mean = [e for part in every for e in part[3][1:]], lambda values: sum(values) / len(values) if len(values) else 0.0
    groups = {f["group"]: [g["reward"] for g in facts if g["group"] == f["group"]] for f in facts}.values()
    unique = sum({f["group"]: f["prompt"] for f in facts}.values()) + sum(f["length"] for f in facts) + sum(f["length"] - f["at"] for f in forks)
    numbers = {
        "reward": mean([f["reward"] for f in facts]), "reward_std": mean([torch.tensor(g).std(correction=0).item() for g in groups]),
        "reward_branch": mean([f["reward"] for f in forks]), "zero_std": mean([max(g) == min(g) for g in groups]),
        "format_errors": mean([f["reward"] < 0 for f in facts]), "truncated": mean([f["finish"] in ("length", "calls") for f in facts]),
        "forged": mean([f["finish"] == "forged" for f in facts]), "length": mean([f["length"] for f in facts]), "calls": mean([f["calls"] for f in facts]),
        "branches": len(forks), "fork_depth": mean([f["at"] / f["parent"] for f in forks]),
        "degenerate_first": over_minibatches("degenerate", first), "degenerate_later": over_minibatches("degenerate", later),
        "tokens_sampled": count["sampled"], "tokens_trained": sum(entry["trained"] for entry in log), "optimizer_steps": len(every[0][3]),
        "tokens_computed": count["computed"], "tokens_unique": unique, "computed_per_unique": count["computed"] / unique,
        "occupancy": count["sampled"] / max(count["row_calls"], 1)}
    numbers |= {f"tool_{status}": mean([s == status for s in statuses]) for status in STATUSES}
    numbers |= {name: over_minibatches(name, log) for name in log[0] if name not in ("trained", "rows")}
    return numbers | {f"seconds_{phase}": max(part[5][phase] for part in every) for phase in clock.seconds}


def over_minibatches(name: str, log: list[dict]) -> float:
    """One number of a step from those of its mini-batches: the maximum, the mean over updates, or the mean over policy tokens, as its definition says."""
    if name.endswith(("_max", "_gap")):
        return max(entry[name] for entry in log)
    weights = [{"loss": 1, "grad_norm": 1, "padding": 1, "skipped": 1, "degenerate": entry["rows"]}.get(name, entry["trained"]) for entry in log]
    return sum(w * entry[name] for w, entry in zip(weights, log)) / max(sum(weights), 1)
