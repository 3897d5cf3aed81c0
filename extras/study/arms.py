"""What the study compares: worlds, arms, and what all runs have in common.

    1. COMMON, WORLD_SETTINGS    of all runs, and of those in a world, above configs/laptop.json
    2. Table                     runs that are compared
    3. ARMS, VARIANTS, METHODS   arms hold what differs
    4. sized                     prompts of a step and of an update, for so many sequences

extras/study/trials.py holds the tables on design seeds, planned.py those of the report.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from extras.world.modes import MODES
from methods import PRESETS

HERE = Path(__file__).parents[2]
# folders of runs under way, and the curves of all complete ones
RUNS = HERE / "runs" / "study"
CURVES = Path(__file__).with_name("curves.jsonl")

# one thread a run; steps and cold starts as when the first runs were made, unless an arm says
# otherwise; logs that are not read are off
COMMON = {
    "threads": 1,
    "prompts": 16,
    "minibatch": 8,
    "decode_rows": 96,
    # only rows with a token to draw are decoded: half the time of APPO, whose branches are few
    "constant_rows": False,
    "cold_batch": 8,
    "log_trees": 0,
    "keep_checkpoints": 1,
    # methods that branch once a step do so in one run of the sampler
    "fork_tokens": 1_000_000,
    "eval_questions": 250,
    "eval_samples": 2,
}
# questions that SmolLM2-135M is asked; it can read, so it needs few worked examples
LANGUAGE = {"easy_smollm2": dataclasses.replace(MODES["easy"], copies=0, faultless=320, traces=640)}
WORLD_SETTINGS = {
    # longer rollouts: two relations, then a number, then Python
    "mixed": {"max_tokens": 256, "max_calls": 5},
    # two relations, then a number, then Python
    "late_deep": {"max_tokens": 256, "max_calls": 5, "max_prompt": 96},
    "easy_smollm2": {
        "cold_optimizer": "adamw",
        "cold_lr": 1e-4,
        "max_prompt": 96,
        "max_tokens": 256,
        "decode_rows": 64,
        "eval_questions": 100,
    },
}


@dataclass(frozen=True)
class Table:
    """Runs that are compared: every arm in every world, from every cold start, with every seed.

    budget: sampled tokens of a run; it ends with the step that reaches them. about: the question.
    baselines: the arms that all others are compared with; `pace` takes the first.
    tuned: world -> arm -> what it has there alone.
    """

    name: str
    worlds: tuple[str, ...]
    arms: dict[str, dict]
    colds: tuple[int, ...]
    seeds: tuple[int, ...]
    budget: int
    about: str = ""
    baselines: tuple[str, ...] = ("grpo_8",)
    tuned: dict[str, dict[str, dict]] = field(default_factory=dict)

    def settings(self, world: str, arm: str) -> dict:
        """Of an arm in a world: its own, then those it has there alone."""
        return self.arms[arm] | self.tuned.get(world, {}).get(arm, {})


def grpo(initial: int, **other) -> dict:
    """GRPO with so many rollouts of a prompt."""
    return {"algo": "grpo", "initial": initial} | other


# of the main comparison
ARMS = {
    "grpo_8": grpo(8),
    "tree": {"algo": "tree"},
    "tree, B = 3": {"algo": "tree", "branches": 3},
    "appo": {"algo": "appo"},
    "grpo_16": grpo(16),
    "grpo_4": grpo(4),
}
# whose gradients are compared
SIGNAL = ARMS | {
    "appo, b = 0": {"algo": "appo", "future_weight": 0},
    "appo, oracle": {"algo": "appo", "criterion": "oracle"},
    "appo, random": {"algo": "appo", "criterion": "random"},
    "appo, turn": {"algo": "appo", "criterion": "turn"},
    "tree_grpo": {"algo": "tree_grpo", "branches": 7},
    "tree, N = 4, B = 3": {"algo": "tree", "initial": 4, "branches": 3},
}
# cheaper prompts, since those did well in "tuning"
FEWER = {"grpo_2": grpo(2), "tree, B = 1": {"algo": "tree", "branches": 1}}
# ours with another choice than N = 2, B = 3, a branch behind the first result, one epoch
OURS = {
    f"tree, {name}": {"algo": "tree", "initial": 2, "branches": 3} | choice
    for name, choice in {
        "N = 1, B = 3": {"initial": 1},
        "N = 1, B = 7": {"initial": 1, "branches": 7},
        "N = 4, B = 1": {"initial": 4, "branches": 1},
        "N = 4, B = 3": {"initial": 4},
        "turn 3": {"fork_turn": 2},
        "two epochs": {"ppo_epochs": 2},
    }.items()
}
# a second epoch was the best of these: GRPO gets one too
TWICE = {f"{name}, two epochs": ARMS[name] | {"ppo_epochs": 2} for name in ("grpo_4", "grpo_8")}
# of late_deep: branches from where its decisions begin, behind two searches
DEEP = {
    "tree, turn 3": OURS["tree, turn 3"],
    "tree, N = 1, turn 3": OURS["tree, N = 1, B = 7"] | {"fork_turn": 2},
}
# sequences of a prompt: rollouts and branches
PER_PROMPT = {"grpo_4": 4, "grpo_8": 8, "tree, B = 3": 8, "appo": 16, "grpo_16": 16}
# a run's two evaluations would take a third of its time; its curve says more than they do
SHORT = {"eval_questions": 100}


def sized(per_prompt: int, step: int = 64, update: int = 16) -> dict:
    """Prompts for so many sequences a step and an update, or a few less: whole updates."""
    minibatch = update // per_prompt
    return {"prompts": step // per_prompt // minibatch * minibatch, "minibatch": minibatch}


# what the paper switches off (its Table 4), other criteria, other trees (its Table 3, appendix E):
# M = 16 sequences a prompt, or those of FEWER_SEQUENCES
VARIANTS = {
    "appo": {},
    "entropy alone": {"criterion": "entropy"},
    "no future term": {"future_weight": 0},
    # Omega is 1 in the credit: the same scale
    "future term constant": {"future_clip": (1.0, 1.0)},
    "one group": {"dual": "off"},
    **{
        f"criterion {name}": {"criterion": name}
        for name in ("sum", "abs_omega", "omega", "random", "boundary", "turn", "late", "oracle")
    },
    "Eq. 5 alone": {"prefer_positive": False},
    "N = 8, B = 1": {"initial": 8, "branches": 1},
    "N = 2, B = 7": {"initial": 2, "branches": 7},
    "N = 2, B = 3": {"initial": 2, "branches": 3},
    "N = 3, B = 1, L = 2": {"algo": "deep", "initial": 3, "branches": 1, "depth": 2},
}
FEWER_SEQUENCES = {"N = 2, B = 3": 8, "N = 3, B = 1, L = 2": 12}
# APPO without README's five departures, the first of them or all
AS_WRITTEN = {
    "appo": {},
    "appo, Eq. 5 alone": {"prefer_positive": False},
    "appo, as written": {
        "prefer_positive": False,
        "exclude_punct": False,
        "min_new": 1,
        "score_clip": (1.0, 1.2),
        "norm": "budget",
    },
}
# every method but ahead and deep as it comes, GRPO's kin with 8 rollouts a prompt: their number
# matters, so GRPO has three; of --preset released all but prompts, budget and reward
METHODS = {
    "grpo": grpo(8),
    "grpo_4": grpo(4),
    "grpo_16": grpo(16),
    **{
        name: {"algo": name, "initial": 8}
        for name in ("dr_grpo", "dapo", "reinforce_pp", "reinforce_pp_baseline", "gppo", "cispo")
        + ("gigpo", "tempo")
    },
    **{name: {"algo": name} for name in ("appo", "tree", "arpo", "arpo_released", "tree_grpo")},
    "released": {
        name: value
        for name, value in PRESETS["released"].items()
        if name not in ("prompts", "max_tokens", "reward")
    },
}
# those that have not 8 sequences a prompt
OTHER_SEQUENCES = {"grpo_4": 4, "tree_grpo": 6}
OTHER_SEQUENCES |= dict.fromkeys(
    ("grpo_16", "appo", "tree", "arpo", "arpo_released", "released"), 16
)
