"""All tables of the study; here those of the report, on seeds from 1,000 up, each made once.

The settings of "main" are those of trials.CHOSEN, of "retuned" and "departures" those of
trials.RETUNED; all forms of APPO have APPO's there. "variants", "methods" and "smollm2" are not
tuned: all arms have 64 sequences a step, 16 an update and one rate, 4e-4; of "smollm2" 3e-5, with
which GRPO learned from design seed 1 (table "language"). "smollm2_again" has the rates of
trials.LANGUAGE_CHOSEN.
"""

from extras.study.arms import (
    ARMS,
    AS_WRITTEN,
    FEWER_SEQUENCES,
    METHODS,
    OTHER_SEQUENCES,
    PER_PROMPT,
    SHORT,
    VARIANTS,
    Table,
    sized,
)
from extras.study.trials import (
    CHOSEN,
    COMPARED,
    DESIGN,
    LANGUAGE_CHOSEN,
    LANGUAGE_RATE,
    LEARNERS,
    RETUNED,
)


def tuned(names: dict[str, str]) -> dict[str, dict[str, dict]]:
    """World -> arm -> what trials.RETUNED says there. names: of each arm in RETUNED."""
    return {
        world: {
            arm: sized(PER_PROMPT[name], chosen[name][0]) | {"lr": chosen[name][1]}
            for arm, name in names.items()
        }
        for world, chosen in RETUNED.items()
    }


REPORT = (
    Table(
        "main",
        COMPARED,
        {
            name: ARMS[name] | {"minibatch": minibatch, "lr": lr}
            for name, (minibatch, lr) in CHOSEN.items()
        },
        colds=(1001, 1002, 1003),
        seeds=(1001, 1002, 1003),
        budget=150_000,
        about="does branching pay in steps of 16 prompts? each arm as tuned there",
        baselines=("grpo_8", "grpo_4", "grpo_16"),
    ),
    Table(
        "retuned",
        COMPARED,
        {name: ARMS[name] | SHORT for name in PER_PROMPT},
        colds=(1011, 1012, 1013, 1014, 1015),
        seeds=(1011, 1012, 1013),
        budget=150_000,
        about="does branching pay? each arm with its best step and rate in each world",
        baselines=("grpo_4", "grpo_8", "grpo_16", "appo"),
        tuned=tuned({name: name for name in PER_PROMPT}),
    ),
    Table(
        "departures",
        COMPARED,
        {"grpo_4": ARMS["grpo_4"] | SHORT}
        | {name: ARMS["appo"] | arm | SHORT for name, arm in AS_WRITTEN.items()},
        colds=(1031, 1032, 1033, 1034, 1035),
        seeds=(1031, 1032),
        budget=150_000,
        about="do our departures from the paper cost APPO? each arm as tuned",
        baselines=("appo", "grpo_4"),
        tuned=tuned({"grpo_4": "grpo_4"} | dict.fromkeys(AS_WRITTEN, "appo")),
    ),
    Table(
        "variants",
        ("late_long",),
        {
            name: {"algo": "appo"} | sized(FEWER_SEQUENCES.get(name, 16)) | arm | SHORT
            for name, arm in VARIANTS.items()
        },
        colds=(1021, 1022, 1023),
        seeds=(2001, 2002),
        budget=150_000,
        about="which parts of APPO matter? six runs an arm",
        baselines=("appo",),
    ),
    Table(
        "methods",
        ("late_long",),
        {name: arm | sized(OTHER_SEQUENCES.get(name, 8)) | SHORT for name, arm in METHODS.items()},
        colds=(1021, 1022, 1023),
        seeds=(2001, 2002),
        budget=150_000,
        about="every method at one setting, none tuned, six runs an arm",
        baselines=("grpo",),
    ),
    Table(
        "smollm2",
        ("easy_smollm2",),
        {name: ARMS[name] | sized(PER_PROMPT[name]) | {"lr": LANGUAGE_RATE} for name in LEARNERS},
        colds=(1101,),
        seeds=(1101, 1102),
        budget=30_000,
        about="does SmolLM2-135M learn? two runs an arm, one cold start, one rate",
        baselines=("grpo_8",),
    ),
    Table(
        "smollm2_again",
        ("easy_smollm2",),
        {
            name: ARMS[name] | sized(PER_PROMPT[name]) | {"lr": rate}
            for name, rate in LANGUAGE_CHOSEN.items()
        },
        colds=(1102,),
        seeds=(1111, 1112),
        budget=30_000,
        about="does SmolLM2-135M learn with the better of two rates? two runs an arm",
        baselines=("grpo_8",),
    ),
)
TABLES = {table.name: table for table in (*DESIGN, *REPORT)}
