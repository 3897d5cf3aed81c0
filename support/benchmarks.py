"""The benchmarks of the paper."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of the paper. rows: questions in its evaluation; keys: question and answer in its file; task: how answers are graded ("auto": by the row);
    metric: what the paper reports, "accuracy", "f1" or "judge"; source: where to get it."""

    rows: str
    keys: str
    task: str
    metric: str
    source: str


ARPO = "github.com/RUC-NLPIR/ARPO, evaluation/data/"


BENCHMARKS = {
    "aime24": Benchmark("30", "question, answer", "math", "accuracy", f"{ARPO}aime24"),
    "aime25": Benchmark("30", "problem, answer (a number)", "math", "accuracy", f"{ARPO}aime25"),
    "math500": Benchmark("500", "question, answer (LaTeX)", "math", "accuracy", f"{ARPO}math500"),
    "gsm8k": Benchmark(
        "1319", "question, answer (ends in #### 18)", "math", "accuracy", f"{ARPO}gsm8k"
    ),
    "math": Benchmark(
        "5000",
        "problem, answer (LaTeX)",
        "math",
        "accuracy",
        "huggingface.co: the MATH test set (too large for ARPO's repository)",
    ),
    "webwalker": Benchmark(
        "200",
        "question, answer (a sentence), info.difficulty_level",
        "qa",
        "judge",
        f"{ARPO}webwalker",
    ),
    "hotpotqa": Benchmark("200", "question, answer (a list)", "qa", "f1", f"{ARPO}hotpotqa"),
    "2wiki": Benchmark("200", "question, answer (a list)", "qa", "f1", f"{ARPO}2wiki"),
    "musique": Benchmark("200", "question, answer (a list)", "qa", "f1", f"{ARPO}musique"),
    "bamboogle": Benchmark("125", "question, answer (a list)", "qa", "f1", f"{ARPO}bamboogle"),
    "gaia": Benchmark(
        "103",
        "Question, answer, Level",
        "auto",
        "judge",
        f"{ARPO}gaia (text only); huggingface.co: gaia-benchmark/GAIA",
    ),
    "hle": Benchmark(
        "500",
        "question, answer",
        "auto",
        "judge",
        "huggingface.co: cais/hle (too large for ARPO's repository)",
    ),
    "xbench": Benchmark("100", "question, answer (a list)", "qa", "judge", f"{ARPO}xbench"),
}


# regular expressions of benchmarks that have other names too; "math" is a common word: only a split
# may follow
SPELLINGS = {
    "aime24": "aime[-_ ]?(20)?24",
    "aime25": "aime[-_ ]?(20)?25",
    "math500": "math[-_ ]?500",
    "math": "math(?=$|[-_ ](test|train|5000)$)",
    "webwalker": "web[-_ ]?walker([-_ ]?qa)?",
    "hotpotqa": "hotpot([-_ ]?qa)?",
    "2wiki": "2wiki([-_ ]?multi[-_ ]?hop([-_ ]?qa)?)?",
    "hle": "hle|humanity.?s[-_ ]last[-_ ]exam",
}


# names that say nothing of the data
SPLIT = r"(test|train|valid|validation|dev|main|default)([-_]\d+-of-\d+)?"


def name_of(path: str) -> str:
    """What a file of questions is called: its name, or that of the nearest folder where the name is a split's (gsm8k/main/test.jsonl)."""
    file = Path(path)
    return next(
        (
            name
            for name in (file.stem, *(folder.name for folder in file.parents))
            if name and not re.fullmatch(SPLIT, name)
        ),
        file.stem,
    )


def benchmark_of(path: str) -> Benchmark | None:
    """The benchmark whose name a file's begins with, as a whole word; None for other files."""
    name = name_of(path).lower()
    return next(
        (
            b
            for known, b in BENCHMARKS.items()
            if re.match(rf"(?:{SPELLINGS.get(known, known)})(?![^\W_])", name)
        ),
        None,
    )


def benchmark_table() -> str:
    """The benchmarks in Markdown, as the README has them."""
    how = {"math": "math_equal", "qa": "EM and token F1", "auto": "by the answer's form"}
    head = [
        "| benchmark | questions | keys of the file | graded here by | the paper reports | where to get it |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join(
        head
        + [
            f"| {name} | {b.rows} | {b.keys} | {how[b.task]} | {b.metric} | {b.source} |"
            for name, b in BENCHMARKS.items()
        ]
    )
