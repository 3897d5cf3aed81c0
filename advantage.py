"""How to credit: from rewards to a loss per token (APPO, arXiv 2606.12384, Eq. 6-8).

    1. group_advantage        reward of a rollout against its group, in standard deviations
    2. dual_group_advantage   initial rollouts and branches judged in two groups; a branch credits the tokens it shares with its parent   (Eq. 6)
    3. scale_by_future        more credit where the policy already moves towards what follows                                          (Eq. 7)
    4. policy_loss            clipped policy gradient over the policy tokens of the initial rollouts                                    (Eq. 8)

Without branches and with b = 0 this is GRPO. Differs from the released code in: the two groups are averaged, not summed; a group without variance gets
exactly 0; every rollout weighs the same whatever its length and whichever micro-batch it falls in.

Pure functions on tensors; this file imports torch only. Axes: N initial rollouts of a prompt, K branches, B rollouts of a batch, T response tokens.
`mask` is bool, True where the policy chose the token (False: tool result or padding).
"""

import torch
from torch import Tensor

STD_EPS = 1e-6
# keeps exp() finite; any such ratio is far outside the clip range
LOG_RATIO_LIMIT = 20.0


def group_advantage(rewards: Tensor, correction: int = 0) -> Tensor:
    """Rewards of one group in standard deviations from their mean: A_n = (R_n - mean(R)) / (std(R) + 1e-6).

    Args:    rewards: (G,). correction: 0 population std (the default here and in the released APPO code), 1 the unbiased std of verl's GRPO.
    Returns: (G,); exactly 0 for a group of one or without variance, empty for an empty group.
    """
    if len(rewards) < 2 or rewards.max() == rewards.min():
        return torch.zeros_like(rewards)
    return (rewards - rewards.mean()) / (rewards.std(correction=correction) + STD_EPS)


def dual_group_advantage(
    rewards: Tensor,
    branch_rewards: Tensor,
    parent: Tensor,
    fork_at: Tensor,
    mask: Tensor,
    how: str = "avg",
    correction: int = 0,
) -> Tensor:
    """Credit of every token of one prompt's initial rollouts from both groups (Eq. 6).

    z_init(n), z_branch(k): group_advantage within the initial rollouts and within the branches. A branch shares the tokens t < fork_at with its parent;
    S(n,t) = the branches of rollout n with t < fork_at.

        "avg"      A_nt = ( z_init(n) + mean_{k in S} z_branch(k) ) / 2   where S is not empty, else z_init(n)
        "sum"      A_nt =   z_init(n) + mean_{k in S} z_branch(k)         (the released code: tokens before a fork weigh up to twice the others)
        "literal"  A_nt = ( z(R_n; initial) + z(R_n; branch) ) / 2        for every token: R_n standardised in each group, as Eq. 6 is printed
        "off"      as "avg", with one group of all N + K rollouts supplying mean and std (the paper's ablation "w/o dual")

    Args:    rewards: (N,). branch_rewards: (K,), K may be 0. parent: (K,) long, index of the initial rollout. fork_at: (K,) long. mask: (N, T) bool.
    Returns: (N, T), dtype of rewards; 0 under mask == False. No variance anywhere gives exactly 0.
    Raises:  ValueError for an unknown `how`, or shapes or parents that do not fit.
    """
    if how not in ("avg", "sum", "literal", "off"):
        raise ValueError(f"how must be 'avg', 'sum', 'literal' or 'off', got {how!r}")
    N, K = len(rewards), len(branch_rewards)
    if len(mask) != N or len(parent) != K or len(fork_at) != K:
        raise ValueError(
            f"{N} rewards need a mask of {N} rows (got {len(mask)}); {K} branch rewards need as many parents and fork_at "
            f"(got {len(parent)}, {len(fork_at)})"
        )
    if K and not (0 <= int(parent.min()) and int(parent.max()) < N):
        raise ValueError(f"parent must be in 0..{N - 1}, got {parent.tolist()}")
    if how == "off":
        z_init, z_branch = group_advantage(
            torch.cat([rewards, branch_rewards.to(rewards)]), correction
        ).split([N, K])
    else:
        z_init, z_branch = (
            group_advantage(rewards, correction),
            group_advantage(branch_rewards.to(rewards), correction),
        )
    own = z_init[:, None].expand(mask.shape)  # (N, T)
    if how == "literal":
        credit = (
            (own + _score_in_group(rewards, branch_rewards.to(rewards), correction)[:, None]) / 2
            if K
            else own
        )
    else:
        shared = torch.arange(mask.shape[1], device=mask.device) < fork_at[:, None]  # (K, T)
        # (N, T) branches in S(n,t)
        count = torch.zeros_like(own).index_add(0, parent, shared.to(rewards.dtype))
        branches = torch.zeros_like(own).index_add(
            0, parent, shared * z_branch[:, None]
        ) / count.clamp(min=1)
        credit = torch.where(count > 0, (own + branches) / (1 if how == "sum" else 2), own)
    return torch.where(mask, credit, 0.0)


def _score_in_group(rewards: Tensor, group: Tensor, correction: int) -> Tensor:
    """Rewards in standard deviations of another group; exactly 0 if that group has no variance."""
    if len(group) < 2 or group.max() == group.min():
        return torch.zeros_like(rewards)
    return (rewards - group.mean()) / (group.std(correction=correction) + STD_EPS)


def scale_by_future(
    adv: Tensor,
    omega: Tensor,
    b: float,
    clip: tuple[float, float] = (1.0, 1.2),
    ratio: Tensor | None = None,
) -> Tensor:
    """Scale the credit of each token by its future value (Eq. 7): A_t = adv_t * (1 + b * clip(omega_t, low, high)).

    No gradient flows through omega. The sign of adv is kept. With the default clip the factor lies in [1 + b, 1 + 1.2 b]: mostly a constant.

    Args:    adv, omega: (B, T). b: >= 0, no unit; 0 leaves adv as it is. clip: bounds of omega (the paper's implementation: [1, 1.2]).
             ratio: (B, T), only for the released code's guard: where adv < 0 and ratio > 6, omega is clipped to [0.8, 1.0] instead.
    Returns: (B, T).
    """
    value = omega.detach().clamp(*clip)
    if ratio is not None:
        value = torch.where(
            (adv < 0) & (ratio.detach() > 6.0), omega.detach().clamp(0.8, 1.0), value
        )
    return adv * (1.0 + b * value)


def policy_loss(
    logp: Tensor,
    logp_old: Tensor,
    adv: Tensor,
    mask: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    clip_c: float = 3.0,
    aggregate: str = "seq-mean",
    total: float | None = None,
    logp_ref: Tensor | None = None,
    kl_coef: float = 0.0,
    max_dual_clipped: int | None = None,
    surrogate: str = "ppo",
) -> tuple[Tensor, dict]:
    """The clipped policy-gradient loss, to be minimised (Eq. 8), with the dual clip for negative credit.

        ratio = exp(logp - logp_old);   l = max(-A ratio, -A clip(ratio, 1 - clip_low, 1 + clip_high));   where A < 0: l = min(l, -clip_c A)
        surrogate "gppo": the same value, but a clipped token keeps the gradient bound * A instead of 0; "cispo": l = -sg(clip(ratio)) A logp, no dual clip
        "seq-mean"    loss = 1/total * sum_n mean_{t: mask} l_nt      total: rollouts, the rows given by default
        "token-mean"  loss = 1/total * sum_{n,t: mask} l_nt           total: policy tokens, those given by default (the released code)

    To accumulate over micro-batches give the total of the whole mini-batch: the sum of the losses is then the loss of the whole, however it is split.

    Args:    logp: (B, T) with gradient; logp_old, adv: (B, T); no gradient through them. mask: (B, T) bool; nothing under False is read.
             clip_c: >= 1, or inf for none. logp_ref, kl_coef: adds kl_coef * low_variance_kl to every token. max_dual_clipped: a row with more tokens
             under the dual clip gives no policy gradient, its KL stays (the released code drops rows with more than 1; the paper none).
    Returns: (loss, stats). loss: scalar. stats: floats, means over the policy tokens given, and "tokens", their number.
    Raises:  ValueError for an unknown aggregate or surrogate.
    """
    if surrogate not in ("ppo", "gppo", "cispo"):
        raise ValueError(f"surrogate must be 'ppo', 'gppo' or 'cispo', got {surrogate!r}")
    if aggregate not in ("seq-mean", "token-mean"):
        raise ValueError(f"aggregate must be 'seq-mean' or 'token-mean', got {aggregate!r}")
    log_ratio = torch.where(mask, logp - logp_old.detach(), 0.0)
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()  # (B, T)
    A = torch.where(mask, adv.detach(), 0.0)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    if surrogate == "gppo":
        clipped = clipped.detach() * ratio / ratio.detach()
    loss = torch.maximum(-A * ratio, -A * clipped)
    dual = (A < 0) & (ratio > clip_c)
    loss = torch.where(dual, -clip_c * A, loss)
    if surrogate == "cispo":
        loss = -clipped.detach() * A * torch.where(mask, logp, 0.0)
    if max_dual_clipped is not None:
        loss = torch.where((dual.sum(-1, keepdim=True) > max_dual_clipped), 0.0, loss)
    kl = (
        torch.zeros_like(loss)
        if logp_ref is None
        else low_variance_kl(torch.where(mask, logp, 0.0), torch.where(mask, logp_ref, 0.0))
    )
    loss = torch.where(mask, loss + kl_coef * kl, 0.0)
    rows, tokens = mask.sum(-1), int(mask.sum())
    if aggregate == "seq-mean":
        value = (loss.sum(-1) / rows.clamp(min=1)).sum() / (len(mask) if total is None else total)
    else:
        value = loss.sum() / max(tokens if total is None else total, 1)
    ratio, log_ratio, kl = ratio.detach(), log_ratio.detach(), kl.detach()
    mean = lambda x: float(torch.where(mask, x.float(), 0.0).sum()) / max(tokens, 1)
    return value, {
        "tokens": tokens,
        "ratio": mean(ratio),
        "ratio_max": float(torch.where(mask, ratio, 0.0).max()) if tokens else 0.0,
        "clip_low": mean((A < 0) & (ratio < 1 - clip_low)),
        "clip_high": mean((A > 0) & (ratio > 1 + clip_high)),
        "clip_dual": mean(dual),
        "kl_old": mean(ratio - 1 - log_ratio),
        "kl_ref": mean(kl),
        "adv_abs": mean(A.abs()),
    }


def low_variance_kl(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """Estimate of KL(policy || reference) from one sampled token: exp(d) - d - 1 with d = logp_ref - logp. Never negative, unbiased, nats."""
    d = (logp_ref.detach() - logp).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return d.exp() - d - 1
