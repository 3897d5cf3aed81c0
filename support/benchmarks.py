"""The benchmarks of the paper, known by the names of their files.

name_of           what a file of questions is called
benchmark_of      the benchmark that a file holds
benchmark_table   all of them in Markdown
"""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of the paper.

    rows: questions in the paper's evaluation. keys: of question and answer in its file. task: how
    answers are graded, "auto": as the row says. metric: what the paper reports, "accuracy", "f1"
    or "judge". source: where to get it.
    """

    rows: str
    keys: str
    task: str
    metric: str
    source: str


ARPO = "github.com/RUC-NLPIR/ARPO, evaluation/data/"
TOO_LARGE = "(too large for ARPO's repository)"
LIST = "question, answer (a list)"
SENTENCE = "question, answer (a sentence), info.difficulty_level"
MATH_TEST = f"huggingface.co: the MATH test set {TOO_LARGE}"
GAIA = f"{ARPO}gaia (text only); huggingface.co: gaia-benchmark/GAIA"
HLE = f"huggingface.co: cais/hle {TOO_LARGE}"
BENCHMARKS = {
    "aime24": Benchmark("30", "question, answer", "math", "accuracy", f"{ARPO}aime24"),
    "aime25": Benchmark("30", "problem, answer (a number)", "math", "accuracy", f"{ARPO}aime25"),
    "math500": Benchmark("500", "question, answer (LaTeX)", "math", "accuracy", f"{ARPO}math500"),
    "gsm8k": Benchmark(
        "1319", "question, answer (ends in #### 18)", "math", "accuracy", f"{ARPO}gsm8k"
    ),
    "math": Benchmark("5000", "problem, answer (LaTeX)", "math", "accuracy", MATH_TEST),
    "webwalker": Benchmark("200", SENTENCE, "qa", "judge", f"{ARPO}webwalker"),
    "hotpotqa": Benchmark("200", LIST, "qa", "f1", f"{ARPO}hotpotqa"),
    "2wiki": Benchmark("200", LIST, "qa", "f1", f"{ARPO}2wiki"),
    "musique": Benchmark("200", LIST, "qa", "f1", f"{ARPO}musique"),
    "bamboogle": Benchmark("125", LIST, "qa", "f1", f"{ARPO}bamboogle"),
    "gaia": Benchmark("103", "Question, answer, Level", "auto", "judge", GAIA),
    "hle": Benchmark("500", "question, answer", "auto", "judge", HLE),
    "xbench": Benchmark("100", LIST, "qa", "judge", f"{ARPO}xbench"),
}
# Regular expressions of benchmarks that have other names too. "math" is a common word: only the
# name of a split may follow it.
OTHER_NAMES = {
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
    """A file's name, or that of the nearest folder where it is a split's (gsm8k/test.jsonl)."""
    file = Path(path)
    for name in (file.stem, *(folder.name for folder in file.parents)):
        if name and not re.fullmatch(SPLIT, name):
            return name
    return file.stem


def benchmark_of(path: str) -> Benchmark | None:
    """The benchmark whose name a file's begins with, as a whole word; None for other files."""
    name = name_of(path).lower()
    for known, benchmark in BENCHMARKS.items():
        if re.match(rf"(?:{OTHER_NAMES.get(known, known)})(?![^\W_])", name):
            return benchmark
    return None


def benchmark_table() -> str:
    """The benchmarks in Markdown."""
    how = {"math": "math_equal", "qa": "EM and token F1", "auto": "by the answer's form"}
    head = ["benchmark", "questions", "keys of the file", "graded here by", "the paper reports"]
    lines = [[*head, "where to get it"]]
    for name, b in BENCHMARKS.items():
        lines.append([name, b.rows, b.keys, how[b.task], b.metric, b.source])
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * 6, *rows[1:]])
