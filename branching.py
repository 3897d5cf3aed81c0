"""Where to branch: find the decision points of a rollout (APPO, arXiv 2606.12384, Eq. 3-5).

    1. token_stats            log-prob of a sampled token, entropy of its distribution       (Eq. 3)
    2. future_value           Omega: how much likelier the policy makes what follows a token (Eq. 4)
    3. branching_score        zscore(clipped Omega) * zscore(entropy), inside one rollout    (Eq. 5)
    4. branch_candidates      the tokens that may be chosen at all, by their texts
    5. choose_branch_points   the k best candidates of each rollout
    6. fork_points            for other trainers: 3 and 5 in one call; checks points chosen by hand

appo.py takes 3 through support/criteria.py, and calls 4 and 5 itself.
Differs from the paper in: README's departures 1 (both_above_average), 2 (branch_candidates) and 4
(the default clip).
Differs from the released code in: the future sum decays in the score as it does in the credit; a
rollout whose Omega is constant is ranked by entropy alone, instead of branching at its first
tokens; the standard score of a constant row is exactly 0.

Pure functions of torch and the standard library. Axes: R rollouts, T response tokens, V vocabulary.
mask: True (or 1) where the policy chose the token; False for tool results and padding.
"""

import unicodedata

import torch
from torch import Tensor

# e^20 = 4.9e8: finite in float32, far outside every clip range in use
OMEGA_EXPONENT_LIMIT = 20.0
# below this spread (clipped Omega has no unit) the ordering by Omega is numerical noise
OMEGA_MIN_STD = 1e-4


def token_stats(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-prob of each sampled id and exact entropy of the distribution it came from (Eq. 3).

        p = softmax(logits / temperature);   logp = log p[id];   entropy = - sum_v p_v log p_v

    Args:    logits: (..., V), any float dtype; computed in float32 (float64 stays). ids: (...).
             temperature: > 0, that of the sampling.
    Returns: (logp, entropy), both (...), nats. A -inf logit adds nothing to the entropy.
    Raises:  ValueError if the temperature is not positive or the shapes do not fit.
    """
    if not temperature > 0:
        raise ValueError(
            f"temperature must be > 0 (got {temperature}); greedy decoding has no log-prob of its "
            "own: score it at temperature 1"
        )
    if logits.shape[:-1] != ids.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} need ids of shape {tuple(logits.shape[:-1])}, "
            f"got {tuple(ids.shape)}"
        )
    logits = _float(logits) if temperature == 1 else _float(logits) / temperature
    log_p = logits.log_softmax(-1)  # (..., V)
    logp, p = log_p.gather(-1, ids.unsqueeze(-1)).squeeze(-1), log_p.exp()
    # the clamp: 0 * -inf would be NaN; in place: one copy of the vocabulary less
    log_p = log_p.clamp(min=-1e4) if log_p.requires_grad else log_p.clamp_(min=-1e4)
    return logp, -torch.linalg.vecdot(p, log_p)


def future_value(
    logp_new: Tensor,
    logp_old: Tensor,
    mask: Tensor,
    half_life: float,
    decay_over: str = "all",
) -> Tensor:
    """How much likelier the policy now makes what follows each token: Omega (Eq. 4), not clipped.

        Omega_t = exp( sum_{k >= t} gamma^d(t,k) m_k (logp_new_k - logp_old_k) )
        gamma = 2^(-1/half_life);   d(t,k) = k - t, or the policy tokens in [t, k)

    The sum starts at t itself. By default a tool token adds nothing but costs a step of decay.

    Args:    logp_new, logp_old: (R, T) nats, never read under mask == False. half_life: tokens,
             > 0; inf: no decay. decay_over: "all" or "policy" tokens.
    Returns: (R, T) float32 (float64 stays), no unit; 1.0 means "no change". Exponent within +-20.
    Raises:  ValueError if the shapes differ or an argument is out of range.
    """
    _same_shapes(logp_new=logp_new, logp_old=logp_old, mask=mask)
    if not half_life > 0:
        raise ValueError(f"half_life must be > 0 tokens, got {half_life}")
    if decay_over not in ("all", "policy"):
        raise ValueError(f"decay_over must be 'all' or 'policy', got {decay_over!r}")
    mask = mask.bool()
    gamma = 2.0 ** (-1.0 / half_life)
    future = torch.where(mask, logp_new.double() - logp_old.double(), 0.0)  # (R, T)
    decay = torch.full_like(future, gamma)  # (R, T)
    if decay_over == "policy":
        decay = torch.where(mask, decay, 1.0)
    # Suffix sum by doubling: after j rounds future_t covers the tokens t .. t + 2^j - 1 and decay_t
    # is the decay across all of them.
    reach, length = 1, future.shape[1]
    while reach < length:
        beyond = torch.stack([future, decay])[:, :, reach:]
        beyond = torch.nn.functional.pad(beyond, (0, reach))
        future, decay = future + decay * beyond[0], decay * beyond[1]
        reach *= 2
    omega = future.clamp(-OMEGA_EXPONENT_LIMIT, OMEGA_EXPONENT_LIMIT).exp()
    return omega.to(_float(logp_new).dtype)


def zscore(x: Tensor, mask: Tensor) -> Tensor:
    """Standard score of each row over its policy tokens: Z of Eq. 5.

        z_t = (x_t - mean(x)) / std(x),   mean and population std over mask

    A row that is constant up to float32 rounding, or without a policy token, gives exactly 0:
    dividing rounding noise by its own spread would invent an order.

    Args:    x: (R, T). mask: (R, T).
    Returns: (R, T) float32 (float64 stays); 0 under mask == False.
    Raises:  ValueError if the shapes differ.
    """
    _same_shapes(x=x, mask=mask)
    centred, std = _spread(x, mask)
    largest = torch.where(mask.bool(), x.double(), 0.0).abs().amax(-1, keepdim=True)
    constant = std <= 1e-6 * largest  # (R, 1)
    return torch.where(constant, 0.0, centred / torch.where(constant, 1.0, std)).to(_float(x).dtype)


def omega_is_constant(
    omega: Tensor, mask: Tensor, clip: tuple[float, float] = (0.8, 1.2)
) -> Tensor:
    """Rows whose clipped Omega carries no order: population std over the policy tokens < 1e-4.

    Always so before the first update after logp_old was taken: there Omega is 1 everywhere and
    Eq. 5 is undefined (the paper does not say).

    Args:    omega, mask: (R, T). clip: the bounds that branching_score uses.
    Returns: (R,) bool.
    """
    _same_shapes(omega=omega, mask=mask)
    _, std = _spread(omega.double().clamp(*clip), mask)
    return std[:, 0] < OMEGA_MIN_STD


def branching_score(
    entropy: Tensor, omega: Tensor, mask: Tensor, clip: tuple[float, float] = (0.8, 1.2)
) -> Tensor:
    """How much a token is worth branching at (Eq. 5).

        score_t = zscore(clip(omega, low, high))_t * zscore(entropy)_t

    Where omega_is_constant it is zscore(entropy)_t alone. The clip comes before the z-score.

    Args:    entropy: (R, T) nats. omega: (R, T) from future_value. mask: (R, T).
    Returns: (R, T) float32 (float64 stays); 0 under mask == False. All 0 in a row whose entropy
             does not vary: choose there at random.
    """
    _same_shapes(entropy=entropy, omega=omega, mask=mask)
    return zscore(entropy, mask) * _z_omega(omega, mask, clip)


def both_above_average(
    entropy: Tensor, omega: Tensor, mask: Tensor, clip: tuple[float, float] = (0.8, 1.2)
) -> Tensor:
    """Tokens above their rollout's average in entropy and in Omega, if Omega is not constant.

    A token below average in both has a positive product too, but is no decision point. Eq. 5 does
    not exclude it; here it is chosen only after these.

    Returns: (R, T) bool. Args as in branching_score.
    """
    _same_shapes(entropy=entropy, omega=omega, mask=mask)
    return (zscore(entropy, mask) > 0) & (_z_omega(omega, mask, clip) > 0)


def branch_candidates(
    texts: list[str], mask: list[bool], tags: tuple[str, ...], skip_punctuation: bool = True
) -> list[bool]:
    """Tokens where a branch may start, by their texts; Eq. 5 takes any, this rule is ours.

    A policy token that is not white space and, with skip_punctuation, not punctuation alone. Signs
    of mathematics (+-*/=^%\\$) and symbols beyond ASCII are no punctuation. The "<" that opens or
    closes one of `tags` counts: which tag comes is a decision.

    Args:    texts: of each token alone, such as tokenizer.decode([i]); no tokenizer is needed here.
             mask: True where the policy chose it; padding may follow. tags: names such as "search".
    Returns: T flags.
    """
    return [
        bool(own and texts[t].strip() and (not skip_punctuation or _has_content(texts, t, tags)))
        for t, own in enumerate(mask)
    ]


def choose_branch_points(
    score: Tensor,
    candidates: Tensor,
    k: int,
    preferred: Tensor | None = None,
    top_up: Tensor | None = None,
) -> list[list[int]]:
    """The k best candidates of each row, ties to the smaller index.

    With `preferred`, those candidates come first, by score; if they are fewer than k, the best of
    the others by `top_up` (by score without it) follow.

    Args:    score: (R, T). candidates: (R, T), where a branch may start. preferred, top_up: (R, T).
    Returns: R lists of min(k, number of candidates) distinct indices, best first.
    Raises:  ValueError if k is negative or the shapes differ.
    """
    if type(k) is not int or k < 0:
        raise ValueError(f"k must be a whole number >= 0 of branch points, got {k}")
    preferred = torch.ones_like(candidates) if preferred is None else preferred
    second = score if top_up is None else top_up
    _same_shapes(score=score, candidates=candidates, preferred=preferred, top_up=second)
    key = torch.where(preferred.bool(), score, second)
    chosen = []
    for row_key, row_ok, row_first in zip(key.tolist(), candidates.tolist(), preferred.tolist()):
        order = sorted((not row_first[t], -row_key[t], t) for t, ok in enumerate(row_ok) if ok)
        chosen.append([t for _, _, t in order[:k]])
    return chosen


def fork_points(
    mask: Tensor,
    entropy: Tensor | None = None,
    omega: Tensor | None = None,
    k: int = 3,
    candidates: Tensor | None = None,
    points: list[list[int]] | None = None,
) -> list[list[int]]:
    """Where to fork each row: score and choice in one call, or the check of points given by hand.

    First the best by branching_score among candidates that are both_above_average, then the best
    of the others by entropy. Where entropy is constant it takes the earliest tokens; appo.py draws
    there at random. Which tokens may fork is the caller's choice: branch_candidates.

    Args:    mask, entropy, omega, candidates: (R, T). omega: by default 1, as before any update.
             candidates: by default every policy token. points: by hand, token indices per row;
             then only mask is read.
    Returns: R lists of token indices, best first; a fork at t draws token t anew.
    Raises:  ValueError for a point in a tool result or in padding, and for other shapes.
    """
    own = mask.bool()
    if points is not None:
        if len(points) != len(own):
            raise ValueError(f"points of {len(points)} rows, but a mask {tuple(own.shape)}")
        rows = [(n, t, m) for n, (ts, m) in enumerate(zip(points, own.tolist())) for t in ts]
        odd = [(n, t) for n, t, _ in rows if type(t) is not int]
        if odd:
            raise ValueError(f"points are whole numbers: (row, token) in {odd} are none")
        wrong = [(n, t) for n, t, m in rows if not (0 <= t < len(m) and m[t])]
        if wrong:
            raise ValueError(f"no fork in a tool result or padding: (row, token) in {wrong}")
        return points
    if entropy is None:
        raise ValueError("fork_points needs entropy, or points chosen by hand")
    omega = torch.ones_like(entropy) if omega is None else omega
    candidates = own if candidates is None else candidates
    _same_shapes(mask=mask, candidates=candidates)
    score, above = (f(entropy, omega, mask) for f in (branching_score, both_above_average))
    return choose_branch_points(score, own & candidates.bool(), k, above, entropy)


def _z_omega(omega: Tensor, mask: Tensor, clip: tuple[float, float]) -> Tensor:
    """zscore of the clipped Omega; 1 in rows where it is constant: there entropy alone counts."""
    z = zscore(_float(omega).clamp(*clip), mask)
    return torch.where(omega_is_constant(omega, mask, clip)[:, None], 1.0, z)


def _has_content(texts: list[str], t: int, tags: tuple[str, ...]) -> bool:
    """A letter, a digit, a symbol of mathematics, or the "<" of a tag."""
    text = texts[t]
    # in "</" the slash is a tag's, not a division
    symbols = "+-*=^%\\$" if "<" in text else "+-*/=^%\\$"
    for c in text:
        foreign = ord(c) > 127 and unicodedata.category(c)[0] not in "PZ"
        if c in symbols or c.isalnum() or foreign:
            return True
    # a tag of at most ten tokens
    ahead = "".join(texts[t : t + 10])
    names = tuple(tag + ">" for tag in tags)
    return any(
        c == "<" and ahead[i + 1 :].removeprefix("/").startswith(names) for i, c in enumerate(text)
    )


def _spread(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Distance from the row's mean, 0 under mask == False, and the row's population std (R, 1)."""
    mask = mask.bool()
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    values = torch.where(mask, x.double(), 0.0)
    centred = torch.where(mask, values - values.sum(-1, keepdim=True) / count, 0.0)
    return centred, (centred.square().sum(-1, keepdim=True) / count).sqrt()


def _float(x: Tensor) -> Tensor:
    """float64 stays (for oracles), everything else is computed in float32."""
    return x if x.dtype == torch.float64 else x.float()


def _same_shapes(**tensors: Tensor) -> None:
    """ValueError that names every shape if they are not all the same (R, T)."""
    if len({x.shape for x in tensors.values()}) > 1 or next(iter(tensors.values())).dim() != 2:
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in tensors.items())
        raise ValueError(f"shapes differ, or are not (R, T): {shapes}")
