"""REINFORCE++ with a baseline (arXiv 2501.03262): the group's mean, then the batch's deviation.

    1-4. as in grpo.py: rollouts, tools, rewards, log-probs at the start of the step
    5.   baseline_credit    A'_n = R_n - mean(R of its group)                                (Eq. 6)
                            A = (A' - mean) / (std + 1e-6), over all policy tokens           (Eq. 7)
    6.   squared_kl_loss    PPO's clipped loss + beta / 2 (logp - logp_ref)^2                (Eq. 8)

    beta: --kl_coef. The batch is that of the step, over all ranks. Against GRPO: all prompts share
    one deviation, so a prompt with one lucky rollout is not blown up to the scale of the others.

Confirmed: Eq. 6-8 in a card that checked version 9 of the paper; group mean and whitening over
tokens in verl (reinforce_plus_plus_baseline). Sources differ on the KL: the card's Eq. 8 has this
square (k2) in the loss, ms-swift's documentation takes it off the reward; here the card's. The
paper itself was not read; its coefficient is not given.

Differs in: the points named in reinforce_pp.py, N rollouts apart: the baseline form has several.
`kl_ref` in the log is the low-variance estimate, as for all methods.
"""

from functools import partial

from torch import Tensor

from advantage import policy_loss, ppo_surrogate
from config import Config
from methods import grpo
from methods.dr_grpo import centred_rewards
from methods.reinforce_pp import whiten
from rollout import Rollout
from support.phases import in_phase
from support.ranks import Ranks


@in_phase("update")
def baseline_credit(rollouts: list[Rollout], config: Config, ranks: Ranks) -> None:
    """Set r.advantage: the reward less its group's mean (Eq. 6), whitened (Eq. 7)."""
    grpo.spread_over_tokens(rollouts, centred_rewards(rollouts))
    whiten(rollouts, config, ranks)


def squared_kl_loss(
    *rows: Tensor, kl_coef: float = 0.0, logp_ref: Tensor | None = None, **how
) -> tuple[Tensor, dict]:
    """policy_loss with kl_coef * (logp - logp_ref)^2 / 2 at every token instead of its own KL."""

    def surrogate(logp: Tensor, *others) -> Tensor:
        loss = ppo_surrogate(logp, *others)
        return loss if logp_ref is None else loss + kl_coef * (logp - logp_ref).square() / 2

    return policy_loss(*rows, logp_ref=logp_ref, surrogate=surrogate, **how)


step = partial(grpo.step, credit=baseline_credit, loss=squared_kl_loss)
