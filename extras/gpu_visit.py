"""A visit to a GPU that is there for minutes: two calls, each of which ends in time.

    python -m extras.gpu_visit truth     is it right there? at most 300 s
    python -m extras.gpu_visit figures   how fast is it there? at most 400 s

A part is a check of `python -m extras.bench gpu` in a process of its own, under a limit of its own:
one that hangs or dies takes nothing from the others. Into --out (default runs/gpu_visit) go three
files: all output (.log), the figures (.json) and a table (.md), written anew after each part. Ends
with an error if a part failed. Unknown flags go to every part: --light is a dry run in small.

Nothing is downloaded: worlds are generated and weights are random. SmolLM2 comes from a package;
without it that part is left out.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parents[1]
# seconds between a polite end and a hard one
GRACE = 5


@dataclass(frozen=True)
class Part:
    """Checks of the bench that share a process, and the seconds that they may take."""

    checks: tuple[str, ...]
    limit: int

    @property
    def name(self) -> str:
        return ", ".join(self.checks)


# seconds of each call, parts and what ends them
DEADLINES = {"truth": 300, "figures": 400}
CALLS = {
    "truth": (
        Part(("kernels",), 60),
        Part(("numbers_agree", "equals_generate"), 90),
        Part(("goes_on",), 70),
        Part(("step_bfloat16",), 75),
    ),
    "figures": (
        Part(("anatomy",), 50),
        Part(("decode_speed",), 130),
        Part(("step_float32",), 60),
        Part(("laptop",), 100),
        Part(("smollm2",), 50),
    ),
}


def main(argv: list[str] | None = None) -> None:
    """Read the flags and make the visit."""
    parser = argparse.ArgumentParser(prog="python -m extras.gpu_visit", description=__doc__)
    parser.add_argument("call", choices=CALLS)
    parser.add_argument("--out", type=Path, default=HERE / "runs" / "gpu_visit")
    args, flags = parser.parse_known_args(argv)
    # an end from outside ends the part at work, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    failed = visit(args.call, CALLS[args.call], args.out, flags)
    if failed:
        sys.exit(f"gpu_visit: failed: {'; '.join(failed)}")


def visit(call: str, parts: tuple[Part, ...], out: Path, flags: list[str]) -> list[str]:
    """Run the parts one after another. Returns: the names of those that failed."""
    out.mkdir(parents=True, exist_ok=True)
    rows, figures, deadline = [], {}, time.perf_counter() + DEADLINES[call]
    with open(out / f"{call}.log", "w") as log, tempfile.TemporaryDirectory() as work:
        for part in parts:
            file = Path(work) / "part.json"
            file.unlink(missing_ok=True)
            command = [sys.executable, "-m", "extras.bench", "gpu", "--only", *part.checks]
            command += ["--out", work, "--json", str(file), *flags]
            started = time.perf_counter()
            left = deadline - started - 2 * GRACE
            end = run_within(command, min(part.limit, left), log) if left > 0 else "no time left"
            seconds = time.perf_counter() - started
            # what a part had measured before it was ended counts
            found = json.loads(file.read_text()) if file.exists() else {}
            figures |= found
            rows.append((part, end, seconds, found))
            print(f"{part.name}: {end}, {seconds:.0f} s of {part.limit}", flush=True)
            (out / f"{call}.json").write_text(json.dumps(figures, indent=1))
            (out / f"{call}.md").write_text(summary(call, rows))
    print(f"\n{summary(call, rows)}\nall output: {out / f'{call}.log'}", flush=True)
    return [part.name for part, end, *_ in rows if end != "ok"]


def run_within(command: list[str], limit: float, log) -> str:
    """How a command ended: "ok", "failed" or "ended at its limit". Its output goes to the log.

    It is ended with all its processes.
    """
    log.write(f"\n$ {' '.join(command)}\n")
    log.flush()
    where = dict(cwd=HERE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    process = subprocess.Popen(command, env=os.environ | {"PYTHONUNBUFFERED": "1"}, **where)
    try:
        return "failed" if process.wait(limit) else "ok"
    except subprocess.TimeoutExpired:
        return "ended at its limit"
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, how)
                process.wait(GRACE)
            except (ProcessLookupError, PermissionError):
                break
            except subprocess.TimeoutExpired:
                continue


def summary(call: str, rows: list[tuple]) -> str:
    """Markdown: a line for each part, then every figure with its range."""
    lines = [f"# {call}", "", "| part | end | seconds | limit |", "|---|---|---|---|"]
    for part, end, seconds, _ in rows:
        lines.append(f"| {part.name} | {end} | {seconds:.0f} | {part.limit} |")
    lines += ["", "| figure | | lowest | highest | runs |", "|---|---|---|---|---|"]
    for *_, found in rows:
        for name, f in found.items():
            value = f.get("ratio", f.get("value"))
            cells = [f"{value:.4g} {f['unit']}", f"{f['low']:.4g}", f"{f['high']:.4g}", f["n"]]
            lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
