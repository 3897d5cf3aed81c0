"""support/models.py: models that cannot be forked are refused by their configuration alone."""

import pytest
import transformers

from support.models import check_config


def test_models_that_cannot_be_forked_are_refused():
    with pytest.raises(ValueError, match="sliding-window"):
        check_config(
            transformers.MistralConfig(sliding_window=128, architectures=["MistralForCausalLM"]),
            "m",
        )
    with pytest.raises(ValueError, match="sliding-window"):
        check_config(transformers.Gemma3TextConfig(architectures=["Gemma3ForCausalLM"]), "g")
    with pytest.raises(ValueError, match="not a causal language model"):
        check_config(transformers.BertConfig(architectures=["BertForMaskedLM"]), "bert")
    for config in (
        transformers.Qwen2Config(),
        transformers.Qwen3Config(),
        transformers.LlamaConfig(),
        transformers.MistralConfig(sliding_window=None),
    ):
        check_config(config, "fine")
