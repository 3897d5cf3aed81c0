"""ARPO (arXiv 2507.19849): a rollout may branch after a tool result, where entropy has risen.

    1. N initial rollouts of a prompt, of M = N (B + 1) in all
    2. round n: a rollout may branch once where its n-th result has come, in order of birth
    3. a prompt without such a rollout gets a fresh one; it begins then, and counts from there
    4. credit of GRPO over all M ("soft": shared tokens average it), an update on all M

    dH = k (mean H of the turn after the result - mean H of the first turn) / log V
    P  = 0.5 + 0.2 dH         H: entropies of a turn's first k = 20 tokens, nats; V: vocabulary
    `arpo`: branch if P > 0.5, so if dH > 0;  `arpo_released`: with probability P, in [0, 1]

Rounds are decided when rollouts are complete, from recorded entropies. That draws from the same
distribution as deciding on the way: a decision reads its rollout up to k tokens behind the result
and counts members; what the rollout draws later does not depend on the decision.
Source: the authors' code (github.com/RUC-NLPIR/ARPO, commit a95cd08, vllm_rollout_with_tools.py and
a script), read: the released rule, how M is spent, k, 0.5, 0.2, N = 8, M = 16, one branch at a
time, GRPO's credit, ratio clip 0.2, dual clip 3, a mean over tokens. Not confirmed: the paper's
rule, "soft"; `arpo` spends M as the released code does.
Differs there: entropies of the ten likeliest tokens, summed, of the turn before the result, against
the first turn of the branch itself; no min_new; an unbiased deviation.
"""

import math
from functools import partial
from itertools import takewhile

import torch

from methods import trained_branches
from methods.trained_branches import after_results
from rollout import Rollout
from support.seeds import BRANCHES, mix_seed, uniform

K, ALPHA, BETA, TAU = 20, 0.5, 0.2, 0.5


def above_threshold(rise: float) -> float:
    """The paper's rule: 1 if P > tau, else 0. rise: dH."""
    return float(ALPHA + BETA * rise > TAU)


def by_chance(rise: float) -> float:
    """The released code's rule: the probability of a branch."""
    return min(1.0, max(0.0, ALPHA + BETA * rise))


def entropy_rise(r: Rollout, t: int, vocabulary: int) -> float:
    """dH of the turn that begins at token t."""

    def mean(start: int) -> float:
        length = sum(takewhile(bool, r.mask[start : start + K]))
        return sum(r.sampled_entropy[start : start + length]) / length

    return K * (mean(t) - mean(0)) / math.log(vocabulary)


def branch_after_results(policy, rollouts, config, fork, rule) -> list[Rollout]:
    """trained_branches.Expand by a rule: dH -> how likely a branch is."""
    members, now, born = list(rollouts), 0, {id(r): 0 for r in rollouts}
    groups, budget = {r.group for r in rollouts}, config.initial * (config.branches + 1)

    def branches(r: Rollout, t: int) -> bool:
        u = uniform(torch.tensor([mix_seed(r.seed, BRANCHES)]), torch.tensor([t]))
        return float(u) < rule(entropy_rise(r, t, policy.vocabulary))

    while len(members) < budget * len(groups):
        points, now = {}, now + 1
        for group in groups:
            rows = [r for r in members if r.group == group]
            came = [(r, after_results(r, config)[now - born[id(r)] - 1 :]) for r in rows]
            active = [(r, places[0]) for r, places in came if places]
            forks = [(r, t) for r, t in active if branches(r, t)] if active else [(rows[0], 0)]
            points |= {id(r): [t] for r, t in forks[: budget - len(rows)]}
        new = fork(members, [points.get(id(r), []) for r in members])
        born |= {id(x): born[id(x.parent)] if x.fork_at else now for x in new}
        members += new
    return members[len(rollouts) :]


step = partial(trained_branches.step, expand=partial(branch_after_results, rule=above_threshold))
