"""What ranks the tokens to branch at: Eq. 5, and what it is compared with (--criterion NAME).

    1. Tokens      what a criterion may read
    2. CRITERIA    name -> its function: (scores, preferred), (R, T) each
    3. ranked      what one of them says, and one rule for all where it says nothing

Preferred tokens come first, by score; None: all are alike. If they are fewer than B, the best of
the others by entropy follow. A rollout whose scores are all 0 is ranked by entropy; one whose
entropy does not vary, by a uniform draw. So every criterion has as many branches as any other.

    score       Z(clip(Omega)) Z(H), Eq. 5; first tokens above average in both (--prefer_positive)
    entropy     Z(H): Table 4, "BS -> Ent"
    sum         Z(H) / 2 + Z(clip(Omega)) / 2: appendix D, whose other weights are not known
    omega       Omega, not clipped: many tokens would stand level at a bound
    abs_omega   |log Omega|: a future that has become less likely counts too
    random      a uniform draw
    boundary    first policy tokens after a tool result, by entropy
    turn        starts of turns but the first: the same tokens, the latest first
    late        the last third of the policy tokens, by entropy
    oracle      where a bundled world is decided (extras/world/decisions.py), by entropy

Before the first update of a step Omega is 1: all that read it are `entropy` there. Axes: R, T.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from branching import both_above_average, branching_score, omega_is_constant, zscore
from config import Config
from policy import Policy, pad
from rollout import Rollout
from support.seeds import BRANCHES, mix_seed, uniform

Ranking = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Tokens:
    """Tokens of rollouts, (R, T): entropy (Eq. 3), omega (Eq. 4), mask. text: of every id."""

    rollouts: list[Rollout]
    text: list[str]
    entropy: Tensor
    omega: Tensor
    mask: Tensor

    @classmethod
    def of(cls, policy: Policy, rollouts: list[Rollout]) -> "Tokens":
        """Those of rollouts that have entropy and score_omega."""
        entropy = pad([r.entropy for r in rollouts], torch.float32)
        omega = pad([r.score_omega for r in rollouts], torch.float32)
        mask = pad([r.mask for r in rollouts], torch.bool)
        return cls(rollouts, policy.text, entropy, omega, mask)


def ranked(tokens: Tokens, config: Config) -> tuple[Tensor, Tensor | None, Tensor]:
    """Scores, preferred tokens, and what ranks the others, (R, T) each."""
    scores, preferred = CRITERIA[config.criterion](tokens, config)
    entropy, draw = by_entropy(tokens, config)[0], at_random(tokens, config)[0]
    scores = torch.where(_flat(scores), entropy, scores)
    scores = torch.where(_flat(scores), draw, scores)
    return scores, preferred, torch.where(_flat(entropy), draw, tokens.entropy)


def score(tokens: Tokens, config: Config) -> Ranking:
    """Eq. 5; where it ranks nothing, all tokens are alike."""
    numbers = tokens.entropy, tokens.omega, tokens.mask, config.score_clip
    scores = branching_score(*numbers)
    if not config.prefer_positive:
        return scores, None
    return scores, both_above_average(*numbers) | _flat(scores)


def by_entropy(tokens: Tokens, config: Config) -> Ranking:
    """Z(H)."""
    return zscore(tokens.entropy, tokens.mask), None


def half_each(tokens: Tokens, config: Config) -> Ranking:
    """Z(H) / 2 + Z(clip(Omega)) / 2."""
    omega = _z_moved(tokens, tokens.omega.clamp(*config.score_clip), config)
    return (by_entropy(tokens, config)[0] + omega) / 2, None


def by_omega(tokens: Tokens, config: Config) -> Ranking:
    """Z(Omega)."""
    return _z_moved(tokens, tokens.omega, config), None


def by_abs_omega(tokens: Tokens, config: Config) -> Ranking:
    """Z(|log Omega|)."""
    return _z_moved(tokens, tokens.omega.log().abs(), config), None


def at_random(tokens: Tokens, config: Config) -> Ranking:
    """A uniform number at every policy token, of the rollout's seed: the same in every epoch."""
    seeds = torch.tensor([mix_seed(r.seed, BRANCHES) for r in tokens.rollouts])  # (R,)
    numbers = uniform(seeds[:, None], torch.arange(tokens.mask.shape[1]))  # (R, T)
    return tokens.mask * numbers.to(tokens.entropy), None


def boundary(tokens: Tokens, config: Config) -> Ranking:
    """First policy tokens after a result, the most uncertain first."""
    after = tokens.mask.roll(1, dims=-1).logical_not()
    after[:, :1] = False
    return by_entropy(tokens, config)[0], tokens.mask & after


def turn(tokens: Tokens, config: Config) -> Ranking:
    """The same tokens, the latest first."""
    _, starts = boundary(tokens, config)
    return starts * torch.arange(starts.shape[1]).to(tokens.entropy), starts


def late(tokens: Tokens, config: Config) -> Ranking:
    """The last third of the policy tokens, the most uncertain first."""
    before = tokens.mask.cumsum(-1) - 1  # (R, T)
    third = 3 * before >= 2 * tokens.mask.sum(-1, keepdim=True)
    return by_entropy(tokens, config)[0], tokens.mask & third


def oracle(tokens: Tokens, config: Config) -> Ranking:
    """Tokens at which a rollout of a bundled world decides, the most uncertain first."""
    # nothing else of the method needs the world
    from extras.world.decisions import decisions, hops_of

    known = torch.zeros_like(tokens.mask)
    for row, r in zip(known, tokens.rollouts):
        texts, prompt = ([tokens.text[i] for i in ids] for ids in (r.ids, r.prompt))
        row[list(decisions(texts, r.mask, hops_of("".join(prompt))))] = True
    return by_entropy(tokens, config)[0], known


CRITERIA: dict[str, Callable[[Tokens, Config], Ranking]] = dict(
    score=score, entropy=by_entropy, sum=half_each, omega=by_omega, abs_omega=by_abs_omega
) | dict(random=at_random, boundary=boundary, turn=turn, late=late, oracle=oracle)


def _flat(scores: Tensor) -> Tensor:
    """Rollouts in which nothing is ranked, (R, 1)."""
    return (scores == 0).all(-1, keepdim=True)


def _z_moved(tokens: Tokens, moved: Tensor, config: Config) -> Tensor:
    """Z of what is read of Omega; 0 where Omega is constant, by the test of Eq. 5."""
    constant = omega_is_constant(tokens.omega, tokens.mask, config.score_clip)[:, None]
    return torch.where(constant, 0.0, zscore(moved, tokens.mask))
