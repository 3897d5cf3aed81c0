"""Random numbers without a state: each is a function of its seed and its position.

    1. mix_seed   one seed from (run seed, step, prompt, rollout, branch)
    2. uniform    the number of a seed at a position

So a rollout can be replayed alone, a fork has a stream of its own, and a checkpoint keeps no
generator. Both are splitmix64 (Steele, Lea, Flood 2014).

The second number of a seed says what it is for: of a run one of the first list, of a rollout or
prompt one of the second.
"""

from torch import Tensor

# of a run: its prompts, the order of its questions, its evaluations, the order of its examples
PROMPTS, QUESTIONS, EVALUATIONS, EXAMPLES = 0, 1, 2, 4
# of a rollout: its branches, or a score where none is given; of a prompt: the mini-batches
BRANCHES, MINIBATCHES = 1, 3


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several integers, whose order counts."""
    state = 0
    for part in parts:
        state = (state ^ (part & (2**64 - 1))) + 0x9E3779B97F4A7C15 & (2**64 - 1)
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        state = (state ^ state >> 27) * 0x94D049BB133111EB & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


def uniform(seed: Tensor, position: Tensor) -> Tensor:
    """A number in [0, 1) for each (seed, position), both (B,) int64; float64."""
    # the seed is scrambled first: else one seed's numbers would be another's, shifted
    bits = _scramble(_scramble(seed) + position * -7046029254386353131)
    return _shift(bits, 11).double() * 2.0**-53


def _scramble(x: Tensor) -> Tensor:
    """splitmix64's last steps; its constants as signed integers, the products wrap."""
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    return x ^ _shift(x, 31)


def _shift(x: Tensor, n: int) -> Tensor:
    """Logical shift to the right of signed integers."""
    return (x >> n) & ((1 << (64 - n)) - 1)
