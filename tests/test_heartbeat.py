"""support/heartbeat.py: requests to stop (who keeps others waiting: test_ranks.py)."""

import os
import signal

import pytest

from support.heartbeat import Stop


def test_signals():
    """SIGTERM only asks, however often it comes. So does SIGINT twice in a moment.

    A terminal and torchrun send it so; a second one later is obeyed at once.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for number in before:
            stop = Stop()
            assert not stop.asked
            for _ in range(3):
                os.kill(os.getpid(), number)
            assert stop.asked
        stop.since -= 3
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
