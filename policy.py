"""The policy: a causal language model, its weights on one or many processes, its log-probs.

    1. Policy.load         from a Hugging Face folder or name; what cannot be forked is refused
    2. Policy.shard        weights, gradients and optimizer state split over processes (FSDP2)
    3. Policy.unsharded    whole weights for a while: sampling and scoring need no other process
    4. Policy.score        log-probs and entropies of rollouts, and a cache to fork from  (Eq. 3)
    5. Policy.logp         the same log-probs with their gradient: the trainer's forward pass
    6. Policy.take_step    clip the gradient and step

A rollout is anything with `prompt`, `ids` (token ids) and `mask` (True where the policy chose).
Axes: R rollouts of a pass, T response tokens, W tokens of prompt and response, M policy tokens,
D hidden.
"""

import math
import types
import warnings
from collections import OrderedDict
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from kv_cache import KVCache
from protocol import TURN_ENDS
from support import cpu_decoder, gpu_decoder
from support.log_probs import logp_in_chunks, stats_in_chunks
from support.models import check_config, load_tokenizer, pick_device
from support.ranks import Ranks
from support.shapes import padded_keys, round_up

# the argument's new name, `cache`, is unknown to transformers 5.17; the old one is removed in 5.40
warnings.filterwarnings("ignore", message=".*past_key_values.* is deprecated")
# rows of a pass over whole rollouts are as long as a multiple of this
PASS_BLOCK = 16


class Policy:
    """A causal language model with what sampling and training have to know of it.

    text: the text of each id. stop_ids: they end a turn. closing: ids that may close a tag.
    ranks: the processes that train it. reference: the frozen policy of the KL term, or None.
    call: runs a function that uses the weights; where they are split, they are gathered for it.

    Args:    model: from AutoModelForCausalLM; its attention becomes kv_cache.folded_attention.
    Raises:  ValueError if its logits are more than head(hidden state): soft caps, scaled logits.
    """

    def __init__(self, model, tokenizer):
        check_config(model.config, type(model).__name__)
        model.set_attn_implementation("folded")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()
        self.device, self.dtype = model.device, model.dtype
        self.vocabulary = model.config.vocab_size
        size = min(len(tokenizer), self.vocabulary)
        self.text = [tokenizer.decode([i]) for i in range(size)] + [""] * (self.vocabulary - size)
        self.closing = {i for i, text in enumerate(self.text) if ">" in text}
        self.stop_ids = self._stop_ids()
        self.ranks = Ranks()
        self.reference: Policy | None = None
        self.shards: list[FSDPModule] = []
        self.call = _plain_call
        self._whole = False
        self._sampling: tuple | None = None
        self._check_head()

    @classmethod
    def load(cls, path: str, dtype: str = "float32", device: str = "cpu") -> "Policy":
        """From a Hugging Face folder or name. The configuration is checked before any weight.

        Weights for a GPU in float32 come to it in the file's number format, and become float32
        there: that halves the memory of the host.
        """
        device = pick_device(device)
        tokenizer = load_tokenizer(path)
        late = device != "cpu" and dtype == "float32"
        read_as = "auto" if late else getattr(torch, dtype)
        how = {"dtype": read_as, "attn_implementation": "folded"}
        try:
            model = AutoModelForCausalLM.from_pretrained(path, **how)
        except (OSError, SafetensorError) as problem:
            reason = str(problem).strip().splitlines()[0]
            raise ValueError(f"--model {path}: its weights cannot be read: {reason}") from None
        model = model.to(device)
        return cls(model.float() if late else model, tokenizer)

    # ---- weights

    def shard(self, dtype: str, mesh=None) -> "Policy":
        """Split the float32 weights over the ranks; at work they are whole and in `dtype`.

        Gradients are summed over the ranks, not averaged. mesh: a device mesh of one dimension, or
        of two to copy the shards over the first (HSDP); all ranks by default.
        """
        mixed = MixedPrecisionPolicy(param_dtype=getattr(torch, dtype), reduce_dtype=torch.float32)
        # not of the accelerator that torch sees: a CPU's ranks may run on a machine with a GPU
        mesh = mesh or init_device_mesh(self.device.type, (dist.get_world_size(),))
        # embedding, last norm and head are one group: tied weights stay tied
        for module in [*self.decoder.layers, self.model]:
            fully_shard(module, mesh=mesh, mp_policy=mixed)
        self.shards = [m for m in self.model.modules() if isinstance(m, FSDPModule)]
        for module in self.shards:
            # gloo has no division in its reductions
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
        self.model.run = types.MethodType(lambda model, work: work(), self.model)
        register_fsdp_forward_method(self.model, "run")
        self.call, self.dtype = self.model.run, getattr(torch, dtype)
        with torch.no_grad():
            # the very first call has to go through the root
            token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            self.call(lambda: self.decoder(input_ids=token).last_hidden_state)
        # the root stays whole after a forward pass; an optimizer must be given its shards
        for module in self.shards:
            module.reshard()
        return self

    @contextmanager
    def unsharded(self):
        """Whole weights, gradients off: sampling and scoring need no other process.

        FSDP2's hooks are off meanwhile: what is called is the plain model. On one process nothing
        is gathered. The first sampling in here copies weights to a faster decoder: `for_sampling`.
        Inside another `unsharded` it does nothing.
        """
        if self._whole:
            yield
            return
        for module in self.shards:
            module.unshard()
        call, hooks = self.call, [_take_hooks(module) for module in self.shards]
        self.call, self._whole = _plain_call, True
        try:
            with torch.no_grad():
                yield
        finally:
            self.call, self._whole, self._sampling = call, False, None
            for module, (before, after) in zip(self.shards, hooks):
                module._forward_pre_hooks, module._forward_hooks = before, after
                module.reshard()

    def for_sampling(self) -> tuple:
        """(decoder, head) as the sampler calls them, faster ones inside `unsharded`."""
        if not self._whole:
            return self.decoder, self.head
        if self._sampling is None:
            if cpu_decoder.fits(self.model, self.dtype):
                fast = cpu_decoder.PackedDecoder(self.model)
            elif gpu_decoder.fits(self.model, self.dtype):
                fast = gpu_decoder.FlashDecoder(self.model)
            else:
                fast = None
            self._sampling = (fast, fast.head) if fast else (self.decoder, self.head)
        return self._sampling

    def take_step(self, optimizers: list, clip: float) -> float:
        """Sum the gradients over the ranks, clip their norm and step, unless it is not finite.

        clip: the largest norm; 0 or inf: none.
        Returns: the norm before clipping, the same on all ranks.
        """
        parameters = list(self.model.parameters())
        if self.ranks.world > 1 and not self.shards:
            # those of sharded weights have been summed by the backward pass
            for p in parameters:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                dist.all_reduce(p.grad)
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip or math.inf)
        norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        for optimizer in optimizers:
            if math.isfinite(norm):
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    # ---- log-probs

    @torch.no_grad()
    def score(
        self, rollouts: list, temperature: float, micro_tokens: int, keep_cache: bool = False
    ) -> KVCache | None:
        """Log-probs and entropies of every policy token under the current weights (Eq. 3).

        Sets r.logp and r.entropy of each rollout: (T,) float32 on the CPU, nats, 0 where mask is
        False. The same rollouts in the same order give the same bits while the weights stay.

        Args:    temperature: of the softmax. micro_tokens: tokens of a pass, padding included.
        Returns: with keep_cache the cache of all rollouts, row n for rollouts[n], else None.
        """
        cache = self._cache_for(rollouts) if keep_cache and rollouts else None
        for rows in micro_batches(rollouts, micro_tokens):
            micro_batch = [rollouts[n] for n in rows]
            if cache is not None:
                cache.whole_rows = self.tensor(rows)
            work = partial(stats_in_chunks, self.head, temperature=temperature)
            (logp, entropy), hidden = self._whole_pass(micro_batch, work, cache)
            logp, entropy = logp.float().cpu(), entropy.float().cpu()
            for row, (n, r) in enumerate(zip(rows, micro_batch)):
                T, first = len(r.ids), len(r.prompt) - 1
                # copies: a view would keep the whole pass alive
                r.logp, r.entropy = logp[row, :T].clone(), entropy[row, :T].clone()
                if cache is not None:
                    cache.states[n, :T] = hidden[row, first : first + T]
            # before the next pass makes its own
            del hidden
        if cache is not None:
            cache.whole_rows = None
        return cache

    def logp(self, rollouts: list, temperature: float) -> Tensor:
        """Log-probs of one pass with their gradient, (R, T), 0 where mask is False."""

        def work(hidden, ids):
            return (logp_in_chunks(self.head, hidden, ids, temperature),)

        (logp,), _ = self._whole_pass(rollouts, work)
        return logp

    def _cache_for(self, rollouts: list) -> KVCache:
        """An empty cache with a row for every rollout."""
        T = max(len(r.ids) for r in rollouts)
        cache = self.cache(len(rollouts), padded_keys(padded_width(rollouts)))
        width = self.model.config.hidden_size
        cache.states = torch.zeros(
            len(rollouts), max(T, 1), width, dtype=self.dtype, device=self.device
        )
        return cache

    def cache(self, rows: int, capacity: int) -> KVCache:
        """An empty cache of this model."""
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        return KVCache(self.model.config, rows, capacity, like)

    def _whole_pass(self, rollouts: list, work, cache: KVCache | None = None) -> tuple:
        """One causal pass over prompts and responses, padded on the right to W tokens.

        Args:    work: (hidden states (M, D), ids (M,)) of the policy tokens -> tensors (M,).
        Returns: those as (R, T), 0 where mask is False; with a cache hidden states (R, W, D).
        """
        ids = pad([r.ids for r in rollouts], torch.long).to(self.device)  # (R, T)
        mask = pad([r.mask for r in rollouts], torch.bool).to(self.device)  # (R, T)
        width = padded_width(rollouts)
        whole = pad([r.prompt + r.ids for r in rollouts], torch.long, width)  # (R, W)
        first = self.tensor([len(r.prompt) - 1 for r in rollouts])
        row, t = mask.nonzero(as_tuple=True)
        # a token is predicted by the hidden state before it
        places = row * width + first[row] + t  # (M,)

        def forward():
            hidden = self.decoder(
                input_ids=whole.to(self.device), past_key_values=cache, use_cache=cache is not None
            ).last_hidden_state
            chosen = hidden.flatten(0, 1).index_select(0, places)  # (M, D)
            return work(chosen, ids[mask]), None if cache is None else hidden

        numbers, hidden = self.call(forward)
        zeros = torch.zeros(mask.shape, dtype=numbers[0].dtype, device=mask.device)
        return [zeros.masked_scatter(mask, x) for x in numbers], hidden

    # ---- tokens

    def tensor(self, values: list) -> Tensor:
        """Numbers on the model's device, without waiting for what it is doing."""
        x = torch.tensor(values)
        if self.device.type == "cuda":
            return x.pin_memory().to(self.device, non_blocking=True)
        return x

    def decode(self, ids: list[int]) -> str:
        """Text of ids, tags and special tokens included."""
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def _stop_ids(self) -> set[int]:
        """What the model's configuration names, and the chat markers of the vocabulary."""
        generation = self.model.generation_config
        named = [self.model.config.eos_token_id, generation.eos_token_id if generation else None]
        ids = set()
        for entry in named:
            ids |= set(entry) if isinstance(entry, (list, tuple)) else {entry} - {None}
        known = self.tokenizer.get_vocab()
        return ids | {known[marker] for marker in TURN_ENDS if marker in known}

    @torch.no_grad()
    def _check_head(self) -> None:
        """Refuse a model that computes its logits by more than its output matrix."""
        x = torch.arange(8, device=self.device)[None] % self.vocabulary
        if not torch.equal(self.model(x).logits, self.head(self.decoder(x).last_hidden_state)):
            raise ValueError(
                f"{type(self.model).__name__} computes its logits by more than its output matrix; "
                "this loop would sample from another distribution"
            )


def _plain_call(work):
    """Call a function of no argument."""
    return work()


def _take_hooks(module) -> tuple:
    """Take a module's forward hooks off and return them."""
    hooks = module._forward_pre_hooks, module._forward_hooks
    module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
    return hooks


# ---- padding and micro-batches


def pad(rows: list, dtype: torch.dtype, width: int = 0) -> Tensor:
    """Lists or one-dimensional tensors as one tensor (R, width), zeros on the right."""
    width = max([1, width, *map(len, rows)])
    out = torch.zeros(len(rows), width, dtype=dtype)
    for line, row in zip(out, rows):
        line[: len(row)] = torch.as_tensor(row, dtype=dtype)
    return out


def padded_width(rollouts: list) -> int:
    """W: tokens of the longest prompt and response together, rounded up."""
    return round_up(max([1, *(len(r.prompt) + len(r.ids) for r in rollouts)]), PASS_BLOCK)


def micro_batches(rollouts: list, budget: int) -> list[list[int]]:
    """Which rollouts share a pass: indices, as many as rows x padded_width <= budget allows.

    The longest come first: little padding, and a pass that does not fit shows at once. Decided by
    lengths and order alone. A rollout above the budget has a pass of its own.
    """
    batches, width = [], 0
    for n in sorted(range(len(rollouts)), key=lambda n: -len(rollouts[n].prompt + rollouts[n].ids)):
        if not batches or (len(batches[-1]) + 1) * width > budget:
            batches.append([])
            width = padded_width([rollouts[n]])
        batches[-1].append(n)
    return batches
