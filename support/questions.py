"""Files of questions, in the formats of the field."""

import ast
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from support.benchmarks import benchmark_of
from support.latex import last_boxed


@dataclass(frozen=True)
class Question:
    """One question. messages: the chat up to the assistant; answers: all that count as right; task: "math" or "qa" (how it is graded)."""

    id: str
    messages: list
    answers: list[str]
    task: str
    meta: dict = field(default_factory=dict)


def load_questions(
    path: str,
    skip_bad: bool = False,
    task: str = "auto",
    dedupe: bool = False,
    tools: str = "python,search",
) -> list[Question]:
    """Read questions from a .jsonl or .parquet file.

    A row is one of: verl/ARPO ({"prompt": [messages], "reward_model": {"ground_truth": ...}, ...}), ARPO evaluation ("question",
    "Question" or "problem" with "answer"), TRL ("prompt" as messages or text, with "answer" or "ground_truth"), Search-R1 (ground_truth
    {"target": [...]}), verifiers ("question", with "answer" there or in "info", an object or its JSON), GAIA ("Final answer"), MATH ("solution",
    whose last \\boxed{} is the answer). An answer is a string, a number or a list of them, also one written as a string, if all its items are
    quoted: "['a', 'b']", but not the interval "[1, 2]". "... #### 18" (GSM8K) counts as "18", 18.0 as "18", true and false as "yes" and "no"; NaN,
    the infinities and null are no answer. The backspace that stands for the \\b of \\boxed in the authors' files is repaired; meta["repaired"]
    says where.

    Args:   skip_bad: leave out rows without a question or an answer and print which, instead of raising.
            dedupe: leave out each question that was asked before in the file (equal question_key with -+*/^=<> kept) and print how many.
            task: "math" or "qa" for all rows; "auto": the row's own "task" or "ability", else guessed from the answers (see guess_task).
            tools: of which the system_prompt tells a question that is no chat.
    Raises: FileNotFoundError; ValueError with a line per bad row (file, row, what is missing; 50 at most), or for a file that cannot be read.
    """
    questions, bad = _parse(path, task, tools)
    refuse_or_leave_out(bad, skip_bad, path)
    if not questions:
        raise ValueError(f"{path} holds no question")
    return _without_repeats(path, questions) if dedupe else questions


def refuse_or_leave_out(bad: list[str], skip_bad: bool, path: str) -> None:
    """ValueError with a line per bad row of a file, or with skip_bad the same lines printed; 50 at most."""
    shown = bad[:50] + [f"{path}: ... and {len(bad) - 50} rows more"] * (len(bad) > 50)
    if bad and not skip_bad:
        raise ValueError("\n".join(shown + ["--skip_bad leaves such rows out"]))
    for problem in shown:
        print(f"left out: {problem}")


def _parse(path: str, task: str, tools: str = "python,search") -> tuple[list[Question], list[str]]:
    """The questions of a file, and what is wrong with each row that is none."""
    file, known, questions, bad = Path(path), benchmark_of(path), [], []
    if not file.is_file():
        raise FileNotFoundError(
            f"data file {path} does not exist"
            + (f"; where to get it: {known.source}" if known else "")
        )
    for number, row in read_rows(file):
        try:
            questions.append(_question(row, f"{path}, row {number}", number, task, tools))
        except ValueError as problem:
            bad.append(str(problem))
    return questions, bad


def _without_repeats(path: str, questions: list[Question]) -> list[Question]:
    first = {}
    for q in questions:
        first.setdefault(question_key(q, "-+*/^=<>") or q.id, q)
    if len(first) < len(questions):
        print(
            f"left out: {len(questions) - len(first)} questions of {path} that repeat an earlier one"
        )
    return list(first.values())


def read_rows(file: Path):
    """(row number from 1, object or line of JSON) of a .jsonl or .parquet file, or of a .json file that holds one list. ValueError if it cannot be read."""
    if file.suffix == ".parquet":
        try:
            import pyarrow.parquet
        except ImportError:
            raise ValueError(
                f"{file} is a parquet file: run `pip install pyarrow`, or convert it to .jsonl"
            ) from None
        try:
            yield from enumerate(pyarrow.parquet.read_table(file).to_pylist(), 1)
        except (pyarrow.ArrowException, OSError) as problem:
            raise ValueError(f"{file} is not a readable parquet file: {problem}") from None
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
    except json.JSONDecodeError as problem:
        raise ValueError(f"{file} is not a list in JSON: {problem}") from None


def _question(row: dict | str, where: str, number: int, task: str, tools: str) -> Question:
    """One row, an object or a line of JSON, as a Question; ValueError naming the row if it is none."""
    try:
        row = json.loads(row) if isinstance(row, str) else row
        info = parsed(row["info"]) if isinstance(row.get("info"), str) else row.get("info")
        info = info if isinstance(info, dict) else {}
        asked = next(
            (row[key] for key in ("prompt", "question", "Question", "problem") if row.get(key)),
            None,
        )
        messages, answers = _messages(asked, tools) if asked else [], _golds(row, info)
    except json.JSONDecodeError as problem:
        raise ValueError(f"{where} is not JSON: {problem}") from None
    except (KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise ValueError(f"{where} has another form than the ones known: {problem!r}") from None
    if not messages:
        raise ValueError(
            f'{where} has no question: one of "prompt", "question", "Question", "problem"'
        )
    if not answers:
        raise ValueError(
            f'{where} has no answer: one of "answer", "answers", "ground_truth", "reward_model.ground_truth", not empty'
        )
    mended = [m | {"content": m["content"].replace("\x08oxed", "\\boxed")} for m in messages]
    named = str(row.get("task") or row.get("ability") or "").lower()
    kind = task if task != "auto" else named if named in ("math", "qa") else guess_task(answers)
    levels = [row.get("level"), row.get("Level"), info.get("difficulty_level"), row.get("category")]
    meta = {
        "level": next((level for level in levels if level is not None), None),
        "row": number,
        "repaired": mended != messages,
    }
    return Question(str(row.get("id", row.get("task_id", number))), mended, answers, kind, meta)


def _golds(row: dict, info: dict) -> list[str]:
    """The answers from the first place that has one; the last \\boxed{} of a "solution" (MATH) only if no other has."""
    keys = ("answer", "answers", "ground_truth", "golden_answers", "Final answer")
    places = [
        (row.get("reward_model") or {}).get("ground_truth"),
        info.get("answer"),
        *map(row.get, keys),
    ]
    return next((found for found in map(_answers, places) if found), []) or _answers(
        last_boxed(str(row.get("solution")))
    )


def _messages(asked, tools: str) -> list[dict]:
    """A question's text or chat as messages of role and text; TypeError for anything else."""
    if isinstance(asked, str):
        return [
            {"role": "system", "content": system_prompt(tools)},
            {"role": "user", "content": asked},
        ]
    messages = [{"role": m["role"], "content": text_of(m["content"])} for m in asked]
    if not all(isinstance(m["role"], str) for m in messages):
        raise TypeError("a message's role must be text")
    return messages


def text_of(content) -> str:
    """The text of a chat message, whose content is a string or a list of {"type": "text", "text": ...}; TypeError for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(
        isinstance(part, dict) and part.get("type") == "text" for part in content
    ):
        raise TypeError("a message's content must be text")
    return "".join(part["text"] for part in content)


def parsed(line: str | bytes, *keys: str) -> dict | None:
    """The JSON object in a line; None if it is none, lacks one of the keys, or was cut short by a kill."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and all(key in row for key in keys) else None


def _answers(value) -> list[str]:
    """Any of the field's answer forms (see load_questions) as a list of non-empty strings."""
    if isinstance(value, dict):
        value = value.get("target")
    if isinstance(value, (list, tuple)):
        return [a for v in value for a in _answers(v)]
    if isinstance(value, float):
        value = "" if not math.isfinite(value) else int(value) if value.is_integer() else value
    text = (
        {True: "yes", False: "no"}[value]
        if isinstance(value, bool)
        else ""
        if value is None
        else str(value)
    )
    before, _, after = text.rpartition("####")
    text = after.strip() or before.strip()
    if re.match(r"\[\s*['\"]", text):
        try:
            items = ast.literal_eval(text)
            if isinstance(items, list) and all(isinstance(item, str) for item in items):
                return [a for item in items for a in _answers(item)]
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            # text that only begins like a list
            pass
    return [text] if text else []


def question_key(question: Question, keep: str = "") -> str:
    """What two questions share that count as the same: the user's text in lower case, of it letters, digits and _ (Unicode) and what is in `keep`."""
    return re.sub(
        rf"[^\w{re.escape(keep)}]+",
        "",
        "".join(m["content"] for m in question.messages if m["role"] == "user").lower(),
    )


def overlap(files: list[str]) -> list[tuple[str, list[tuple[int, int]]]]:
    """Which questions of the first file each other one has too: its name and the pairs (row in the first, row in the other) that ask the same.

    The same: equal question_key, not empty. A question that repeats counts by its first row. Rows without a question or answer are left out.
    """
    rows = [
        {
            key: q.meta["row"]
            for q in reversed(load_questions(file, skip_bad=True))
            if (key := question_key(q))
        }
        for file in files
    ]
    return [
        (file, sorted((rows[0][key], there[key]) for key in rows[0].keys() & there.keys()))
        for file, there in zip(files[1:], rows[1:])
    ]


def overlap_lines(files: list[str]) -> str:
    """What `python eval.py --overlap` prints."""
    if len(files) < 2:
        raise ValueError(
            "--overlap needs two files or more: the first is compared with each other one"
        )
    lines = []
    for file, pairs in overlap(files):
        some = ", ".join(f"{a}={b}" for a, b in pairs[:5]) + (", ..." if len(pairs) > 5 else "")
        lines.append(
            f"{len(pairs)} questions of {files[0]} are in {file}"
            + (f" (rows {some})" if pairs else "")
        )
    return "\n".join(lines)


def guess_task(answers: list[str]) -> str:
    """ "math" if an answer is written in LaTeX or if all are numbers ("-3", "1,000", "3/4", "$5", "50%"), else "qa"."""
    latex = any(re.search(r"\\[A-Za-z]+|\\[%$]|[_^]\{?\w", a) for a in answers)
    return (
        "math"
        if latex
        or all(re.fullmatch(r"[$£€]?\s*[-+−]?[\d,]*\.?\d+(\s*/\s*\d+)?\s*%?", a) for a in answers)
        else "qa"
    )


def system_prompt(tools: str = "python,search") -> str:
    """What a model is told of the protocol, if the questions come without a system message. tools: comma-separated."""
    have = [name for name in ("search", "python") if name in tools.split(",")]
    say = {"search": "a search engine over an encyclopedia", "python": "a Python interpreter"}
    use = {
        "search": "to search, write <search> your query </search>",
        "python": "to compute, write <python> your code </python>",
    }
    show = {
        "search": "<think> I need a fact. </think> <search> a query </search> <result> what was found </result> ",
        "python": "<think> Now compute. </think> <python> print(6 * 7) </python> <result> 42 </result> ",
    }
    how = "; ".join(use[name] for name in have)
    number = {1: "One tool is", 2: "Two tools are"}
    called = (
        f"{number[len(have)]} at hand: {' and '.join(say[name] for name in have)}. Reason inside <think> and </think>. {how[:1].upper()}{how[1:]}; "
        "what the tool returns follows between <result> and </result>. Reason and use tools as often as needed"
        if have
        else "Reason inside <think> and </think>"
    )
    return (
        f"Answer the question by reasoning in steps. {called}, for instance: {''.join(show[name] for name in have)}"
        "<think> Done. </think> <answer> The answer is \\[ \\boxed{42} \\] </answer>. "
        "The last thing to write is <answer> ... </answer> with the exact final answer in \\boxed{}."
    )
