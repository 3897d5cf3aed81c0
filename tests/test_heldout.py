"""support/heldout.py: when a run is evaluated; what that writes is tests/test_train.py."""

import pytest

from config import Config
from support.heldout import due


@pytest.mark.parametrize(
    "every, steps", [(0, [0, 10]), (3, [0, 3, 6, 9, 10]), (5, [0, 5, 10]), (20, [0, 10])]
)
def test_before_the_first_step_after_the_last_and_every_so_often(every, steps):
    run = Config(steps=10, eval_every=every)
    assert [step for step in range(11) if due(run, step)] == steps
