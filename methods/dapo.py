"""DAPO (arXiv 2503.14476): GRPO on prompts whose rewards differ, averaged over tokens.

    1-3. as in appo.py: rollouts, tools, rewards
    4.   prompts whose rollouts all earn the same are dropped, and further ones drawn,
         until --prompts of them vary or ROUNDS are over; then dropped ones fill up      (Eq. 11)
    5.   log-probs as in grpo.py; credit as there (Eq. 9), of R + overlong(|y|):
             overlong = clip((L_max - L_c - |y|) / L_c, -1, 0)                           (Eq. 13)
    6.   update: clips 0.2 and 0.28, no KL, mean over a mini-batch's tokens   (Eq. 8, 10, 12)

Confirmed in the paper's text: all of that; L_c = 4,096 of L_max = 20,480. In verl's recipe/dapo:
10 rounds, then an error, and a mini-batch's mean; Eq. 8 has a mean for each prompt.
Differs in: "vary" is about rewards, not about right and wrong. Rewards may span less than their
-1 to 1, then the penalty weighs more. |y| and L_max (--max_tokens) count tool results. The std is
the population's; G is --initial (theirs 16). What fills up has credit for its length alone. A rank
trains on what it has sampled.
In the log, rewards are those of all sampled rollouts, before the penalty: they describe the policy.
"""

import torch

from advantage import group_advantage
from appo import sample_prompts, update
from config import Config
from methods.grpo import rewards_by_group, spread_over_tokens, start_log_probs
from policy import Policy
from rollout import Rollout
from sampling import Sampler
from support.metrics import Meter
from support.phases import in_phase
from support.ranks import Ranks
from support.schedule import Prompts, check_step, in_epochs, split_minibatches

# rounds of sampling in a step, the first included; L_c / L_max
ROUNDS, CACHE_SHARE = 10, 0.2


def step(
    policy: Policy, optimizer, sampler: Sampler, prompts: Prompts, config: Config, meter: Meter
) -> list[Rollout]:
    """One step of DAPO; arguments and result as in appo.step. Dropped prompts are returned too."""
    check_step(policy, sampler, prompts, config)
    wanted, rollouts = len(prompts), []
    with policy.unsharded():
        for round in range(ROUNDS):
            mine = policy.ranks.share(prompts.more() if round else range(wanted))
            rollouts += sample_prompts(policy, sampler, prompts, mine, config)
            equal = equal_rewards(rollouts, policy.ranks)
            if list(equal.values()).count(False) >= wanted:
                break
    kept = sorted(sorted(equal, key=lambda p: (equal[p], p))[:wanted])
    order = split_minibatches([prompts[p] for p in kept], config)
    batches = [[r for k in batch for r in rollouts if r.group == kept[k]] for batch in order]
    start_log_probs(policy, batches, config)
    shaped_credit([r for batch in batches for r in batch], config)
    for batch in in_epochs(batches, prompts, config):
        meter.add(batch, update(policy, optimizer, batch, config))
    return rollouts


@in_phase("wait")
def equal_rewards(rollouts: list[Rollout], ranks: Ranks) -> dict[int, bool]:
    """Index of a prompt, of any rank's -> do all its rollouts earn the same?"""
    earned = {r.group: set() for r in rollouts}
    for r in rollouts:
        earned[r.group] |= set() if r.reward_fault else {r.reward}
    return {p: len(rewards) < 2 for part in ranks.gather(earned) for p, rewards in part.items()}


@in_phase("update")
def shaped_credit(rollouts: list[Rollout], config: Config) -> None:
    """grpo.group_credit, of rewards that a response in the last L_c tokens of the budget lowers."""
    cache = CACHE_SHARE * config.max_tokens
    spare = torch.tensor([config.max_tokens - len(r.ids) for r in rollouts], dtype=torch.float64)
    rewards, group = rewards_by_group(rollouts)
    rewards = rewards + (spare / cache - 1).clamp(-1, 0)
    spread_over_tokens(rollouts, group_advantage(rewards, config.std_correction, group))
