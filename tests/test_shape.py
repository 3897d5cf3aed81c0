"""extras/shape.py: the sizes of models, against transformers' own count and published numbers."""

import pytest
import torch
import transformers
from conftest import untrained

from extras.shape import TABLE, read_shape

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
    """The model of a name in TABLE, without storage."""
    family, layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary, tied = TABLE[name]
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
            match="no config.json can be read there, and by name only these are known: qwen2.5-0",
        ):
            read_shape(name)
    transformers.GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="this is a gpt2"):
        read_shape(str(tmp_path))
