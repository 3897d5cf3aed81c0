"""REINFORCE++ (arXiv 2501.03262): no group; credit is compared over the whole batch of a step.

    1-4. as in grpo.py: rollouts, tools, rewards, log-probs at the start of the step
    5.   batch_credit    A_nt = R_n - beta sum_{i >= t} KL_ni,  KL = logp_old - logp_ref     (Eq. 4)
                         whitened: (A - mean) / (std + 1e-6), over all policy tokens         (Eq. 5)
    6.   update: as in appo.py, PPO's clip and a mean over each rollout                      (Eq. 1)

    beta: --kl_coef. The KL belongs to the reward: r_t = -beta KL_t, and R comes with the last
    token. It is taken once, from the log-probs at the start of the step; so the update, which
    computes loss and log-probs in one pass, adds no KL of its own: `unpenalised` sets its
    coefficient to 0 and still logs kl_ref. A tool's tokens have no KL.

Confirmed: Eq. 4-5 in RLinf's documentation, which writes them out; Eq. 1 and the numbers in a card
that checked version 9 of the paper; sums from each token on and whitening over tokens in verl
(reinforce_plus_plus). The paper itself was not read.

Differs in: N rollouts of each prompt, as all methods here have; the paper's plain form needs one
only. The batch is the step's, over all ranks, and not a mini-batch. Population variance unless
--std_correction 1 (verl: unbiased). Appendix B.2 is said to take mean and std over rollouts; here
it is over tokens, so long rollouts weigh more. Credit that does not vary is exactly 0.
"""

import math
from functools import partial

import torch
from torch import Tensor

from advantage import STD_EPS, policy_loss
from config import Config
from methods import grpo
from rollout import Rollout
from support.phases import in_phase
from support.ranks import Ranks


@in_phase("update")
def batch_credit(rollouts: list[Rollout], config: Config, ranks: Ranks) -> None:
    """Set r.advantage: reward less the KL still to come (Eq. 4), whitened (Eq. 5)."""
    for r in rollouts:
        r.advantage = r.reward - config.kl_coef * kl_to_come(r, config)
    whiten(rollouts, config, ranks)


def kl_to_come(r: Rollout, config: Config) -> Tensor:
    """sum_{i >= t} (logp_old - logp_ref) over policy tokens, (T,) in float64; 0 without KL."""
    kl = (r.logp_old - r.logp_ref).double() if config.kl_coef else torch.zeros(len(r.ids)).double()
    return (kl * torch.tensor(r.mask)).flip(0).cumsum(0).flip(0)


def whiten(rollouts: list[Rollout], config: Config, ranks: Ranks) -> None:
    """r.advantage, (T,), less its mean and over its deviation, over all ranks' policy tokens."""
    own = [r.advantage[torch.tensor(r.mask)].double() for r in rollouts]
    A = torch.cat([torch.zeros(0).double(), *own])
    total, count = ranks.sum([float(A.sum()), len(A)])
    top, bottom = ranks.max([float((s * A).max()) if len(A) else -math.inf for s in (1, -1)])
    mean = total / max(count, 1)
    (square,) = ranks.sum([float((A - mean).square().sum())])
    unit = math.sqrt(square / max(count - config.std_correction, 1)) + STD_EPS
    for r in rollouts:
        white = (r.advantage - mean) / unit if top > -bottom else torch.zeros(len(r.ids))
        r.advantage = torch.where(torch.tensor(r.mask), white, 0.0).float()


def unpenalised(*rows: Tensor, **how) -> tuple[Tensor, dict]:
    """policy_loss without the KL term, which the reward has paid; kl_ref is still logged."""
    return policy_loss(*rows, **how | {"kl_coef": 0.0})


step = partial(grpo.step, credit=batch_credit, loss=unpenalised)
