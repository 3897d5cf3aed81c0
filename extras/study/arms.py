"""What the study compares: worlds, arms, seeds and budgets, decided before its report seeds ran.

Design seeds are 1 to 99: every choice below is made on them. Report seeds are 1,000 and up, for a
table that is made once, after the choices that its arms name. Arms hold what differs from
configs/laptop.json, COMMON and WORLD_SETTINGS.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from extras.world.modes import MODES
from methods import PRESETS

HERE = Path(__file__).parents[2]
# folders of runs under way, and the curves of all complete ones
RUNS = HERE / "runs" / "study"
CURVES = Path(__file__).with_name("curves.jsonl")

# one thread a run; cold starts as when the first runs were made; logs that are not read are off
COMMON = {
    "threads": 1,
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
    """

    name: str
    worlds: tuple[str, ...]
    arms: dict[str, dict]
    colds: tuple[int, ...]
    seeds: tuple[int, ...]
    budget: int
    about: str = ""
    baselines: tuple[str, ...] = ("grpo_8",)


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
# prompts an update, learning rate
TRIALS = ((4, 4e-4), (2, 4e-4), (4, 8e-4), (2, 8e-4), (1, 4e-4), (1, 8e-4))
# cheaper prompts, since those did well in "tuning"
FEWER = {"grpo_2": grpo(2), "tree, B = 1": {"algo": "tree", "branches": 1}}
# sequences of a prompt, rollouts and branches
PER_PROMPT = {"grpo_4": 4, "grpo_8": 8, "tree, B = 3": 8, "appo": 16, "grpo_16": 16}
PER_PROMPT_32 = PER_PROMPT | {"grpo_2": 2, "tree, B = 1": 4}
# a run's two evaluations would take a third of its time; its curve says more than they do
SHORT = {"eval_questions": 100}
# sequences an update, learning rate
TRIALS_32 = ((32, 4e-4), (16, 4e-4), (32, 8e-4), (16, 8e-4))


def tried(name: str, step: int, update: int, lr: float, **other) -> tuple[str, dict]:
    """(name as `best` reads it, settings) of an arm with so many sequences a step and an update."""
    drawn = PER_PROMPT_32[name]
    minibatch = update // drawn
    settings = {"prompts": step // drawn, "minibatch": minibatch, "lr": lr}
    return f"{name} m{minibatch} lr{lr:g}", (ARMS | FEWER)[name] | other | settings


def tuning(name: str, arms: dict[str, dict], about: str) -> "Table":
    """Trials on design seed 1."""
    baselines = ("grpo_8 m4 lr0.0004",)
    worlds = ("late", "late_long")
    return Table(name, worlds, arms, (1,), (1,), 150_000, about=about, baselines=baselines)


# of each arm the three trials with the best mean until 150,000 tokens in both worlds of all tuning
# tables: prompts a step, prompts an update, learning rate
BEST = {
    "appo": ((2, 1, 4e-4), (2, 2, 8e-4), (2, 1, 8e-4)),
    "grpo_16": ((2, 1, 8e-4), (4, 1, 8e-4), (2, 1, 4e-4)),
    "grpo_4": ((16, 4, 8e-4), (16, 2, 4e-4), (16, 1, 4e-4)),
    "grpo_8": ((4, 2, 8e-4), (8, 2, 8e-4), (4, 4, 8e-4)),
    "tree, B = 3": ((4, 2, 8e-4), (4, 2, 4e-4), (8, 1, 4e-4)),
}
# of each arm the trial with the best mean until 150,000 tokens in both worlds of the tuning table,
# on design seed 1: chosen before any report seed ran. tree with B = 7 stands behind B = 3 there
CHOSEN = {
    "grpo_4": (4, 8e-4),
    "grpo_8": (1, 4e-4),
    "grpo_16": (1, 8e-4),
    "appo": (1, 4e-4),
    "tree, B = 3": (4, 8e-4),
}
# what the paper switches off (its Table 4), other criteria, other trees (its Table 3, appendix E):
# M = 16 rollouts a prompt, the last two 8 and 12; all with the trial chosen for appo
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
WORLDS = ("easy", "late", "late_long", "mixed", "spurious_off")
TABLES = {
    table.name: table
    for table in (
        Table(
            "instruments",
            WORLDS,
            {"grpo_8": grpo(8)},
            colds=(1,),
            seeds=(1,),
            budget=300_000,
            about="does plain GRPO learn in every world, from 0.1-0.3 to above 0.8?",
        ),
        tuning(
            "tuning",
            {
                f"{name} m{minibatch} lr{lr:g}": arm | {"minibatch": minibatch, "lr": lr}
                for minibatch, lr in TRIALS
                for name, arm in ARMS.items()
            },
            "prompts an update and learning rate, as many trials for each arm",
        ),
        tuning(
            "tuning_64",
            dict(
                tried(name, 64, minibatch * drawn, lr)
                for minibatch, lr in TRIALS
                for name, drawn in PER_PROMPT.items()
                if name != "grpo_4"
            ),
            "as tuning, but 64 rollouts a step, as grpo_4 has there, instead of 16 prompts",
        ),
        tuning(
            "tuning_32",
            dict(
                tried(name, 32, size, lr, **SHORT)
                for size, lr in TRIALS_32
                for name in PER_PROMPT_32
            ),
            "32 sequences a step, 16 or 32 an update",
        ),
        Table(
            "again",
            ("late", "late_long"),
            {
                f"{name} p{prompts} m{minibatch} lr{lr:g}": ARMS[name]
                | {"eval_questions": 20, "prompts": prompts, "minibatch": minibatch, "lr": lr}
                for name, trials in BEST.items()
                for prompts, minibatch, lr in trials
            },
            colds=(2, 3),
            seeds=(2,),
            budget=150_000,
            about="the best three trials of each arm again, from two other cold starts",
            baselines=("grpo_8 p4 m2 lr0.0008",),
        ),
        Table(
            "language",
            ("easy_smollm2",),
            {
                f"{name} lr{lr:g}": ARMS[name]
                | {"prompts": 64 // PER_PROMPT[name], "minibatch": 16 // PER_PROMPT[name], "lr": lr}
                for lr in (1e-5, 3e-5)
                for name in ("grpo_8", "appo", "tree, B = 3")
            },
            colds=(1,),
            seeds=(1,),
            budget=60_000,
            about="does SmolLM2-135M learn? 64 rollouts a step, 16 an update",
            baselines=("grpo_8 lr1e-05",),
        ),
        Table(
            "main",
            ("late", "late_long"),
            {
                name: ARMS[name] | {"minibatch": minibatch, "lr": lr}
                for name, (minibatch, lr) in CHOSEN.items()
            },
            colds=(1001, 1002, 1003),
            seeds=(1001, 1002, 1003),
            budget=150_000,
            about="does branching pay? each arm as tuned, on seeds never used before",
            baselines=("grpo_8", "grpo_4", "grpo_16"),
        ),
        Table(
            "variants",
            ("late",),
            {
                name: {"algo": "appo", "minibatch": CHOSEN["appo"][0], "lr": CHOSEN["appo"][1]}
                | arm
                for name, arm in VARIANTS.items()
            },
            colds=(1001, 1002, 1003),
            seeds=(2001, 2002),
            budget=150_000,
            about="which parts of APPO matter? all as tuned for APPO, six runs an arm",
            baselines=("appo",),
        ),
        Table(
            "methods",
            ("late",),
            {name: arm | SHORT | {"minibatch": 4, "lr": 4e-4} for name, arm in METHODS.items()},
            colds=(1001, 1002, 1003),
            seeds=(2001, 2002),
            budget=150_000,
            about="every method at one setting, none tuned, six runs an arm",
            baselines=("grpo",),
        ),
    )
}
