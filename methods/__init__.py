"""Which methods there are: --algo NAME runs methods/NAME.py; appo.py is the paper's own.

ALGOS: defaults that a method brings, below those that are given. PRESETS: the numbers of --preset.
"""

INF = float("inf")
PLAIN = {"branches": 0, "future_weight": 0.0}
# what a method has no choice in, or another default for
ALGOS = {
    "appo": {},
    "released": {},
    "deep": {},
    "grpo": PLAIN,
    "dr_grpo": PLAIN | {"aggregate": "seq-mean", "std_correction": 0},
    "dapo": PLAIN,
    "reinforce_pp": PLAIN,
    "reinforce_pp_baseline": PLAIN,
    "gppo": PLAIN | {"aggregate": "token-mean"},
    "cispo": PLAIN | {"aggregate": "token-mean", "clip_low": 1.0, "clip_c": INF},
    "gigpo": PLAIN,
    "tempo": PLAIN,
    "arpo": {},
    "arpo_released": {},
    "tree_grpo": {},
    "tree": {"future_weight": 0.0},
}
# settings without a meaning for a method: they stay as ALGOS says
NO_USE = {"dr_grpo": ("aggregate", "std_correction"), "cispo": ("clip_c",)}
# settings of earlier versions: the value that is still meant, and what to do about any other
RETIRED = {"surrogate": ("ppo", "begin a run of its own with --algo {}")}
PRESETS = {
    "paper": {},
    "released": dict(initial=8, branches=1, future_weight=1.0, half_life=64.0, score_half_life=INF)
    | dict(algo="released", exclude_punct=False)
    | dict(dual="sum", aggregate="token-mean", kl_coef=0.001)
    | dict(prompts=96, max_tokens=6144, reward="released"),
}
