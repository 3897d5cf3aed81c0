"""Keys and values of many rows, each of its own length. A fork is a copied prefix of another row.

    1. KVCache.append      tokens go behind the rows' last ones and through the model
    2. KVCache.copy        a row becomes the first tokens of a row of another cache: the fork
    3. folded_attention    the attention function of every layer: grouped heads, keys not copied

For Hugging Face causal language models with full attention, whose keys and values have one size and
whose configuration names num_key_value_heads: Llama, Qwen2, Qwen3. Imports no sibling.
Axes: R rows of the cache, C rows of a call, S new tokens per row, L keys that are seen, D hidden,
G query heads per key head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# attention that this cache does not compute: a model that asks for it would be silently wrong
UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "position_bias")


class KVCache:
    """Keys and values, kv: (layer, R, token, 2, key head, dim): keys, then values.

    Row r holds length[r] tokens, `capacity` at most; its next one goes to place length[r]. There is
    no left padding. Places beyond a row's length hold anything finite: no query sees them before
    they are written. A scoring pass leaves length 0: `copy` is told how many tokens there are. One
    row more than asked for, `scratch`, takes the padding rows of a call.

    rows, end, places, place_rows: of the call of `append` at hand: its rows, L, and where its new
    tokens go, (C, S) with their rows (C, 1). used: (C,) keys of each row, of a step by lengths.
    whole_rows: during a scoring pass, the rows that the call at hand fills from their start.
    states: (R, T, D) or None: the hidden states that predict the T response tokens, if such a pass
    filled the cache. A fork at token t goes on from states[row, t].
    """

    # what transformers asks a cache
    is_compileable = False
    is_sliding = (False,)

    def __init__(self, config, rows: int, capacity: int, like: Tensor):
        """config: of the model; like: a tensor with the dtype and device of the keys."""
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = config.num_key_value_heads
        shape = (config.num_hidden_layers, rows + 1, capacity, 2, heads, dim)
        # zeros, not empty: a NaN under the mask would still spread (0 x NaN)
        self.kv = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.length = torch.zeros(rows + 1, dtype=torch.long, device=like.device)
        self.capacity = capacity
        self.scratch = rows
        self.heads_per_key = config.num_attention_heads // heads
        self.rows: slice | Tensor = slice(0)
        self.end: int | None = 0
        self.used: Tensor | None = None
        self.places: Tensor | None = None
        self.place_rows: Tensor | None = None
        self.states: Tensor | None = None
        self.whole_rows: Tensor | None = None

    @torch.no_grad()
    def append(
        self, decoder, ids: Tensor, n: Tensor, rows: slice | Tensor, end: int | None
    ) -> Tensor:
        """Put tokens behind the rows' last ones and read them. Nothing here waits for the device.

        Args:    ids: (C, S) long, right-padded. n: (C,) how many of each count, 0 for none.
                 rows: (C,) long or a slice. end: L, keys that are looked at: at least the longest
                 row's, new ones included; None for a step by lengths, of the first rows
                 (support/gpu_decoder.py).
        Returns: (C, D) hidden state of each row's last token; rubbish where n is 0.
        Raises:  ValueError if the cache has no room.
        """
        if end is not None and end > self.capacity:
            raise ValueError(
                f"a row has no room: {end} tokens are needed, the cache has {self.capacity}"
            )
        device = self.length.device
        length = self.length[rows]
        self.rows, self.end = rows, end
        self.places = length[:, None] + torch.arange(ids.shape[1], device=device)  # (C, S)
        self.place_rows = torch.arange(len(self.length), device=device)[rows][:, None]
        mask = None
        if end is None:
            # of a row that does not count one key is read, whatever it holds
            self.used = ((length + 1) * n).clamp(min=1).int()
        else:
            seen = torch.arange(end, device=device) <= self.places[:, :, None]  # (C, S, L)
            mask = self._bias(seen)
        hidden = decoder(
            input_ids=ids,
            attention_mask=mask,
            position_ids=self.places,
            past_key_values=self,
            use_cache=True,
        ).last_hidden_state
        self.length[rows] = length + n
        return hidden[torch.arange(len(n), device=device), (n - 1).clamp(min=0)]

    def copy(self, row: int, other: "KVCache", source: int, length: int) -> None:
        """Row `row` becomes the first `length` tokens of a row of another cache."""
        self.kv[:, row, :length] = other.kv[:, source, :length]
        self.length[row] = length

    def _bias(self, seen: Tensor) -> Tensor:
        """Added to scores: 0 where a key is seen, else -inf; (C, 1, G S, L)."""
        bias = torch.zeros(seen.shape, dtype=self.kv.dtype, device=seen.device)
        return bias.masked_fill_(~seen, -math.inf)[:, None].repeat(1, 1, self.heads_per_key, 1)

    # ---- what the attention layers call; the mask of `append` says all about lengths

    def update(self, k: Tensor, v: Tensor, layer: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Store new keys and values (C, heads, S, dim); return those that the queries may see."""
        new = torch.stack([k, v], 1).permute(0, 3, 1, 2, 4)  # (C, S, 2, heads, dim)
        if self.whole_rows is not None:
            # a pass over whole rows attends to what it has just computed
            self.kv[layer, self.whole_rows, : k.shape[2]] = new
            return k, v
        return self.store(new, layer)

    def store(self, new: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The same for keys and values in one tensor, (C, S, 2, heads, dim).

        Returns: keys and values that the queries may see, (C, heads, L, dim) each.
        """
        self.kv[layer, self.place_rows, self.places] = new
        seen = self.kv[layer, self.rows, : self.end]
        return seen.permute(2, 0, 3, 1, 4).unbind()

    def get_seq_length(self, layer: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query, layer: int = 0) -> tuple[int, int]:
        return (query if isinstance(query, int) else query.shape[0]), 0

    def get_query_offset(self, layer: int = 0) -> int:
        return 0


def folded_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=None, paths=None, **kwargs
):
    """Grouped-query attention: the G heads with one key head become G times as many queries.

    That is with a mask. Without one the rows are fresh and attention is causal. Shapes: query (C,
    heads, S, dim); mask (C, 1, G S, L) from KVCache, or (C, 1, S, L) from transformers. dropout: of
    transformers, left out: logp_old has none. paths: puts keys and values of a prefix before the
    rows' own (support/tree_levels.py).
    """
    if paths is not None:
        key, value = paths.extended(module.layer_idx, key, value)
    for name in UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise ValueError(
                f"{type(module).__name__} wants {name}={kwargs[name]}, "
                "which this sampling loop does not compute"
            )
    if attention_mask is None and query.is_cuda and query.dtype == torch.float32:
        return causal_repeated(query, key, value, scaling), None
    if attention_mask is None:
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return sdpa(module, query, key, value, None, scaling=scaling, **kwargs)
    C, heads, S, dim = query.shape
    per_key = heads // key.shape[1]
    folded = query.reshape(C, -1, per_key * S, dim)
    if attention_mask.shape[2] != per_key * S:
        attention_mask = attention_mask.repeat(1, 1, per_key, 1)
    out = F.scaled_dot_product_attention(
        folded, key, value, attn_mask=attention_mask, scale=scaling
    )
    # not a view: a GPU's kernels write heads behind queries
    return out.reshape(C, heads, S, dim).transpose(1, 2).contiguous(), None


def causal_repeated(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Causal attention of fresh rows with the keys repeated for each of their query heads.

    In float32 a GPU's kernels that know grouped heads write out all scores. query: (C, heads, S,
    dim). Returns (C, S, heads, dim).
    """
    per_key = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(per_key, 1) for x in (key, value))
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    return out.transpose(1, 2).contiguous()


# cuDNN's attention plans anew for every shape, for half a second; of passes nearly each is new
torch.backends.cuda.enable_cudnn_sdp(False)
AttentionInterface.register("folded", folded_attention)
# without a mask function of its own a padding mask would be dropped without a word
AttentionMaskInterface.register("folded", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
