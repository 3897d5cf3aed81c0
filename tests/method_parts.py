"""What tests of methods/NAME.py share: rollouts by hand, one step and what holds after it."""

import copy
import dataclasses
import importlib
import math
from functools import partial
from threading import Barrier, Thread

import torch
from conftest import CONFIG, one_step, snapshot

import appo
from appo import loss_of
from config import ALGOS
from policy import Policy
from rollout import Rollout
from support.ranks import Ranks


def config_of(algo, **changes):
    return dataclasses.replace(CONFIG, algo=algo, **ALGOS[algo] | changes)


def by_hand(reward, mask="1111", group=0, ids=None):
    """A rollout with 1 for tokens of the policy and 0 for those of a tool."""
    ids = ids or list(range(len(mask)))
    return Rollout([1], 0, group, ids=ids, mask=[m == "1" for m in mask], reward=reward)


def credits_of(rollouts):
    return [r.advantage.tolist() for r in rollouts]


def loss_by(loss, rollouts, logp, total, config):
    """The loss that an update takes of rollouts whose log-probs are now these rows."""
    return loss_of(rollouts, logp, total, config, loss)


def assert_a_step_is_appos(agent_folder, tools, prompts, step, settings, own):
    """A step of another method is appo's, bit for bit: numbers, rollouts, credit, weights.

    own: the settings of that method.
    """
    results = []
    for one, changes in ((appo.step, {"algo": "appo"}), (step, own)):
        policy = Policy.load(str(agent_folder))
        config = dataclasses.replace(CONFIG, **settings | changes)
        numbers, tree = one_step(policy, tools, prompts, config, step=one)
        exact = {k: v for k, v in numbers.items() if not k.startswith(("seconds", "occupancy"))}
        results.append((exact, tree, list(policy.model.parameters())))
    (exact, tree, weights), (same, other, mine) = results
    assert exact == same and [snapshot(r) for r in tree] == [snapshot(r) for r in other]
    assert all(torch.equal(a, b) for a, b in zip(weights, mine))
    credits = [[r.advantage for r in rows if r.parent is None] for rows in (tree, other)]
    assert all(torch.equal(a, b) for a, b in zip(*credits))


def stepped(agent, tools, prompts, algo, **changes):
    """The numbers and rollouts of one step, after what holds for all methods without branches."""
    config = config_of(algo, **changes)
    if config.kl_coef:
        agent.reference = Policy(copy.deepcopy(agent.model), agent.tokenizer)
    before = [p.detach().clone() for p in agent.model.parameters()]
    step = importlib.import_module(f"methods.{algo}").step
    numbers, rollouts = one_step(agent, tools, prompts, config, step=step)
    moved = max(
        float((a - b.detach()).abs().max()) for a, b in zip(before, agent.model.parameters())
    )
    assert moved > 1e-5 and all(math.isfinite(x) for x in numbers.values())
    assert numbers["grad_norm"] > 0 and numbers["skipped"] == 0
    assert len(rollouts) == config.prompts * config.initial and numbers["branches"] == 0
    own = sum(sum(r.mask) for r in rollouts)
    assert numbers["tokens_sampled"] == own
    assert numbers["tokens_trained"] == own * config.ppo_epochs
    assert any(not all(r.mask) for r in rollouts), "a tool was called"
    for r in rollouts:
        own = torch.tensor(r.mask)
        assert r.advantage.shape == own.shape and (r.advantage[~own] == 0).all()
    return numbers, rollouts


class Side(Ranks):
    """One of several ranks that are threads. board: what each has brought to the meeting."""

    def __init__(self, me, board, barrier):
        self.me, self.board, self.barrier = me, board, barrier

    def _reduce(self, values, how):
        self.board[self.me] = values
        self.barrier.wait()
        rows = list(zip(*self.board))
        self.barrier.wait()
        join = max if "MAX" in str(how) else sum
        return [float(join(row)) for row in rows]


def on_ranks(work, shares):
    """work(share, ranks) for every share at once, each on a rank of its own."""
    board, barrier = [None] * len(shares), Barrier(len(shares), timeout=20)
    sides = [partial(work, s, Side(n, board, barrier)) for n, s in enumerate(shares)]
    threads = [Thread(target=side) for side in sides]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
