"""CISPO, clipped importance weights (MiniMax-M1, arXiv 2506.13585): no token loses its gradient.

    1-5. as in grpo.py: rollouts, tools, rewards, log-probs at the start of the step, credit
    6.   cispo_surrogate, meaned over all tokens of the mini-batch:

        l = -sg(clip(r, 1 - e_low, 1 + e_high)) A log pi                               (Eq. 4-5)

    r: the ratio. sg: no gradient. It is REINFORCE with a weight per token; the clip bounds the
    weight, not the update. There is no lower bound (e_low = 1), no dual clip and no KL term.

Confirmed in documentation: the loss (Tinker, Trinity-RFT, and summaries of the paper that give
1 / sum |o_i| and the numbers Eq. 4-5); no lower bound and only e_high tuned (Trinity-RFT quotes the
paper); e_high = 0.28 and the token mean are Trinity-RFT's defaults. Not confirmed: the paper's
e_high, which it does not seem to print. The paper itself was not read.

Differs in: the token mean goes over the mini-batch, not over one prompt's rollouts; population
standard deviation in the credit, as in grpo.py. The ratio is that of one token, although the APPO
paper's appendix speaks of sequences. `clip_low` and `clip_high` in the log count tokens whose
gradient PPO would have dropped; here none is.
"""

from functools import partial

from torch import Tensor

from advantage import policy_loss
from methods import grpo


def cispo_surrogate(
    logp: Tensor, ratio: Tensor, A: Tensor, bounds: tuple[float, float], clip_c: float
) -> Tensor:
    """-sg(clip(ratio)) A logp per token, (R, T); clip_c is not used."""
    return -ratio.detach().clamp(*bounds) * A * logp


step = partial(grpo.step, loss=partial(policy_loss, surrogate=cispo_surrogate))
