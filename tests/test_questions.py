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


@pytest.mark.parametrize(
    "answer, golds, task",
    [
        ("['Vienna', 'Wien']", ["Vienna", "Wien"], "qa"),
        ('["a, b", "c"]', ["a, b", "c"], "qa"),
        ("['it']", ["it"], "qa"),
        (["['x']", "y"], ["x", "y"], "qa"),
        ("[1, 2]", ["[1, 2]"], None),
        ("[-2,\\infty)", ["[-2,\\infty)"], "math"),
        ("['a', 2]", ["a", "2"], "qa"),
        ("['a'", ["['a'"], "qa"),
        ("['a'] + ['b']", ["['a'] + ['b']"], "qa"),
        ("[" * 3000 + "'", ["[" * 3000 + "'"], "qa"),
        ("['", ["['"], "qa"),
        (["[]", "z"], ["[]", "z"], "qa"),
        ({"target": ["a", "b"]}, ["a", "b"], "qa"),
        (18.0, ["18"], "math"),
        (18, ["18"], "math"),
        (-0.25, ["-0.25"], "math"),
        (1e300, [str(int(1e300))], None),
        (True, ["yes"], "qa"),
        (False, ["no"], "qa"),
        ([True, None, "x"], ["yes", "x"], "qa"),
        ("5 + 13 = 18\n#### 1,018", ["1,018"], "math"),
        ("\U00020000\U0001f600", ["\U00020000\U0001f600"], "qa"),
    ],
)
def test_answer_forms(tmp_path, answer, golds, task):
    for row in (
        {"question": "q", "answer": answer},
        {"question": "q", "answer": "", "info": {"answer": answer}},
        {"prompt": [{"role": "user", "content": "q"}], "ground_truth": answer},
        {"question": "q", "reward_model": {"ground_truth": answer}},
    ):
        (question,) = load_questions(write(tmp_path / "row.jsonl", row))
        assert question.answers == golds and (task is None or question.task == task)


@pytest.mark.parametrize(
    "prompt, texts",
    [
        (json.dumps([{"role": "user", "content": "it's 5?"}]), ["it's 5?"]),
        (str([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]), ["s", "q"]),
        ("array([{'role': 'user', 'content': 'q'}], dtype=object)", ["q"]),
        ("[{'content': 'q', 'role': 'user'}\n {'content': 'a', 'role': 'assistant'}]", ["q", "a"]),
        ('[{"role": "king", "content": "x"}]', None),
        ("[1, 2] or [3, 4]?", None),
    ],
)
def test_a_prompt_may_be_a_chat_written_as_text(tmp_path, prompt, texts):
    (question,) = load_questions(write(tmp_path / "x.jsonl", {"prompt": prompt, "answer": "5"}))
    said = [m["content"] for m in question.messages]
    assert said == (texts or [system_prompt(), prompt])


@pytest.mark.parametrize(
    "chat, texts",
    [
        ([{"from": "human", "value": "q"}], ["q"]),
        ([{"from": "system", "value": "s"}, {"from": "human", "value": "q"}], ["s", "q"]),
        ({"messages": [USER]}, ["q"]),
        (USER, ["q"]),
        (
            [USER, {"role": "assistant", "content": "a", "reasoning": "t"}],
            ["q", "<think> t </think>a"],
        ),
        ([USER, {"role": "assistant", "content": "a", "weight": 0}], ["q", "a"]),
        (
            [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"name": "search", "arguments": {"query": "x"}}],
                },
                {"role": "tool", "content": "r", "tool_call_id": "1"},
            ],
            ["q", "<search>x</search>", "r"],
        ),
    ],
)
def test_a_chat_is_read_as_a_worked_example_is(tmp_path, chat, texts):
    (question,) = load_questions(write(tmp_path / "x.jsonl", {"prompt": chat, "answer": "5"}))
    assert [m["content"] for m in question.messages] == texts
    assert all(set(m) == {"role", "content"} for m in question.messages)


def test_a_developer_is_the_system(tmp_path):
    row = {"prompt": [{"role": "developer", "content": "s"}, USER], "answer": "5"}
    for prompt in (row["prompt"], json.dumps(row["prompt"])):
        (question,) = load_questions(write(tmp_path / "x.jsonl", row | {"prompt": prompt}))
        assert [m["role"] for m in question.messages] == ["system", "user"]


def test_an_empty_list_in_a_cell_sends_to_the_next_column(tmp_path):
    for empty in ("[]", "[\n]", "array([], dtype=object)", [], "[null]"):
        row = {"question": "q", "answer": empty, "golden_answers": "['Paris', 'x']"}
        (question,) = load_questions(write(tmp_path / "x.jsonl", row))
        assert question.answers == ["Paris", "x"]


@pytest.mark.parametrize(
    "answer, golds",
    [
        ("['Natalia sold 48. #### 72']", ["72"]),
        ("['a #### 72', 'b #### 5 km']", ["72", "5 km"]),
        ('["a\\n#### 1,000"]', ["1,000"]),
        ("so #### ['Paris', 'x']", ["Paris", "x"]),
        ("[1] #### 72", ["72"]),
        ("a #### 1 #### 2", ["2"]),
        ({"target": ["a #### 3"]}, ["3"]),
    ],
)
def test_the_last_line_of_gsm8k_may_stand_in_a_list(tmp_path, answer, golds):
    (question,) = load_questions(write(tmp_path / "x.jsonl", {"question": "q", "answer": answer}))
    assert question.answers == golds


LONE = "\ud83d"


@pytest.mark.parametrize(
    "row, place",
    [
        ({"question": "q " + LONE, "answer": "5"}, "question"),
        ({"prompt": [{"role": "user", "content": LONE}], "answer": "5"}, "question"),
        ({"prompt": str([{"role": "user", "content": LONE}]), "answer": "5"}, "question"),
        ({"question": "q", "answer": ["5", LONE]}, "answer"),
        ({"question": "q", "answer": json.dumps(["5", LONE])}, "answer"),
        ({"question": "q", "answer": "5", "id": LONE}, "id"),
        ({"question": "q", "answer": "5", "level": LONE}, "level"),
        ({"question": "q", "answer": "5", "Level": ["1", {"x": LONE}]}, "level"),
        ({"question": "q", "answer": "5", "category": "c" + LONE}, "level"),
        ({"question": "q", "info": {"answer": "5", "difficulty_level": LONE}}, "level"),
    ],
)
def test_a_lone_surrogate_is_named_or_left_out(tmp_path, capsys, row, place):
    """JSON takes half a character, a tokenizer does not; a whole one, in two halves, stays."""
    fine = {"question": "q \U0001f600", "answer": "5"}
    path = write(tmp_path / "half.jsonl", fine, row)
    with pytest.raises(ValueError, match=rf"row 2 has a lone surrogate, '.ud83d', in its {place}"):
        load_questions(path)
    (question,) = load_questions(path, skip_bad=True)
    assert question.messages[1]["content"] == "q \U0001f600"
    assert "row 2 has a lone surrogate" in capsys.readouterr().out


@pytest.mark.parametrize(
    "answer",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "[NaN]",
        "null",
        '["", null]',
        "{}",
        '"[]"',
        '"[\\n]"',
        '" [ ] "',
    ],
)
def test_what_is_no_answer(tmp_path, answer):
    with pytest.raises(ValueError, match="row 1 has no answer"):
        load_questions(write(tmp_path / "row.jsonl", f'{{"question": "q", "answer": {answer}}}\n'))


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
