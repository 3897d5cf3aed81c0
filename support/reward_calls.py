"""Rewards that are computed in threads while other rollouts are still being sampled.

1. Rewards.begin    a rollout is complete: its reward is asked for
2. Rewards.set      wait for those of some rollouts: a number for each
3. broken_rewards   how many failed, and one of them

A reward is a number, or {"reward": number, NAME: number, ...}, whose other numbers are logged.
What raises, or returns anything else, has failed. Its rollout then earns the mean reward of the
others of its group: it gives no credit, and theirs hardly changes.
"""

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from rollout import Rollout
from support.phases import in_phase
from support.plugins import shown, told

# asked for at once: a reward may wait for a server
THREADS = 64
# characters of a rollout that is shown
LONGEST = 600


class Rewards:
    """The rewards of one phase of sampling.

    Args: reward: rollout -> what it earns. Called once per rollout, in threads.
    """

    def __init__(self, reward: Callable[[Rollout], float | dict]):
        self.reward = reward
        self.asked: dict[int, Future] = {}
        self.pool = ThreadPoolExecutor(THREADS, "reward")

    def begin(self, rollout: Rollout) -> None:
        """Ask for the reward of a complete rollout."""
        self.asked[id(rollout)] = self.pool.submit(self._ask, rollout)

    @in_phase("reward")
    def set(self, rollouts: list[Rollout]) -> None:
        """Wait; set reward, reward_parts and reward_fault of rollouts that have begun."""
        for r in rollouts:
            r.reward, r.reward_parts, r.reward_fault = self.asked.pop(id(r)).result()
        self.pool.shutdown()
        fill_failed(rollouts, lambda r: (r.group, r.parent is None))

    def _ask(self, rollout: Rollout) -> tuple[float, dict[str, float], str]:
        """(reward, its other numbers, what went wrong)."""
        try:
            return read_reward(self.reward(rollout))
        # in a thread of its own nothing that a user's function raises is a wish to end the run
        except BaseException as problem:
            return 0.0, {}, told(problem)


def fill_failed(rollouts: list[Rollout], kin: Callable[[Rollout], object]) -> None:
    """What failed earns the mean reward of the others of its kin; 0 where all have failed."""
    groups: dict[object, list[Rollout]] = {}
    for r in rollouts:
        groups.setdefault(kin(r), []).append(r)
    for group in groups.values():
        known = [r.reward for r in group if not r.reward_fault]
        for r in group:
            if r.reward_fault:
                r.reward = sum(known) / len(known) if known else 0.0


def read_reward(given) -> tuple[float, dict[str, float], str]:
    """What a reward function returned: the reward, its other numbers, what is wrong with it."""
    parts = given if isinstance(given, dict) else {"reward": given}
    try:
        # float() takes texts too
        known = "reward" in parts and not any(isinstance(x, (str, bytes)) for x in parts.values())
        numbers = {str(name): float(value) for name, value in parts.items()} if known else {}
    # a user's object may raise anything
    except Exception:
        numbers = {}
    if not numbers or not all(map(math.isfinite, numbers.values())):
        form = 'a number, or {"reward": number} with further numbers'
        return 0.0, {}, f"it returned {shown(given)}, which is not {form}"
    return numbers.pop("reward"), numbers, ""


def broken_rewards(rollouts: list[Rollout]) -> list[str]:
    """A line if rewards of these rollouts failed: how many, and the first; else nothing."""
    broken = [r for r in rollouts if r.reward_fault]
    if not broken:
        return []
    count = f"the reward of {len(broken)} of {len(rollouts)} rollouts failed"
    return [f"{count}: {fault_of(broken[0])}"]


def fault_of(r: Rollout) -> str:
    """Why the reward of a rollout failed, and the rollout."""
    return f"{r.reward_fault}. Its rollout: {shortened(r.text)!r}"


def shortened(text: str) -> str:
    """A text for the screen: of a long one the beginning and the end."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"
