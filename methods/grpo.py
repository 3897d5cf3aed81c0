"""GRPO (arXiv 2402.03300): G initial rollouts, one group, no branches, no future term.

    1-3. as in appo.py: rollouts, tools, rewards
    4.   log-probs at the start of the step
    5.   advantage: the reward against its group
    6.   update: as in appo.py

Differs from the original in: population standard deviation, no KL term unless --kl_coef, the clip
and the aggregation of the configuration. The same weights as `--algo appo --branches 0
--future_weight 0` within 1e-6, at less cost: nothing asks for Omega, so in float32 without a KL
term the log-probs recorded while sampling serve as logp_old and no scoring pass runs.
"""

from dataclasses import replace

import torch

from appo import Prompt, assign_credit, sample_initial, score_start, update
from config import Config
from policy import Policy
from rollout import Rollout
from sampling import Sampler
from support.metrics import Meter
from support.phases import in_phase
from support.schedule import in_epochs


def step(
    policy: Policy, optimizer, sampler: Sampler, prompts: list[Prompt], config: Config, meter: Meter
) -> list[Rollout]:
    """One step of GRPO; arguments and result as in appo.step."""
    config = replace(config, branches=0, future_weight=0.0)
    with policy.unsharded():
        batches = sample_initial(policy, sampler, prompts, config)
    start_log_probs(policy, batches, config)
    for batch in in_epochs(batches, prompts, config):
        assign_credit(batch, [], config)
        meter.add(batch, [], update(policy, optimizer, batch, config))
    return [r for batch in batches for r in batch]


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
