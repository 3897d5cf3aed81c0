"""What a tool is, and what a call returns. Whoever writes a tool needs nothing else."""

from dataclasses import dataclass
from typing import Protocol

from support.sandbox import STATUSES

__all__ = ["STATUSES", "Tool", "ToolResult"]


@dataclass(frozen=True)
class ToolResult:
    """What a call returned.

    status: one of STATUSES; "error" is the model's mistake, "infra" is ours. text: for the model.
    seconds: wall clock.
    """

    status: str
    text: str
    seconds: float


class Tool(Protocol):
    """What a tool is: any object with these. run() is called from several threads.

    One with state has `run_for(rollout, call)` besides (support/own_tools.py).
    """

    # the last failure of the "infra" kind in full, for a log
    problem: str

    def run(self, argument: str) -> ToolResult:
        """Answer one call. Never raises for what the argument is."""

    def probe(self) -> str:
        """Make one call: a line that says what came back and how fast. ValueError if none."""

    def close(self) -> None:
        """Free what the tool holds."""
