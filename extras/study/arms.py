"""What the study compares: worlds, arms, seeds and budgets, decided before its report seeds ran.

Design seeds are 1 to 99: every choice below is made on them. Report seeds are 1,000 and up, for a
table that is made once, after the choices. Arms hold what differs from configs/laptop.json, COMMON
and WORLD_SETTINGS.
"""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parents[2]
# folders of runs under way, and the curves of all complete ones
RUNS = HERE / "runs" / "study"
CURVES = Path(__file__).with_name("curves.jsonl")

# one thread a run; logs that the study does not read are off
COMMON = {
    "threads": 1,
    "log_trees": 0,
    "keep_checkpoints": 1,
    "eval_questions": 250,
    "eval_samples": 2,
}
# longer rollouts: two relations, then a number, then Python
WORLD_SETTINGS = {"mixed": {"max_tokens": 256, "max_calls": 5}}


@dataclass(frozen=True)
class Table:
    """Runs that are compared: every arm in every world, from every cold start, with every seed.

    budget: sampled tokens of a run; it ends with the step that reaches them. about: the question.
    baseline: the arm that the others are compared with.
    """

    name: str
    worlds: tuple[str, ...]
    arms: dict[str, dict]
    colds: tuple[int, ...]
    seeds: tuple[int, ...]
    budget: int
    about: str = ""
    baseline: str = "grpo_8"


def grpo(initial: int, **other) -> dict:
    """GRPO with so many rollouts of a prompt."""
    return {"algo": "grpo", "initial": initial} | other


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
            "tree_design",
            ("late", "easy"),
            {
                "grpo_8": grpo(8),
                "grpo_16": grpo(16),
                "appo": {"algo": "appo"},
                "tree": {"algo": "tree"},
                "tree_turn": {"algo": "tree", "criterion": "turn"},
                "tree_oracle": {"algo": "tree", "criterion": "oracle"},
                "tree_8_1": {"algo": "tree", "initial": 8, "branches": 1},
                "tree_8_1_turn": {"algo": "tree", "initial": 8, "branches": 1, "criterion": "turn"},
            },
            colds=(1,),
            seeds=(1, 2),
            budget=150_000,
            about="which form of methods/tree.py is worth a re-tuned comparison?",
        ),
    )
}
