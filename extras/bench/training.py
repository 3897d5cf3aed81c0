"""Training: a whole update against TRL's GRPOTrainer, log-probs and entropies of a large vocabulary in chunks, and how time and memory grow."""

import statistics
import time
import types
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from appo import PASS_BLOCK, chunked_stats, credit, logits_chunk, step, update
from config import Config
from eval import load_questions
from extras.bench import models
from extras.bench.measure import figure, in_turn, operations, ratio, seconds
from model import round_up
from sampling import Rollout, encode_prompt, sample_initial

MIB = 2**20
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}


# ------------------------------------------------------------------------------------------------------------------------------------------------- TRL


@dataclass
class Batch:
    """One GRPO update for both: `prompts` questions, 8 rollouts each, `new` tokens a rollout, `micro` rollouts per pass."""

    folder: Path
    messages: list[list[dict]]
    new: int
    micro: int
    group: int = 8
    lr: float = 1e-6


def trl(args) -> dict:
    """One GRPO step, generation included, and the update alone on given rollouts, against TRL's GRPOTrainer (its own generation, no KL, one iteration); and how much
    of our update is matrix products and attention, with their gradients, which any other way of writing it has too."""
    if not models.installed("trl", "trl"):
        return {}
    questions = load_questions(str(models.world_folder(args) / "train.jsonl"))
    figures = {}
    for name, folder in models.model_folders(args, "trl").items():
        count, new, micro = (
            (1, 8, 8) if args.light else (8, 128, 16) if "Llama" in name else (1, 32, 8)
        )
        batch = Batch(folder, [q.messages for q in questions[:count]], new, micro)
        title = f"trl: {name}, {count} prompts x {batch.group} rollouts x {new} tokens"
        ours = Ours(batch)
        figures |= {
            f"{title}, whole step, seconds of TRL / ours": ratio(
                in_turn_with_trl(batch, ours.whole_step, args)
            ),
            f"{title}, update alone, seconds of TRL / ours": ratio(
                in_turn_with_trl(batch, ours.update_alone, args, ours.given)
            ),
        }
        spent = operations(ours.update_alone)
        products = sum(s for op, s in spent.items() if op in PRODUCTS or "attention" in op)
        figures[f"{title}, update alone, ours in matrix products and attention"] = figure(
            [products / sum(spent.values())], "share"
        )
    return figures


def reward_of(ids: list[int]) -> float:
    """A reward that differs between rollouts and costs nothing."""
    return float(sum(ids) % 7)


class Ours:
    """The same update by appo.py: GRPO is APPO without branches and with b = 0."""

    def __init__(self, batch: Batch):
        self.policy = models.endless_policy(batch.folder)
        self.prompts = [encode_prompt(self.policy.tokenizer, m) for m in batch.messages]
        self.config = Config(
            branches=0,
            future_weight=0.0,
            initial=batch.group,
            prompts=len(self.prompts),
            minibatch=len(self.prompts),
            micro_tokens=batch.micro
            * round_up(max(map(len, self.prompts)) + batch.new, PASS_BLOCK),
            max_tokens=batch.new,
        )
        self.optimizer = torch.optim.AdamW(self.policy.model.parameters(), lr=batch.lr)
        self.sampler = models.make_sampler(self.policy, len(self.prompts) * batch.group, batch.new)
        self.seeds = list(range(len(self.prompts)))
        self.given = sample_initial(self.sampler, self.prompts, batch.group, self.seeds)
        for r in self.given:
            r.reward = reward_of(r.ids)

    def whole_step(self) -> None:
        step(
            self.policy,
            self.optimizer,
            self.sampler,
            self.prompts,
            self.seeds,
            lambda r, prompt: reward_of(r.ids),
            self.config,
            0,
        )

    def update_alone(self) -> None:
        """Log-probs with their gradient, advantages, loss and optimizer step on the given rollouts, which TRL gets too. Like TRL after one generation and
        before any other update it takes the log-probs of the rollouts, here those that sampling recorded, for the old ones."""
        mask = torch.ones(len(self.given), self.config.max_tokens, dtype=torch.bool)
        logp_old, ones = torch.tensor([r.logp for r in self.given]), torch.ones(mask.shape)
        adv = credit(self.given, [], ones, ones, mask, self.config)
        update(self.policy, self.optimizer, self.given, logp_old, adv, mask, self.config)


def in_turn_with_trl(
    batch: Batch, ours, args, given: list[Rollout] | None = None
) -> list[tuple[float, float]]:
    """(seconds of TRL's step, of ours) in turn, after one of each that does not count. given: rollouts for TRL to train on instead of generating its own."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class InTurn(TrainerCallback):
        pairs = []

        def on_step_begin(self, *_, **__):
            # before the generation
            self.began = time.perf_counter()

        def on_step_end(self, *_, **__):
            theirs = time.perf_counter() - self.began
            self.pairs.append((theirs, seconds(ours)))

    rows, times = len(batch.messages) * batch.group, 2 if args.light else 5
    config = GRPOConfig(
        output_dir=str(Path(args.out) / "trl"),
        per_device_train_batch_size=batch.micro,
        gradient_accumulation_steps=rows // batch.micro,
        num_generations=batch.group,
        max_completion_length=batch.new,
        generation_kwargs={"min_new_tokens": batch.new},
        max_steps=times + 1,
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
    by_prompt = (
        {
            str(m): given[k * batch.group : (k + 1) * batch.group]
            for k, m in enumerate(batch.messages)
        }
        if given
        else {}
    )

    def handed(prompts, trainer):
        place = [by_prompt[str(m)][k % batch.group] for k, m in enumerate(prompts)]
        return {
            "prompt_ids": [r.prompt for r in place],
            "completion_ids": [r.ids for r in place],
            "logprobs": None,
        }

    reward = lambda completion_ids, **_: [reward_of(ids) for ids in completion_ids]
    reward.__name__ = "reward"
    timer = InTurn()
    GRPOTrainer(
        str(batch.folder),
        reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": m} for m in batch.messages]),
        callbacks=[timer],
        processing_class=AutoTokenizer.from_pretrained(batch.folder),
        rollout_func=handed if given else None,
    ).train()
    return timer.pairs[1:]


# -------------------------------------------------------------------------------------------------------------------------------- a large vocabulary


def logprob(args) -> dict:
    """Log-probs and entropies over a vocabulary of 152,064 (Qwen2.5's) from hidden states of 896, in chunks, against log_softmax over all logits at once; and
    log_softmax against the chunks' matrix products alone, which no way of taking log-probs by the same products can be faster than."""
    vocabulary, size = (150_000, 8) if args.light else (152_064, 896)
    torch.manual_seed(0)
    head, figures = nn.Linear(size, vocabulary, bias=False), {}
    policy = types.SimpleNamespace(head=head, vocabulary=vocabulary)
    for what, tokens, grad in (
        ("no gradient", 1024 if args.light else 3072, False),
        ("with gradient", 300 if args.light else 1024, True),
    ):
        hidden, ids = (
            torch.randn(tokens, size, requires_grad=grad),
            torch.randint(vocabulary, (tokens,)),
        )
        ways = [
            partial(stats_and_gradient, way, head, grad)
            for way in (
                lambda: whole_stats(head, hidden, ids),
                lambda: chunked_stats(policy, hidden, ids, 1.0),
            )
        ]
        title = f"logprob: {tokens:,} tokens, vocabulary {vocabulary:,}, {what}"
        memory = [models.most_allocated(way) for way in ways]
        if not grad:
            # of each chunk only the shape is kept: its logits are freed before the next are made, as ours are
            products = partial(
                stats_and_gradient,
                lambda: (
                    None,
                    [head(part).shape for part in hidden.split(logits_chunk(vocabulary))],
                ),
                head,
                False,
            )
            figures[f"{title}, seconds of log_softmax / our products alone"] = ratio(
                in_turn(ways[0], products, times=2 if args.light else 5)
            )
        figures |= {
            f"{title}, seconds of log_softmax / ours": ratio(
                in_turn(*ways, times=2 if args.light else 5)
            ),
            f"{title}, memory of ours / log_softmax": ratio([(memory[1], memory[0])]),
            f"{title}, memory of ours": figure([memory[1] / MIB], "MiB"),
        }
    return figures


def whole_stats(head: nn.Linear, hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The textbook way: all logits, log_softmax, gather; the entropy carries no gradient."""
    log_p = head(hidden).float().log_softmax(-1)
    return log_p.gather(-1, ids[:, None])[:, 0], -(log_p.detach().exp() * log_p.detach()).sum(-1)


def stats_and_gradient(way, head: nn.Linear, grad: bool) -> None:
    """Both numbers of every token; with grad also the gradient of the log-probs' sum, in the hidden states and in the head's weights."""
    with torch.set_grad_enabled(grad):
        logp, _ = way()
        if grad:
            logp.sum().backward()
            head.zero_grad(set_to_none=True)


# ------------------------------------------------------------------------------------------------------------------------------------------- scaling


def scaling(args) -> dict:
    """Seconds and memory of a whole step of a 2 M Llama as rollouts, branches and length grow, one at a time, against the step's unique tokens."""
    policy, figures = models.endless_policy(models.tiny_folder(args)), {}
    sizes = (
        dict(initial=(1, 2, 3), branches=(1, 2, 3), max_tokens=(12, 16, 20))
        if args.light
        else dict(initial=(4, 8, 16), branches=(1, 3, 6), max_tokens=(64, 128, 256))
    )
    base = (
        dict(initial=2, branches=1, max_tokens=12, rows=8)
        if args.light
        else dict(initial=4, branches=3, max_tokens=64, rows=16)
    )
    for axis, values in sizes.items():
        steps = [OneStep(policy, **base | {axis: value}) for value in values]
        times = list(zip(*in_turn(*steps, times=2 if args.light else 5)))
        tokens = [s.unique for s in steps]
        for value, s, taken in zip(values, steps, times):
            title = f"scaling: {axis} = {value}, {s.unique:,} unique tokens"
            figures |= {
                f"{title}, step": figure(taken, "s"),
                f"{title}, per 1,000 unique tokens": figure(
                    [1000 * x / s.unique for x in taken], "s"
                ),
                f"{title}, memory": figure([models.most_allocated(s) / MIB], "MiB"),
            }
        figures[f"scaling: {axis}, largest distance from a straight line"] = figure(
            [off_line(tokens, list(map(statistics.median, times)))], "of the step"
        )
    return figures


class OneStep:
    """A whole step on two prompts of 16 tokens; every rollout takes its budget. unique: tokens of its trees, known after it was called."""

    def __init__(self, policy, rows: int, **sizes):
        self.policy, self.rows, self.config = policy, rows, Config(prompts=2, minibatch=2, **sizes)
        self.prompts = [models.random_ids(policy, k, 16) for k in range(2)]
        self.optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-6)

    def __call__(self) -> None:
        sampler = models.make_sampler(self.policy, self.rows, self.config.max_tokens)
        metrics, _ = step(
            self.policy,
            self.optimizer,
            sampler,
            self.prompts,
            range(2),
            lambda r, prompt: reward_of(r.ids),
            self.config,
            0,
        )
        self.unique = metrics["tokens_unique"]


def off_line(x: list[float], y: list[float]) -> float:
    """Largest distance of a point from the least-squares line through all, as a share of the point."""
    slope, intercept = statistics.linear_regression(x, y)
    return max(abs(slope * a + intercept - b) / b for a, b in zip(x, y))
