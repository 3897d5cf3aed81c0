"""The decoder of a Llama, Qwen2 or Qwen3 in fewer operations, for sampling in float32 on a CPU.

    1. fits             whether a model has one on this machine
    2. PackedDecoder    called like the decoder it is made from; the same numbers to rounding
    3. Product, Norm    a matrix product whose weights are laid out once; a norm without its weight
    4. Heads, rotation  queries and keys turned by their positions, also support/gpu_decoder.py's

Without it oneDNN lays the weights out anew at every product. For few rows that takes as long as the
product itself. Applied to a plain model from outside; valid as long as its weights do not change.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from kv_cache import KVCache, folded_attention


def fits(model, dtype: torch.dtype = torch.float32) -> bool:
    """Whether a model at work in `dtype` has a PackedDecoder on this processor."""
    return (
        model.device.type == "cpu"
        and model.dtype == dtype == torch.float32
        and is_known(model)
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    )


def is_known(model) -> bool:
    """Whether its layers are written out here and in support/gpu_decoder.py.

    Not if a matrix is more than it seems, as an adapter's is.
    """
    names = ("_proj", "lm_head")
    products = [m for name, m in model.named_modules() if name.endswith(names)]
    return (
        model.config.model_type in ("llama", "qwen2", "qwen3")
        and model.config.hidden_act == "silu"
        and all(type(m) is nn.Linear for m in products)
    )


class PackedDecoder:
    """What decoder and head of a model compute. Writes into a KVCache and has no gradient.

    Queries, keys and values are one product. The weights of a layer's two norms go into the
    matrices that read them. What follows a product (silu, a sum) is part of it.

    Args: model: from AutoModelForCausalLM; its matrices are copied as they are now.
    """

    @torch.no_grad()
    def __init__(self, model):
        decoder = model.get_decoder()
        self.decoder, self.norm = decoder, decoder.norm
        self.layers = [PackedLayer(layer) for layer in decoder.layers]
        self.head = Product(model.get_output_embeddings())

    def __call__(
        self, input_ids, attention_mask, position_ids, past_key_values: KVCache, use_cache=True
    ) -> BaseModelOutputWithPast:
        x = self.decoder.embed_tokens(input_ids)
        cos, sin = rotation(self.decoder, x, position_ids)
        for layer in self.layers:
            x = layer(x, cos, sin, attention_mask, past_key_values)
        norm = self.norm
        x = F.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)
        return BaseModelOutputWithPast(last_hidden_state=x)


class PackedLayer:
    """A layer: x (B, S, D) -> (B, S, D); its keys and values go into the cache."""

    def __init__(self, layer):
        attention, mlp = layer.self_attn, layer.mlp
        before, after = layer.input_layernorm, layer.post_attention_layernorm
        self.attention, self.heads = attention, Heads(attention)
        self.before, self.after = Norm(before), Norm(after)
        self.qkv = Product(attention.q_proj, attention.k_proj, attention.v_proj, norm=before)
        self.out = Product(attention.o_proj)
        self.gate = Product(mlp.gate_proj, norm=after)
        self.up = Product(mlp.up_proj, norm=after)
        self.down = Product(mlp.down_proj)

    def __call__(self, x, cos, sin, mask, cache: KVCache) -> Tensor:
        """cos, sin: see rotation. mask: as KVCache makes it."""
        queries, new = self.heads(self.qkv(self.before(x)), cos, sin)
        keys, values = cache.store(new, self.attention.layer_idx)
        queries, scaling = queries.transpose(1, 2), self.attention.scaling
        seen, _ = folded_attention(self.attention, queries, keys, values, mask, scaling)
        x = self.out(seen.flatten(2), "add", x)
        y = self.after(x)
        return self.down(self.up(y, "mul", self.gate(y, "swish")), "add", x)


class Product:
    """y = x W^T + b with W packed; several linear modules side by side are one product.

    norm: the RMSNorm in front of it, whose weight goes into W; x is then what Norm makes of it.
    """

    # the layout is chosen for so many rows of x; any number works
    ROWS = 64

    def __init__(self, *linears, norm=None):
        weights = [linear.weight.detach() for linear in linears]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        if norm is not None:
            weight = weight * (norm.weight * math.sqrt(len(norm.weight)))
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, self.ROWS)
        biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
        self.bias = torch.cat(biases) if biases else None

    def __call__(self, x: Tensor, then: str = "none", other: Tensor | None = None) -> Tensor:
        """then: "swish" of y, or "add" or "mul" with other, in the same pass."""
        if other is None:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, then, [], "")
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, then)


class Norm:
    """RMSNorm of x (B, S, D) without its weight and without sqrt(D): x / sqrt(|x|^2 + D eps)."""

    def __init__(self, norm):
        self.eps = len(norm.weight) * norm.variance_epsilon

    def __call__(self, x: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        # each operation rounds alike for every row; a product and a sum in one need not
        return x / size.mul_(size).add_(self.eps).sqrt_()


class Heads:
    """Queries, keys and values of a layer, which one product has made; queries and keys turned."""

    def __init__(self, attention):
        self.dim = attention.head_dim
        self.q_heads = attention.q_proj.out_features // self.dim
        self.k_heads = attention.k_proj.out_features // self.dim
        # Qwen3 norms queries and keys, head by head
        self.norm = None
        if hasattr(attention, "q_norm"):
            q = attention.q_norm.weight.expand(self.q_heads, -1)
            k = attention.k_norm.weight.expand(self.k_heads, -1)
            self.norm, self.eps = torch.cat([q, k]), attention.q_norm.variance_epsilon

    def __call__(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """(..., heads dim), overwritten -> queries (..., heads, dim), keys and values
        (..., 2, key heads, dim). cos, sin: see rotation."""
        qkv = qkv.unflatten(-1, (-1, self.dim))
        qk = qkv[..., : self.q_heads + self.k_heads, :]
        source = qk
        if self.norm is not None:
            source = F.rms_norm(qk, (self.dim,), None, self.eps) * self.norm
        # both operands are copies: qk may be overwritten
        torch.addcmul(source * cos, source.roll(self.dim // 2, -1), sin, out=qk)
        return qkv[..., : self.q_heads, :], qkv[..., self.q_heads :, :].unflatten(-2, (2, -1))


def rotation(decoder, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of positions (B, S), each (B, S, 1, dim), the first half of sin negated.

    (x1, x2) -> x cos + (x2, x1) (-sin, sin). x: any tensor of the model's number format.
    """
    cos, sin = decoder.rotary_emb(x, positions)
    half = sin.shape[-1] // 2
    sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)
    return cos[:, :, None], sin[:, :, None]
