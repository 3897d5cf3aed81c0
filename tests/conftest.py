"""Shared parts: a small bundled world, an agent cold-started in it, and untrained models of three families with its tokenizer."""

import json
import sys
from pathlib import Path

import pytest
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent))
transformers.utils.logging.disable_progress_bar()
# tiny matrices; two busy threads would only wait for each other
torch.set_num_threads(1)

from eval_parts import asked, judging  # noqa: F401 (fixtures)
from tool_parts import corpus, python, serve  # noqa: F401  (fixtures)

import sft
import train
from config import LAPTOP, Config, read_settings
from extras.world.modes import Mode
from extras.world.prepare import prepare
from model import Policy
from sampling import Rollout, Sampler, encode_prompt, mix_seed, sample_initial
from tools import open_tools

CONFIG = Config(max_tokens=128, prompts=8, minibatch=4, micro_tokens=1024, max_calls=4)
SMALL = dict(
    steps=4,
    prompts=4,
    minibatch=2,
    max_tokens=96,
    eval_questions=4,
    save_every=2,
    decode_rows=16,
    log_trees=1,
)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Folder of a bundled world with fewer traces than usual."""
    return prepare(
        Mode(questions=200, tests=40, traces=2000, copies=800),
        7,
        tmp_path_factory.mktemp("world") / "easy-7",
    )


@pytest.fixture(scope="session")
def tokenizer(world):
    return transformers.AutoTokenizer.from_pretrained(world / "model")


@pytest.fixture(scope="session")
def tools(world):
    opened = open_tools("python,search", str(world / "corpus.jsonl"), 1, 5.0, "best-effort")
    yield opened
    for tool in opened.values():
        tool.close()


@pytest.fixture(scope="session")
def agent_folder(world, tmp_path_factory):
    """A checkpoint that uses its tools: the bundled model after a short cold start."""
    policy = Policy.load(str(world / "model"))
    assert (
        sft.cold_start(
            policy,
            sft.read_examples(str(world / "traces.jsonl"), policy.tokenizer),
            read_settings([]),
            progress=False,
        )
        < 0.5
    )
    folder = tmp_path_factory.mktemp("agent") / "model"
    policy.model.save_pretrained(folder), policy.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def agent(agent_folder):
    return Policy.load(str(agent_folder))


@pytest.fixture(scope="session")
def prompts(world, tokenizer):
    from eval import load_questions

    return [
        encode_prompt(tokenizer, q.messages) for q in load_questions(str(world / "train.jsonl"))
    ]


def untrained(family: str, tokenizer, seed: int = 0, **changes):
    """A randomly initialised model of 3 layers with grouped queries; large initial weights, so that greedy decoding has something to decide."""
    names = dict(
        llama=("LlamaConfig", "LlamaForCausalLM"),
        qwen2=("Qwen2Config", "Qwen2ForCausalLM"),
        qwen3=("Qwen3Config", "Qwen3ForCausalLM"),
    )[family]
    config = getattr(transformers, names[0])(
        **dict(
            vocab_size=len(tokenizer),
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=128,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.2,
        )
        | changes
    )
    torch.manual_seed(seed)
    return getattr(transformers, names[1])(config)


def sampler_for(policy, tools, **changes):
    return Sampler(
        policy,
        **dict(tools=tools, rows=16, max_tokens=128, max_calls=4, max_result_tokens=48) | changes,
    )


def rolled(policy, tools, prompts, n=2, seed=0, **changes):
    """A sampler and n rollouts of each prompt."""
    sampler = sampler_for(policy, tools, **changes)
    return sampler, sample_initial(
        sampler, prompts, n, [mix_seed(seed, i) for i in range(len(prompts))]
    )


@pytest.fixture
def rollouts(agent, tools, prompts):
    return rolled(agent, tools, prompts[:8])


def snapshot(r: Rollout):
    """What makes two rollouts the same, bit for bit."""
    return (
        r.ids,
        r.mask,
        r.logp,
        r.entropy,
        r.finish,
        [(c.name, c.argument, c.status, c.start, c.end) for c in r.calls],
    )


def arguments(world, tmp_path, **changes):
    settings = (
        dict(
            model=world / "model",
            data=world / "train.jsonl",
            eval_data=world / "test.jsonl",
            corpus=world / "corpus.jsonl",
            out=tmp_path / "run",
            config=LAPTOP,
            device="cpu",
        )
        | changes
    )
    return [x for name, value in settings.items() for x in (f"--{name}", str(value))]


@pytest.fixture(scope="session")
def finished(world, agent_folder, tmp_path_factory):
    """Four steps from the cold-started agent in one go."""
    out = tmp_path_factory.mktemp("runs") / "straight"
    train.main(arguments(world, out.parent, model=agent_folder, out=out, **SMALL))
    return out


def lines(out, name):
    return [json.loads(line) for line in open(out / f"{name}.jsonl")]
