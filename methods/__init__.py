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
    "dr_grpo": PLAIN,
    "dapo": PLAIN,
    "reinforce_pp": PLAIN,
    "reinforce_pp_baseline": PLAIN,
    "gppo": PLAIN,
    "cispo": PLAIN,
    "gigpo": PLAIN,
    "tempo": PLAIN,
    "arpo": {},
    "arpo_released": {},
    "tree_grpo": {},
    "tree": {"future_weight": 0.0},
}
PRESETS = {
    "paper": {},
    "released": dict(initial=8, branches=1, future_weight=1.0, half_life=64.0, score_half_life=INF)
    | dict(algo="released", exclude_punct=False)
    | dict(dual="sum", aggregate="token-mean", kl_coef=0.001)
    | dict(prompts=96, max_tokens=6144, reward="released"),
}
