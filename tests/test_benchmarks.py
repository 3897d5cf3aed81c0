"""support/benchmarks.py: benchmarks are known by the names of their files."""

from pathlib import Path

import pytest

import eval as evaluation
from support.benchmarks import BENCHMARKS, benchmark_of


@pytest.mark.parametrize(
    "path, name",
    [
        ("aime24.jsonl", "aime24"),
        ("data/AIME24/test.jsonl", "aime24"),
        ("AIME_2024.parquet", "aime24"),
        ("aime2024.jsonl", "aime24"),
        ("aime-25.jsonl", "aime25"),
        ("aime2025", "aime25"),
        ("math500.jsonl", "math500"),
        ("MATH-500.jsonl", "math500"),
        ("MATH-500/test.jsonl", "math500"),
        ("math.jsonl", "math"),
        ("math_test.jsonl", "math"),
        ("MATH/test.jsonl", "math"),
        ("gsm8k/main/test.jsonl", "gsm8k"),
        ("/x/gsm8k/main/test-00000-of-00001.parquet", "gsm8k"),
        ("2WikiMultihopQA.jsonl", "2wiki"),
        ("2wiki_dev.jsonl", "2wiki"),
        ("hotpotqa_dev.jsonl", "hotpotqa"),
        ("HotpotQA.jsonl", "hotpotqa"),
        ("musique_ans.jsonl", "musique"),
        ("bamboogle.jsonl", "bamboogle"),
        ("gaia.jsonl", "gaia"),
        ("gaia-103.jsonl", "gaia"),
        ("WebWalkerQA.jsonl", "webwalker"),
        ("webwalker/test.jsonl", "webwalker"),
        ("xbench-deepsearch.jsonl", "xbench"),
        ("hle.jsonl", "hle"),
        ("humanitys_last_exam.jsonl", "hle"),
        ("mine.jsonl", None),
        ("test.jsonl", None),
        ("mathematics.jsonl", None),
        ("math_word_qa.jsonl", None),
        ("hleb.jsonl", None),
        ("aime2400.jsonl", None),
        ("gaia/mine.jsonl", None),
        ("gsm8kx.jsonl", None),
        ("aime26.jsonl", None),
        ("math5000x.jsonl", None),
        ("humanity.jsonl", None),
    ],
)
def test_benchmarks_are_known_by_name(path, name):
    assert benchmark_of(path) is (BENCHMARKS[name] if name else None)


def test_the_docs_have_the_table_of_all_thirteen(capsys):
    evaluation.main(["--benchmarks"])
    table = capsys.readouterr().out.strip()
    assert (
        len(BENCHMARKS) == 13
        and table in (Path(evaluation.__file__).parent / "docs/evaluation.md").read_text()
    )
