"""support/questions.py: the forms that an answer, a chat and a prompt may have in a row."""

import json

import pytest
from eval_parts import write

from protocol import system_prompt
from support.questions import load_questions

USER = {"role": "user", "content": "q"}


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
