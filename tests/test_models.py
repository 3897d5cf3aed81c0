"""support/models.py: models that cannot be forked are refused by their configuration alone."""

import pytest
import torch
import transformers

from policy import Policy
from rollout import Rollout
from support import models
from support.models import check_config, recompute_activations


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


def test_recomputing_brings_no_dropout(agent_folder):
    """Training mode, which recomputing needs, changes no log-prob: logp_old was taken without."""
    policy = Policy.load(str(agent_folder))
    for layer in policy.decoder.layers:
        layer.self_attn.attention_dropout = 0.5
        layer.mlp = torch.nn.Sequential(layer.mlp, torch.nn.Dropout(0.5))
    rollout = Rollout([1, 2, 3], 0, 0)
    rollout.append([4, 5, 6, 7], True, [0.0] * 4, [0.0] * 4)
    policy.model.eval()
    before = policy.logp([rollout], 1.0).detach()
    recompute_activations(policy.model)
    policy.model.train()
    torch.testing.assert_close(policy.logp([rollout], 1.0), before, atol=1e-6, rtol=0)


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
