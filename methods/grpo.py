"""GRPO (arXiv 2402.03300): G initial rollouts, one group, no branches, no future term.

    1-3. as in appo.py: rollouts, tools, rewards
    4.   log-probs at the start of the step
    5.   credit: A_i = (R_i - mean R) / std R over the prompt's G rollouts, at every own token
    6.   update: as in appo.py

Methods that differ from it in credit or loss alone are `partial(grpo.step, ...)` of it.

Source: verl's code (core_algos.py), read as the authors of APPO release it. Not confirmed: the
numbers of the paper's equations.
Differs from it in: population standard deviation, no KL term unless --kl_coef, the clip
and the aggregation of the configuration. The same weights as `--algo appo --branches 0
--future_weight 0` within 1e-6, at less cost: nothing asks for Omega, so in float32 without a KL
term the log-probs recorded while sampling serve as logp_old and no scoring pass runs.
"""

from collections.abc import Callable

import torch

from advantage import group_advantage, policy_loss
from appo import Prompt, sample_initial, score_start, update
from config import Config
from policy import Policy
from rollout import Rollout
from sampling import Sampler
from support.metrics import Meter
from support.phases import in_phase
from support.ranks import Ranks
from support.schedule import in_epochs

# sets r.advantage of all rollouts of a step on this rank
Credit = Callable[[list[Rollout], Config, Ranks], None]


@in_phase("update")
def group_credit(rollouts: list[Rollout], config: Config, ranks: Ranks) -> None:
    """Every token of a rollout gets (R - mean) / std of the rollouts of its prompt."""
    rewards, group = rewards_by_group(rollouts)
    spread_over_tokens(rollouts, group_advantage(rewards, config.std_correction, group))


def rewards_by_group(rollouts: list[Rollout]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards (R,), float64, and the group of each."""
    rewards = torch.tensor([r.reward for r in rollouts], dtype=torch.float64)
    return rewards, torch.tensor([r.group for r in rollouts], dtype=torch.long)


def spread_over_tokens(rollouts: list[Rollout], advantages: torch.Tensor) -> None:
    """Set r.advantage, (T,): that of the rollout at policy tokens, 0 at a tool's."""
    for r, a in zip(rollouts, advantages.tolist(), strict=True):
        r.advantage = a * torch.tensor(r.mask, dtype=torch.float32)


def step(
    policy: Policy,
    optimizer,
    sampler: Sampler,
    prompts: list[Prompt],
    config: Config,
    meter: Meter,
    credit: Credit = group_credit,
    loss=policy_loss,
) -> list[Rollout]:
    """One step of GRPO; arguments and result as in appo.step.

    credit, loss: what other methods bring instead of GRPO's; loss as in appo.update.
    """
    # 1-3. initial rollouts, tools, rewards
    with policy.unsharded():
        batches = sample_initial(policy, sampler, prompts, config)
    # 4. log-probs at the start of the step
    start_log_probs(policy, batches, config)
    # 5. credit
    rollouts = [r for batch in batches for r in batch]
    credit(rollouts, config, policy.ranks)
    # 6. an optimizer step for every mini-batch
    for batch in in_epochs(batches, prompts, config):
        meter.add(batch, update(policy, optimizer, batch, config, loss))
    return rollouts


@in_phase("score")
def start_log_probs(policy: Policy, batches: list[list[Rollout]], config: Config) -> None:
    """Set logp_old; logp, entropy and omega are those of a policy that has not moved."""
    recorded = policy.dtype == torch.float32 and not config.kl_coef
    if not recorded:
        score_start(policy, batches, config)
    for r in (r for batch in batches for r in batch):
        if recorded:
            r.logp_old, r.entropy = torch.tensor(r.sampled_logp), torch.tensor(r.sampled_entropy)
        r.logp, r.omega = r.logp_old, torch.ones(len(r.ids))
        r.branching_score = torch.zeros(len(r.ids))
