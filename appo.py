"""APPO, Agentic Procedural Policy Optimization (arXiv 2606.12384): one training step of a language-model agent that uses tools, top to bottom.

    1. prefill          each prompt goes through the model once; its N initial rollouts fork from that cache   (sampling.py)
    2. Sampler.run      one loop decodes many rows in lockstep; a tool result is appended to the live cache    (sampling.py)
    3. score            a forward pass over whole rollouts: log-probs, entropies, and the cache that branches fork from
    4. future_value     Omega from the log-probs now and those at the start of the step                        (branching.py, Eq. 4)
    5. branch_points    the B best tokens of each rollout by branching score                                   (branching.py, Eq. 5)
    6. grow_branches    resample from those tokens with the current policy: a branch forks its parent's cache and runs the same loop, tools included
    7. credit           two groups, initial rollouts and branches, then the future term                        (advantage.py, Eq. 6-7)
    8. update           clipped policy gradient on the initial rollouts; branches never enter the loss         (advantage.py, Eq. 8)
    `step` puts them in order: 1-2 once, then for every mini-batch of prompts 3-8. Of several processes (Ranks) each does 1-7 for its share of the prompts, with
    whole weights (Policy.gathered); the update is that of the whole mini-batch.

Differs from the paper in: a mini-batch in which the policy has not moved yet has Omega = 1 everywhere, where Eq. 5 is undefined; there entropy alone chooses.
Differs from the released code in: branches are drawn before every update with the current policy, not once per step with the old one; only calls made in the
rollout itself count against its limit; no token that the policy did not sample is trained on; sampling.py says what differs there.

Axes: B rows of a pass, N rollouts, T response tokens, W tokens of prompt and response, M policy tokens, D hidden.
"""

import dataclasses
import math
import time
import unicodedata
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

from advantage import dual_group_advantage, policy_loss, scale_by_future
from branching import (
    both_above_average,
    branching_score,
    choose_branch_points,
    future_value,
    omega_is_constant,
    token_stats,
)
from config import Config
from model import Cache, Policy, Ranks, key_slots, round_up
from protocol import TAGS
from sampling import Rollout, Sampler, Start, mix_seed, sample_initial, uniform
from support.http import Unavailable
from tools import STATUSES

# rows of a pass over whole rollouts are as long as a multiple of this
PASS_BLOCK = 16
# nats: in float32 the sampler's log-probs equal those of a scoring pass within this
ROUNDING = 1e-4


def response_tensors(rollouts: list[Rollout], device) -> tuple[Tensor, Tensor]:
    """ids (N, T) long and mask (N, T) bool of the responses, right-padded."""
    T = max([1, *(len(r.ids) for r in rollouts)])
    ids, mask = (
        torch.zeros(len(rollouts), T, dtype=torch.long),
        torch.zeros(len(rollouts), T, dtype=torch.bool),
    )
    for n, r in enumerate(rollouts):
        ids[n, : len(r.ids)], mask[n, : len(r.ids)] = (
            torch.tensor(r.ids, dtype=torch.long),
            torch.tensor(r.mask, dtype=torch.bool),
        )
    return ids.to(device), mask.to(device)


def recorded(rollouts: list[Rollout], device) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies as recorded while sampling, (N, T) each, 0 where mask is False."""
    numbers = torch.zeros(2, len(rollouts), max([1, *(len(r.ids) for r in rollouts)]))
    for n, r in enumerate(rollouts):
        numbers[:, n, : len(r.ids)] = torch.tensor([r.logp, r.entropy])
    return tuple(numbers.to(device))


def padded_width(rollouts: list[Rollout]) -> int:
    """Tokens of the longest prompt and response together, rounded up: what every row of a pass over these rollouts is padded to."""
    return round_up(max([1, *(len(r.prompt) + len(r.ids) for r in rollouts)]), PASS_BLOCK)


def passes(rollouts: list[Rollout], budget: int) -> list[list[int]]:
    """Which rollouts go through the model together: indices, the longest first, as many to a pass as rows x padded_width <= budget allows, but at least one.

    Sorted, rows of a pass are about as long as each other: little padding; and the largest pass comes first, so that memory that does not suffice shows at
    once. Decided by lengths and order alone, ties by index.
    """
    packed, width = [], 0
    for n in sorted(
        range(len(rollouts)), key=lambda n: -len(rollouts[n].prompt) - len(rollouts[n].ids)
    ):
        if not packed or (len(packed[-1]) + 1) * width > budget:
            packed.append([])
            width = padded_width([rollouts[n]])
        packed[-1].append(n)
    return packed


def equal_passes(
    rollouts: list[Rollout], budget: int, ranks: Ranks
) -> tuple[list[Rollout], list[list[int]]]:
    """`passes`, as many on every rank: FSDP's collectives need that. A rank with fewer makes up for them with passes of one more rollout, which has no policy
    token. A collective.

    Returns: rollouts and that one, indices into them.
    """
    packed = passes(rollouts, budget)
    missing = int(ranks.max([len(packed)])[0]) - len(packed)
    return rollouts + [Rollout([0], 0, ids=[0], mask=[False])], packed + [[len(rollouts)]] * missing


def logits_chunk(vocabulary: int) -> int:
    """Tokens whose logits exist at once: 2^25 numbers, but 128 tokens at least."""
    return max(128, 2**25 // vocabulary)


class ChunkedStats(torch.autograd.Function):
    """token_stats(F.linear(hidden, weight, bias)) of (M, D) hidden states, the logits of one chunk of tokens at a time, which are computed again in the backward pass.

    d logp_t / d logits_t = (onehot(id_t) - softmax(logits_t / temperature)) / temperature;   the gradient of the weight is summed in place, chunk by chunk
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, ids, temperature, chunk):
        ctx.save_for_backward(hidden, weight, bias, ids)
        # fewer, larger sums into the weight's gradient
        ctx.temperature, ctx.chunk = temperature, 2 * chunk
        parts = [
            token_stats(F.linear(h, weight, bias), i, temperature)
            for h, i in zip(hidden.split(chunk), ids.split(chunk))
        ]
        logp, entropy = (torch.cat(part) for part in zip(*parts))
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx, d_logp, _):
        hidden, weight, bias, ids = ctx.saved_tensors
        d_hidden, d_weight, d_bias = (
            torch.empty_like(hidden),
            torch.zeros_like(weight),
            None if bias is None else torch.zeros_like(bias),
        )
        for out, h, i, d in zip(
            *(
                x.split(ctx.chunk)
                for x in (d_hidden, hidden, ids, d_logp[:, None] / ctx.temperature)
            )
        ):
            d_logits = (
                F.linear(h, weight, bias)
                .to(d.dtype)
                .div_(ctx.temperature)
                .softmax(-1)
                .mul_(-d)
                .scatter_add_(1, i[:, None], d)
                .to(weight.dtype)
            )
            torch.mm(d_logits, weight, out=out)
            d_weight.addmm_(d_logits.T, h)
            if bias is not None:
                d_bias += d_logits.sum(0)
            # before the next chunk's are made
            del d_logits
        return d_hidden, d_weight, d_bias, None, None, None


def chunked_stats(
    policy: Policy, hidden: Tensor, ids: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """token_stats of (M, D) hidden states, never holding more logits than logits_chunk says (in a backward pass twice as many).

    Returns: logp (M,), entropy (M,), float32. The entropy carries no gradient.
    """
    chunk = logits_chunk(policy.vocabulary)
    if len(hidden) > chunk:
        return ChunkedStats.apply(
            hidden, policy.head.weight, policy.head.bias, ids, temperature, chunk
        )
    logp, entropy = token_stats(policy.head(hidden), ids, temperature)
    return logp, entropy.detach()


@dataclass
class Scored:
    """What a pass over whole rollouts leaves: logp, entropy (N, T), 0 where mask is False; hidden (N, T, D) and the cache if they were asked for."""

    logp: Tensor
    entropy: Tensor
    hidden: Tensor | None
    cache: Cache | None


def score_rows(
    policy: Policy, rollouts: list[Rollout], temperature: float, cache: Cache | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One causal pass over prompts and responses, padded on the right to padded_width W. The trainer and the scoring pass both come through here.

    Args:    cache: keeps keys and values of the rows cache.rows, which the caller has set.
    Returns: logp, entropy (B, T), 0 where mask is False; with a cache the hidden states (B, W, D), otherwise None.
    """
    ids, mask = response_tensors(rollouts, policy.device)
    whole = torch.zeros(len(rollouts), padded_width(rollouts), dtype=torch.long)
    for b, r in enumerate(rollouts):
        whole[b, : len(r.prompt) + len(r.ids)] = torch.tensor(r.prompt + r.ids)
    first, (row, t) = (
        torch.tensor([len(r.prompt) - 1 for r in rollouts], device=policy.device),
        mask.nonzero(as_tuple=True),
    )
    # (M,) where the M policy tokens are predicted
    places = row * whole.shape[1] + first[row] + t

    def whole_pass():
        hidden = policy.decoder(
            input_ids=whole.to(policy.device), past_key_values=cache, use_cache=cache is not None
        ).last_hidden_state
        stats = chunked_stats(
            policy, hidden.flatten(0, 1).index_select(0, places), ids[mask], temperature
        )
        return *stats, None if cache is None else hidden

    logp, entropy, hidden = policy.through(whole_pass)
    zeros = torch.zeros(mask.shape, dtype=logp.dtype, device=mask.device)
    return zeros.masked_scatter(mask, logp), zeros.masked_scatter(mask, entropy), hidden


@torch.no_grad()
def score(
    policy: Policy,
    rollouts: list[Rollout],
    temperature: float,
    budget: int,
    keep_cache: bool = False,
) -> Scored:
    """Log-probs and entropies of rollouts under the current policy, in passes of at most `budget` tokens; with keep_cache also what branches start from.

    The same rollouts in the same order give the same bits as long as the weights are the same.
    """
    N, T = len(rollouts), max([1, *(len(r.ids) for r in rollouts)])
    logp, entropy = torch.zeros(2, N, T, device=policy.device)
    cache, hidden = None, None
    # a rank may have no share of this mini-batch
    if keep_cache and rollouts:
        cache = Cache(policy, N, padded_width(rollouts))
        cache.fresh = True
        hidden = torch.zeros(
            N, T, policy.model.config.hidden_size, dtype=policy.dtype, device=policy.device
        )
    for rows in passes(rollouts, budget):
        if cache is not None:
            cache.rows = torch.tensor(rows, device=policy.device)
        *stats, states = score_rows(policy, [rollouts[n] for n in rows], temperature, cache)
        logp[rows, : stats[0].shape[1]], entropy[rows, : stats[0].shape[1]] = stats
        # own: (W, D), of which what predicts the response is kept
        for n, own in zip(rows, () if states is None else states):
            start, length = len(rollouts[n].prompt) - 1, len(rollouts[n].ids)
            hidden[n, :length] = own[start : start + length]
    if cache is not None:
        cache.fresh = False
    return Scored(logp, entropy, hidden, cache)


@dataclass
class Look:
    """A mini-batch under the current policy, compared with the start of the step; all (N, T) but `scored`.

    omega feeds the credit, score_omega the branching score: the same unless their half-lives differ.
    """

    scored: Scored
    mask: Tensor
    logp_old: Tensor
    log_ratio: Tensor
    omega: Tensor
    score_omega: Tensor


def look(
    policy: Policy,
    rollouts: list[Rollout],
    logp_old: Tensor | None,
    config: Config,
    keep_cache: bool,
) -> Look:
    """The scoring pass under the current policy and the future value of every token (Eq. 4). Without branches and with b = 0 nothing asks for either: in float32
    there is no pass then, and Omega stands for 1.

    Args: logp_old: (N, T) log-probs at the start of the step; None: the policy has not moved since, this pass gives them, and Omega is exactly 1.
          keep_cache: branches will start from the pass' cache.
    """
    mask = response_tensors(rollouts, policy.device)[1]
    if not config.branches and not config.future_weight and policy.dtype == torch.float32:
        # nothing asks for Omega: what was recorded while sampling will do
        logp, entropy = recorded(rollouts, policy.device)
        return Look(
            Scored(logp, entropy, None, None),
            mask,
            logp,
            torch.zeros_like(logp),
            torch.ones_like(logp),
            torch.ones_like(logp),
        )
    scored = score(policy, rollouts, config.temperature, config.micro_tokens, keep_cache)
    logp_old = scored.logp if logp_old is None else without_rounding(logp_old, scored.logp, mask)
    limit = math.log(3.0) if config.fipo_guards else math.inf
    omega = future_value(scored.logp, logp_old, mask, config.half_life, config.decay_over, limit)
    score_omega = future_value(
        scored.logp, logp_old, mask, config.score_half_life, config.decay_over
    )
    return Look(scored, mask, logp_old, scored.logp - logp_old, omega, score_omega)


def without_rounding(logp_old: Tensor, logp: Tensor, mask: Tensor) -> Tensor:
    """logp_old, but logp itself in rollouts where the two differ by no more than ROUNDING at every policy token; all (N, T).

    There a policy that has moved cannot be told from one that has not, since the sampler rounds otherwise than the scoring pass; summed over many tokens that
    noise would pass for an order of Omega.
    """
    apart = torch.where(mask, logp - logp_old, 0.0).abs().amax(-1, keepdim=True)  # (N, 1)
    return torch.where(apart <= ROUNDING, logp, logp_old)


def branch_candidates(policy: Policy, rollout: Rollout, config: Config, T: int) -> list[bool]:
    """Tokens where a branch may start, (T,): policy tokens with a letter, digit or symbol in them, or that open a tag; not the first, not an end of turn, and
    with at least min_new tokens of the budget left. With branch_at="keep" also not the last token before a result or the end."""
    ids, mask, ok = rollout.ids, rollout.mask, [False] * T
    keep = config.branch_at == "keep"
    never = policy.stop_ids | {policy.tokenizer.pad_token_id}
    for t in range(1, min(len(ids), config.max_tokens - config.min_new + 1 - keep)):
        ends_turn = keep and (t + 1 >= len(ids) or not mask[t + 1])
        if mask[t] and ids[t] not in never and not ends_turn:
            ok[t] = bool(policy.text[ids[t]].strip()) and (
                not config.exclude_punct or _has_content(policy, ids, t)
            )
    return ok


def _has_content(policy: Policy, ids: list[int], t: int) -> bool:
    """Not punctuation alone; the "<" or "</" of a tag counts as content, for which tag comes is a decision."""
    text = policy.text[ids[t]]
    symbols = "+-*=^%\\$" if "<" in text else "+-*/=^%\\$"
    if any(
        c in symbols or c.isalnum() or (ord(c) > 127 and unicodedata.category(c)[0] not in "PZ")
        for c in text
    ):
        return True
    tail = "".join(policy.text[i] for i in ids[t : t + 10])
    return any(
        c == "<" and tail[i + 1 :].removeprefix("/").startswith(tuple(tag + ">" for tag in TAGS))
        for i, c in enumerate(text)
    )


def branch_points(
    policy: Policy, rollouts: list[Rollout], now: Look, config: Config
) -> tuple[list[list[int]], Tensor]:
    """The tokens of each rollout to branch at, best first, and the numbers (N, T) that ranked them.

    These are branching scores; where neither entropy nor Omega varies the choice is uniform and the row holds the random numbers that made it, drawn from
    the rollout's seed. With branch_pool="prompt" the rollouts must come prompt by prompt, config.initial each.
    """
    entropy, mask = now.scored.entropy, now.mask
    scores = branching_score(entropy, now.score_omega, mask, config.score_clip)
    flat = (scores == 0).all(-1)
    for n in flat.nonzero()[:, 0].tolist():
        seed = torch.full((mask.shape[1],), mix_seed(rollouts[n].seed, 1))
        scores[n] = uniform(seed, torch.arange(mask.shape[1])).to(scores)
    allowed = torch.tensor(
        [branch_candidates(policy, r, config, mask.shape[1]) for r in rollouts], device=mask.device
    )
    preferred = (
        both_above_average(entropy, now.score_omega, mask, config.score_clip) | flat[:, None]
        if config.prefer_positive
        else None
    )
    top_up = entropy if config.prefer_positive else None
    if config.branch_pool == "rollout":
        return choose_branch_points(scores, allowed, config.branches, preferred, top_up), scores
    # one long row per prompt
    N, T = config.initial, mask.shape[1]
    pool = lambda x: None if x is None else x.reshape(-1, N * T)
    points = [[] for _ in rollouts]
    for p, chosen in enumerate(
        choose_branch_points(
            pool(scores), pool(allowed), N * config.branches, pool(preferred), pool(top_up)
        )
    ):
        for place in chosen:
            points[p * N + place // T].append(place % T)
    return points, scores


def grow_branches(
    sampler: Sampler,
    rollouts: list[Rollout],
    scored: Scored,
    points: list[list[int]],
    config: Config,
    epoch: int = 0,
) -> list[Rollout]:
    """Sample a branch from every branch point with the current policy, from the scoring pass' cache.

    Args:    scored: of these rollouts, with its cache. points: token indices per rollout. epoch: PPO epoch, so that each draws anew.
    Returns: the branches, complete, rollout by rollout in the order of their points.
    """
    starts = []
    for n, (rollout, places) in enumerate(zip(rollouts, points)):
        for k, t in enumerate(places):
            at = t + (config.branch_at == "keep")
            branch = rollout.fork(at, mix_seed(rollout.seed, 1 + epoch, 1 + k))
            starts.append(Start(branch, scored.cache, n, scored.hidden[n, at]))
    sampler.run(starts)
    return [s.rollout for s in starts]


def credit(
    rollouts: list[Rollout],
    branches: list[Rollout],
    omega: Tensor,
    ratio: Tensor,
    mask: Tensor,
    config: Config,
) -> Tensor:
    """Advantage of every token of the initial rollouts: Eq. 6 prompt by prompt, then Eq. 7.

    Args:    branches: of these rollouts, any number, in any order. omega, ratio: (N, T) Omega and exp(logp now - logp_old). mask: (N, T) bool.
    Returns: (N, T), 0 under mask == False.
    """
    adv = torch.zeros_like(omega)
    for group in dict.fromkeys(r.group for r in rollouts):
        rows = [n for n, r in enumerate(rollouts) if r.group == group]
        place = {id(rollouts[n]): k for k, n in enumerate(rows)}
        grown = [x for x in branches if id(x.parent) in place]
        numbers = lambda values, dtype: torch.tensor(values, dtype=dtype, device=omega.device)
        rewards, branch_rewards = (
            numbers([rollouts[n].reward for n in rows], torch.float64),
            numbers([x.reward for x in grown], torch.float64),
        )
        parent, fork_at = (
            numbers([place[id(x.parent)] for x in grown], torch.long),
            numbers([x.fork_at for x in grown], torch.long),
        )
        adv[rows] = dual_group_advantage(
            rewards, branch_rewards, parent, fork_at, mask[rows], config.dual, config.std_correction
        ).to(adv.dtype)
    return scale_by_future(
        adv, omega, config.future_weight, config.future_clip, ratio if config.fipo_guards else None
    )


def update(
    policy: Policy,
    optimizer,
    rollouts: list[Rollout],
    logp_old: Tensor,
    adv: Tensor,
    mask: Tensor,
    config: Config,
    logp_ref: Tensor | None = None,
    ranks: Ranks = Ranks(),
) -> dict:
    """One optimiser step on the initial rollouts. However they are split into passes and over ranks, the gradient is that of the whole: the normaliser is the
    mini-batch's.

    A gradient that is not finite changes nothing: "skipped" is 1 then, on all ranks.

    Args:    rollouts: this rank's of the mini-batch. logp_old, adv: (N, T), no gradient through them. mask: (N, T) bool. logp_ref: (N, T) under the reference,
             needed if config.kl_coef > 0.
    Returns: stats of policy_loss over the whole mini-batch, "loss", "padding", "skipped", and "grad_norm" before clipping.
    """
    tokens, count = ranks.sum([int(mask.sum()), len(rollouts)])
    total = (
        tokens
        if config.aggregate == "token-mean"
        else count * ((config.branches + 1) if config.norm == "budget" else 1)
    )
    padded, packed = equal_passes(rollouts, config.micro_tokens, ranks)
    logp_old, adv, mask, logp_ref = (
        x if x is None else F.pad(x, (0, 0, 0, 1)) for x in (logp_old, adv, mask, logp_ref)
    )
    sums, top = Counter(read=sum(len(r.prompt) + len(r.ids) for r in rollouts)), 0.0
    optimizer.zero_grad(set_to_none=True)
    policy.model.train(config.checkpointing)
    for rows in packed:
        part = [padded[n] for n in rows]
        logp, _, _ = score_rows(policy, part, config.temperature)
        old, credit, own, ref = (
            x if x is None else x[rows, : logp.shape[1]] for x in (logp_old, adv, mask, logp_ref)
        )
        loss, stats = policy_loss(
            logp,
            old,
            credit,
            own,
            config.clip_low,
            config.clip_high,
            config.clip_c,
            config.aggregate,
            total,
            ref,
            config.kl_coef,
            1 if config.fipo_guards else None,
            config.surrogate,
        )
        loss.backward()
        share = stats.pop("tokens") / max(tokens, 1)
        top = max(top, stats.pop("ratio_max"))
        sums.update(
            {name: share * value for name, value in stats.items()}
            | {"loss": loss.item(), "slots": len(rows) * padded_width(part)}
        )
    policy.model.eval()
    norm = apply_gradients(policy, [optimizer], config.clip_grad, ranks)
    sums = dict(zip(sums, ranks.sum(list(sums.values()))))
    return sums | {
        "padding": 1 - sums.pop("read") / sums.pop("slots"),
        "ratio_max": ranks.max([top])[0],
        "grad_norm": norm,
        "skipped": float(not math.isfinite(norm)),
    }


def apply_gradients(policy: Policy, optimizers: list, clip: float, ranks: Ranks) -> float:
    """Sum the gradients over the ranks, clip their norm and step, unless it is not finite; the norm before clipping, the same on all ranks."""
    policy.reduce_gradients(ranks)
    norm = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), clip)
    norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    for optimizer in optimizers:
        if math.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return norm


def split_minibatches(prompts: int, config: Config, seed: int) -> list[list[int]]:
    """Mini-batches of the indices of prompts, drawn from the seed; for each further PPO epoch the same ones in a new order. A prompt's N rollouts stay together:
    they are a group."""
    drawn = lambda n, epoch: torch.randperm(
        n, generator=torch.Generator().manual_seed(mix_seed(seed, epoch))
    ).tolist()
    order = drawn(prompts, 0)
    batches = [
        order[start : start + config.minibatch] for start in range(0, prompts, config.minibatch)
    ]
    return batches + [
        batches[k] for epoch in range(1, config.ppo_epochs) for k in drawn(len(batches), epoch)
    ]


class Clock:
    """Seconds per phase: `with clock("sample"): ...` adds to clock.seconds["sample"], and tells note(phase) that it begins."""

    def __init__(self, note):
        self.seconds, self.note = Counter(), note

    @contextmanager
    def __call__(self, phase: str):
        self.note(phase)
        started = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[phase] += time.perf_counter() - started


def grow(
    policy: Policy,
    sampler: Sampler,
    rollouts: list[Rollout],
    now: Look,
    reward,
    config: Config,
    epoch: int = 0,
) -> tuple[list[Rollout], Tensor, float]:
    """Choose branch points, sample their branches and reward them; the cache that they came from is given back.

    Returns: branches, the numbers (N, T) that ranked the tokens, and the share of rollouts whose Omega was constant, so that entropy alone chose.
    """
    if not rollouts:
        return [], now.scored.entropy, 0.0
    points, scores = branch_points(policy, rollouts, now, config)
    branches = (
        grow_branches(sampler, rollouts, now.scored, points, config, epoch)
        if config.branches
        else []
    )
    now.scored.cache = now.scored.hidden = None
    for branch in branches:
        branch.reward = reward(branch, branch.group)
    return (
        branches,
        scores,
        float(omega_is_constant(now.score_omega, now.mask, config.score_clip).float().mean()),
    )


def explore(
    policy: Policy,
    sampler: Sampler,
    rollouts: list[Rollout],
    logp_old: Tensor | None,
    reward,
    config: Config,
    clock: Clock,
    epoch: int = 0,
) -> tuple[Look, list[Rollout], Tensor, float]:
    """`look` at a mini-batch and `grow` its branches, as many prompts at a time as config.fork_tokens admits: its Look, and what `grow` returns."""
    parts, n = [], config.initial
    limited = config.fork_tokens and config.branches
    at_once = (
        max(
            1,
            config.fork_tokens // (n * key_slots(padded_width(rollouts)))
            if limited
            else len(rollouts),
        )
        * n
    )
    for start in range(0, max(1, len(rollouts)), at_once):
        rows = rollouts[start : start + at_once]
        old = (
            None
            if logp_old is None
            else logp_old[start : start + at_once, : max([1, *(len(r.ids) for r in rows)])]
        )
        with clock("score"):
            now = look(policy, rows, old, config, keep_cache=config.branches > 0)
        with clock("branch"):
            parts.append((now, *grow(policy, sampler, rows, now, reward, config, epoch)))
    if len(parts) == 1:
        return parts[0]
    looks, grown, scores, degenerate = zip(*parts)
    return (
        joined(looks),
        sum(grown, []),
        side_by_side(scores),
        sum(d * len(now.mask) for d, now in zip(degenerate, looks)) / len(rollouts),
    )


def joined(looks: list[Look]) -> Look:
    """The looks at parts of a mini-batch as one; what branches forked from is gone."""
    every = {
        f.name: side_by_side([getattr(now, f.name) for now in looks])
        for f in dataclasses.fields(Look)
        if f.name != "scored"
    }
    return Look(
        Scored(
            *(
                side_by_side([getattr(now.scored, name) for now in looks])
                for name in ("logp", "entropy")
            ),
            None,
            None,
        ),
        **every,
    )


def side_by_side(parts: list[Tensor]) -> Tensor:
    """(N, T) of (n, t) parts, one below the other, zeros on the right."""
    T = max(x.shape[1] for x in parts)
    return torch.cat([F.pad(x, (0, T - x.shape[1])) for x in parts])


def step(
    policy: Policy,
    optimizer,
    sampler: Sampler,
    prompts: list[list[int]],
    seeds: list[int],
    reward,
    config: Config,
    order_seed: int,
    reference: Policy | None = None,
    ranks: Ranks = Ranks(),
    note=lambda phase: None,
) -> tuple[dict, list[Rollout]]:
    """One step of APPO: initial rollouts of all prompts, then an update per mini-batch of prompts, each with branches drawn from the policy as it is then.

    Of several ranks each takes its share of every mini-batch's prompts, with their rollouts and branches. They meet before the first update, in each update
    and at the end; none waits for another while it samples.

    Args:    prompts: token ids of all ranks; their number is a multiple of config.minibatch. seeds: one integer per prompt: mix_seed(run seed, step, prompt
             index). reward: function of (rollout, index of the prompt) -> float. order_seed: decides which prompts share a mini-batch.
             reference: the frozen model of the KL term, needed if config.kl_coef > 0. note: told the name of each phase as it begins.
    Returns: (metrics, rollouts): one number per name, over all ranks, defined in the README; this rank's initial rollouts, then its branches.
    Raises:  ValueError if the sampler or the reference does not fit the configuration; Unavailable, on all ranks and before any update, if most tool calls
             failed for reasons of infrastructure: rewards would be those of broken tools.
    """
    check_step(sampler, prompts, config, reference)
    clock, sampler.count = Clock(note), Counter()
    batches = split_minibatches(len(prompts), config, order_seed)
    # where a mini-batch came first: it keeps its logp_old in later epochs
    place = [batches.index(batch) for batch in batches]
    batches = [ranks.share(batch) for batch in batches]
    mine = sorted({p for batch in batches for p in batch})
    with clock("sample"), policy.gathered():
        initial = sample_initial(
            sampler,
            [prompts[p] for p in mine],
            config.initial,
            [seeds[p] for p in mine],
            groups=mine,
        )
        for r in initial:
            r.reward = reward(r, r.group)
    with clock("wait"):
        check_calls(initial, ranks)
    batches = [[r for p in batch for r in initial if r.group == p] for batch in batches]
    first_epoch, early, branches, log = batches[: max(place) + 1], [], [], []
    with clock("score"):
        old, ref = logp_at_start(policy, first_epoch, config), [None] * len(first_epoch)
        if config.kl_coef:
            with reference.gathered():
                ref = [
                    score(reference, rows, config.temperature, config.micro_tokens).logp
                    for rows in first_epoch
                ]
    if config.branch_when == "step" and config.branches:
        with policy.gathered():
            early = [
                explore(policy, sampler, rows, None, reward, config, clock) for rows in first_epoch
            ]
            old = [now.logp_old for now, *_ in early]
    for i, (k, rows) in enumerate(zip(place, batches)):
        with policy.gathered():
            if early:
                _, grown, scores, degenerate = early[i]
                with clock("score"):
                    now = look(policy, rows, old[k], config, keep_cache=False)
            else:
                now, grown, scores, degenerate = explore(
                    policy,
                    sampler,
                    rows,
                    old[k],
                    reward,
                    config,
                    clock,
                    i * config.ppo_epochs // len(batches),
                )
        old[k] = now.logp_old if old[k] is None else old[k]
        adv = credit(rows, grown, now.omega, now.log_ratio.exp(), now.mask, config)
        with clock("update"):
            stats = update(
                policy, optimizer, rows, now.logp_old, adv, now.mask, config, ref[k], ranks
            )
        for n, r in enumerate(rows):
            per_token = {
                "logp_old": now.logp_old,
                "future_value": now.omega,
                "branching_score": scores,
                "advantage": adv,
            }
            r.notes = {name: x[n, : len(r.ids)] for name, x in per_token.items()}
        branches += grown
        log.append(stats | watch(now, rows) | {"degenerate": degenerate, "rows": len(rows)})
    note("wait")
    return summarise(initial, branches, log, sampler, clock, ranks), initial + branches


def logp_at_start(
    policy: Policy, batches: list[list[Rollout]], config: Config
) -> list[Tensor | None]:
    """logp_old of every mini-batch, (N, T), before the first update; None for the first, whose own look runs before the policy has moved.

    The others': in float32 as recorded while sampling, within ROUNDING of what a scoring pass would give; in bfloat16, where sampler and trainer differ by up
    to 0.17, from that pass; none yet if the looks that draw all branches before the first update (branch_when="step") will give them.
    """
    if config.branch_when == "step" and config.branches:
        return [None] * len(batches)
    if policy.dtype == torch.float32:
        return [None] + [recorded(rows, policy.device)[0] for rows in batches[1:]]
    with policy.gathered():
        return [None] + [
            score(policy, rows, config.temperature, config.micro_tokens).logp
            for rows in batches[1:]
        ]


def check_calls(initial: list[Rollout], ranks: Ranks) -> None:
    """Raise Unavailable, on all ranks alike, if more than half of the tool calls of these rollouts failed for reasons of infrastructure."""
    calls = Counter((c.name, c.status == "infra") for r in initial for c in r.calls)
    calls = sum(ranks.gather(calls), Counter())
    failed = {name: n for (name, infra), n in calls.items() if infra}
    if 2 * sum(failed.values()) > calls.total():
        each = ", ".join(f"{name} {n}" for name, n in failed.items())
        raise Unavailable(
            "tools",
            f"{sum(failed.values())} of {calls.total()} calls failed for reasons of infrastructure ({each})",
        )


def check_step(sampler: Sampler, prompts: list, config: Config, reference: Policy | None) -> None:
    """Refuse what would waste a step or bias it without a word."""
    if sampler.top_p < 1 or sampler.top_k:
        raise ValueError(
            "training samples from the whole distribution: the sampler's top_p must be 1 and its top_k 0"
        )
    for name in ("temperature", "max_tokens"):
        if getattr(sampler, name) != getattr(config, name):
            raise ValueError(
                f"the sampler's {name} is {getattr(sampler, name)}, the configuration's {getattr(config, name)}: they must be the same"
            )
    if config.kl_coef and reference is None:
        raise ValueError(f"kl_coef = {config.kl_coef} needs a reference policy")
    if not prompts or len(prompts) % config.minibatch:
        raise ValueError(
            f"{len(prompts)} prompts cannot be split into mini-batches of {config.minibatch}"
        )


def watch(now: Look, rollouts: list[Rollout]) -> dict:
    """Numbers of one mini-batch before its update, over its policy tokens."""
    mask = now.mask
    mean = lambda x: float(x.mean()) if len(x) else 0.0
    omega, gap = now.omega[mask], (recorded(rollouts, mask.device)[0] - now.logp_old)[mask].abs()
    return {
        "entropy": mean(now.scored.entropy[mask]),
        "omega": mean(omega),
        "omega_std": float(omega.std(correction=0)) if len(omega) else 0.0,
        "omega_max": float(omega.max()) if len(omega) else 0.0,
        "drift": mean(now.log_ratio[mask].abs()),
        "sampler_gap": float(gap.max()) if len(omega) else 0.0,
        "trained": len(omega),
    }


def summarise(
    initial: list[Rollout],
    branches: list[Rollout],
    log: list[dict],
    sampler: Sampler,
    clock: Clock,
    ranks: Ranks,
) -> dict:
    """The numbers of one step over all ranks; each is defined in the README. What is gathered is a few numbers per rollout."""
    facts = [
        {
            "group": r.group,
            "reward": r.reward,
            "finish": r.finish,
            "length": len(r.ids),
            "prompt": len(r.prompt),
            "calls": len(r.calls),
        }
        for r in initial
    ]
    forks = [
        {"reward": r.reward, "at": r.fork_at, "length": len(r.ids), "parent": len(r.parent.ids)}
        for r in branches
    ]
    statuses = [c.status for r in initial for c in r.calls] + [
        c.status for r in branches for c in r.calls if c.start > r.fork_at
    ]
    every = ranks.gather((facts, forks, statuses, log, sampler.count, clock.seconds))
    facts, forks, statuses = (sum((part[k] for part in every), []) for k in range(3))
    log, first, count = (
        [e for part in every for e in part[3]],
        [part[3][0] for part in every],
        sum((part[4] for part in every), Counter()),
    )
    later, mean = (
        [e for part in every for e in part[3][1:]],
        lambda values: sum(values) / len(values) if len(values) else 0.0,
    )
    groups = {
        f["group"]: [g["reward"] for g in facts if g["group"] == f["group"]] for f in facts
    }.values()
    unique = (
        sum({f["group"]: f["prompt"] for f in facts}.values())
        + sum(f["length"] for f in facts)
        + sum(f["length"] - f["at"] for f in forks)
    )
    numbers = {
        "reward": mean([f["reward"] for f in facts]),
        "reward_std": mean([torch.tensor(g).std(correction=0).item() for g in groups]),
        "reward_branch": mean([f["reward"] for f in forks]),
        "zero_std": mean([max(g) == min(g) for g in groups]),
        "format_errors": mean([f["reward"] < 0 for f in facts]),
        "truncated": mean([f["finish"] in ("length", "calls") for f in facts]),
        "forged": mean([f["finish"] == "forged" for f in facts]),
        "length": mean([f["length"] for f in facts]),
        "calls": mean([f["calls"] for f in facts]),
        "branches": len(forks),
        "fork_depth": mean([f["at"] / f["parent"] for f in forks]),
        "degenerate_first": over_minibatches("degenerate", first),
        "degenerate_later": over_minibatches("degenerate", later),
        "tokens_sampled": count["sampled"],
        "tokens_trained": sum(entry["trained"] for entry in log),
        "optimizer_steps": len(every[0][3]),
        "tokens_computed": count["computed"],
        "tokens_unique": unique,
        "computed_per_unique": count["computed"] / unique,
        "occupancy": count["sampled"] / max(count["row_calls"], 1),
    }
    numbers |= {f"tool_{status}": mean([s == status for s in statuses]) for status in STATUSES}
    numbers |= {
        name: over_minibatches(name, log) for name in log[0] if name not in ("trained", "rows")
    }
    return numbers | {
        f"seconds_{phase}": max(part[5][phase] for part in every) for phase in clock.seconds
    }


def over_minibatches(name: str, log: list[dict]) -> float:
    """One number of a step from those of its mini-batches: the maximum, the mean over updates, or the mean over policy tokens, as its definition says."""
    if name.endswith(("_max", "_gap")):
        return max(entry[name] for entry in log)
    weights = [
        {"loss": 1, "grad_norm": 1, "padding": 1, "skipped": 1, "degenerate": entry["rows"]}.get(
            name, entry["trained"]
        )
        for entry in log
    ]
    return sum(w * entry[name] for w, entry in zip(weights, log)) / max(sum(weights), 1)
