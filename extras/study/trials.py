"""Tables on design seeds, 1 to 99: every choice of the study is made on them.

    1. instruments               does GRPO learn in every world?
    2. tuning, _64, _32          trials from one cold start: 16 prompts, 64 or 32 sequences a step
    3. again                     the best of them from another cold start
    4. rates, rates_32           learning rates from more cold starts, 64 or 32 sequences a step
    5. deep                      trials in late_deep
    6. ours                      trees of other sizes and places, a second epoch
    7. language                  does SmolLM2-135M learn, at which rate?

A trial's arm is named "ARM mMINIBATCH lrRATE", or "ARM pPROMPTS mMINIBATCH lrRATE" where steps
differ: tables.trials_table reads it.
"""

from extras.study.arms import (
    ARMS,
    DEEP,
    FEWER,
    OURS,
    PER_PROMPT,
    SHORT,
    TWICE,
    Table,
    grpo,
    sized,
)

WORLDS = ("easy", "late", "late_long", "mixed", "spurious_off")
COMPARED = ("late", "late_long")
# prompts an update, learning rate
TRIALS = ((4, 4e-4), (2, 4e-4), (4, 8e-4), (2, 8e-4), (1, 4e-4), (1, 8e-4))
# sequences an update, learning rate
TRIALS_32 = ((32, 4e-4), (16, 4e-4), (32, 8e-4), (16, 8e-4))
# sequences of a prompt, also of arms that only have trials
SEQUENCES = PER_PROMPT | {"grpo_2": 2, "tree": 16, "tree, B = 1": 4} | dict.fromkeys(DEEP, 8)
SEQUENCES |= {name: arm["initial"] * (1 + arm["branches"]) for name, arm in OURS.items()}
SEQUENCES |= {name: arm["initial"] for name, arm in TWICE.items()}
RATES = (2e-4, 4e-4, 8e-4)
# of SmolLM2: LANGUAGE_RATE is that of "smollm2", the first that was tried; the lower one was tried
# after its runs broke. LANGUAGE_CHOSEN: of each arm the rate of "language" with the better mean in
# training, for "smollm2_again": chosen before any of its seeds ran
LEARNERS, LANGUAGE_RATE, LANGUAGE_RATES = ("grpo_8", "appo", "tree, B = 3"), 3e-5, (1e-5, 3e-5)
LANGUAGE_CHOSEN = {"grpo_8": 3e-5, "appo": 1e-5, "tree, B = 3": 1e-5}
# with 64 sequences a step GRPO has three numbers of rollouts and three rates; ours also has other
# trees, APPO other updates: sequences an update, rate
OTHER_TREES = (("tree", 4e-4), ("tree", 8e-4), ("tree, B = 1", 4e-4), ("tree, B = 1", 8e-4))
MORE_OF_APPO = ((16, 1e-4), (32, 4e-4), (32, 8e-4))
# curves are compared; held-out accuracy only tells a run that broke
FEW_QUESTIONS = {"eval_questions": 20}


def tried(name: str, step: int, update: int, lr: float, **other) -> tuple[str, dict]:
    """(name, settings) of an arm with so many sequences a step and an update."""
    size = sized(SEQUENCES[name], step, update)
    arm = (ARMS | FEWER | DEEP | OURS | TWICE)[name] | other | size | {"lr": lr}
    return f"{name} m{size['minibatch']} lr{lr:g}", arm


def trial_table(
    name: str,
    arms: dict[str, dict],
    about: str,
    colds: tuple[int, ...] = (1,),
    seed: int = 1,
    worlds: tuple[str, ...] = COMPARED,
) -> Table:
    """A table of trials until 150,000 sampled tokens."""
    first = next(arm for arm in arms if arm.startswith("grpo_8"))
    return Table(name, worlds, arms, colds, (seed,), 150_000, about, baselines=(first,))


# of each arm the three trials with the best mean until 150,000 tokens in both worlds of the tuning
# tables: prompts a step, prompts an update, learning rate
BEST = {
    "appo": ((2, 1, 4e-4), (2, 2, 8e-4), (2, 1, 8e-4)),
    "grpo_16": ((2, 1, 8e-4), (4, 1, 8e-4), (2, 1, 4e-4)),
    "grpo_4": ((16, 4, 8e-4), (16, 2, 4e-4), (16, 1, 4e-4)),
    "grpo_8": ((4, 2, 8e-4), (8, 2, 8e-4), (4, 4, 8e-4)),
    "tree, B = 3": ((4, 2, 8e-4), (4, 2, 4e-4), (8, 1, 4e-4)),
}
# of each arm the best trial of "tuning", for "main": chosen before any report seed ran. tree with
# B = 7 stands behind B = 3 there
CHOSEN = {
    "grpo_4": (4, 8e-4),
    "grpo_8": (1, 4e-4),
    "grpo_16": (1, 8e-4),
    "appo": (1, 4e-4),
    "tree, B = 3": (4, 8e-4),
}
# of each arm and world the trial of "rates" and "rates_32" with the best mean over cold starts 2 to
# 4, for "retuned": chosen before any of its seeds ran. Ours has the number of branches whose best
# rate with 64 sequences a step has the best mean over both worlds: sequences a step, rate
RETUNED = {
    "late": {
        "grpo_4": (32, 8e-4),
        "grpo_8": (64, 4e-4),
        "grpo_16": (64, 8e-4),
        "appo": (32, 4e-4),
        "tree, B = 3": (64, 4e-4),
    },
    "late_long": {
        "grpo_4": (32, 8e-4),
        "grpo_8": (64, 8e-4),
        "grpo_16": (32, 8e-4),
        "appo": (32, 4e-4),
        "tree, B = 3": (32, 8e-4),
    },
}
DESIGN = (
    Table(
        "instruments",
        WORLDS,
        {"grpo_8": grpo(8) | sized(8) | SHORT},
        colds=(1,),
        seeds=(1,),
        budget=300_000,
        about="does plain GRPO learn in every world? 64 sequences a step, 16 an update",
    ),
    trial_table(
        "tuning",
        {
            f"{name} m{minibatch} lr{lr:g}": arm | {"minibatch": minibatch, "lr": lr}
            for minibatch, lr in TRIALS
            for name, arm in ARMS.items()
        },
        "16 prompts a step: prompts an update and learning rate",
    ),
    trial_table(
        "tuning_64",
        dict(
            tried(name, 64, minibatch * drawn, lr)
            for minibatch, lr in TRIALS
            for name, drawn in PER_PROMPT.items()
            if name != "grpo_4"
        ),
        "the same with 64 sequences a step, as grpo_4 has in tuning",
    ),
    trial_table(
        "tuning_32",
        dict(
            tried(name, 32, size, lr, **SHORT)
            for size, lr in TRIALS_32
            for name in (*PER_PROMPT, "grpo_2", "tree, B = 1")
        ),
        "32 sequences a step, 16 or 32 an update",
    ),
    trial_table(
        "again",
        {
            f"{name} p{prompts} m{minibatch} lr{lr:g}": ARMS[name]
            | FEW_QUESTIONS
            | {"prompts": prompts, "minibatch": minibatch, "lr": lr}
            for name, best in BEST.items()
            for prompts, minibatch, lr in best
        },
        "the best three trials of each arm again, from another cold start",
        colds=(2,),
        seed=2,
    ),
    trial_table(
        "rates",
        dict(tried(name, 64, 16, lr, **FEW_QUESTIONS) for lr in RATES for name in PER_PROMPT)
        | dict(tried(name, 64, 16, lr, **FEW_QUESTIONS) for name, lr in OTHER_TREES)
        | dict(tried("appo", 64, size, lr, **FEW_QUESTIONS) for size, lr in MORE_OF_APPO),
        "64 sequences a step: which learning rate, which number of branches?",
        colds=(2, 3, 4),
        seed=2,
    ),
    trial_table(
        "rates_32",
        dict(tried(name, 32, 16, lr, **FEW_QUESTIONS) for lr in RATES for name in PER_PROMPT),
        "32 sequences a step: which learning rate?",
        colds=(2, 3, 4),
        seed=2,
    ),
    trial_table(
        "deep",
        {
            name.replace(" m", f" p{arm['prompts']} m"): arm
            for step in (64, 32)
            for lr in (4e-4, 8e-4)
            for name, arm in (
                tried(name, step, 16, lr, **FEW_QUESTIONS)
                for name in ("grpo_8", "grpo_4", "grpo_16", "appo", *DEEP)
            )
        },
        "searches before the decisions: sequences a step and learning rate",
        colds=(1, 2),
        worlds=("late_deep",),
    ),
    trial_table(
        "ours",
        dict(
            tried(name, 64, 16, 4e-4, **FEW_QUESTIONS)
            for name in ("grpo_8", "grpo_4", "tree, B = 3", *OURS, *TWICE)
        ),
        "ours with one choice changed, GRPO with a second epoch, 64 sequences a step",
        colds=(2, 3, 4),
        seed=2,
    ),
    Table(
        "language",
        ("easy_smollm2",),
        {
            f"{name} lr{lr:g}": ARMS[name] | FEW_QUESTIONS | sized(PER_PROMPT[name]) | {"lr": lr}
            for lr in LANGUAGE_RATES
            for name in LEARNERS
        },
        colds=(1,),
        seeds=(1,),
        budget=30_000,
        about="at which rate does SmolLM2-135M learn? 64 sequences a step, 16 an update",
        baselines=("grpo_8 lr3e-05",),
    ),
)
