"""GPPO, gradient-preserving clipping (arXiv 2508.07629): a clipped token keeps a bounded gradient.

    1-5. as in grpo.py: rollouts, tools, rewards, log-probs at the start of the step, credit
    6.   gppo_surrogate, meaned over all tokens of the mini-batch:

        l = max(-A r, -A c),  c = clip(r, 1 - e_low, 1 + e_high) r / sg(r);  if A < 0: min(l, -c3 A)

    r: the ratio. sg: no gradient. The value is PPO's. Where PPO's clip is at work its gradient is
    0, and here it is bound x A times that of log pi: large ratios with A > 0 still explore, small
    ones with A < 0 still correct.

Confirmed in the authors' code (github.com/Kwai-Klear/KlearReasoner, README at commit 019f12c):
this loss, the dual clip with c3 = 3 whose tokens have no gradient, the token mean as its default,
and e_high = 0.28 as in "clip higher". Not confirmed: the numbers of its equations; the paper itself
was not read. Its scales beta_1 and beta_2 are 1 there, and absent here.

Differs from the authors' recipe in: population standard deviation in the credit, as in grpo.py; no
filter of prompts without variance, whose credit is 0. Their training may add a likelihood term on
right answers (not confirmed); there is none here.
"""

from functools import partial

import torch
from torch import Tensor

from advantage import policy_loss
from methods import grpo


def gppo_surrogate(
    logp: Tensor, ratio: Tensor, A: Tensor, bounds: tuple[float, float], clip_c: float
) -> Tensor:
    """PPO's loss per token, (R, T), with the gradient bound * A where it is clipped.

    A dual-clipped token, A < 0 and ratio > clip_c, has no gradient.
    """
    clipped = ratio.detach().clamp(*bounds) * ratio / ratio.detach()
    loss = torch.maximum(-A * ratio, -A * clipped)
    return torch.where((A < 0) & (ratio > clip_c), -clip_c * A, loss)


step = partial(grpo.step, loss=partial(policy_loss, surrogate=gppo_surrogate))
