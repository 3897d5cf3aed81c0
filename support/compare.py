"""Result files without a model: two compared, some graded anew.

compare       mean difference with its interval, by paired bootstrap over questions
regrade_all   today's graders, another task or a judge, on stored samples
"""

import statistics
from collections import Counter
from pathlib import Path

from support.judge import Judge, check_judge, judge_rows
from support.questions import Question
from support.results import read_result, write_result
from support.scores import bootstrap, numbers_of, row_of

RESAMPLES = 10_000


def compare(first: str, second: str) -> str:
    """Mean of second - first over the questions that two result files share, per measure.

    With its 95% interval by paired bootstrap. Questions are the same if id and text are, or the
    text alone where the ids of a file are numbers, which may count rows. A repeated one is paired
    with the repetition of the same rank. What else differs between the files is said.
    """
    results = [read_result(path) for path in (first, second)]
    numbered = any(all(row["id"].isdigit() for row in result["rows"]) for result in results)
    a, b = (_by_question(result["rows"], by_text=numbered) for result in results)
    pairs = [(a[key], b[key]) for key in a if key in b]
    if not pairs:
        raise ValueError(f"{first} and {second} share no question")
    alone = f"{len(a) - len(pairs)} and {len(b) - len(pairs)} in one only"
    head = f"{second} - {first}: {len(pairs)} questions in both files, {alone}"
    gains = [_gain_line(name, pairs) for name in ("correct", "f1", "judged", "reward")]
    return "\n".join([head, *_unlike(*results, pairs), *filter(None, gains)])


def _gain_line(measure: str, pairs: list[tuple[dict, dict]]) -> str:
    """The mean gain in a measure with its interval; "" if no question has it in both files."""
    values = [(_values(x, measure), _values(y, measure)) for x, y in pairs]
    gains = [
        statistics.mean(after) - statistics.mean(before)
        for before, after in values
        if before and after
    ]
    if not gains:
        return ""
    means = bootstrap(gains, RESAMPLES)
    low, high = means[RESAMPLES // 40 - 1], means[RESAMPLES - RESAMPLES // 40]
    worse = sum(mean <= 0 for mean in means) / RESAMPLES
    gain = f"{measure:8s} {statistics.mean(gains):+.4f}"
    interval = f"95% interval {low:+.4f} .. {high:+.4f}"
    return f"{gain}  {interval}  resamples at or below 0: {worse:.4f}"


def _values(row: dict, measure: str) -> list[float]:
    """A measure of a question's samples, of those that have it."""
    return [float(s[measure]) for s in row["samples"] if s.get(measure) is not None]


def _by_question(rows: list[dict], by_text: bool) -> dict:
    """Rows by text, by id unless by_text, and by how many with the same came before."""
    seen, found = Counter(), {}
    for row in rows:
        key = "" if by_text else row["id"], row["question"]
        found[key, seen[key]] = row
        seen[key] += 1
    return found


def _unlike(a: dict, b: dict, pairs: list[tuple[dict, dict]]) -> list[str]:
    """A line for each way in which two results were not made or graded alike."""
    counts = {
        "tasks": sum(_task(a, x) != _task(b, y) for x, y in pairs),
        "answers": sum(x["answers"] != y["answers"] for x, y in pairs),
    }
    samples = [max(len(row["samples"]) for row in result["rows"]) for result in (a, b)]
    told = {"judge": (a.get("judge"), b.get("judge")), "samples a question": samples}
    lines = [f"other {name} in {n} of these questions" for name, n in counts.items() if n]
    return lines + [f"other {name}: {x}, then {y}" for name, (x, y) in told.items() if x != y]


def _task(result: dict, row: dict) -> str:
    """How a row was graded."""
    graded_as = result.get("graded_as", "auto")
    return row["task"] if graded_as == "auto" else graded_as


def regrade_all(
    files: list[str], judge: str = "", judge_model: str = "", task: str = ""
) -> dict[str, dict]:
    """Grade result files anew, without the model: name -> result.

    Args:   judge, judge_model: give new verdicts. task: "math" or "qa" for all rows; "auto": each
            row's own; "": as the file is graded now.
    Raises: ValueError, before the first is written, if one is no result file.
    """
    check_judge(judge, judge_model)
    if task not in ("", "auto", "math", "qa"):
        raise ValueError(f"--task must be one of auto, math, qa, got {task!r}")
    for file in files:
        read_result(file)
    cache = Path(files[0]).parent / "judge.jsonl"
    asked = Judge(judge, judge_model, cache) if judge else None
    return {Path(f).stem.removeprefix("eval_"): regrade(f, asked, task) for f in files}


def regrade(path: str, judge: Judge | None, task: str) -> dict:
    """Grade the samples of a result file anew and write it back; see regrade_all.

    Each row keeps its own task; the file's "graded_as" says how it was graded.
    """
    result = read_result(path)
    task = result["graded_as"] = task or result.get("graded_as", "auto")
    for i, row in enumerate(result["rows"]):
        chat = [{"role": "user", "content": row["question"]}]
        graded_as = row["task"] if task == "auto" else task
        q = Question(row["id"], chat, row["answers"], graded_as, {"level": row["level"]})
        result["rows"][i] = row_of(q, row["samples"]) | {"task": row["task"]}
    if judge:
        judge_rows(judge, result["rows"])
        result |= {"judge": judge.model}
    if any("reward_fn" in s for row in result["rows"] for s in row["samples"]):
        print(f"{path}: the rewards of --reward_fn stay: a stored sample is no whole rollout")
    result["numbers"] = numbers_of(result["rows"])
    write_result(Path(path), result)
    return result
