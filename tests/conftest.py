"""Shared parts: a small bundled world, a cold-started agent, untrained models of three families."""

import json
import multiprocessing
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
import transformers
from eval_parts import asked, judging  # noqa: F401 (fixtures)
from filelock import FileLock
from native_parts import agent_of, of_model  # noqa: F401  (fixtures)
from tool_parts import corpus, own, python, serve  # noqa: F401  (fixtures)
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import appo
import train
from config import LAPTOP, Config, read_settings
from extras.world.modes import Mode
from extras.world.prepare import prepare
from policy import Policy
from protocol import encode_prompt
from rollout import Rollout
from sampling import Sampler
from support import sft
from support.examples import read_examples
from support.metrics import Meter
from support.questions import load_questions
from support.ranks import Ranks
from support.sampling_params import SamplingParams
from support.seeds import mix_seed
from tools import open_tools

transformers.utils.logging.disable_progress_bar()
# tiny matrices; two busy threads would only wait for each other
torch.set_num_threads(1)

HERE = Path(__file__).parent
CONFIG = Config(max_tokens=96, prompts=4, minibatch=2, micro_tokens=1024, max_calls=4)
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
    """A checkpoint that uses its tools: the bundled model after a short cold start.

    The workers of pytest-xdist share one.
    """
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    folder = shared / "agent" / "model"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "config.json").exists():
            make_agent(world, folder)
    return folder


def make_agent(world, folder) -> None:
    """Imitate the world's traces."""
    policy = Policy.load(str(world / "model"))
    examples = read_examples(str(world / "traces.jsonl"), policy.tokenizer)
    hooks = sft.Hooks(progress=False)
    # so few examples teach more in small steps
    run = read_settings(["--cold_batch", "8"])
    loss = sft.cold_start(policy, examples, run, Ranks(), hooks)
    assert loss < 0.5
    policy.tokenizer.save_pretrained(folder), policy.model.save_pretrained(folder)


@pytest.fixture
def agent(agent_folder):
    return Policy.load(str(agent_folder))


@pytest.fixture(scope="session")
def prompts(world, tokenizer):
    return [
        encode_prompt(tokenizer, q.messages) for q in load_questions(str(world / "train.jsonl"))
    ]


def untrained(family: str, tokenizer, seed: int = 0, **changes):
    """A randomly initialised model of 3 layers with grouped queries.

    Large initial weights, so that greedy decoding has something to decide.
    """
    names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    settings = dict(
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
    config = getattr(transformers, f"{names[family]}Config")(**settings | changes)
    torch.manual_seed(seed)
    return getattr(transformers, f"{names[family]}ForCausalLM")(config)


def template_ending(template: str, end: str) -> str:
    """A chat template that adds `end`, as in a string of Python, for the assistant."""
    return template + "{% if add_generation_prompt %}{{ '" + end + "' }}{% endif %}"


def sampler_for(policy, tools, **changes):
    """A small sampler. changes: of SamplingParams."""
    small = dict(decode_rows=16, max_tokens=128, max_calls=4, max_result_tokens=48)
    small |= dict(prefill_chunk=16)
    return Sampler(policy, tools, SamplingParams(**small | changes))


def rolled(policy, tools, prompts, n=2, seed=0, **changes):
    """A sampler and n rollouts of each prompt."""
    sampler = sampler_for(policy, tools, **changes)
    seeds = [mix_seed(seed, i) for i in range(len(prompts))]
    return sampler, sampler.initial(prompts, n, seeds)


@pytest.fixture
def rollouts(agent, tools, prompts):
    return rolled(agent, tools, prompts[:8])


def begun(prompt, seed, ids):
    """A rollout whose first ids a tool has given."""
    r = Rollout(prompt, seed, fork_at=len(ids))
    r.append(list(ids), False, [0.0] * len(ids), [0.0] * len(ids))
    return r


def snapshot(r: Rollout):
    """What makes two rollouts the same, bit for bit."""
    calls = [(c.name, c.argument, c.status, c.start, c.end) for c in r.calls]
    return r.ids, r.mask, r.sampled_logp, r.sampled_entropy, r.finish, calls


def judge(r: Rollout) -> float:
    """A reward that varies: the share of distinct ids."""
    return len(set(r.ids)) / len(r.ids)


def prompts_for(prompts: list[list[int]], reward=judge, seed: int = 0) -> list[appo.Prompt]:
    """Prompts with seeds and a reward."""
    return [appo.Prompt(ids, mix_seed(seed, i), reward) for i, ids in enumerate(prompts)]


def one_step(
    policy, tools, prompts, config=CONFIG, lr=1e-3, optimizer=None, sampler=None, step=appo.step
):
    """The numbers and rollouts of one step. prompts: token ids, or Prompts."""
    # rows for all branches of a mini-batch: few decode steps
    rows = dict(max_tokens=config.max_tokens, decode_rows=24)
    sampler = sampler or sampler_for(policy, tools, **rows)
    if optimizer is None:
        optimizer = torch.optim.AdamW(policy.model.parameters(), lr=lr, weight_decay=0.01)
    if not isinstance(prompts[0], appo.Prompt):
        prompts = prompts_for(prompts[: config.prompts])
    meter = Meter(sampler)
    rollouts = step(policy, optimizer, sampler, prompts, config, meter)
    return meter.numbers(rollouts, policy.ranks), rollouts


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
            # workers share the cores
            threads=1,
        )
        | changes
    )
    return [x for name, value in settings.items() for x in (f"--{name}", str(value))]


@pytest.fixture(scope="session")
def finished(world, agent_folder, tmp_path_factory):
    """Four steps from the cold-started agent in one go."""
    out = tmp_path_factory.mktemp("runs") / "straight"
    settings = SMALL | dict(eval_every=2)
    train.main(arguments(world, out.parent, model=agent_folder, out=out, **settings))
    return out


def lines(out, name):
    return [json.loads(line) for line in open(out / f"{name}.jsonl")]


def trainer_tensors(checkpoint, folder):
    """The tensors of a checkpoint's trainer state by name, whole."""
    dcp_to_torch_save(checkpoint / "trainer", folder / "state.pt")
    return torch.load(folder / "state.pt", weights_only=True)


def forked(function, count: int, *arguments):
    """Start function(rank, *arguments) in `count` processes. join_all waits for them.

    They are forked from a server that has imported all of this and computed nothing: an import
    takes longer than most of what is tested here.
    """
    before = os.environ.get("PYTHONPATH")
    # the server starts here for the first time, and reads sys.path from there
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (HERE.parent, HERE)))
    multiprocessing.set_forkserver_preload(["conftest"])
    try:
        return mp.start_processes(function, arguments, count, join=False, start_method="forkserver")
    finally:
        os.environ.pop("PYTHONPATH")
        os.environ.update({} if before is None else {"PYTHONPATH": before})


def run_forked(command: list[str], **_) -> None:
    """subprocess.run(command, check=True) of Python, without its imports.

    Other arguments are ignored: folder and environment are those of the server.
    """
    join_all(forked(_script, 1, command[1:]))


def join_all(started) -> None:
    """Wait until all that `forked` has started have ended well."""
    # join() returns when one has ended
    while not started.join():
        pass


def _script(_, words):
    """What `python words...` does."""
    module = words[0] == "-m"
    sys.argv = words[1:] if module else words
    (runpy.run_module if module else runpy.run_path)(sys.argv[0], run_name="__main__")
