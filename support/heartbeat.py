"""What happens beside the steps of a run: requests to stop, and who keeps the others waiting."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from support.files import write_aside


class Stop:
    """SIGTERM and SIGINT ask for a stop at the next boundary; what will happen is said at once.

    A cluster and torchrun may both send SIGTERM: however often it comes, it only asks. A second
    SIGINT, not at the same moment as the first, ends the process at once.
    speaks: says this process so? then: what happens before the run ends.
    """

    def __init__(self, speaks: bool = True):
        self.asked, self.since, self.speaks = False, 0.0, speaks
        self.then = "what is under way is finished and saved"
        # torchrun passes on what the terminal has sent already
        self.moment = 2.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.3
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self.ask)

    def ask(self, number, frame) -> None:
        if number == signal.SIGINT and self.asked and time.monotonic() - self.since > self.moment:
            raise KeyboardInterrupt
        if self.speaks and not self.asked:
            again = "Ctrl-C again ends it now, unsaved\n" * (number == signal.SIGINT)
            # a handler may not print: it may have come amid another print
            os.write(2, f"\nasked to stop: {self.then}, then the run ends\n{again}".encode())
        self.asked, self.since = True, self.since or time.monotonic()


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Afterwards SIGTERM and SIGINT do what they did before, in a notebook for instance."""
    here = threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)} if here else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Heartbeat:
    """Each rank notes its phase in a file; rank 0 names the slowest when it has waited long.

    folder: heartbeat_N files go there. every: seconds of waiting after which a line is printed.
    """

    def __init__(self, folder: Path, ranks, every: float = 120.0):
        self.files = [folder / f"heartbeat_{rank}" for rank in range(ranks.world)]
        self.ranks, self.every, self.ended = ranks, every, threading.Event()
        self("start")
        if ranks.rank == 0 and ranks.world > 1:
            threading.Thread(target=self._watch, daemon=True).start()

    def __call__(self, phase: str) -> None:
        # a full disk is the checkpoint's business
        with contextlib.suppress(OSError):
            write_aside(self.files[self.ranks.rank], f"{time.time()} {phase}")

    def _watch(self) -> None:
        while not self.ended.wait(self.every):
            line = self.slowest()
            if line:
                tqdm.write(line)

    def slowest(self) -> str:
        """Names the rank whose phase has lasted longest while others wait for it; "" if none do."""
        now, beats = time.time(), []
        for rank, file in enumerate(self.files):
            if file.exists():
                since, _, phase = file.read_text().partition(" ")
                beats.append((float(since), phase, rank))
        waiting = [beat for beat in beats if beat[1].endswith(("wait", "update"))]
        busy = [beat for beat in beats if beat not in waiting]
        if not busy or not any(now - since >= self.every for since, _, _ in waiting):
            return ""
        since, phase, rank = min(busy)
        return f"waiting for rank {rank}: in {phase} for {now - since:.0f} s"
