"""support/compare.py: two result files against each other, one graded anew."""

import json
import math
import re
from pathlib import Path

import pytest
from eval_parts import column, made_file, made_row

import eval as evaluation
from support.compare import compare
from support.results import read_result


def test_compare_pairs_questions(tmp_path):
    first = [made_row(str(k), ("5" if k < 20 else "6", [])) for k in range(100)]
    second = [made_row(str(k), ("5" if k < 30 else "6", [])) for k in range(10, 110)]
    text = compare(made_file(tmp_path / "a.json", first), made_file(tmp_path / "b.json", second))
    assert "90 questions in both files, 10 and 10 in one only" in text
    gain, low, high, worse = map(
        float,
        re.search(
            r"correct +([-+.\d]+) +95% interval ([-+.\d]+) \.\. ([-+.\d]+) +"
            r"resamples at or below 0: ([.\d]+)",
            text,
        ).groups(),
    )
    se = math.sqrt((10 / 90) * (80 / 90) / 90)
    assert (
        gain == pytest.approx(10 / 90, abs=1e-4)
        and low == pytest.approx(gain - 1.96 * se, abs=0.02)
        and high == pytest.approx(gain + 1.96 * se, abs=0.02)
        and worse < 0.01
    )
    with pytest.raises(ValueError, match="share no question"):
        compare(
            str(tmp_path / "a.json"), made_file(tmp_path / "c.json", [made_row("else", ("5", []))])
        )
    (tmp_path / "d.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match="d.json is not a result file"):
        compare(str(tmp_path / "a.json"), str(tmp_path / "d.json"))


def test_compare_keeps_repeated_questions_apart(tmp_path):
    first = [made_row("a", (answer, [])) for answer in ("5", "6", "6")]
    second = [made_row("a", (answer, [])) for answer in ("5", "5")]
    text = compare(made_file(tmp_path / "a.json", first), made_file(tmp_path / "b.json", second))
    assert (
        "2 questions in both files, 1 and 0 in one only" in text
        and re.search(r"correct +\+0.5000", text)
        and "other" not in text
    )


def test_compare_pairs_by_text_where_ids_count_rows(tmp_path):
    def rename(row, name):
        return row | {"id": name}

    first = [rename(made_row(text, ("5", [])), str(k)) for k, text in enumerate("abc")]
    second = [rename(made_row(text, ("6", [])), str(k)) for k, text in enumerate("bc")]
    assert "2 questions in both files, 1 and 0 in one only" in compare(
        made_file(tmp_path / "a.json", first), made_file(tmp_path / "b.json", second)
    )
    named = (
        [rename(row, f"x{k}") for k, row in enumerate(first)],
        [rename(row, f"x{k + 1}") for k, row in enumerate(first)],
    )
    with pytest.raises(ValueError, match="share no question"):
        compare(*[made_file(tmp_path / f"n{k}.json", rows) for k, rows in enumerate(named)])


def test_compare_says_what_else_differs(tmp_path):
    rows = [made_row("a", ("5", [])), made_row("b", ("5", []))]
    other = [
        made_row("a", ("5", []), ("5", []), answers=("5", "five")),
        made_row("b", ("5", []), ("5", [])),
    ]
    files = (
        made_file(tmp_path / "a.json", rows, judge="m"),
        made_file(tmp_path / "b.json", other, graded_as="qa"),
    )
    lines = compare(*files).splitlines()[1:5]
    assert lines == [
        "other tasks in 2 of these questions",
        "other answers in 1 of these questions",
        "other judge: m, then None",
        "other samples a question: 1, then 2",
    ]


def spoiled(change):
    rows = [made_row("a", ("5", [["python", "1", "ok", 0.1]])), made_row("b", ("5", []))]
    change(rows)
    return json.dumps({"rows": rows})


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "Expecting property name"),
        ("[1]", "rows"),
        ('{"rows": 5}', "rows"),
        ('{"rows": [5]}', "row 1: id"),
        (spoiled(lambda r: r[1].pop("answers")), "row 2: answers"),
        (spoiled(lambda r: r[1].update(samples=[])), "row 2: samples"),
        (spoiled(lambda r: r[0].update(task=None)), "row 1: task"),
        (spoiled(lambda r: r[1]["samples"][0].pop("pieces")), "row 2: pieces"),
        (spoiled(lambda r: r[1]["samples"][0].pop("f1")), "row 2: f1"),
        (spoiled(lambda r: r[0]["samples"][0].update(calls=[["python"]])), "row 1: calls"),
        (spoiled(lambda r: r[0]["samples"].append(5)), "row 1: pieces"),
    ],
)
def test_what_a_result_file_lacks_is_named(tmp_path, text, message):
    good, bad = made_file(tmp_path / "good.json", [made_row("a", ("5", []))]), tmp_path / "bad.json"
    before = Path(good).read_text()
    bad.write_text(text)
    for flags in (["--regrade", good, str(bad), "--task", "qa"], ["--compare", good, str(bad)]):
        with pytest.raises(
            ValueError, match=rf"bad.json is not a result file of eval.py: .*{message}"
        ):
            evaluation.main(flags)
    assert Path(good).read_text() == before, "all files are read before one is written"


def test_regrading_by_another_task_can_be_undone(tmp_path, judging):
    file = made_file(
        tmp_path / "eval_x.json", [made_row("a", ("\\sqrt{8}", []), answers=("2\\sqrt{2}",))]
    )
    grades, server = [], judging(lambda prompt: "CORRECT")
    for flags in (
        ["--task", "qa"],
        [],
        ["--judge", server.url, "--judge_model", "m"],
        ["--task", "auto"],
    ):
        evaluation.main(["--regrade", file, *flags])
        result = read_result(file)
        grades.append(
            (
                column(result["rows"], "correct")[0][0],
                result["graded_as"],
                result["rows"][0]["task"],
            )
        )
    assert grades == [(False, "qa", "math")] * 3 + [(True, "auto", "math")]


def test_regrade_knows_its_tasks(tmp_path):
    with pytest.raises(ValueError, match="--task must be one of auto, math, qa, got 'bleu'"):
        evaluation.main(["--regrade", str(tmp_path / "none.json"), "--task", "bleu"])


@pytest.mark.parametrize("flags", [["--judge", "http://x"], ["--judge_model", "m"]])
def test_regrade_needs_both_flags_of_a_judge(tmp_path, flags):
    with pytest.raises(ValueError, match="--judge and --judge_model go together"):
        evaluation.main(
            ["--regrade", made_file(tmp_path / "eval_x.json", [made_row("a", ("5", []))]), *flags]
        )


def test_regrade_needs_no_model(tmp_path, capsys):
    file = made_file(
        tmp_path / "eval_x.json",
        [
            made_row("a", ("five", []), answers=("Five",)),
            made_row("b", ("\\sqrt{8}", []), answers=("2\\sqrt{2}",)),
        ],
    )
    evaluation.main(["--regrade", file, "--task", "qa"])
    assert (
        column(read_result(file)["rows"], "correct") == [[True], [False]]
        and "| x | 2 x 1 | 50.0" in capsys.readouterr().out
    )
    evaluation.main(["--regrade", file, "--task", "math"])
    assert column(read_result(file)["rows"], "correct") == [[True], [True]]
