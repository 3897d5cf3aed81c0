"""How to credit: from rewards to a loss per token (APPO, arXiv 2606.12384, Eq. 6-8).

    1. group_advantage        a reward against its group, in standard deviations
    2. dual_group_advantage   initial rollouts and branches judged in two groups; a branch credits
                              the tokens that it shares with its parent                      (Eq. 6)
    3. scale_by_future        more credit where the policy moves towards what follows        (Eq. 7)
    4. policy_loss            clipped policy gradient on the initial rollouts                (Eq. 8)

Without branches and with b = 0 this is GRPO. Differs from the released code in: the two groups are
averaged, not summed; a group without variance gets exactly 0; every rollout weighs the same
whatever its length and whichever micro-batch it falls in.

Pure functions on tensors; imports torch and the standard library. Axes: N initial rollouts of a
prompt, or of a batch with `group`; K branches, G rewards, R rollouts of a batch, T response tokens.
mask: True (or 1) where the policy chose the token; False for tool results and padding.
"""

from collections.abc import Callable

import torch
from torch import Tensor

STD_EPS = 1e-6
# keeps exp() finite; any such ratio is far outside the clip range
LOG_RATIO_LIMIT = 20.0
# (logp, ratio, A, bounds of the ratio, clip_c) -> loss per token, (R, T)
Surrogate = Callable[[Tensor, Tensor, Tensor, tuple[float, float], float], Tensor]


def group_advantage(
    rewards: Tensor, correction: int = 0, group: Tensor | None = None, scale: bool = True
) -> Tensor:
    """Rewards in standard deviations from the mean of their group.

        A_n = (R_n - mean(R)) / (std(R) + 1e-6);   without scale: A_n = R_n - mean(R)

    Args:    rewards: (G,). correction: 0 population std (released APPO code), 1 unbiased (verl).
             group: (G,) integers, the same for all rollouts of a prompt; None: one group.
    Returns: (G,) float; exactly 0 for a group of one or without variance, empty for an empty one.
    Raises:  ValueError for other shapes.
    """
    everyone = rewards, _group_of(rewards, group)
    return _standardized(everyone, everyone, correction, scale)


def dual_group_advantage(
    rewards: Tensor,
    branch_rewards: Tensor,
    parent: Tensor,
    fork_at: Tensor,
    mask: Tensor,
    how: str = "avg",
    correction: int = 0,
    group: Tensor | None = None,
) -> Tensor:
    """Credit of every token of the initial rollouts from the two groups of its prompt (Eq. 6).

        "avg"      A_nt = ( z_init(n) + mean_{k in S} z_branch(k) ) / 2,  z_init(n) if S is empty
        "sum"      A_nt =   z_init(n) + mean_{k in S} z_branch(k)         (the released code)
        "literal"  A_nt = ( z(R_n; initial) + z(R_n; branch) ) / 2,  z_init(n) without branches
        "off"      as "avg", one group of all N + K supplies mean and std (ablation "w/o dual")

    z: group_advantage within a group. S(n,t): branches of rollout n with t < fork_at.

    Args:    rewards: (N,). branch_rewards, parent (index of the initial rollout), fork_at: (K,).
             mask: (N, T). correction: as group_advantage.
             group: (N,) integers that tell the prompts of a batch apart; None: one prompt.
    Returns: (N, T) float; 0 under mask == False.
    Raises:  ValueError for an unknown `how`, or shapes or parents that do not fit.
    """
    _check_dual(rewards, branch_rewards, parent, fork_at, mask, how)
    group = _group_of(rewards, group)
    rewards, branch_rewards = _float(rewards), branch_rewards.to(_float(rewards))
    initial, branch = (rewards, group), (branch_rewards, group[parent.long()])
    everyone = tuple(torch.cat(pair) for pair in zip(initial, branch))
    z_init = _standardized(initial, everyone if how == "off" else initial, correction)
    z_branch = _standardized(branch, everyone if how == "off" else branch, correction)
    own = z_init[:, None].expand(mask.shape)  # (N, T)
    if how == "literal":
        other = _standardized(initial, branch, correction)[:, None]
        credit = torch.where(torch.isin(group, branch[1])[:, None], (own + other) / 2, own)
    else:
        branches, any_branch = _mean_of_branches(z_branch, parent, fork_at, mask)
        credit = torch.where(any_branch, (own + branches) / (1 if how == "sum" else 2), own)
    return torch.where(mask.bool(), credit, 0.0)


def _mean_of_branches(
    z_branch: Tensor, parent: Tensor, fork_at: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """mean_{k in S(n,t)} z_branch(k), and whether S(n,t) holds any branch; (N, T) each."""
    shared = torch.arange(mask.shape[1], device=mask.device) < fork_at[:, None]  # (K, T)
    zeros = torch.zeros(mask.shape, dtype=z_branch.dtype, device=mask.device)
    count = zeros.index_add(0, parent.long(), shared.to(zeros))  # (N, T)
    total = zeros.index_add(0, parent.long(), shared * z_branch[:, None])  # (N, T)
    return total / count.clamp(min=1), count > 0


def scale_by_future(
    adv: Tensor,
    omega: Tensor,
    b: float,
    clip: tuple[float, float] = (1.0, 1.2),
) -> Tensor:
    """Scale the credit of each token by its future value (Eq. 7).

        A_t = adv_t (1 + b clip(omega_t, low, high))

    No gradient flows through omega; the sign of adv is kept. With the default clip the factor lies
    in [1 + b, 1 + 1.2 b]: mostly a constant.

    Args:    adv, omega: (..., T). b: >= 0; 0 leaves adv as it is. clip: the paper's implementation
             has [1, 1.2].
    Returns: (..., T).
    Raises:  ValueError if the shapes differ.
    """
    _same_shapes(adv=adv, omega=omega)
    return adv * (1.0 + b * omega.detach().clamp(*clip))


def ppo_surrogate(
    logp: Tensor, ratio: Tensor, A: Tensor, bounds: tuple[float, float], clip_c: float
) -> Tensor:
    """PPO's loss per token, (R, T): max(-A ratio, -A clip(ratio)); if A < 0 at most -clip_c A."""
    loss = torch.maximum(-A * ratio, -A * ratio.clamp(*bounds))
    return torch.where((A < 0) & (ratio > clip_c), -clip_c * A, loss)


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
    surrogate: Surrogate = ppo_surrogate,
) -> tuple[Tensor, dict]:
    """The clipped policy-gradient loss, to be minimised (Eq. 8), with a dual clip.

        ratio = exp(logp - logp_old)
        l = max(-A ratio, -A clip(ratio, 1 - clip_low, 1 + clip_high));  if A < 0: min(l, -clip_c A)
        "seq-mean"    loss = 1/total sum_n mean_{t: mask} l_nt      total: rollouts, by default R
        "token-mean"  loss = 1/total sum_{n,t: mask} l_nt           total: by default policy tokens

    Give micro-batches the total of their mini-batch: the losses then add up to that of the whole.
    Args:    logp: (R, T) with gradient; logp_old, adv, logp_ref: (R, T) without; mask: (R, T).
             clip_c: >= 1, inf for none. surrogate: gives l instead.
             kl_coef * low_variance_kl(logp, logp_ref) is added to every token.
    Returns: (loss, stats): a scalar; means over the policy tokens, "ratio_max", and "tokens".
    Raises:  ValueError for other shapes or names than these; for kl_coef without logp_ref.
    """
    if aggregate not in ("seq-mean", "token-mean"):
        raise ValueError(f"aggregate must be 'seq-mean' or 'token-mean', got {aggregate!r}")
    _same_shapes(logp=logp, logp_old=logp_old, adv=adv, mask=mask, logp_ref=logp_ref)
    if mask.dim() != 2:
        raise ValueError(f"logp, logp_old, adv and mask are (R, T), got {tuple(mask.shape)}")
    if kl_coef and logp_ref is None:
        raise ValueError(f"kl_coef = {kl_coef} needs logp_ref")
    mask = mask.bool()
    # in float32 whatever comes in: 0 x inf of a short float would be NaN
    logp = torch.where(mask, _float(logp), 0.0)
    log_ratio = logp - torch.where(mask, _float(logp_old.detach()), 0.0)
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()  # (R, T)
    A = torch.where(mask, _float(adv.detach()), 0.0)
    loss = surrogate(logp, ratio, A, (1 - clip_low, 1 + clip_high), clip_c)
    kl = torch.zeros_like(loss)
    if logp_ref is not None:
        kl = low_variance_kl(logp, torch.where(mask, _float(logp_ref), 0.0))
    loss = torch.where(mask, loss + kl_coef * kl, 0.0)
    if aggregate == "seq-mean":
        rows = loss.sum(-1) / mask.sum(-1).clamp(min=1)  # (R,)
        value = rows.sum() / max(len(mask) if total is None else total, 1)
    else:
        value = loss.sum() / (mask.sum().clamp(min=1) if total is None else max(total, 1))
    ratio, log_ratio = ratio.detach(), log_ratio.detach()
    stats = {
        "ratio": ratio,
        "clip_low": (A < 0) & (ratio < 1 - clip_low),
        "clip_high": (A > 0) & (ratio > 1 + clip_high),
        "clip_dual": (A < 0) & (ratio > clip_c),
        "kl_old": ratio - 1 - log_ratio,
        "kl_ref": kl.detach(),
        "adv_abs": A.abs(),
    }
    top = float(torch.where(mask, ratio, 0.0).max()) if mask.numel() else 0.0
    return value, _token_means(stats, mask) | {"ratio_max": top}


def _token_means(values: dict[str, Tensor], mask: Tensor) -> dict[str, float]:
    """The mean of each (R, T) over the policy tokens, and "tokens", their number."""
    masked = [torch.where(mask, x.float(), 0.0).sum() for x in values.values()]
    # one transfer for all of them
    *sums, tokens = torch.stack([*masked, mask.sum()]).tolist()
    means = {name: x / max(tokens, 1) for name, x in zip(values, sums)}
    return means | {"tokens": int(tokens)}


def low_variance_kl(logp: Tensor, logp_ref: Tensor) -> Tensor:
    """KL(policy || reference) from one sampled token: exp(d) - d - 1 with d = logp_ref - logp.

    Never negative, nats. Unbiased where the policy is the one that drew the token.
    """
    d = (logp_ref.detach() - logp).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return d.exp() - d - 1


def _group_of(rewards: Tensor, group: Tensor | None) -> Tensor:
    """The prompt of each reward, (G,), by default the same for all."""
    group = torch.zeros_like(rewards, dtype=torch.long) if group is None else group
    if rewards.dim() != 1 or group.shape != rewards.shape:
        shapes = f"{tuple(rewards.shape)} and {tuple(group.shape)}"
        raise ValueError(f"rewards and group are (G,), got {shapes}")
    return group


def _standardized(
    judged: tuple[Tensor, Tensor],
    reference: tuple[Tensor, Tensor],
    correction: int,
    scale: bool = True,
) -> Tensor:
    """(R - mean) / (std + 1e-6), mean and std of the reference rewards of the same group.

    0 where those do not vary. judged, reference: (rewards, group) each; they may be the same.
    """
    rewards, group = _float(judged[0]), judged[1]
    z = torch.zeros_like(rewards)
    for g in group.unique():
        mine, known = group == g, _float(reference[0])[reference[1] == g]
        if len(known) > 1 and known.max() != known.min():
            unit = known.std(correction=correction) + STD_EPS if scale else 1.0
            z[mine] = (rewards[mine] - known.mean()) / unit
    return z


def _check_dual(
    rewards: Tensor, branch_rewards: Tensor, parent: Tensor, fork_at: Tensor, mask: Tensor, how: str
) -> None:
    """ValueError if the name, shapes or parents do not fit."""
    if how not in ("avg", "sum", "literal", "off"):
        raise ValueError(f"how must be 'avg', 'sum', 'literal' or 'off', got {how!r}")
    rows = {"branch_rewards": branch_rewards, "parent": parent, "fork_at": fork_at}
    one = all(x.dim() == 1 for x in (rewards, *rows.values())) and mask.dim() == 2
    if not one or len(mask) != len(rewards) or len({len(x) for x in rows.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in rows.items())
        raise ValueError(
            f"rewards {tuple(rewards.shape)} need a mask of (N, T), got {tuple(mask.shape)}; "
            f"branch rewards need as many parents and fork_at, got {shapes}"
        )
    N, K = len(rewards), len(branch_rewards)
    if K and not (0 <= int(parent.min()) and int(parent.max()) < N):
        raise ValueError(f"parent must be in 0..{N - 1}, got {parent.tolist()}")


def _same_shapes(**tensors: Tensor | None) -> None:
    """ValueError that names every shape if those that are given are not all the same."""
    given = {name: tuple(x.shape) for name, x in tensors.items() if x is not None}
    if len(set(given.values())) > 1:
        shapes = ", ".join(f"{name} {shape}" for name, shape in given.items())
        raise ValueError(f"shapes differ: {shapes}")


def _float(x: Tensor) -> Tensor:
    """float64 stays (for oracles); integers and short floats become float32."""
    return x if x.dtype == torch.float64 else x.float()
