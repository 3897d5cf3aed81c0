"""GiGPO, groups in groups (arXiv 2505.10978): credit of whole rollouts, and of single turns.

    1-4. as in grpo.py: rollouts, tools, rewards, log-probs at the start of the step
    5.   two_level_credit   A = A_E + w A_S at the tokens of a turn, w = 1                   (Eq. 8)
         A_E    the reward against those of the prompt's other rollouts, as in grpo.py       (Eq. 3)
         A_S    the return R_t = sum_{k >= t} gamma^(k-t) r_k of turn t, gamma = 0.95        (Eq. 5)
                against turns of the prompt that began in the same state                   (Eq. 6-7)
    6.   update: as in appo.py

    A step of the paper is a turn here: policy tokens up to a result or the end. Only the last turn
    earns: R_t = gamma^(turns behind t) R. The anchor state is all tokens before the turn.

With free-form text only the first turn's anchor repeats: all rollouts of a prompt begin there, and
two rarely write the same thought and the same call. What follows: A_S is 0 in later turns. In the
first turn it is nearly A_E again, with rewards scaled by gamma for each later turn. So the first
turn weighs about twice as much, and fewer turns are favoured among right rollouts: no more.

Confirmed in a public copy of the authors' code (verl-agent, core_gigpo.py), whose comments bear
these numbers: sum, returns, groups by equal state, 0 for a state met once; gamma 0.95 and w 1 in
ROLL's documentation and copies of its scripts. Not confirmed: the paper itself was not read.

Differs in: A_E counts a rollout once (the code's default: once per turn). Both levels divide by the
population standard deviation, the paper's F_norm = std; the code's default divides by 1. No
grouping by similarity. A negative reward shrinks too, so a bad rollout is excused by its length.
"""

from functools import partial
from itertools import groupby

import torch

from advantage import group_advantage
from config import Config
from methods import grpo
from rollout import Rollout
from support.phases import in_phase
from support.ranks import Ranks

# discount of a reward per turn; weight of the turns' credit
GAMMA, STEP_WEIGHT = 0.95, 1.0


@in_phase("update")
def two_level_credit(rollouts: list[Rollout], config: Config, ranks: Ranks) -> None:
    """Set r.advantage: GRPO's, and at each turn that of the turns that began in its state."""
    grpo.group_credit(rollouts, config, ranks)
    spans, returns, anchors = [], [], {}
    for r in rollouts:
        turns = turns_of(r.mask)
        spans += [(r, start, end) for start, end in turns]
        returns += [GAMMA**behind * r.reward for behind in reversed(range(len(turns)))]
    states = [(r.group, tuple(r.ids[:start])) for r, start, _ in spans]
    group = torch.tensor([anchors.setdefault(s, len(anchors)) for s in states], dtype=torch.long)
    returns = torch.tensor(returns, dtype=torch.float64)
    credit = group_advantage(returns, config.std_correction, group).tolist()
    for (r, start, end), a in zip(spans, credit, strict=True):
        r.advantage[start:end] += STEP_WEIGHT * a


def turns_of(mask: list[bool]) -> list[tuple[int, int]]:
    """(start, end) of every run of policy tokens."""
    runs = [(own, [t for t, _ in run]) for own, run in groupby(enumerate(mask), lambda x: x[1])]
    return [(places[0], places[-1] + 1) for own, places in runs if own]


step = partial(grpo.step, credit=two_level_credit)
