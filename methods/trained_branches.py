"""What methods share whose trees grow before the first update, and whose members are all trained.

    1. sample_initial   N rollouts of every prompt, as in appo.py
    2. expand           the method says where; `fork` forks there, as often as it is asked
    3. start_log_probs  as in grpo.py
    4. credit           the method's, over initial rollouts and branches alike
    5. update           all members of the trees: each is a rollout of its own

A fork starts right after a tool result (`after_results`) or at token 0: a fresh rollout. It leaves
min_new tokens of the budget. A branch may be forked again.
The policy has not moved while a tree grows. So in float32 the log-probs recorded while sampling
serve as logp_old: those of a prefix are its parent's.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from appo import rewards_of, sample_initial, score_now, update
from config import Config
from methods.grpo import group_credit, start_log_probs
from policy import Policy
from rollout import Rollout
from sampling import Sampler
from support.reward_calls import Rewards, fill_failed
from support.schedule import cache_parts, in_epochs

# (rollouts, token indices of each) -> a branch from each index, in order
Fork = Callable[[list[Rollout], list[list[int]]], list[Rollout]]
# all branches of these initial rollouts
Expand = Callable[[Policy, list[Rollout], Config, Fork], list[Rollout]]


def whole_members(policy, optimizer, rollouts: list[Rollout], config: Config):
    """An update on all members of a mini-batch's trees: (what was trained, its statistics)."""
    return rollouts, update(policy, optimizer, rollouts, config)


def step(
    policy,
    optimizer,
    sampler,
    prompts,
    config,
    meter,
    expand: Expand,
    credit=group_credit,
    learn=whole_members,
) -> list[Rollout]:
    """One step of a method with trees; arguments as in appo.step and grpo.step.

    Returns: mini-batch by mini-batch, initial rollouts before their branches.
    learn: the update of a mini-batch, as whole_members.
    """
    rewards = rewards_of(prompts)
    fork = partial(forked, policy, sampler, config=config, rewards=rewards)
    with policy.unsharded():
        batches = sample_initial(policy, sampler, prompts, config)
        branches = expand(policy, [r for batch in batches for r in batch], config, fork)
        rewards.set(branches)
    # all members of a tree are one group
    fill_failed([*(r for batch in batches for r in batch), *branches], lambda r: r.group)
    batches = [b + [x for x in branches if x.group in {r.group for r in b}] for b in batches]
    start_log_probs(policy, batches, config)
    rollouts = [r for batch in batches for r in batch]
    credit(rollouts, config, policy.ranks)
    for batch in in_epochs(batches, prompts, config):
        trained, stats = learn(policy, optimizer, batch, config)
        meter.add(trained, stats)
    return rollouts


def forked(
    policy: Policy,
    sampler: Sampler,
    rollouts: list[Rollout],
    points: list[list[int]],
    config: Config,
    rewards: Rewards,
) -> list[Rollout]:
    """A branch from every point, rollout by rollout; scoring passes keep what they fork from."""
    places = {id(r): row for r, row in zip(rollouts, points, strict=True) if row}
    parents = [r for r in rollouts if id(r) in places]
    # a cache of fork_tokens tokens; where that is not said, of a mini-batch's initial rollouts
    usual = config.minibatch * config.initial
    most = max(1, len(parents)) if config.fork_tokens else usual
    branches = []
    for start in range(0, len(parents), most):
        for part in cache_parts(parents[start : start + most], replace(config, initial=1)):
            cache = score_now(policy, part, config)
            chosen = [places[id(r)] for r in part]
            branches += sampler.branches(part, chosen, cache, rewards.begin)
            del cache
    return branches


def after_results(rollout: Rollout, config: Config) -> list[int]:
    """Where the turns after its tool results begin, those with min_new tokens of budget left."""
    ends = sorted({call.end for call in rollout.calls})
    # no turn follows a call whose result did not fit
    began = [t for t in ends if t < len(rollout.ids) and rollout.mask[t]]
    return [t for t in began if t <= config.max_tokens - config.min_new]
