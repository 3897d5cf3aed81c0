"""support/questions.py: the data formats, bad rows, repeated questions."""

import json
import os
from pathlib import Path

import pytest
from eval_parts import write

import eval as evaluation
from protocol import system_prompt
from support.questions import guess_task, load_questions, overlap


@pytest.mark.parametrize(
    "answers, task",
    [
        (["\\text{Evelyn}"], "math"),
        (["3\\sqrt{3} - 6"], "math"),
        (["70"], "math"),
        (["-3/4"], "math"),
        (["1,000"], "math"),
        (["$5"], "math"),
        (["50%"], "math"),
        (["x^2 + 1"], "math"),
        (["£ 1,000.5"], "math"),
        (["-.5"], "math"),
        (["3 / 4 %"], "math"),
        (["5,"], "qa"),
        (["5."], "qa"),
        (["\\$32"], "math"),
        (["Frank Lowy"], "qa"),
        (["29MP"], "qa"),
        (["SH207"], "qa"),
        (["1.95 m"], "qa"),
        (["161.27元"], "qa"),
        (["2022年9月1日"], "qa"),
        (["yes"], "qa"),
        (["12", "twelve"], "qa"),
        (["A"], "qa"),
    ],
)
def test_guess_task(answers, task):
    assert guess_task(answers) == task


def test_formats(tmp_path):
    chat = [
        {"role": "system", "content": "Put it in \x08oxed{}."},
        {"role": "user", "content": "Q?", "name": "x"},
    ]
    rows = [
        {
            "data_source": "d",
            "prompt": chat,
            "ability": "math",
            "reward_model": {"ground_truth": "3\\sqrt{3}", "style": "rule"},
            "extra_info": {"index": 0},
            "metadata": None,
        },
        {"prompt": chat, "ability": None, "reward_model": {"ground_truth": {"target": ["a", "b"]}}},
        {"question": "Who?", "answer": ["Frank Lowy", "F. Lowy"]},
        {"problem": "Sum?", "answer": 70, "id": "0"},
        {"Question": "G?", "answer": "17", "task_id": "t", "Level": 2},
        {"question": "J?", "answer": "16-3=13\n#### 18"},
        {"prompt": "plain", "answer": "yes"},
        {"prompt": chat, "answer": "4", "task": "qa"},
    ]
    q = load_questions(write(tmp_path / "all.jsonl", *rows))
    assert [x.answers for x in q] == [
        ["3\\sqrt{3}"],
        ["a", "b"],
        ["Frank Lowy", "F. Lowy"],
        ["70"],
        ["17"],
        ["18"],
        ["yes"],
        ["4"],
    ]
    assert [x.task for x in q] == ["math", "qa", "qa", "math", "math", "math", "qa", "qa"]
    assert (
        q[0].messages
        == [
            {"role": "system", "content": "Put it in \\boxed{}."},
            {"role": "user", "content": "Q?"},
        ]
        and q[0].meta["repaired"]
        and not q[2].meta["repaired"]
    )
    assert q[2].messages[0]["content"] == system_prompt() and q[2].messages[1] == {
        "role": "user",
        "content": "Who?",
    }
    assert {x.task for x in load_questions(str(tmp_path / "all.jsonl"), task="qa")} == {"qa"}
    assert load_questions(
        write(
            tmp_path / "empty_first.jsonl",
            {
                "question": "a",
                "reward_model": {"ground_truth": ""},
                "answer": "5",
                "ability": "MATH",
            },
        )
    )[0].answers == ["5"]
    assert [x.id for x in q] == ["1", "2", "3", "0", "t", "6", "7", "8"] and q[4].meta["level"] == 2


USER = {"role": "user", "content": "q"}


def chat(*messages):
    return {"prompt": list(messages), "answer": "1"}


@pytest.mark.parametrize(
    "row, message",
    [
        ({"question": "a"}, "row 2 has no answer"),
        ({"question": "a", "answer": " "}, "row 2 has no answer"),
        ({"question": "a", "answer": []}, "row 2 has no answer"),
        ({"answer": "1"}, "row 2 has no question"),
        ("[1]\n", "row 2 has another form"),
        ({"prompt": ["a"], "answer": "1"}, "row 2 has another form"),
        (chat({"role": "user"}), "row 2 has a chat .* a message of user has no content"),
        (chat({"role": "user", "content": None}), "row 2 has .* a message of user has no content"),
        (chat(USER | {"extra": 1}), "row 2 has .* 'extra' of a message of user cannot be kept"),
        (chat(USER | {"reasoning": "x"}), "row 2 has a chat .* the field 'reasoning' of a message"),
        (chat(USER | {"tool_calls": [{"id": "1"}]}), "row 2 has a chat .* the field 'tool_calls'"),
        (chat({"content": "q"}), "row 2 has a chat that cannot be taken: unknown role None"),
        (chat({"role": "boss", "content": "q"}, USER), "row 2 has .* unknown role 'boss'"),
        ({"prompt": '[{"role": "boss"}, {"role": "user"}]', "answer": "1"}, "unknown role 'boss'"),
        (chat(USER | {"content": [{"type": "tool_use"}]}), "a content part of type 'tool_use'"),
        (chat(USER | {"content": [{"type": "text", "text": "q", "weight": 0}]}), "'weight' of a "),
        ({"prompt": [], "messages": 1, "answer": "1"}, "row 2 has no question"),
        ({"prompt": {"a": "b"}, "answer": "1"}, "row 2 has a chat .*: unknown role None"),
        ({"question": 5, "answer": "1"}, "row 2 has another form"),
        ({"question": "a", "reward_model": "5"}, "row 2 has another form"),
        ("{oops\n", "row 2 is not JSON"),
        ({"question": "a", "answer": '{"value": "x"}'}, 'row 2 has an answer .* without "target"'),
        ({"question": "a", "answer": ["x", {"alias": "y"}]}, 'row 2 has an .* without "target"'),
        ({"question": "a", "answer": "['b' ... 'c']"}, "row 2 has a list whose items were cut off"),
        ({"question": "a", "answer": "['it's', 'b']"}, "row 2 has a list whose quotation marks"),
        ({"prompt": '[{"role": "user", "content": }]', "answer": "1"}, "row 2 has a prompt like"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        load_questions(write(tmp_path / "bad.jsonl", {"question": "fine", "answer": "1"}, row))


def test_bad_rows_can_be_left_out(tmp_path, capsys):
    path = write(
        tmp_path / "bad.jsonl",
        {"question": "fine", "answer": "1"},
        {"question": "b"},
        "{oops\n",
        {"question": "fine too", "answer": "2"},
    )
    with pytest.raises(
        ValueError, match="row 2 has no answer.*\n.*row 3 is not JSON.*\n--skip_bad"
    ):
        load_questions(path)
    assert [q.answers for q in load_questions(path, skip_bad=True)] == [["1"], ["2"]]
    assert capsys.readouterr().out.count("left out:") == 2


def test_formats_of_the_hub(tmp_path):
    """GAIA's key, MATH's solution, verifiers' info as JSON, content in parts, a byte order mark."""
    parts = [{"type": "text", "text": "Q "}, {"type": "text", "text": "5?"}]
    rows = [
        {"Question": "q", "Final answer": "17"},
        {"problem": "q", "solution": "\\boxed{1} so \\boxed{\\frac12}."},
        {"problem": "q", "solution": "\\boxed{1}", "answer": "2"},
        {"question": "q", "info": '{"answer": "x", "difficulty_level": "hard"}'},
        {"prompt": [{"role": "user", "content": parts}], "answer": "5"},
        {"question": "q", "answer": "one\n#### "},
        {"question": "q", "info": "{", "answer": "y"},
    ]
    (tmp_path / "bom.jsonl").write_text(
        "\ufeff" + "".join(json.dumps(row) + "\n" for row in rows), "utf-8"
    )
    questions = load_questions(str(tmp_path / "bom.jsonl"))
    assert [q.answers for q in questions] == [
        ["17"],
        ["\\frac12"],
        ["2"],
        ["x"],
        ["5"],
        ["one"],
        ["y"],
    ]
    assert (
        questions[4].messages == [{"role": "user", "content": "Q 5?"}]
        and questions[3].meta["level"] == "hard"
    )
    for content in ([{"type": "image_url", "image_url": "x"}], [5], {}):
        with pytest.raises(ValueError, match="row 1 has (another form|a chat .* type 'image_url')"):
            load_questions(
                write(
                    tmp_path / "bad.jsonl",
                    {"prompt": [{"role": "user", "content": content}], "answer": "5"},
                )
            )


def test_every_bad_row_is_told_up_to_fifty(tmp_path, capsys):
    for bad, lines in ((50, 50), (51, 51), (80, 51)):
        path = write(
            tmp_path / "bad.jsonl", {"question": "a", "answer": "1"}, *[{"question": "b"}] * bad
        )
        with pytest.raises(ValueError) as told:
            load_questions(path)
        assert str(told.value).count("\n") == lines and load_questions(path, skip_bad=True)
        assert capsys.readouterr().out.count("left out:") == lines
        assert (f"... and {bad - 50} rows more" in str(told.value)) == (bad > 50)


def test_dedupe_keeps_the_first(tmp_path, capsys):
    asked = [
        "Who is  he?",
        "What is 2+3?",
        "who is he",
        "What is 2-3?",
        "Was ist Größe?",
        "WAS IST GRÖSSE?",
        "?",
        "?",
        "Qui?",
        "谁是他？",
        "谁是他",
        "Who is he?",
    ]
    path = write(
        tmp_path / "d.jsonl",
        *({"question": text, "answer": str(k)} for k, text in enumerate(asked)),
    )
    assert [q.answers[0] for q in load_questions(path)] == [
        str(k) for k in range(12)
    ] and "left out" not in capsys.readouterr().out
    assert [q.answers[0] for q in load_questions(path, dedupe=True)] == [
        "0",
        "1",
        "3",
        "4",
        "5",
        "6",
        "7",
        "8",
        "9",
    ]
    assert f"left out: 3 questions of {path} that repeat an earlier one" in capsys.readouterr().out


def test_overlap(tmp_path, capsys):
    first = write(
        tmp_path / "first.jsonl",
        *(
            {"question": text, "answer": "1"}
            for text in (
                "Who wrote “Faust”?",
                "谁写了《浮士德》？",
                "Only here?",
                "?",
                "Who wrote Faust",
            )
        ),
    )
    chat = [
        {"role": "system", "content": "Only here?"},
        {"role": "user", "content": "WHO wrote -- Faust?"},
    ]
    second = write(
        tmp_path / "second.jsonl",
        {"question": "new"},
        {"prompt": chat, "answer": "2"},
        {"question": "!", "answer": "3"},
        {"question": "谁写了浮士德", "answer": "4"},
    )
    third = write(tmp_path / "third.jsonl", {"question": "Who wrote Fausta?", "answer": "1"})
    assert overlap([first, second, third]) == [(second, [(1, 2), (2, 4)]), (third, [])]
    capsys.readouterr()
    evaluation.main(["--overlap", first, second, third])
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"2 questions of {first} are in {second} (rows 1=2, 2=4)",
        f"0 questions of {first} are in {third}",
    ]
    with pytest.raises(ValueError, match="two files or more"):
        evaluation.main(["--overlap", first])
    with pytest.raises(FileNotFoundError, match="no.jsonl does not exist"):
        evaluation.main(["--overlap", first, str(tmp_path / "no.jsonl")])


def test_overlap_of_the_authors_files():
    """All of AIME24 is in the validation set; 442 deep-search questions are in the training set."""
    folder = Path(os.environ.get("APPO_DATA", "nowhere"))
    if not (folder / "valid.parquet").is_file():
        pytest.skip("APPO_DATA names no folder with valid.parquet")
    pytest.importorskip("pyarrow")
    aime = str(folder / "benchmarks" / "aime24.jsonl")
    ((_, pairs),) = overlap([str(folder / "valid.parquet"), aime])
    assert sorted(b for _, b in pairs) == [q.meta["row"] for q in load_questions(aime)]
    ((_, pairs),) = overlap(
        [str(folder / "hard_search_1k.parquet"), str(folder / "train_10k.parquet")]
    )
    assert len(pairs) == 442


def test_bad_files(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match="gsm8k.jsonl does not exist; where to get it: "
        "github.com/RUC-NLPIR/ARPO, evaluation/data/gsm8k",
    ):
        load_questions(str(tmp_path / "gsm8k.jsonl"))
    with pytest.raises(FileNotFoundError, match="no.jsonl does not exist"):
        load_questions(str(tmp_path / "no.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "caf\xe9", "answer": "1"}\n')
    with pytest.raises(ValueError, match="latin.jsonl is not UTF-8"):
        load_questions(str(tmp_path / "latin.jsonl"))
    with pytest.raises(ValueError, match="holds no question"):
        load_questions(write(tmp_path / "empty.jsonl", "\n"))


def test_parquet(tmp_path, monkeypatch):
    import builtins

    path = tmp_path / "x.parquet"
    path.write_bytes(b"")
    original = builtins.__import__
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *a, **k: (
            (_ for _ in ()).throw(ImportError(name))
            if name.startswith("pyarrow")
            else original(name, *a, **k)
        ),
    )
    with pytest.raises(ValueError, match="pip install pyarrow"):
        load_questions(str(path))
    monkeypatch.undo()
    pq = pytest.importorskip("pyarrow.parquet", reason="needs `pip install pyarrow`")
    import pyarrow

    pq.write_table(
        pyarrow.Table.from_pylist(
            [
                {
                    "prompt": [{"role": "user", "content": "Q"}],
                    "reward_model": {"ground_truth": "5", "style": "rule"},
                }
            ]
        ),
        path,
    )
    assert load_questions(str(path))[0].answers == ["5"]
