"""support/heartbeat.py: requests to stop (who keeps others waiting: test_ranks.py)."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.heartbeat import Stop, signals_kept


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
        stop.since -= 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def handlers():
    """Those of before, afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_handlers_of_before_come_back(handlers):
    """After a run that was called, and one that failed; in a thread there are none to keep."""
    numbers = signal.SIGTERM, signal.SIGINT
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(ValueError), signals_kept():
        stop = Stop()
        assert [signal.getsignal(number) for number in numbers] == [stop.ask, stop.ask]
        raise ValueError
    assert [signal.getsignal(number) for number in numbers] == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: signals_kept().__enter__()).result() is None


@pytest.mark.parametrize("number, again", [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_request_is_acknowledged_at_once_and_once(handlers, capfd, number, again):
    stop = Stop()
    stop.then = "step 12 is finished and saved"
    for _ in range(3):
        os.kill(os.getpid(), number)
    said = "\nasked to stop: step 12 is finished and saved, then the run ends\n"
    assert capfd.readouterr().err == said + "Ctrl-C again ends it now, unsaved\n" * again


def test_one_process_speaks_for_all(handlers, capfd):
    stop = Stop(speaks=False)
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.asked and not capfd.readouterr().err


def test_torchrun_passes_on_what_the_terminal_has_sent(handlers, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    stop = Stop()
    os.kill(os.getpid(), signal.SIGINT)
    stop.since -= 1
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.asked
