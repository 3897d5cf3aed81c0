"""Which methods there are: --algo NAME runs methods/NAME.py; appo.py is the paper's own.

ALGOS: defaults that a method brings, below those that are given. PRESETS: the numbers of --preset.
Imports nothing of the project: config.py reads it.
"""

from collections.abc import Iterator

INF = float("inf")
PLAIN = {"branches": 0, "future_weight": 0.0}
# methods/trained_branches.py: branches are trained like initial rollouts
TREES = {"future_weight": 0.0, "clip_high": 0.2, "aggregate": "token-mean", "norm": "init"}
PACKED = {"future_weight": 0.0, "aggregate": "token-mean", "std_correction": 0, "dual": "avg"}
# what a method has no choice in, or another default for
ALGOS = {
    "appo": {},
    "released": {},
    "ahead": {"branch_ahead": 2},
    "deep": {"depth": 2},
    "grpo": PLAIN,
    "dr_grpo": PLAIN | {"aggregate": "seq-mean", "std_correction": 0},
    # its paper has no dual clip and no KL term
    "dapo": PLAIN | {"aggregate": "token-mean", "clip_c": INF, "kl_coef": 0.0},
    "reinforce_pp": PLAIN,
    "reinforce_pp_baseline": PLAIN,
    "gppo": PLAIN | {"aggregate": "token-mean"},
    "cispo": PLAIN | {"aggregate": "token-mean", "clip_low": 1.0, "clip_c": INF},
    "gigpo": PLAIN,
    "tempo": PLAIN,
    "arpo": TREES | {"initial": 8, "branches": 1},
    "arpo_released": TREES | {"initial": 8, "branches": 1},
    "tree_grpo": TREES | {"initial": 2, "branches": 2},
    "tree": PACKED | {"initial": 2, "branches": 7},
}
BRANCHES_TRAINED = ("arpo", "arpo_released", "tree_grpo", "tree")
# settings without a meaning for a method: they stay as ALGOS says
NO_USE = {
    "dr_grpo": ("aggregate", "std_correction"),
    "cispo": ("clip_c",),
    "arpo": ("norm",),
    "arpo_released": ("norm",),
    "tree_grpo": ("norm",),
    "tree": ("aggregate", "std_correction", "dual"),
}
# settings of one method alone; 1 is no use of them
ONLY_OF = {"branch_ahead": "ahead", "depth": "deep", "fork_turn": "tree"}
# settings of earlier versions: the value that is still meant, and what to do about any other
RETIRED = {"surrogate": ("ppo", "begin a run of its own with --algo {}")}
PRESETS = {
    "paper": {},
    "released": dict(initial=8, branches=1, future_weight=1.0, half_life=64.0, score_half_life=INF)
    | dict(algo="released", exclude_punct=False)
    | dict(dual="sum", aggregate="token-mean", kl_coef=0.001)
    | dict(prompts=96, max_tokens=6144, reward="released"),
}


def without_choice(algo: str) -> dict:
    """The settings that a method has no use for, as they have to be."""
    own = ALGOS.get(algo, {})
    plain = PLAIN if own.get("branches") == 0 else {}
    return {name: own[name] for name in (*plain, *NO_USE.get(algo, ()))}


def method_rules(c) -> Iterator[tuple[tuple[str, ...], str]]:
    """The broken rules of a method's settings: (names, what is wrong)."""
    if ALGOS[c.algo].get("branches") == 0 and (c.branches or c.future_weight):
        yield (
            ("algo",),
            f"--algo {c.algo} has neither branches nor a future term, got "
            f"--branches {c.branches} and --future_weight {c.future_weight}: leave them out",
        )
    for name in NO_USE.get(c.algo, ()):
        if getattr(c, name) != ALGOS[c.algo][name]:
            yield (
                ("algo", name),
                f"--algo {c.algo} has no use for --{name}, got {getattr(c, name)}: leave it out",
            )
    if c.algo in BRANCHES_TRAINED and (not c.branches or c.future_weight):
        yield (
            ("algo", "branches", "future_weight"),
            f"--algo {c.algo} trains branches and has no future term: it needs --branches above 0 "
            f"and --future_weight 0, got {c.branches} and {c.future_weight}",
        )
    if c.algo == "dapo" and c.initial == 1:
        yield (
            ("algo", "initial"),
            "--algo dapo draws until rewards of a prompt differ: it needs --initial 2 or more",
        )
    if c.algo == "released" and c.ppo_epochs > 1:
        yield (
            ("algo", "ppo_epochs"),
            f"--algo released draws the branches once: it needs --ppo_epochs 1, got {c.ppo_epochs}",
        )
    if c.criterion != "score" and c.algo not in ("appo", "ahead", "deep"):
        yield (
            ("criterion", "algo"),
            f"--criterion {c.criterion} is for --algo appo, ahead and deep, got --algo {c.algo}",
        )
    yield from own_setting_rules(c)


def own_setting_rules(c) -> Iterator[tuple[tuple[str, ...], str]]:
    """The broken rules of settings that one method alone has."""
    for name, algo in ONLY_OF.items():
        value = getattr(c, name)
        if value > 1 and c.algo != algo:
            yield (name, "algo"), f"--{name} {value} is for --algo {algo}, got --algo {c.algo}"
    if c.prompts % c.minibatch == 0 and c.prompts // c.minibatch % c.branch_ahead:
        yield (
            ("branch_ahead", "prompts", "minibatch"),
            f"--branch_ahead {c.branch_ahead} must divide the {c.prompts // c.minibatch} "
            "mini-batches of a step (--prompts / --minibatch)",
        )
