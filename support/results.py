"""Result files of evaluations, finished and interrupted."""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from appo import versions
from support.questions import Question, parsed


@dataclass
class Job:
    """One file of an evaluation. done: its result so far, with "rows" of the first questions; partial: the locked file that new rows go to, None if
    the result file is there; last: when the latest row was written, seconds of time.perf_counter."""

    path: str
    out: Path
    questions: list[Question]
    settings: dict
    done: dict
    partial: object = None
    last: float = 0.0

    @property
    def left(self) -> int:
        return len(self.questions) - len(self.done["rows"])

    def keep(self, row: dict) -> None:
        """Write a row with the seconds since the one before, so that those of all parts of an interrupted evaluation add up."""
        seconds, self.last = time.perf_counter() - self.last, time.perf_counter()
        self.done["seconds"] += seconds
        self.partial.write(json.dumps({"row": row, "seconds": seconds}).encode() + b"\n")


def open_job(
    path: str, out: Path, questions: list[Question], settings: dict, opened: contextlib.ExitStack
) -> Job:
    """A file's evaluation, with what an earlier one left. ValueError if its settings or questions were others, or another process is at it."""
    if not out.exists():
        partial = opened.enter_context(lock_file(out.with_suffix(".partial.jsonl")))
        job = Job(path, out, questions, settings, resume(partial, settings), partial)
        # what fails before its first question leaves nothing
        opened.callback(forget_if_empty, Path(partial.name))
    else:
        job = Job(path, out, questions, settings, read_result(str(out)))
        refuse_other(out, job.done.get("settings"), settings)
    for number, (row, q) in enumerate(zip(job.done["rows"], questions), 1):
        if (row.get("id"), row.get("question")) != (q.id, q.messages[-1]["content"]):
            raise ValueError(
                f"{out}: question {number} is {row.get('id')!r} in what was done before, {q.id!r} in {path}: give another --out"
            )
    if job.left < 0:
        raise ValueError(
            f"{out}: more questions were done before than {path} has: give another --out or delete it"
        )
    if job.done["rows"]:
        print(f"{out}: {len(job.done['rows'])} of {len(questions)} questions were done before")
    return job


def forget_if_empty(path: Path) -> None:
    """Delete an interrupted evaluation's file if it holds no question, only its first line."""
    if path.exists() and path.read_bytes().count(b"\n") <= 1:
        path.unlink()


def lock_file(path: Path):
    """A file to read and append to, locked as long as it is open. Raises ValueError if another process holds it."""
    file = open(path, "a+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(f"another evaluation is writing to {path}: give another --out") from None
    return file


def resume(file, settings: dict) -> dict:
    """What the file of an interrupted evaluation holds: {"rows", "seconds", "versions"}.

    Its first line has settings and versions, each other one a question. A line that a kill cut short is cut off with all after it; a file without a
    question begins anew. Raises ValueError naming a setting that was another.
    """
    file.seek(0)
    size, header, lines = 0, None, []
    for line in file.read().split(b"\n")[:-1]:
        row = parsed(line, "row", "seconds") if header else parsed(line, "settings", "versions")
        if row is None:
            break
        size, header, lines = size + len(line) + 1, header or row, lines + [row] if header else []
    if lines:
        refuse_other(file.name, header["settings"], settings)
        file.truncate(size)
    else:
        header = {"settings": settings, "versions": versions()}
        file.truncate(0)
        file.write(json.dumps(header).encode() + b"\n")
    return {
        "rows": [x["row"] for x in lines],
        "seconds": sum(x["seconds"] for x in lines),
        "versions": header["versions"],
    }


def refuse_other(path: Path | str, before: dict | None, now: dict) -> None:
    """ValueError if a result file was made with other settings."""
    before, now = before or {}, json.loads(json.dumps(now))
    for name in now:
        if before.get(name) != now[name]:
            raise ValueError(
                f"{path} was made with {name} = {before.get(name)!r}, now {now[name]!r}: give another --out or delete it"
            )


def weights_of(model: str) -> str:
    """What tells the weights in a folder from others, without reading them all: a hash of configuration, tokenizer and 16 pieces of each weight file.

    Times do not count: a copy has the same. "" for a name on the Hub, whose revision is not looked up.
    """
    kinds = ("config.json", "tokenizer.json", "*.safetensors", "*.bin")
    digest, files = (
        hashlib.sha256(),
        [file for kind in kinds for file in sorted(Path(model).glob(kind))],
    )
    for file in files:
        size, piece = file.stat().st_size, 1 << 16
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
    "correct": bool,
    "f1": float | int,
    "reward": float | int,
}


# entries of each piece and call
PARTS = {"pieces": 2, "calls": 4}


def read_result(path: str) -> dict:
    """A result file of this program. ValueError naming the file and what is wrong with it if it is none."""
    try:
        result = json.loads(Path(path).read_text("utf-8"))
        rows = (
            result["rows"]
            if isinstance(result, dict) and isinstance(result.get("rows"), list)
            else []
        )
        lacking = [
            f"row {n}: {key}"
            for n, row in enumerate(rows, 1)
            if (key := lacks(row, ROW) or lacks_samples(row["samples"]))
        ]
    except (OSError, ValueError) as problem:
        raise ValueError(f"{path} is not a result file of eval.py: {problem}") from None
    if not rows or lacking:
        raise ValueError(
            f"{path} is not a result file of eval.py: missing or of another form: {lacking[0] if rows else 'rows'}"
        )
    return result


def lacks(thing, kinds: dict) -> str:
    """The first key that an object lacks or has of another kind, "" if there is none."""
    for key, kind in kinds.items():
        if not isinstance(thing, dict) or key not in thing or not isinstance(thing[key], kind):
            return key
        if key in PARTS and not all(
            isinstance(part, list) and len(part) == PARTS[key] for part in thing[key]
        ):
            return key
    return ""


def lacks_samples(samples: list) -> str:
    """The first key that a sample of a row lacks, "samples" if there are none, "" if all is there."""
    return next(
        filter(None, (lacks(sample, SAMPLE) for sample in samples)), "" if samples else "samples"
    )


def write_result(path: Path, result: dict) -> None:
    """Write aside, then rename: a result file is whole or not there."""
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_text(json.dumps(result), "utf-8")
    os.replace(aside, path)
