"""A causal language model whose rows can be forked: its attention, its cache of keys and values, its weights on one or many processes.

    1. folded_attention   the attention function of every layer: grouped heads without copied keys, and rows that go on from rows of another cache (fork_attention)
    2. Policy             model and tokenizer with what the sampling loop has to know of them; `shard` and `gathered` for weights split over processes
    3. PackedDecoder      the decoder in fewer operations and with weights laid out once, for sampling on a CPU
    4. Cache              keys and values of many rows, each of its own length: `append` puts tokens behind them; Forks reads a parent's keys in place
    5. Ranks              the processes that share a step

Imports no sibling. Any Hugging Face causal language model with full attention will do: Qwen2.5, Qwen3, Llama 3, SmolLM2.

Axes: B rows of a call, S new tokens per row, G query heads per key head, P parents, n seats of each, Q query positions, D hidden.
"""

import math
import types
import warnings
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from protocol import STOP_TAGS

# renamed in transformers 5.24, gone in 5.40; 5.17 knows no other name
warnings.filterwarnings("ignore", message=".*past_key_values.* is deprecated")
# the slots that key_slots gives come in this many
KEY_BLOCK = 64
TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>")


def folded_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, forks=None, **kwargs
):
    """Grouped-query attention that does not copy the keys: heads that share a key head become further query positions. Without a mask: fresh rows, plain
    causal attention. forks: the rows go on from rows of another cache, see Forks."""
    for name in ("sliding_window", "softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ValueError(
                f"{type(module).__name__} wants {name}={kwargs[name]}, which this sampling loop does not compute"
            )
    if attention_mask is None:
        return ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    B, H, S, D = query.shape
    G = H // key.shape[1]
    query = query.reshape(B, -1, G * S, D)
    # not from Cache.append: transformers made it
    if attention_mask.shape[2] != G * S:
        attention_mask = attention_mask.repeat(1, 1, G, 1)
    if forks is None:
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling
        )
    else:
        out = fork_attention(query, key, value, attention_mask, scaling, forks, module.layer_idx)
    return out.view(B, H, S, D).transpose(1, 2).contiguous(), None


def fork_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    scaling: float,
    forks: "Forks",
    layer: int,
) -> Tensor:
    """Attention over a row's own keys and over its parent's, which stay where they are and are read once for all forks of that parent.

        softmax over both = w x softmax over own + (1 - w) x softmax over the parent's,   (1 - w, w) = softmax(lse_parent, lse_own)

    Args:    query: (B, heads, Q, D), the grouped heads' queries side by side. key, value: (B, heads, end, D), own. bias: (B, 1, Q, end), 0 or -inf.
    Returns: (B, heads, Q, D).
    """
    B, heads, Q, D = query.shape
    # (P, heads, T, D)
    keys, values = forks.parent.k[layer][forks.rows], forks.parent.v[layer][forks.rows]
    P, n = len(keys), len(forks.seat) // len(keys)
    own, own_lse = attend(query, key, value, bias, scaling)
    seated = query[forks.seat].view(P, n, heads, Q, D).transpose(1, 2).reshape(P, heads, n * Q, D)
    old, old_lse = attend(seated, keys, values, forks.bias, scaling)
    unseat = lambda x: (
        x.view(P, heads, n, Q, -1).transpose(1, 2).reshape(P * n, heads, Q, -1)[forks.place]
    )
    # not sigmoid: its bits depend on where in the tensor a number stands
    w = torch.cat([unseat(old_lse), own_lse], -1).softmax(-1)[..., 1:].to(own.dtype)
    return torch.lerp(unseat(old), own, w)


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    """Attention with the log-sum-exp of its scores: (..., Q, D) and (..., Q, 1) float32. bias is added to the scores."""
    # fused; elsewhere no such kernel takes every mask
    if query.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, attn_mask=bias, scale=scaling
        )
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
    if layers != {"full_attention"} or (
        getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    ):
        raise ValueError(
            f"{name} uses sliding-window or other partial attention (layer types {sorted(layers)}, "
            f"sliding_window {getattr(config, 'sliding_window', None)}); a fork needs full attention: Qwen2.5, Qwen3, Llama 3 and SmolLM2 have it"
        )


def load_tokenizer(path: str):
    """The tokenizer of a model, after its configuration was checked; no weight is read. ValueError if there is no such model or it cannot be forked."""

    def read(kind):
        try:
            return kind.from_pretrained(path)
        except (OSError, ValueError) as problem:
            local = path.startswith(("/", ".", "~"))
            reason = (
                "there is no such folder"
                if local and not Path(path).exists()
                else str(problem).strip().splitlines()[0]
            )
            raise ValueError(
                f"--model {path} is neither a folder with a Hugging Face model nor a name that can be fetched: {reason}"
            ) from None

    check_config(read(AutoConfig), path)
    return read(AutoTokenizer)


def recompute_activations(model) -> None:
    """Activations of every layer are computed again in the backward pass, while model.train() is on."""
    # its name from transformers 5.23 on
    newer = getattr(model, "activation_checkpointing_enable", None)
    newer({"use_reentrant": False}) if newer else model.gradient_checkpointing_enable(
        {"use_reentrant": False}
    )


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
        return items[self.rank :: self.world]


def pick_device(name: str) -> str:
    """The device that --device names; auto: a GPU if there is one. ValueError if it is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: this PyTorch sees no GPU; use --device cpu")
    return name


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
        self.decoder, self.head, self.device, self.dtype = (
            model.get_decoder(),
            model.get_output_embeddings(),
            model.device,
            model.dtype,
        )
        self.shards, self.through = [], lambda function, *arguments: function(*arguments)
        # see packed
        self.pack: PackedDecoder | None = None
        self.vocabulary = model.config.vocab_size
        size = min(len(tokenizer), self.vocabulary)
        self.text = [tokenizer.decode([i]) for i in range(size)] + [""] * (self.vocabulary - size)
        self.closing = {i for i, text in enumerate(self.text) if ">" in text}
        self.stop_ids = self._stop_ids()
        with torch.no_grad():
            x = torch.arange(8, device=self.device)[None] % self.vocabulary
            if not torch.equal(model(x).logits, self.head(self.decoder(x).last_hidden_state)):
                raise ValueError(
                    f"{type(model).__name__} computes its logits by more than its output matrix; this loop would sample from another distribution"
                )

    @classmethod
    def load(cls, path: str, dtype: str = "float32", device: str = "cpu") -> "Policy":
        """From a Hugging Face folder or name; the configuration is checked before any weight is read. ValueError as in check_config."""
        device = pick_device(device)
        tokenizer = load_tokenizer(path)
        try:
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=getattr(torch, dtype), attn_implementation="folded"
            )
        except (OSError, SafetensorError) as problem:
            raise ValueError(
                f"--model {path}: its weights cannot be read: {str(problem).strip().splitlines()[0]}"
            ) from None
        return cls(model.to(device), tokenizer)

    def shard(self, dtype: str, mesh=None) -> "Policy":
        """Split the float32 weights over the ranks (FSDP2), and with them their gradients and the optimiser's state; at work they are whole and in `dtype`.

        Gradients are summed over the ranks, not averaged. Outside `gathered` every call must go through `through`, on all ranks alike. mesh: a device mesh of
        one dimension, or of two to copy the shards over the first (HSDP); all ranks by default.
        """
        mixed = MixedPrecisionPolicy(param_dtype=getattr(torch, dtype), reduce_dtype=torch.float32)
        # embedding, last norm and head in one group: tied weights stay tied
        for module in [*self.decoder.layers, self.model]:
            fully_shard(module, mesh=mesh, mp_policy=mixed)
        self.shards = [module for module in self.model.modules() if isinstance(module, FSDPModule)]
        for module in self.shards:
            # gloo has no division in its reductions
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
        self.model.run = types.MethodType(
            lambda model, function, *arguments: function(*arguments), self.model
        )
        register_fsdp_forward_method(self.model, "run")
        self.through, self.dtype = self.model.run, getattr(torch, dtype)
        # the very first call has to go through the root
        with torch.no_grad():
            self.through(
                lambda: (
                    self.decoder(
                        input_ids=torch.zeros(1, 1, dtype=torch.long, device=self.device)
                    ).last_hidden_state
                )
            )
        # the root stays whole after a forward pass; an optimizer must be given its shards
        for module in self.shards:
            module.reshard()
        return self

    @contextmanager
    def gathered(self):
        """Whole weights on every rank: any number of forward passes, each rank its own, without a word between them. FSDP2's hooks are off meanwhile: what is called
        is the plain model, which a CUDA graph can record."""
        for module in self.shards:
            module.unshard()
        hooks, through = (
            [(module._forward_pre_hooks, module._forward_hooks) for module in self.shards],
            self.through,
        )
        for module in self.shards:
            module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
        self.through = lambda function, *arguments: function(*arguments)
        try:
            with torch.no_grad():
                yield
        finally:
            self.through = through
            for module, (before, after) in zip(self.shards, hooks):
                module._forward_pre_hooks, module._forward_hooks = before, after
                module.reshard()

    @contextmanager
    def packed(self):
        """Inside, Cache.append and `logits` go through a PackedDecoder, if there is one for this model and device. Weights must stay what they are meanwhile."""
        if self.pack or not PackedDecoder.fits(self):
            yield
            return
        self.pack = PackedDecoder(self.model)
        try:
            yield
        finally:
            self.pack = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Of hidden states that Cache.append gave."""
        return (self.pack or self).head(hidden)

    def reduce_gradients(self, ranks: Ranks) -> None:
        """Sum the gradients of copied weights over the ranks; those of sharded weights have been summed by the backward pass."""
        if ranks.world > 1 and not self.shards:
            for p in self.model.parameters():
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                dist.all_reduce(p.grad)

    def _stop_ids(self) -> set[int]:
        """Ids that end a turn: what the model's configuration names, and the usual chat markers if the vocabulary has them."""
        named = [
            self.model.config.eos_token_id,
            self.model.generation_config.eos_token_id if self.model.generation_config else None,
        ]
        ids = {
            i
            for entry in named
            if entry is not None
            for i in (entry if isinstance(entry, (list, tuple)) else [entry])
        }
        known = self.tokenizer.get_vocab()
        return ids | {known[marker] for marker in TURN_ENDS if marker in known}

    def tensor(self, values: list) -> Tensor:
        """Numbers on the model's device, without waiting for what it is doing."""
        x = torch.tensor(values)
        return (
            x.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else x
        )

    def decode(self, ids: list[int]) -> str:
        """Text of ids, tags and special tokens included."""
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def closed_tag(self, ids: list[int]) -> str | None:
        """The stop tag that the last of these ids completes, or None. Tags span several tokens in real vocabularies, and the last may hold text after the ">".

        Args: ids: the policy's own tokens since the last tool result; a tag in a result must not count.
        """
        if not ids or ids[-1] not in self.closing:
            return None
        tail = "".join(self.text[i] for i in ids[-max(map(len, STOP_TAGS)) :])
        last = len(self.text[ids[-1]])
        return next(
            (
                tag
                for tag in STOP_TAGS
                if tail.find(tag, max(0, len(tail) - last - len(tag) + 1)) >= 0
            ),
            None,
        )


class PackedDecoder:
    """What the decoder and the head of a Llama, Qwen2 or Qwen3 compute, for sampling in float32 on a CPU: the same numbers to rounding, sooner.

    The weights are copied into the layout that oneDNN multiplies by; without it they are laid out anew at every product, which for few rows can take as long
    as the product. Queries, keys and values are one product, the weights of a layer's two norms go into the matrices that read them, and what follows a product (silu, a sum) is
    part of it. Called like the decoder that it is made from, but only by Cache.append: it writes into that cache and has no gradient.

    Args: model: from AutoModelForCausalLM. Its matrices are copied as they are now.
    """

    KINDS = ("llama", "qwen2", "qwen3")

    @classmethod
    def fits(cls, policy: Policy) -> bool:
        """Whether there is one for this model on this device and processor. Not for matrices that are more than they seem, as an adapter's."""
        c, products = (
            policy.model.config,
            [m for name, m in policy.model.named_modules() if name.endswith(("_proj", "lm_head"))],
        )
        return (
            policy.device.type == "cpu"
            and policy.dtype == torch.float32
            and c.model_type in cls.KINDS
            and c.hidden_act == "silu"
            and all(type(m) is torch.nn.Linear for m in products)
            and torch.backends.mkldnn.is_available()
            and torch.backends.cpu.get_cpu_capability().startswith("AVX")
        )

    @torch.no_grad()
    def __init__(self, model):
        decoder = model.get_decoder()
        self.embed, self.rotary, self.norm, self.head = (
            decoder.embed_tokens,
            decoder.rotary_emb,
            decoder.norm,
            Product(model.get_output_embeddings()),
        )
        self.layers = [PackedLayer(layer) for layer in decoder.layers]

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: "Cache",
        use_cache: bool = True,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        x = self.embed(input_ids)
        cos, sin = self.rotary(x, position_ids)
        half = sin.shape[-1] // 2
        # (x1, x2) -> x cos + (x2, x1) (-sin, sin)
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)
        for layer in self.layers:
            x = layer(
                x, cos[:, :, None], sin[:, :, None], attention_mask, past_key_values, **kwargs
            )
        return BaseModelOutputWithPast(
            last_hidden_state=F.rms_norm(
                x, self.norm.weight.shape, self.norm.weight, self.norm.variance_epsilon
            )
        )


class PackedLayer:
    """A layer of a PackedDecoder: x (B, S, D) -> (B, S, D), its keys and values stored in the cache. cos, sin: (B, S, 1, dim), the first half of sin negated."""

    def __init__(self, layer):
        a, mlp, before, after = (
            layer.self_attn,
            layer.mlp,
            layer.input_layernorm,
            layer.post_attention_layernorm,
        )
        self.attention, self.dim, self.before, self.after = a, a.head_dim, Norm(before), Norm(after)
        self.qkv, self.out = Product(a.q_proj, a.k_proj, a.v_proj, norm=before), Product(a.o_proj)
        self.gate, self.up, self.down = (
            Product(mlp.gate_proj, norm=after),
            Product(mlp.up_proj, norm=after),
            Product(mlp.down_proj),
        )
        self.q_heads, self.k_heads, self.qk_norm = (
            a.q_proj.out_features // self.dim,
            a.k_proj.out_features // self.dim,
            None,
        )
        # Qwen3
        if hasattr(a, "q_norm"):
            self.qk_norm, self.eps = (
                torch.cat(
                    [
                        a.q_norm.weight.expand(self.q_heads, -1),
                        a.k_norm.weight.expand(self.k_heads, -1),
                    ]
                ),
                a.q_norm.variance_epsilon,
            )

    def __call__(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, cache: "Cache", **kwargs
    ) -> Tensor:
        # (B, S, heads, dim): queries, keys, values
        qkv = self.qkv(self.before(x)).view(*x.shape[:2], -1, self.dim)
        queries, qk = (
            qkv[:, :, : self.q_heads].transpose(1, 2),
            qkv[:, :, : self.q_heads + self.k_heads],
        )
        normed = (
            qk
            if self.qk_norm is None
            else F.rms_norm(qk, (self.dim,), None, self.eps) * self.qk_norm
        )
        # both sources are copies: qk may be overwritten
        torch.addcmul(normed * cos, normed.roll(self.dim // 2, -1), sin, out=qk)
        keys, values = cache.store(qkv[:, :, self.q_heads :], self.attention.layer_idx)
        seen, _ = folded_attention(
            self.attention, queries, keys, values, mask, self.attention.scaling, **kwargs
        )
        x = self.out(seen.flatten(2), "add", x)
        y = self.after(x)
        return self.down(self.up(y, "mul", self.gate(y, "swish")), "add", x)


class Product:
    """y = x W^T + b with W packed; of several linear modules side by side. norm: the RMSNorm in front of it, whose weight goes into W: x is what Norm makes of it."""

    # the layout is chosen for so many rows of x; any number works
    ROWS = 64

    def __init__(self, *linears, norm=None):
        weight = (
            torch.cat([linear.weight for linear in linears])
            if len(linears) > 1
            else linears[0].weight.detach()
        )
        if norm is not None:
            weight = weight * (norm.weight * math.sqrt(len(norm.weight)))
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, self.ROWS)
        self.bias = (
            None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
        )

    def __call__(self, x: Tensor, then: str = "none", other: Tensor | None = None) -> Tensor:
        """then: "swish" of y, or "add" or "mul" with other, in the same pass."""
        if other is None:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, then, [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, then)


class Norm:
    """What RMSNorm makes of x (B, S, D), without its weight and divided by sqrt(D): x / sqrt(|x|^2 + D eps)."""

    def __init__(self, norm):
        self.eps = len(norm.weight) * norm.variance_epsilon

    def __call__(self, x: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        # each rounds alike for every row; a product and a sum in one operation need not
        return x / size.mul_(size).add_(self.eps).sqrt_()


class Cache:
    """Keys k and values v of many rows, (layer, row, key head, slot, dim) each, both views of kv; each row has its own length and so its own next slot. No left padding.

    Slots at and beyond a row's length hold anything finite (padding, the steps of a row that waits); no query ever sees them before they are written again.
    One row more than asked for is scratch: padding rows of a call write there.
    """

    is_compileable, is_sliding = False, (False,)

    def __init__(self, policy: Policy, rows: int, slots: int):
        c = policy.model.config
        dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        slots = key_slots(slots)
        shape = (c.num_hidden_layers, 2, rows + 1, c.num_key_value_heads, slots, dim)
        # zeros: a NaN under the mask would still spread
        self.kv = torch.zeros(shape, dtype=policy.dtype, device=policy.device)
        self.k, self.v = self.kv.unbind(1)
        self.length = torch.zeros(rows + 1, dtype=torch.long, device=policy.device)
        self.slots, self.scratch, self.fresh = slots, rows, False
        self.groups = c.num_attention_heads // c.num_key_value_heads

    def update(self, k: Tensor, v: Tensor, layer: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Called by every attention layer of Hugging Face's with the new keys and values (B, heads, S, dim): store them, return what the queries may look at."""
        if self.fresh:
            self.k[layer, self.rows, :, : k.shape[2]], self.v[layer, self.rows, :, : k.shape[2]] = (
                k,
                v,
            )
            return k, v
        return self.store(torch.cat([k, v], 1).transpose(1, 2), layer)

    def store(self, new: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The same with keys and, behind them, values (B, S, 2 heads, dim). Returns (B, heads, end, dim) each."""
        kv = self.kv[layer]
        kv[:, self.at_row, :, self.at] = new.unflatten(2, (2, -1))
        return kv[:, self.rows, :, : self.end].unbind()

    def copy(self, row: int, other: "Cache", source: int, length: int) -> None:
        """Row `row` becomes the first `length` tokens of a row of another cache."""
        self.kv[:, :, row, :, :length] = other.kv[:, :, source, :, :length]

    def get_seq_length(self, layer: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query, layer: int = 0) -> tuple[int, int]:
        return (query if isinstance(query, int) else query.shape[0]), 0

    def get_query_offset(self, layer: int = 0) -> int:
        return 0

    @torch.no_grad()
    def append(
        self,
        policy: Policy,
        ids: Tensor,
        n: Tensor,
        rows: slice | Tensor,
        end: int,
        forks: "Forks | None" = None,
    ) -> Tensor:
        """Put tokens behind the rows' last ones and read them. Nothing here waits for the device.

        Args:    ids: (B, S) long, right-padded. n: (B,) how many of each count, 0 for none. rows: (B,) long or a slice, the rows they belong to; all tensors on
                 the policy's device. end: slots that the queries look at, beyond the last new token of a row whose n is not 0. forks: what the rows share with rows of another cache.
        Returns: hidden state of each row's last token, (B, D); rubbish where n is 0. Raises ValueError if the cache has no room.
        """
        if end > self.slots:
            raise ValueError(
                f"a row has no room: {end} slots are needed, the cache has {self.slots}"
            )
        length, device = self.length[rows], policy.device
        # at: (B, S) slots
        self.rows, self.end, self.at = (
            rows,
            end,
            length[:, None] + torch.arange(ids.shape[1], device=device),
        )
        self.at_row = torch.arange(len(self.length), device=device)[rows][:, None]
        # (B, 1, G S, end)
        mask = (torch.arange(end, device=device) <= self.at[:, :, None])[:, None].repeat(
            1, 1, self.groups, 1
        )
        positions, extra = self.at, {}
        if forks is not None:
            # (P, 1, n G S, T)
            forks.bias = visible_bias(
                forks.seen().repeat_interleave(mask.shape[2], 1)[:, None], policy.dtype
            )
            positions, extra = positions + forks.shared[:, None], {"forks": forks}
        decoder = policy.pack or policy.decoder
        hidden = decoder(
            input_ids=ids,
            attention_mask=visible_bias(mask, policy.dtype),
            position_ids=positions,
            past_key_values=self,
            use_cache=True,
            **extra,
        ).last_hidden_state
        self.length[rows] = length + n
        return hidden[torch.arange(len(n), device=device), (n - 1).clamp(min=0)]


def visible_bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores: 0 where a key may be looked at, else -inf."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(
        ~visible, -math.inf
    )


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
    bias: Tensor | None = None  # (P, 1, n Q, T), set by Cache.append

    def seen(self) -> Tensor:
        """(P, n, T) bool: the keys of its parent that whoever is on a seat may look at."""
        P = self.rows.stop - self.rows.start if isinstance(self.rows, slice) else len(self.rows)
        return torch.arange(self.parent.slots, device=self.seat.device) < self.shared[
            self.seat
        ].view(P, -1, 1)


def round_up(x: int, multiple: int) -> int:
    """The smallest multiple that is not below x."""
    return -(-x // multiple) * multiple


def key_slots(length: int) -> int:
    """How many slots attention looks at for `length` tokens: 64, 128, 192, 512, 512 + 64, ...

    On a CPU a sum over keys is made in blocks of 512, and the matrix library divides a block further as its size and the machine decide, but never one of up to
    192, and a whole one always alike; so a row's bits depend neither on its neighbours' lengths nor on its own padding (measured on AVX2; the sizes are among those that agreed on AVX-512).
    """
    slots = round_up(length, KEY_BLOCK)
    return slots if slots % 512 <= 192 else round_up(slots, 512)
