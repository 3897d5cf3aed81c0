"""support/models.py: models that cannot be forked are refused by their configuration alone."""

import pytest
import transformers

from support import models
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


def test_the_hub_is_not_asked_for_a_folder(tmp_path, monkeypatch):
    def asked(*args, **how):
        raise AssertionError("the Hub was asked")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(models.AutoConfig, "from_pretrained", asked)
    for name in ("./mine", "models/mine", str(tmp_path / "mine")):
        with pytest.raises(
            ValueError, match="--model .*mine is neither .*: there is no such folder"
        ):
            models.load_tokenizer(name)
