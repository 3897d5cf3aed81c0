"""Dr. GRPO, GRPO done right (arXiv 2503.20783): no standard deviation, no mean over a length.

    1-4. as in grpo.py: rollouts, tools, rewards, log-probs at the start of the step
    5.   centred_credit    A_n = R_n - mean(R of its group)
    6.   summed_loss       loss = 1 / (rollouts x max_tokens) sum_{n,t} l_nt

    rollouts: of the mini-batch, on all ranks. max_tokens: the longest response, a constant, so a
    long wrong answer is not punished less per token than a short one. l: PPO's clipped loss.

Confirmed in the authors' code (github.com/sail-sg/understand-r1-zero, train_zero_math.py at commit
14046dc): credit without the standard deviation, and the sum over tokens divided by
generate_max_length. Not confirmed: the numbers of its equations; the paper itself was not read.

Differs from the authors' code in: the clips are those of the configuration, so that a comparison
with grpo.py sees the paper's two changes alone; truncated rollouts keep the reward they earned;
max_tokens holds a rollout's tool results too, as every budget here.
The loss is smaller than GRPO's by the share of the budget that is used. AdamW does not mind; a
gradient that --clip_grad used to shorten may now pass whole.
"""

from functools import partial

from torch import Tensor

from advantage import group_advantage, policy_loss
from appo import Prompt
from config import Config
from methods import grpo
from policy import Policy
from rollout import Rollout
from sampling import Sampler
from support.metrics import Meter
from support.phases import in_phase
from support.ranks import Ranks


def step(
    policy: Policy, optimizer, sampler: Sampler, prompts: list[Prompt], config: Config, meter: Meter
) -> list[Rollout]:
    """One step of Dr. GRPO; arguments and result as in appo.step."""
    loss = partial(summed_loss, max_tokens=config.max_tokens)
    return grpo.step(policy, optimizer, sampler, prompts, config, meter, centred_credit, loss)


@in_phase("update")
def centred_credit(rollouts: list[Rollout], config: Config, ranks: Ranks) -> None:
    """Every token of a rollout earns its reward's distance from the mean of its group."""
    grpo.spread_over_tokens(rollouts, centred_rewards(rollouts))


def centred_rewards(rollouts: list[Rollout]) -> Tensor:
    """R - mean of its group, (R,) in float64; exactly 0 where a group's rewards are equal."""
    rewards, group = grpo.rewards_by_group(rollouts)
    return group_advantage(rewards, group=group, scale=False)


def summed_loss(*rows: Tensor, max_tokens: int, total: float, **how) -> tuple[Tensor, dict]:
    """policy_loss, its tokens summed and divided by total x max_tokens; total: rollouts."""
    return policy_loss(*rows, **how | {"aggregate": "token-mean", "total": total * max_tokens})
