"""What the checks of a GPU run on: sizes, a world, and a model of random weights that uses tools.

Random weights write no tags. So the output matrix gets a bias (`uses_tools`): of the vocabulary
only the words of the bundled world are left, and one token in 64 is a given tool tag. Calls then
come by chance, opened and closed by the policy itself, and everything that computes logits sees the
same distribution. What stands between two tags is noise: Python mostly answers with a SyntaxError,
search finds documents by the words that are in it.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from config import Config
from extras.shape import Shape, read_shape
from extras.world.modes import Mode
from extras.world.prepare import prepare
from policy import Policy
from protocol import encode_prompt
from support.questions import load_questions
from tools import open_tools

# added to a logit: e^-30 of the others, and no infinity to make a NaN of
FORBIDDEN = -30.0
TAGS = ("<python>", "</python>", "<search>", "</search>")


@dataclass(frozen=True)
class Sizes:
    """What the checks run on. shape: the model's, in bfloat16.

    tree: sizes of numbers_agree; step: of a whole step; rows, context, tokens: of decode_speed.
    """

    shape: Shape
    tree: dict
    step: dict
    rows: int
    context: int
    tokens: tuple[int, int]
    repeats: int


TINY = Shape(
    layers=3,
    hidden=64,
    intermediate=128,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocabulary=1024,
    tied=False,
    bias=True,
    qk_norm=False,
)
REAL = Sizes(
    read_shape("Qwen/Qwen2.5-7B"),
    dict(prompts=8, minibatch=4, max_prompt=64, max_tokens=384, decode_rows=32, prefill_chunk=64),
    dict(prompts=4, minibatch=2, max_prompt=512, max_tokens=512, decode_rows=32, prefill_chunk=64),
    rows=128,
    context=2048,
    tokens=(2, 66),
    repeats=5,
)
SMALL = Sizes(
    TINY,
    dict(prompts=4, minibatch=2, max_prompt=64, max_tokens=96, decode_rows=16, prefill_chunk=16),
    dict(prompts=4, minibatch=2, max_prompt=64, max_tokens=64, decode_rows=16, prefill_chunk=16),
    rows=8,
    context=128,
    tokens=(2, 18),
    repeats=5,
)


def small_world(folder: Path) -> Path:
    """A bundled world whose tokenizer, questions and documents the checks use."""
    return prepare(Mode(questions=64, tests=16, copies=0, traces=160, faultless=160), 0, folder)


def settings(width: int = 128, **changes) -> Config:
    """A run's settings, for step, sampler and plan alike. width: rollouts of a pass."""
    prompt = changes.get("max_prompt", Config.max_prompt)
    longest = prompt + changes.get("max_tokens", Config.max_tokens)
    fixed = dict(model="-", data="-", micro_tokens=min(width, 8) * longest, checkpointing=True)
    fixed |= dict(max_calls=10**6, max_result_tokens=64, lr=1e-4)
    return Config(**fixed | changes)


def open_world(world: Path) -> tuple:
    """(tokenizer, tools, prompts as ids) of a bundled world."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(world / "model")
    tools = open_tools("python,search", str(world / "corpus.jsonl"), 1, 5.0, "best-effort")
    questions = load_questions(str(world / "train.jsonl"))
    return tokenizer, tools, [encode_prompt(tokenizer, q.messages) for q in questions]


def agent(shape: Shape, tokenizer, dtype: str, device: str) -> Policy:
    """Random weights of a Qwen2 of this shape, made on the device, that use tools: see the top.

    Logits have a standard deviation of 1.2: at 7B's width the usual 0.02 per weight.
    """
    config = transformers.Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=32768,
        initializer_range=1.2 / math.sqrt(shape.hidden),
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    # parameters and rotary frequencies are born there: no copy in host memory
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    return uses_tools(Policy(model, tokenizer))


def uses_tools(policy: Policy, every: int = 64) -> Policy:
    """The same policy with a bias: words, and one token of `every` is a given tag. See the top."""
    bias = torch.full((policy.vocabulary,), FORBIDDEN)
    words = [i for i, text in enumerate(policy.text) if text.strip().isalnum()]
    bias[words] = 0.0
    tags = [i for i, text in enumerate(policy.text) if text in TAGS]
    bias[tags] = math.log(len(words) / every)
    policy.head.bias = torch.nn.Parameter(bias.to(policy.head.weight))
    return policy


def no_ends(policy: Policy) -> Policy:
    """No token ends a turn or calls a tool: rollouts are as long as they may be."""
    policy.closing, policy.stop_ids = set(), set()
    return policy
