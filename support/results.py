"""The result file of an evaluation, and what an interrupted one leaves.

    open_job       the evaluation of one file: what was done before, or nothing
    Job.keep       a line per question goes to NAME.partial.jsonl, so that a kill costs one batch
    write_result   NAME.json, whole or not there
    read_result    a result file, checked

Settings, weights and questions may not change in an evaluation that goes on.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from support.files import lock_file, write_aside
from support.questions import Question, parsed
from support.runfiles import versions
from support.scores import numbers_of

OTHER_OUT = "give another --out"


@dataclass
class Job:
    """The evaluation of one file.

    done: its result so far, with "rows" of the first questions. partial: the locked file that new
    rows go to, None if the result file is there. last: when the latest row was written, seconds of
    time.perf_counter.
    """

    path: str
    out: Path
    questions: list[Question]
    settings: dict
    done: dict
    partial: FileIO | None = None
    last: float = 0.0

    @property
    def left(self) -> int:
        """Questions that are still to be sampled."""
        return len(self.questions) - len(self.done["rows"])

    def keep(self, row: dict) -> None:
        """Add a row, and write it with the seconds since the one before: all parts add up."""
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        self.done["rows"].append(row)
        self.done["seconds"] += seconds
        self.partial.write(json.dumps({"row": row, "seconds": seconds}).encode() + b"\n")

    def result(self, samples: int, seed: int) -> dict:
        """What the result file says once all questions are sampled.

        "seconds": of sampling and grading, over all parts, less what a kill lost of a batch.
        "versions": of the first part, then of the last.
        """
        before, now = self.done["versions"], versions()
        changed = {name: f"{before.get(name)}, then {now[name]}" for name in now}
        both = {name: now[name] if before.get(name) == now[name] else changed[name] for name in now}
        return {
            "numbers": numbers_of(self.done["rows"]),
            "questions": len(self.questions),
            "samples": samples,
            "seed": seed,
            "rows": self.done["rows"],
            "settings": self.settings,
            "data": self.path,
            "versions": both,
            "seconds": self.done["seconds"],
        }


def open_job(
    path: str, out: Path, questions: list[Question], settings: dict, opened: contextlib.ExitStack
) -> Job:
    """A file's evaluation, with what an earlier one left.

    opened: keeps the lock until it is closed.
    Raises: ValueError if settings or questions were others, or another process is at it.
    """
    if out.exists():
        job = Job(path, out, questions, settings, read_result(str(out)))
        refuse_other(out, job.done.get("settings"), settings)
    else:
        partial = opened.enter_context(locked_file(out.with_suffix(".partial.jsonl")))
        job = Job(path, out, questions, settings, resume(partial, settings), partial)
    for number, (row, q) in enumerate(zip(job.done["rows"], questions), 1):
        if (row.get("id"), row.get("question")) != (q.id, q.messages[-1]["content"]):
            before = f"question {number} is {row.get('id')!r} in what was done before"
            raise ValueError(f"{out}: {before}, {q.id!r} in {path}: give another --out")
    if job.left < 0:
        more = f"more questions were done before than {path} has"
        raise ValueError(f"{out}: {more}: {OTHER_OUT}")
    if job.done["rows"]:
        print(f"{out}: {len(job.done['rows'])} of {len(questions)} questions were done before")
    return job


@contextlib.contextmanager
def locked_file(path: Path) -> Iterator[FileIO]:
    """A file to read and append to, for this process alone.

    Left with no question in it, only its first line, it is deleted.
    Raises: ValueError if another process holds it.
    """
    lock = Path(f"{path}.lock")
    with lock_file(lock, f"another evaluation is writing to {path}: give another --out"):
        try:
            with open(path, "a+b", buffering=0) as file:
                yield file
        finally:
            if path.exists() and path.read_bytes().count(b"\n") <= 1:
                path.unlink()
            # While it is locked: the next process makes a new one.
            lock.unlink(missing_ok=True)


def resume(file: FileIO, settings: dict) -> dict:
    """What the file of an interrupted evaluation holds: {"rows", "seconds", "versions"}.

    Its first line has settings and versions, each other one a question. A line that a kill cut
    short is cut off with all after it; a file without a question begins anew.
    Raises: ValueError naming a setting that was another.
    """
    file.seek(0)
    size, header, lines = 0, None, []
    for line in file.read().split(b"\n")[:-1]:
        row = parsed(line, "row", "seconds") if header else parsed(line, "settings", "versions")
        if row is None:
            break
        size += len(line) + 1
        if header:
            lines.append(row)
        else:
            header = row
    if lines:
        refuse_other(file.name, header["settings"], settings)
        file.truncate(size)
    else:
        header = {"settings": settings, "versions": versions()}
        file.truncate(0)
        file.write(json.dumps(header).encode() + b"\n")
    return {
        "rows": [line["row"] for line in lines],
        "seconds": sum(line["seconds"] for line in lines),
        "versions": header["versions"],
    }


def date_of(out: Path) -> str:
    """The date that an evaluation's file, finished or partial, has saved; "" if it has none."""
    path, partial = out, out.with_suffix(".partial.jsonl")
    if not path.is_file():
        path = partial
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        # a partial file begins with a line of its settings
        row = parsed(file.readline() if path == partial else file.read(), "settings")
    return str((row or {"settings": {}})["settings"].get("date", ""))


def refuse_other(path: Path | str, before: dict | None, now: dict) -> None:
    """ValueError if a result file was made with other settings."""
    before, now = before or {}, json.loads(json.dumps(now))
    # an earlier version saved none of these
    before = {"date": now.get("date"), "repetition_penalty": 1.0, "max_tool_calls": ""} | before
    for name, value in now.items():
        if before.get(name) != value:
            other = f"{name} = {before.get(name)!r}, now {value!r}"
            raise ValueError(f"{path} was made with {other}: {OTHER_OUT}")


def weights_of(model: str) -> str:
    """What tells the weights in a folder from others, without reading them all.

    A hash of configuration, tokenizer and 16 pieces of each weight file. Times do not count: a
    copy has the same. "" for a name on the Hub, whose revision is not looked up.
    """
    kinds = ("config.json", "tokenizer.json", "*.safetensors", "*.bin")
    files = [file for kind in kinds for file in sorted(Path(model).glob(kind))]
    digest, piece = hashlib.sha256(), 1 << 16
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with open(file, "rb") as data:
            for k in range(16):
                data.seek(max(0, size - piece) * k // 15)
                digest.update(data.read(piece))
    return digest.hexdigest() if files else ""


ROW = {"id": str, "question": str, "answers": list, "task": str, "level": object, "samples": list}
SAMPLE = {
    "pieces": list,
    "finish": str,
    "calls": list,
    "tokens": int,
    "length": int,
    "answer": str | None,
    "reward": float | int | None,
}
# of a question that has answers
GRADES = {"correct": bool, "f1": float | int}
# entries of each piece and call
PARTS = {"pieces": 2, "calls": 4}


def read_result(path: str) -> dict:
    """A result file of eval.py. ValueError naming the file and what is wrong with it."""
    try:
        result = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as problem:
        raise ValueError(f"{path} is not a result file of eval.py: {problem}") from None
    rows = result.get("rows") if isinstance(result, dict) else None
    lacking = "" if rows and isinstance(rows, list) else "rows"
    for number, row in enumerate([] if lacking else rows, 1):
        key = _lacks(row, ROW) or _samples_lack(row["samples"], bool(row["answers"]))
        if key:
            lacking = f"row {number}: {key}"
            break
    if lacking:
        wrong = f"missing or of another form: {lacking}"
        raise ValueError(f"{path} is not a result file of eval.py: {wrong}")
    return result


def _lacks(thing, kinds: dict) -> str:
    """The first key that an object lacks or has of another kind, "" if there is none."""
    for key, kind in kinds.items():
        if not isinstance(thing, dict) or key not in thing or not isinstance(thing[key], kind):
            return key
        parts = thing[key] if key in PARTS else []
        if not all(isinstance(part, list) and len(part) == PARTS[key] for part in parts):
            return key
    return ""


def _samples_lack(samples: list, answered: bool) -> str:
    """The first key that a sample of a row lacks; "samples" if there are no samples; else ""."""
    if not samples:
        return "samples"
    kinds = SAMPLE | GRADES if answered else SAMPLE
    return next(filter(None, (_lacks(sample, kinds) for sample in samples)), "")


def write_result(path: Path, result: dict) -> None:
    """Write aside, then rename: a result file is whole or not there."""
    write_aside(path, json.dumps(result))
