"""Where to branch: find the decision points of a rollout (APPO, arXiv 2606.12384, Eq. 3-5).

    1. token_stats            log-prob of the sampled token, exact entropy of the distribution it came from   (Eq. 3)
    2. future_value           Omega: how much likelier the policy now makes what follows a token               (Eq. 4)
    3. branching_score        zscore(clipped Omega) * zscore(entropy), inside one rollout                      (Eq. 5)
    4. choose_branch_points   the k best candidates of each rollout

Differs from the released code in: the future sum decays in the score as it does in the loss; a rollout whose Omega is constant is ranked by entropy
alone, instead of branching at its first tokens; the standard score of a constant row is exactly 0.

Pure functions on tensors; this file imports torch only. Axes: B rollouts, T response tokens, V vocabulary.
`mask` is bool, True where the policy chose the token (False: tool result or padding).
"""

import torch
from torch import Tensor

# e^20 = 4.9e8: finite in float32, far outside every clip range in use
OMEGA_EXPONENT_LIMIT = 20.0
# below this spread (clipped Omega has no unit) the ordering by Omega is numerical noise
OMEGA_MIN_STD = 1e-4


def token_stats(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-prob of each sampled id and exact entropy of the distribution that it was drawn from (Eq. 3).

        p = softmax(logits / temperature);   logp = log p[id];   entropy = - sum_v p_v log p_v

    Args:    logits: (..., V), any float dtype; computed in float32 (float64 stays). ids: (...) long. temperature: > 0, the sampling temperature.
    Returns: (logp, entropy), both (...), nats, over the full vocabulary. A -inf logit (a forbidden token) adds nothing to the entropy.
    Raises:  ValueError if the temperature is not positive or the shapes do not fit.
    """
    if not temperature > 0:
        raise ValueError(
            f"temperature must be > 0 (got {temperature}); greedy decoding has no log-prob of its own: score it at temperature 1"
        )
    if logits.shape[:-1] != ids.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} need ids of shape {tuple(logits.shape[:-1])}, got {tuple(ids.shape)}"
        )
    # (..., V)
    log_p = (_float(logits) if temperature == 1 else _float(logits) / temperature).log_softmax(-1)
    logp, p = log_p.gather(-1, ids.unsqueeze(-1)).squeeze(-1), log_p.exp()
    # 0 * -inf would be NaN; in place: a copy less of the vocabulary
    log_p = log_p.clamp(min=-1e4) if log_p.requires_grad else log_p.clamp_(min=-1e4)
    return logp, -torch.linalg.vecdot(p, log_p)


def future_value(
    logp_new: Tensor,
    logp_old: Tensor,
    mask: Tensor,
    half_life: float,
    decay_over: str = "all",
    ignore_above: float = float("inf"),
) -> Tensor:
    """How much likelier the policy now makes what follows each token: Omega (Eq. 4), not clipped.

        Omega_t = exp( sum_{k >= t} gamma^d(t,k) * m_k * (logp_new_k - logp_old_k) ),   gamma = 2^(-1/half_life)

    The sum starts at t itself. With decay_over="all", d(t,k) = k - t: a tool token (m_k = 0) adds nothing but still costs one step of decay. With
    "policy", d(t,k) counts the policy tokens in [t, k): inserting a tool result changes nothing.

    Args:    logp_new, logp_old: (B, T) log-probs of the sampled ids, nats; values under mask == False are never read. mask: (B, T) bool.
             half_life: tokens, > 0; inf means no decay (the released code's branching score).
             ignore_above: a token whose log-ratio exceeds it takes no part (FIPO's guard in the released code: log 3; the paper has none).
    Returns: (B, T) float32 (float64 for float64 input), no unit; 1.0 means "no change". The exponent is clamped to +-20.
    Raises:  ValueError if the shapes differ, half_life is not positive or decay_over is unknown.
    """
    if not (logp_new.shape == logp_old.shape == mask.shape):
        raise ValueError(
            f"shapes differ: logp_new {tuple(logp_new.shape)}, logp_old {tuple(logp_old.shape)}, mask {tuple(mask.shape)}"
        )
    if not half_life > 0:
        raise ValueError(f"half_life must be > 0 tokens, got {half_life}")
    if decay_over not in ("all", "policy"):
        raise ValueError(f"decay_over must be 'all' or 'policy', got {decay_over!r}")
    gamma = 2.0 ** (-1.0 / half_life)
    log_ratio = torch.where(mask, logp_new.double() - logp_old.double(), 0.0)
    future = torch.where(log_ratio > ignore_above, 0.0, log_ratio)  # (B, T)
    decay = torch.full_like(future, gamma)
    if decay_over == "policy":
        decay = torch.where(mask, decay, 1.0)
    # Suffix sum by doubling: after j rounds future_t covers the tokens t .. t + 2^j - 1 and decay_t is the decay across all of them.
    reach, length = 1, future.shape[1]
    while reach < length:
        beyond = torch.nn.functional.pad(torch.stack([future, decay])[:, :, reach:], (0, reach))
        future, decay = future + decay * beyond[0], decay * beyond[1]
        reach *= 2
    omega = future.clamp(-OMEGA_EXPONENT_LIMIT, OMEGA_EXPONENT_LIMIT).exp()
    return omega.to(_float(logp_new).dtype)


def zscore(x: Tensor, mask: Tensor) -> Tensor:
    """Standard score of each row over its policy tokens: Z of Eq. 5.

        z_t = (x_t - mean(x)) / std(x),   mean and population std over mask

    A row that is constant up to float32 rounding (spread below 1e-6 of its largest value), or that has no policy token, gives exactly 0: dividing its
    rounding noise by its spread would invent an order.

    Args:    x: (B, T). mask: (B, T) bool.
    Returns: (B, T), dtype of x; 0 under mask == False.
    """
    values = torch.where(mask, x.double(), 0.0)
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    centred = torch.where(mask, values - values.sum(-1, keepdim=True) / count, 0.0)
    std = (centred.square().sum(-1, keepdim=True) / count).sqrt()  # (B, 1)
    constant = std <= 1e-6 * values.abs().amax(-1, keepdim=True)
    return torch.where(constant, 0.0, centred / torch.where(constant, 1.0, std)).to(x.dtype)


def omega_is_constant(
    omega: Tensor, mask: Tensor, clip: tuple[float, float] = (0.8, 1.2)
) -> Tensor:
    """Rows whose clipped Omega carries no order: population std over the policy tokens below 1e-4.

    Always so before the first update after logp_old was taken: there Omega is 1 everywhere, and Eq. 5 is undefined (the paper does not say).

    Args:    omega: (B, T). mask: (B, T) bool. clip: the bounds that branching_score uses.
    Returns: (B,) bool.
    """
    values = torch.where(mask, omega.double().clamp(*clip), 0.0)
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    variance = (
        torch.where(mask, values - values.sum(-1, keepdim=True) / count, 0.0).square().sum(-1)
        / count[:, 0]
    )
    return variance.sqrt() < OMEGA_MIN_STD


def branching_score(
    entropy: Tensor, omega: Tensor, mask: Tensor, clip: tuple[float, float] = (0.8, 1.2)
) -> Tensor:
    """How much a token is worth branching at (Eq. 5).

        score_t = zscore(clip(omega, low, high))_t * zscore(entropy)_t;   zscore(entropy)_t alone in rows where omega_is_constant

    The clip comes before the z-score. Invariant to entropy -> a * entropy + c with a > 0.

    Args:    entropy: (B, T) nats. omega: (B, T) from future_value. mask: (B, T) bool. clip: bounds of omega.
    Returns: (B, T), dtype of entropy; 0 under mask == False. All 0 in a row where neither factor varies: choose there at random.
    """
    z_entropy = zscore(entropy, mask)
    z_omega = zscore(omega.to(entropy.dtype).clamp(*clip), mask)
    return torch.where(
        omega_is_constant(omega, mask, clip)[:, None], z_entropy, z_omega * z_entropy
    )


def both_above_average(
    entropy: Tensor, omega: Tensor, mask: Tensor, clip: tuple[float, float] = (0.8, 1.2)
) -> Tensor:
    """Tokens above their rollout's average in entropy and in Omega; in entropy alone where omega_is_constant.

    A token below average in both has a positive product too, but is no decision point: it is chosen only after these (Eq. 5 does not exclude it).

    Returns: (B, T) bool. Args as in branching_score.
    """
    z_omega = zscore(omega.to(entropy.dtype).clamp(*clip), mask)
    return (zscore(entropy, mask) > 0) & (
        (z_omega > 0) | omega_is_constant(omega, mask, clip)[:, None]
    )


def choose_branch_points(
    score: Tensor,
    candidates: Tensor,
    k: int,
    preferred: Tensor | None = None,
    top_up: Tensor | None = None,
) -> list[list[int]]:
    """The k best candidates of each row, ties to the smaller index.

    With `preferred`, those candidates come first, by score; if they are fewer than k, the best of the others by `top_up` (by score without it) follow.

    Args:    score: (B, T). candidates: (B, T) bool, where a branch may start. k: >= 0. preferred: (B, T) bool. top_up: (B, T).
    Returns: B lists of min(k, number of candidates) distinct indices, best first.
    Raises:  ValueError if k is negative or the shapes differ.
    """
    if k < 0:
        raise ValueError(f"k must be >= 0 branch points, got {k}")
    if score.shape != candidates.shape:
        raise ValueError(
            f"score {tuple(score.shape)} and candidates {tuple(candidates.shape)} differ in shape"
        )
    preferred = torch.ones_like(candidates) if preferred is None else preferred
    second = score if top_up is None else top_up
    key = torch.where(preferred, score, second.to(score.dtype))
    chosen = []
    for row_key, row_ok, row_first in zip(key.tolist(), candidates.tolist(), preferred.tolist()):
        order = sorted((not row_first[t], -row_key[t], t) for t in range(len(row_key)) if row_ok[t])
        chosen.append([t for _, _, t in order[:k]])
    return chosen


def _float(x: Tensor) -> Tensor:
    """float64 stays (for oracles), everything else is computed in float32."""
    return x if x.dtype == torch.float64 else x.float()
