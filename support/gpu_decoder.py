"""A decode step of a Llama, Qwen2 or Qwen3 on a GPU: few kernels, and attention without a mask.

    1. fits            whether a model has one on its device
    2. FlashDecoder    called like the decoder it is made from; the same numbers to rounding
    3. attention       one operator a layer; how many keys a row holds is read on the device

Nothing that is launched depends on how long the rows are: one CUDA graph serves a number of rows.
Steps of one token per row only; prompts and tool results go through the modules as they are.
Applied to a plain model from outside; valid as long as its weights do not change. **Not run yet**:
tests put arithmetic in the place of the kernel (tests/fake_cuda.py).

Axes: C rows of a call, D hidden, R rows of the cache.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from kv_cache import KVCache
from support.cpu_decoder import Heads, is_known, rotation

# private, for the public torch.nn.attention.varlen of torch 2.11 does not take lengths
FLASH = torch.ops.aten._flash_attention_forward


def fits(model, dtype: torch.dtype) -> bool:
    """Whether a model has a FlashDecoder: two bytes a number, heads and a GPU that flash takes."""
    config = model.config
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return (
        model.device.type == "cuda"
        and has_flash()
        and dtype in (torch.bfloat16, torch.float16)
        and dim % 8 == 0
        and dim <= 256
        and is_known(model)
    )


def has_flash() -> bool:
    """Whether this PyTorch has the kernel for this GPU: NVIDIA's, from Ampere on."""
    return (
        torch.version.hip is None
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability() >= (8, 0)
    )


class FlashDecoder:
    """What the decoder of a model computes for one new token per row. It has no gradient.

    Queries, keys and values are one product; their matrices are copied as they are now. Gate and up
    stay two: side by side they would be another half of the model in memory.

    Args: model: from AutoModelForCausalLM, its weights whole and in the number format of the cache.
    """

    @torch.no_grad()
    def __init__(self, model):
        self.plain, self.head = model.get_decoder(), model.get_output_embeddings()
        self.layers = [FlashLayer(layer) for layer in self.plain.layers]

    def __call__(
        self, input_ids, attention_mask, position_ids, past_key_values: KVCache, use_cache=True
    ) -> BaseModelOutputWithPast:
        """attention_mask: None for a step by lengths; else the plain decoder reads."""
        if attention_mask is not None:
            return self.plain(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
            )
        x = self.plain.embed_tokens(input_ids[:, 0])  # (C, D)
        cos, sin = (f[:, 0] for f in rotation(self.plain, x, position_ids))  # (C, 1, dim)
        rows = torch.arange(len(x) + 1, dtype=torch.int32, device=x.device)
        spans = rows, rows * past_key_values.capacity
        for layer in self.layers:
            x = layer(x, cos, sin, spans, past_key_values)
        x = normed(self.plain.norm, x)
        return BaseModelOutputWithPast(last_hidden_state=x[:, None])


class FlashLayer:
    """A layer: x (C, D) -> (C, D); its keys and values go into the cache."""

    def __init__(self, layer):
        attention, mlp = layer.self_attn, layer.mlp
        self.attention, self.heads, self.mlp = attention, Heads(attention), mlp
        self.before, self.after = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = side_by_side(attention.q_proj, attention.k_proj, attention.v_proj)

    def __call__(self, x, cos, sin, spans, cache: KVCache) -> Tensor:
        """cos, sin: (C, 1, dim), see rotation. spans: see attention."""
        queries, new = self.heads(F.linear(normed(self.before, x), *self.qkv), cos, sin)
        layer = cache.kv[self.attention.layer_idx]
        layer[cache.place_rows[:, 0], cache.places[:, 0]] = new
        seen = attention(queries, layer, spans, cache.used, self.attention.scaling)
        x = added(x, seen.flatten(1), self.attention.o_proj)
        y = normed(self.after, x)
        y = F.silu(self.mlp.gate_proj(y)) * self.mlp.up_proj(y)
        return added(x, y, self.mlp.down_proj)


def attention(query: Tensor, kv: Tensor, spans: tuple, used: Tensor, scale: float) -> Tensor:
    """Attention of one query per row to the keys that the row holds.

    Args:    query: (C, heads, dim). kv: (R, token, 2, key head, dim) of a layer, C <= R. spans:
             where each row's queries and keys begin: 0 .. C, and that times kv's tokens. used:
             (C,), the keys of each row, at least 1. All int32, on the device.
    Returns: (C, heads, dim).
    """
    keys, values = kv.flatten(0, 1).unbind(1)
    longest = 1, kv.shape[1]
    how = dict(scale=scale, seqused_k=used)
    return FLASH(query, keys, values, *spans, *longest, 0.0, False, False, **how)[0]


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """RMSNorm in one kernel."""
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


def added(x: Tensor, y: Tensor, linear: nn.Linear) -> Tensor:
    """x + linear(y), the sum as part of the product."""
    x = torch.addmm(x, y, linear.weight.t())
    return x if linear.bias is None else x + linear.bias


def side_by_side(*linears: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """(weight, bias) of one product that computes several."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    if linears[0].bias is None:
        return weight, None
    return weight, torch.cat([linear.bias.detach() for linear in linears])
