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
# rollouts of a prompt, branches too
PER_PROMPT = {"grpo_4": 4, "grpo_8": 8, "tree, B = 3": 8, "appo": 16, "grpo_16": 16}
PER_PROMPT_32 = PER_PROMPT | {"grpo_2": 2, "tree, B = 1": 4}
# a run's two evaluations would take a third of its time; its curve says more than they do
SHORT = {"eval_questions": 100}
# rollouts an update, learning rate
TRIALS_32 = ((32, 4e-4), (16, 4e-4), (32, 8e-4), (16, 8e-4))
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
        Table(
            "tuning",
            ("late", "late_long"),
            {
                f"{name} m{minibatch} lr{lr:g}": arm | {"minibatch": minibatch, "lr": lr}
                for minibatch, lr in TRIALS
                for name, arm in ARMS.items()
            },
            colds=(1,),
            seeds=(1,),
            budget=150_000,
            about="prompts an update and learning rate, as many trials for each arm",
            baselines=("grpo_8 m4 lr0.0004",),
        ),
        Table(
            "tuning_64",
            ("late", "late_long"),
            {
                f"{name} m{minibatch} lr{lr:g}": ARMS[name]
                | {"prompts": 64 // drawn, "minibatch": minibatch, "lr": lr}
                for minibatch, lr in TRIALS
                for name, drawn in PER_PROMPT.items()
                if name != "grpo_4"
            },
            colds=(1,),
            seeds=(1,),
            budget=150_000,
            about="as tuning, but 64 rollouts a step, as grpo_4 has there, instead of 16 prompts",
            baselines=("grpo_8 m4 lr0.0004",),
        ),
        Table(
            "tuning_32",
            ("late", "late_long"),
            {
                f"{name} m{size // drawn} lr{lr:g}": (ARMS | FEWER)[name]
                | SHORT
                | {"prompts": 32 // drawn, "minibatch": size // drawn, "lr": lr}
                for size, lr in TRIALS_32
                for name, drawn in PER_PROMPT_32.items()
            },
            colds=(1,),
            seeds=(1,),
            budget=150_000,
            about="32 rollouts a step, 16 or 32 an update",
            baselines=("grpo_8 m4 lr0.0004",),
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
