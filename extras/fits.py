"""What fits: for every model known by name the fewest GPUs of three sizes that a run needs.

1. fewest   of 1, 2, 4 or 8 GPUs of a node, the fewest whose memory suffices
2. fits     a Markdown table of all models: `python -m extras.plan --fits --config F`
"""

import dataclasses

from config import Config
from extras.memory import GIB, most
from extras.shape import TABLE, Shape, shape_of_name

# GiB of a GPU
SIZES = (24, 48, 80)
# what the plan may fill; the rest is for the driver and for fragments
FILLED = 0.9
WAYS = {
    "a copy, float32": dict(shard=False, dtype="float32"),
    "split, bfloat16": dict(shard=True, dtype="bfloat16"),
}


def fewest(shape: Shape, run: Config, gib: float) -> str:
    """How few GPUs of a node suffice, "-" if eight do not."""
    for gpus in (1, 2, 4, 8):
        if run.minibatch >= gpus and most(shape, run, gpus) <= FILLED * gib * GIB:
            return str(gpus)
    return "-"


def fits(run: Config) -> str:
    """The table, for a run with its settings but another model, weights split or not.

    Ways that fit nowhere are left out.
    """
    head = ["model", "weights", *(f"{gib} GiB" for gib in SIZES)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in sorted(TABLE, key=lambda name: shape_of_name(name).parameters):
        shape = shape_of_name(name)
        for way, how in WAYS.items():
            cells = [fewest(shape, dataclasses.replace(run, **how), gib) for gib in SIZES]
            if set(cells) == {"-"}:
                continue
            lines.append(f"| {' | '.join([name, way, *cells])} |")
    return "\n".join(lines)
