"""The sizes of a model: its parameters, its FLOPs, the bytes that decoding reads."""

from dataclasses import dataclass
from pathlib import Path

import transformers


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder like Llama's: grouped-query attention, a gated MLP, two RMS norms a layer.

    bias: of q, k and v (Qwen2); qk_norm: a norm of queries and of keys (Qwen3).
    """

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
        """Width of a layer's queries."""
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        """Width of a layer's keys, and of its values."""
        return self.kv_heads * self.head_dim

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        products = 2 * self.hidden * (self.q + self.kv) + 3 * self.hidden * self.intermediate
        biases = self.bias * (self.q + 2 * self.kv)
        norms = 2 * self.hidden + self.qk_norm * 2 * self.head_dim
        return products + biases + norms

    @property
    def root(self) -> int:
        """Parameters outside the layers: embedding, output matrix unless tied to it, last norm."""
        return (2 - self.tied) * self.vocabulary * self.hidden + self.hidden

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        return self.layers * self.layer + self.root

    @property
    def read(self) -> int:
        """Parameters that decoding a token reads: all layers and the output matrix."""
        return self.layers * self.layer + self.vocabulary * self.hidden


# model_type: (bias, qk_norm)
FAMILIES = {"llama": (False, False), "qwen2": (True, False), "qwen3": (False, True)}
# family, then layers ... tied as in Shape
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
    """The shape of a folder, of a fetched model, or by name from TABLE, which needs no file.

    -Instruct and -Base do not matter in a name.
    Raises: ValueError if there is neither, or the model's family is not in FAMILIES.
    """
    try:
        c = transformers.AutoConfig.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError):
        return shape_of_name(model)
    biased = getattr(c, "attention_bias", False) or getattr(c, "mlp_bias", False)
    if c.model_type not in FAMILIES or biased:
        raise ValueError(
            f"--model {model}: the plan knows the layers of {', '.join(FAMILIES)} without further "
            f"biases, this is a {c.model_type}"
        )
    bias, qk_norm = FAMILIES[c.model_type]
    return Shape(
        layers=c.num_hidden_layers,
        hidden=c.hidden_size,
        intermediate=c.intermediate_size,
        heads=c.num_attention_heads,
        kv_heads=c.num_key_value_heads,
        head_dim=getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads,
        vocabulary=c.vocab_size,
        tied=c.tie_word_embeddings,
        bias=bias,
        qk_norm=qk_norm,
    )


def shape_of_name(model: str) -> Shape:
    """The shape of a name in TABLE. ValueError for an unknown one, and for a folder."""
    name = Path(model).name.lower().removesuffix("-instruct").removesuffix("-base")
    if name not in TABLE or Path(model).exists():
        raise ValueError(
            f"--model {model}: no config.json can be read there, and by name only these are known: "
            + ", ".join(TABLE)
        )
    family, *sizes = TABLE[name]
    return Shape(*sizes, *FAMILIES[family])


def forward_flops(shape: Shape, tokens: float, context: float, with_logits: float) -> float:
    """FLOPs of reading tokens, each of which attends to `context` others on average.

    2 x layer parameters x tokens  +  4 x layers x context x (heads x head_dim) x tokens
    +  2 x vocabulary x hidden x with_logits, the tokens whose logits are computed
    """
    layers = shape.layers * tokens * (2 * shape.layer + 4 * context * shape.q)
    return layers + 2 * shape.vocabulary * shape.hidden * with_logits


def decode_bytes(
    shape: Shape, width: int, rows: int, rollouts: float, length: float, context: float
) -> float:
    """Bytes read to decode `length` tokens of each rollout, `rows` of them at once.

    All weights per loop step, and `context` keys and values per token; `width` bytes a number.
    """
    keys_and_values = 2 * shape.layers * shape.kv
    per_token = max(1.0, rollouts / rows) * shape.read + rollouts * context * keys_and_values
    return width * length * per_token
