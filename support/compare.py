"""Two result files compared, one graded anew."""

import statistics
from collections import Counter
from pathlib import Path

from support.judge import Judge, judge_rows
from support.questions import Question
from support.results import read_result, write_result
from support.scores import bootstrap, numbers_of, row_of


def regrade(path: str, judge: Judge | None, task: str) -> dict:
    """Grade the samples of a result file anew, without the model, with today's graders, and write it back.

    task: "math" or "qa" for all rows; "auto": each row's own, which it keeps; "": as the file is graded now. The file's "graded_as" says which.
    judge: gives new verdicts.
    """
    result = read_result(path)
    task = result["graded_as"] = task or result.get("graded_as", "auto")
    for i, row in enumerate(result["rows"]):
        chat = [{"role": "user", "content": row["question"]}]
        q = Question(
            row["id"],
            chat,
            row["answers"],
            row["task"] if task == "auto" else task,
            {"level": row["level"]},
        )
        result["rows"][i] = row_of(q, row["samples"]) | {"task": row["task"]}
    if judge:
        judge_rows(judge, result["rows"])
        result |= {"judge": judge.model}
    result["numbers"] = numbers_of(result["rows"])
    write_result(Path(path), result)
    return result


def compare(first: str, second: str) -> str:
    """Mean difference second - first over the questions that two result files share, with its 95% interval by paired bootstrap, per measure.

    Questions are the same if id and text are, or the text alone where the ids of a file are numbers, which may count rows; a repeated one is paired
    with the repetition of the same rank. What else differs between the files is said.
    """
    results = [read_result(path) for path in (first, second)]
    numbered = any(all(row["id"].isdigit() for row in result["rows"]) for result in results)
    a, b = (by_question(result["rows"], numbered) for result in results)
    shared, lines = [key for key in a if key in b], []
    if not shared:
        raise ValueError(f"{first} and {second} share no question")
    for name in ("correct", "f1", "judged"):
        of = lambda row: [float(s[name]) for s in row["samples"] if s.get(name) is not None]
        gains = [
            statistics.mean(of(b[key])) - statistics.mean(of(a[key]))
            for key in shared
            if of(a[key]) and of(b[key])
        ]
        if gains:
            means = bootstrap(gains, 10_000)
            low, high, worse = means[249], means[9750], sum(m <= 0 for m in means) / len(means)
            lines.append(
                f"{name:8s} {statistics.mean(gains):+.4f}  95% interval {low:+.4f} .. {high:+.4f}  resamples at or below 0: {worse:.4f}"
            )
    head = f"{second} - {first}: {len(shared)} questions in both files, {len(a) - len(shared)} and {len(b) - len(shared)} in one only"
    return "\n".join([head, *unlike(*results, [(a[key], b[key]) for key in shared]), *lines])


def by_question(rows: list[dict], by_text: bool) -> dict:
    """Rows by text, and id unless by_text, and how many with the same came before."""
    seen, found = Counter(), {}
    for row in rows:
        key = "" if by_text else row["id"], row["question"]
        found[key, seen[key]] = row
        seen[key] += 1
    return found


def unlike(a: dict, b: dict, pairs: list[tuple[dict, dict]]) -> list[str]:
    """A line for each way in which two results were not made or graded alike."""
    task = lambda result, row: (
        row["task"] if result.get("graded_as", "auto") == "auto" else result["graded_as"]
    )
    counts = {
        "tasks": sum(task(a, x) != task(b, y) for x, y in pairs),
        "answers": sum(x["answers"] != y["answers"] for x, y in pairs),
    }
    samples = [max(len(row["samples"]) for row in result["rows"]) for result in (a, b)]
    told = {"judge": (a.get("judge"), b.get("judge")), "samples a question": samples}
    return [f"other {name} in {n} of these questions" for name, n in counts.items() if n] + [
        f"other {name}: {x}, then {y}" for name, (x, y) in told.items() if x != y
    ]
