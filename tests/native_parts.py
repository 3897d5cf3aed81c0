"""What the tests of native call formats use: models' chat templates, and models that say a text.

The templates in tests/chat_templates give the same text as those of Qwen2.5, Qwen3, Llama 3.1 and
SmolLM2. The vocabulary is the bundled world's with the models' chat markers.
"""

import copy
from pathlib import Path

import pytest
import torch

import sampling
from policy import Policy
from rollout import Family, Rollout
from sampling import Sampler
from support.native_calls import Hermes, Llama3

HERE = Path(__file__).parent
FORMATS = {"qwen2.5": Hermes, "qwen3": Hermes, "llama3.1": Llama3, "smollm2": Hermes}
MARKERS = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
MARKERS += ["<|eom_id|>", "<|python_tag|>", "<|begin_of_text|>"]
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 3?"}]


@pytest.fixture(scope="module")
def of_model(tokenizer):
    """A tokenizer with the chat template and end of turn of a model."""

    def of_model(name):
        made = copy.deepcopy(tokenizer)
        end = "<|eot_id|>" if name.startswith("llama") else "<|im_end|>"
        made.add_special_tokens(
            {"additional_special_tokens": MARKERS, "eos_token": end, "bos_token": MARKERS[-1]}
        )
        made.chat_template = (HERE / "chat_templates" / f"{name}.jinja").read_text()
        return made

    return of_model


def protocol(name, tools="python,search", **template):
    """The call format of a model; template: variables of its chat template."""
    return FORMATS[name].of(tools, template)


def hermes(*calls):
    """Calls as Hermes models write them."""
    return "".join(f"\n<tool_call>\n{call}\n</tool_call>" for call in calls)


PYTHON = '{"name": "python", "arguments": {"code": "print(1)"}}'
SEARCH = '{"name": "search", "arguments": {"query": " Paris "}}'


def read(kind, text, tools="python,search", ended=True):
    """The calls of a turn: (name, argument, fault)."""
    calls = kind.of(tools).calls_in([text], lambda: text, ended)
    return [(call.name, call.argument, call.fault) for call in calls]


@pytest.fixture
def agent_of(of_model, monkeypatch):
    """A model with a model's vocabulary, which says what a test wants it to say."""

    def agent_of(name, said):
        # conftest imports this file
        from conftest import untrained

        tokenizer = of_model(name)
        policy = Policy(untrained("llama", tokenizer), tokenizer)
        script = {}

        def draw(logits, *how):
            ids = [script.setdefault("ids", iter(said_ids(tokenizer, said)))]
            token = torch.full((len(logits),), next(ids[0], tokenizer.eos_token_id))
            return token, torch.full((len(logits),), -1.0), torch.ones(len(logits))

        monkeypatch.setattr(sampling, "draw", draw)
        return policy

    return agent_of


def said_ids(tokenizer, said):
    """The ids of what the model says turn after turn, each with its end of turn."""
    return [
        i
        for text in said
        for i in [
            *tokenizer(text, add_special_tokens=False).input_ids,
            tokenizer.eos_token_id,
        ]
    ]


def sampled(policy, how, tools, prompt, **changes):
    """One rollout."""
    from conftest import sampler_for

    lengths = dict(max_tokens=1024, max_result_tokens=512)
    params = sampler_for(policy, {}, decode_rows=1, **lengths | changes).params
    (r,) = Sampler(policy, tools, params, how).initial([prompt], 1, [0])
    return r


def ended(how, *pieces, opened=""):
    """A rollout that has ended, of pieces by policy and environment in turn."""
    r = Rollout([1], 0, finish="stop", opened=opened, family=Family(protocol=how))
    r.pieces = [(k % 2 == 0, text) for k, text in enumerate(pieces)]
    return r
