"""Which models can be trained: those whose prefix can be forked by copying keys and values.

1. check_config            refuse partial attention and what is no causal language model
2. load_tokenizer          the same check for a folder or name, then its tokenizer
3. positions_of            tokens that it can hold
4. recompute_activations   activations again in the backward pass: memory for time
"""

import re

import torch
from transformers import AutoConfig, AutoTokenizer

from support.files import lost_folder


def check_config(config, name: str) -> None:
    """Refuse a model that cannot be forked by copying a prefix of its cache.

    Raises: ValueError if it is no causal language model or a layer does not attend to everything.
    """
    kinds = config.architectures or []
    if kinds and not any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
        raise ValueError(f"{name} is a {kinds[0]}, not a causal language model (...ForCausalLM)")
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    if layers != {"full_attention"} or (window and getattr(config, "use_sliding_window", True)):
        raise ValueError(
            f"{name} uses sliding-window or other partial attention (layer types "
            f"{sorted(layers)}, sliding_window {window}); a fork needs full attention: "
            "Qwen2.5, Qwen3, Llama 3 and SmolLM2 have it"
        )


def load_tokenizer(path: str):
    """The tokenizer of a model whose configuration was checked; no weight is read.

    Raises: ValueError if there is no such model or it cannot be forked.
    """
    check_config(_read(AutoConfig, path), path)
    return _read(AutoTokenizer, path)


def _read(kind, path: str):
    """A part of a model, or a ValueError that says what --model is not."""
    try:
        # the Hub is not asked for what cannot be there
        if lost_folder(path):
            raise FileNotFoundError("there is no such folder")
        return kind.from_pretrained(path)
    except (OSError, ValueError) as problem:
        reason = str(problem).strip().splitlines()[0]
        raise ValueError(
            f"--model {path} is neither a folder with a Hugging Face model nor a name that can be "
            f"fetched: {reason}"
        ) from None


def positions_of(path: str) -> int | None:
    """Tokens that a model can hold, prompt and response together, if its configuration says so."""
    return getattr(_read(AutoConfig, path), "max_position_embeddings", None)


def recompute_activations(model) -> None:
    """Compute every layer's activations again in the backward pass, while model.train() is on.

    Dropout stays off there: logp_old was taken without.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    # its name from transformers 5.23 on
    newer = getattr(model, "activation_checkpointing_enable", None)
    if newer:
        newer({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})


def pick_device(name: str) -> str:
    """What --device names; auto: a GPU, else the CPU. ValueError if it is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: this PyTorch sees no GPU; use --device cpu")
    return name
