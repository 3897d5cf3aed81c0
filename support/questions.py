"""Files of questions in the formats of the field.

    1. read_rows        rows of a .jsonl, .json or .parquet file
    2. load_questions   rows as Question: the chat, the answers, the task
    3. overlap          which questions two files share

A row is one of:

    verl, ARPO          {"prompt": [messages], "reward_model": {"ground_truth": ...}}
    ARPO's evaluation   "question", "Question" or "problem" with "answer"
    Search-R1           a ground_truth {"target": [...]}
    TRL                 "prompt" as messages or text, with "answer" or "ground_truth"
    verifiers           "question", with "answer" there or in "info", an object or its JSON
    GAIA, MATH          "Final answer"; "solution", whose last \\boxed{} is the answer
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from protocol import system_prompt
from support.benchmarks import benchmark_of
from support.cells import chat_in, listed, messages_in, value_of
from support.latex import last_boxed
from support.messages import message_of, refuse_surrogates

ASKED = ("prompt", "question", "Question", "problem")
ANSWERS = ("answer", "answers", "ground_truth", "golden_answers", "Final answer")
NO_ANSWER = (
    'has no answer: one of "answer", "answers", "ground_truth", "reward_model.ground_truth", not '
    "empty; with --reward_fn none is needed"
)
# bad rows that are named one by one
SHOWN = 50


@dataclass(frozen=True)
class Question:
    """One question: the chat up to the assistant, and all answers that count as right.

    task: "math" or "qa", how it is graded. meta: "level", "row" in the file, "repaired". row: every
    column of the file, for a reward of one's own.
    """

    id: str
    messages: list[dict]
    answers: list[str]
    task: str
    meta: dict = field(default_factory=dict)
    row: dict = field(default_factory=dict, repr=False)


def load_questions(
    path: str,
    skip_bad: bool = False,
    task: str = "auto",
    dedupe: bool = False,
    system: str = "",
    answered: bool = True,
) -> list[Question]:
    """Read the questions of a .jsonl, .json or .parquet file; the formats stand above.

    Args:   skip_bad: leave out and print rows without question or answer, instead of raising.
            task: "math" or "qa" for all; "auto": the row's "task" or "ability", else guess_task.
            dedupe: leave out a question asked before in the file, and print how many.
            system: what a question that is no chat is told; "": protocol.system_prompt().
            answered: refuse a row without an answer; a reward of one's own may need none.
    Raises: FileNotFoundError; ValueError with a line per bad row (file, row, what is missing;
            50 at most), or for a file that cannot be read.
    """
    if not Path(path).is_file():
        known = benchmark_of(path)
        hint = f"; where to get it: {known.source}" if known else ""
        raise FileNotFoundError(f"data file {path} does not exist{hint}")
    questions, bad = [], []
    for number, row in read_rows(Path(path)):
        try:
            questions.append(_question(row, number, task, system, answered))
        except ValueError as problem:
            bad.append(f"{path}, row {number} {problem}")
    refuse_or_leave_out(bad, skip_bad, path)
    if not questions:
        raise ValueError(f"{path} holds no question")
    return _without_repeats(path, questions) if dedupe else questions


def refuse_or_leave_out(bad: list[str], skip_bad: bool, path: str) -> None:
    """ValueError with a line per bad row of a file; with skip_bad they are printed instead."""
    shown = bad[:SHOWN] + [f"{path}: ... and {len(bad) - SHOWN} rows more"] * (len(bad) > SHOWN)
    if bad and not skip_bad:
        raise ValueError("\n".join([*shown, "--skip_bad leaves such rows out"]))
    for problem in shown:
        print(f"left out: {problem}")


def _without_repeats(path: str, questions: list[Question]) -> list[Question]:
    first = {}
    for q in questions:
        # 2+3 and 2-3 are two questions.
        first.setdefault(question_key(q, keep="-+*/^=<>") or q.id, q)
    repeated = len(questions) - len(first)
    if repeated:
        print(f"left out: {repeated} questions of {path} that repeat an earlier one")
    return list(first.values())


def read_rows(file: Path) -> Iterator[tuple[int, dict | str]]:
    """(row number from 1, object or line of JSON) of a .jsonl, .json or .parquet file.

    A .json file may hold one list. ValueError if the file cannot be read.
    """
    if file.suffix == ".parquet":
        yield from enumerate(_read_parquet(file), 1)
        return
    try:
        text = file.read_text(encoding="utf-8-sig") if file.suffix == ".json" else ""
        if text.lstrip().startswith("["):
            yield from enumerate(json.loads(text), 1)
            return
        with open(file, encoding="utf-8-sig") as lines:
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    except UnicodeDecodeError as problem:
        raise ValueError(f"{file} is not UTF-8 text: {problem}") from None
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"{file} is not a list in JSON: {problem}") from None


def _read_parquet(file: Path) -> list[dict]:
    """The rows of a parquet file."""
    try:
        import pyarrow.parquet
    except ImportError:
        advice = "run `pip install pyarrow`, or convert it to .jsonl"
        raise ValueError(f"{file} is a parquet file: {advice}") from None
    try:
        return pyarrow.parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError) as problem:
        raise ValueError(f"{file} is not a readable parquet file: {problem}") from None


def _question(row: dict | str, number: int, task: str, system: str, answered: bool) -> Question:
    """One row, an object or a line of JSON, as a Question; ValueError says what it lacks."""
    try:
        row = json.loads(row) if isinstance(row, str) else row
        info = parsed(row["info"]) if isinstance(row.get("info"), str) else row.get("info")
        info = info if isinstance(info, dict) else {}
        asked = next((row[key] for key in ASKED if row.get(key)), None)
        messages = _messages(asked, system) if asked else []
        answers = _golds(row, info) if answered else _any_golds(row, info)
    except json.JSONDecodeError as problem:
        raise ValueError(f"is not JSON: {problem}") from None
    except (KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise ValueError(f"has another form than the ones known: {problem!r}") from None
    if not messages:
        raise ValueError('has no question: one of "prompt", "question", "Question", "problem"')
    if answered and not answers:
        raise ValueError(NO_ANSWER)
    # The authors' files hold the backspace that "\b" in "\boxed" stands for.
    mended = [m | {"content": m["content"].replace("\x08oxed", "\\boxed")} for m in messages]
    meta = {"level": _level(row, info), "row": number, "repaired": mended != messages}
    kind = task if task != "auto" else _task_of(row, answers)
    name = str(row.get("id", row.get("task_id", number)))
    refuse_surrogates("question", *(text for m in mended for text in m.values()))
    refuse_surrogates("answer", *answers)
    refuse_surrogates("id", name)
    refuse_surrogates("level", json.dumps(meta["level"], ensure_ascii=False, default=str))
    return Question(name, mended, answers, kind, meta, row)


def _level(row: dict, info: dict):
    """How hard a question is called, None if nothing is said."""
    places = [row.get("level"), row.get("Level"), info.get("difficulty_level")]
    return next((level for level in [*places, row.get("category")] if level is not None), None)


def _task_of(row: dict, answers: list[str]) -> str:
    """The task that a row names, else a guess."""
    named = str(row.get("task") or row.get("ability") or "").lower()
    return named if named in ("math", "qa") else guess_task(answers)


def _golds(row: dict, info: dict) -> list[str]:
    """The answers from the first place that has one; a "solution" (MATH) comes last."""
    truth = (row.get("reward_model") or {}).get("ground_truth")
    for place in [truth, info.get("answer"), *map(row.get, ANSWERS)]:
        # a table's cell may write an empty list
        empty = isinstance(place, str) and value_of(place) == []
        if not empty and (found := _answers(place)):
            return found
    return _answers(last_boxed(str(row.get("solution"))))


def _any_golds(row: dict, info: dict) -> list[str]:
    """The answers, none if they have an unknown form: a reward of one's own reads them itself."""
    try:
        return _golds(row, info)
    except (ValueError, TypeError, AttributeError):
        return []


def _answers(value) -> list[str]:
    """Any of the field's forms of an answer as a list of non-empty strings.

    A string, a number, {"target": ...} or a list of them, or text that writes such a list
    (support/cells.py). "... #### 18" (GSM8K) is "18", 18.0 is "18", true and false are "yes" and
    "no". NaN, the infinities and null are no answer.
    """
    if isinstance(value, dict):
        value = value.get("target")
    if isinstance(value, (list, tuple)):
        if any(isinstance(v, dict) and "target" not in v for v in value):
            raise ValueError(f'has an answer that is an object without "target": {value!a:.60}')
        return [a for v in value for a in _answers(v)]
    whole = _answer_text(value).strip()
    before, _, after = whole.rpartition("####")
    last = after.strip() or before.strip()
    # the whole first: each item of a list may hold ####
    for text in (whole, last):
        items = listed(text)
        if items is not None:
            return _answers(items)
    return [last] if last else []


def _answer_text(value) -> str:
    """A JSON value that is no list and no object as text; "" for what is no answer."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""
        return str(int(value) if value.is_integer() else value)
    return "" if value is None else str(value)


def _messages(asked, system: str) -> list[dict]:
    """A question's text or chat as messages of role and text; TypeError for anything else.

    Text may write a chat, as a list of messages.
    """
    chat = chat_in(asked) if isinstance(asked, str) else messages_in(asked)
    if isinstance(asked, str) and not chat:
        told = {"role": "system", "content": system or system_prompt()}
        return [told, {"role": "user", "content": asked}]
    if not chat:
        raise TypeError("neither text nor messages")
    try:
        messages = [message_of(message) for message in chat]
    except ValueError as problem:
        raise ValueError(f"has a chat that cannot be taken: {problem}") from None
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def parsed(line: str | bytes, *keys: str) -> dict | None:
    """The JSON object in a line; None for anything else, a cut line, or one without the keys."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and all(key in row for key in keys) else None


def guess_task(answers: list[str]) -> str:
    """ "math" if an answer is in LaTeX or all are numbers ("1,000", "3/4", "$5"), else "qa"."""
    if any(re.search(r"\\[A-Za-z]+|\\[%$]|[_^]\{?\w", a) for a in answers):
        return "math"
    number = r"[$£€]?\s*+[-+−]?(?:[\d,]*+(?<=\d)|[\d,]*+\.\d++)(?:\s*+/\s*+\d++)?\s*+%?"
    return "math" if all(re.fullmatch(number, a) for a in answers) else "qa"


def question_key(question: Question, keep: str = "") -> str:
    """What two questions that count as the same share.

    The user's text in lower case, of it letters, digits and _ (Unicode) and what is in `keep`.
    """
    text = "".join(m["content"] for m in question.messages if m["role"] == "user")
    return re.sub(rf"[^\w{re.escape(keep)}]+", "", text.lower())


def overlap(files: list[str]) -> list[tuple[str, list[tuple[int, int]]]]:
    """The questions that each other file shares with the first.

    A pair is (row in the first, row in the other). The same: equal question_key, not empty. A
    question that repeats counts by its first row. Rows without question or answer are left out.
    """
    rows = []
    for file in files:
        questions = reversed(load_questions(file, skip_bad=True))
        rows.append({key: q.meta["row"] for q in questions if (key := question_key(q))})
    first = rows[0]
    return [
        (file, sorted((first[key], there[key]) for key in first.keys() & there.keys()))
        for file, there in zip(files[1:], rows[1:])
    ]


def overlap_lines(files: list[str]) -> str:
    """What `python eval.py --overlap` prints."""
    if len(files) < 2:
        rule = "the first is compared with each other one"
        raise ValueError(f"--overlap needs two files or more: {rule}")
    lines = []
    for file, pairs in overlap(files):
        some = ", ".join(f"{a}={b}" for a, b in pairs[:5]) + (", ..." if len(pairs) > 5 else "")
        rows = f" (rows {some})" if pairs else ""
        lines.append(f"{len(pairs)} questions of {files[0]} are in {file}{rows}")
    return "\n".join(lines)
