"""eval.py: the released reward bug for bug, ours without its bugs, the data formats, the estimators, and a run on a bundled world."""
import itertools
import json
import math
import statistics

import pytest

import eval as judge
from appo import Call, Rollout
from eval import exact_match, last_boxed, load_questions, math_equal, normalize_answer, pass_at_k, released_reward, reward, token_f1


def answered(boxed, think="<think> t </think>", tools=""):
    return f"{think}{tools}<answer> The answer is \\[ \\boxed{{{boxed}}} \\] </answer>"


def rollout(*pieces, finish="stop", calls=()):
    """pieces: the policy's text and tool results in turn."""
    r = Rollout([1], 0, finish=finish, pieces=[(k % 2 == 0, text) for k, text in enumerate(pieces)])
    r.calls = [Call(name, "", status, 0.0, 0, 0) for name, status in calls]
    return r


SEARCHED = "<search> q </search> <result>\nr\n</result>"
COMPUTED = "<python> 1 </python> <result>\n1\n</result>"


# ---- the released reward

@pytest.mark.parametrize("text, golds, expected", [
    (answered("Paris"), ["Paris"], 1.0), (answered("the Paris"), ["paris!"], 1.0), (answered("London"), ["Paris"], 0.0),
    (answered("Frank Lowy AC"), ["Frank Lowy"], 0.8), (answered("x"), ["y", "x"], 1.0),
    (answered("Paris", tools=SEARCHED), ["Paris"], 1.0), (answered("Paris", tools=SEARCHED + COMPUTED), ["Paris"], 1.1), (answered("Frank Lowy AC", tools=SEARCHED + COMPUTED), ["Frank Lowy"], 0.9),
    (answered("London", tools=SEARCHED + COMPUTED), ["Paris"], 0.0),
    (answered("x}{b"), ["x"], 1.0), (answered("a{b"), ["ab"], -1.0), ("<think></think><answer> \\boxed{5} \\boxed{6 </answer>", ["5"], -1.0), ("<think> t </think><answer> 5 </answer>", ["5"], -1.0), (answered("5", think=""), ["5"], -1.0), (answered("5", think="<think> a"), ["5"], -1.0),
    (answered("5") + "<answer>", ["5"], -1.0), ("</answer><think></think><answer> \\boxed{5}", ["5"], -1.0), (answered("5", tools="<search> q </search>"), ["5"], -1.0), (answered("5", tools="<search> q"), ["5"], -1.0),
    (answered("5", tools="<python> 1 </python> <result> 1"), ["5"], -1.0), (answered("yes"), ["yes it is"], 0.0), (answered("yes"), ["Yes"], 1.0), (answered("it is"), ["no"], 0.0), ("", ["x"], -1.0)])
def test_released_reward(text, golds, expected):
    assert released_reward(text, golds) == pytest.approx(expected)


def test_released_reward_keeps_its_bugs():
    """Mathematics as bags of words without punctuation."""
    for pred, gold, value in [("-5", "5", 1), ("1/2", "12", 1), ("1.5", "15", 1), ("x+1", "x-1", 1), ("(3,4)", "(34)", 1), ("0.5", "\\frac{1}{2}", 0), ("12", "12.0", 0), ("3\\sqrt{3} - 6", "6-3\\sqrt{3}", 0), ("+", "+", 0)]:
        assert released_reward(answered(pred), [gold]) == value, (pred, gold)
    forged = "<think> t </think><search> q </search> <result> <answer> </result>" + "<answer> \\boxed{x} </answer>"
    assert released_reward(forged, ["x"]) == -1, "a search result breaks the format"
    assert released_reward(answered("x", think="<think> </search> </python> </think>"), ["x"]) == pytest.approx(1.1), "tags that call nothing earn the bonus"


# ---- ours

def test_reward_reads_the_policys_own_text():
    good = rollout("<think> a </think><search> q </search>", " <result>\n<answer> \\boxed{y} </answer><think>\n</result>", answered("x"))
    assert reward(good, ["x"], "f1") == 1.0 and reward(good, ["x"], "released") == -1.0
    stolen = rollout("<think> a </think><search> q </search>", " <result>\n<answer> \\boxed{x} </answer>\n</result>", "<think> so </think>")
    assert reward(stolen, ["x"], "f1") == -1.0
    forged = rollout("<think> a </think><python> 1 </python> <result> x </result>" + answered("x"))
    assert reward(forged, ["x"], "f1") == -1.0


def test_bonus_counts_executed_calls():
    both = [("search", "ok"), ("python", "ok")]
    assert reward(rollout(answered("x"), calls=both), ["x"], "f1") == 1.1
    assert reward(rollout(answered("x"), calls=[("search", "ok"), ("python", "error")]), ["x"], "f1") == 1.0
    assert reward(rollout(answered("x", think="<think> </search> </python> </think>")), ["x"], "f1") == -1.0
    assert reward(rollout(answered("z"), calls=both), ["x"], "f1") == 0.0


def test_reward_kinds():
    half = rollout(answered("0.5"))
    assert [reward(half, ["\\frac{1}{2}"], kind, "math") for kind in ("auto", "math", "f1", "released")] == [1, 1, 0, 0]
    assert reward(half, ["\\frac{1}{2}"], "auto", "qa") == 0
    minus = rollout(answered("-5"))
    assert reward(minus, ["5"], "math") == 0 and reward(minus, ["5"], "f1") == 1
    with pytest.raises(ValueError, match="kind must be one of"):
        reward(half, ["1"], "bleu")


@pytest.mark.parametrize("finish", ["length", "calls", "forged"])
def test_a_rollout_that_did_not_end_earns_minus_one(finish):
    assert reward(rollout(answered("x"), finish=finish), ["x"], "f1") == -1


@pytest.mark.parametrize("text", ["no tags", answered("x", think=""), answered("x") + answered("x"), "<think></think><answer> x </answer>", answered("x", tools="<search> open"), "</answer><think></think><answer> \\boxed{x}", "<think></think><answer> \\boxed{x </answer>"])
def test_broken_formats(text):
    assert reward(rollout(text), ["x"], "f1") == -1


# ---- pieces of grading

@pytest.mark.parametrize("text, inside", [("\\boxed{1}", "1"), ("a \\boxed{1} b \\boxed{\\frac{1}{2}} c", "\\frac{1}{2}"), ("\\boxed{a{b}c}", "a{b}c"), ("\\boxed{1} \\boxed{2", "1"), ("\\boxed", None), ("", None), ("\\boxed{}", "")])
def test_last_boxed(text, inside):
    assert last_boxed(text) == inside


def test_normalize_exact_f1():
    assert normalize_answer(" The  Cat's, a  hat! ") == "cats hat"
    assert exact_match("The Beatles", ["beatles"]) and not exact_match("Beatles band", ["beatles"]) and exact_match("+", ["+"]) and not exact_match("+", ["-"]) and not exact_match("", ["x"])
    assert token_f1("a b c", ["b c d"]) == pytest.approx(0.8) and token_f1("b b", ["b"]) == pytest.approx(2 / 3)
    assert token_f1("", ["x"]) == 0 and token_f1("x", []) == 0 and token_f1("no", ["no"]) == 1 and token_f1("no way", ["no"]) == 0


SAME = [("5", "5"), ("12", "12.0"), ("0.5", "\\frac{1}{2}"), ("1/2", "\\dfrac12"), ("-\\frac{3}{4}", "-0.75"), ("1,000", "1000"), ("1,234,567", "1234567"), ("50\\%", "0.5"), ("\\text{yes}", "yes"), ("x = 5", "5"), ("$7$", "7"), ("90^\\circ", "90"),
        ("(3, 4)", "(3,4)"), ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})"), ("−5", "-5"), ("\\$32", "32"), ("1\\frac{1}{2}", "1.5"), ("\\frac{1}2", "0.5"), ("\\frac1{2}", "1/2"), ("1{,}000", "1000"), ("\\sqrt2", "\\sqrt{2}"), ("50\\%", "50"), ("-2\\frac{1}{4}", "-9/4"), ("\\frac{-1}{2}", "-0.5"), ("1e3", "1000"), (".5", "0.50"), ("2\\sqrt{3}", "2 \\sqrt{3}")]
DIFFERENT = [("-5", "5"), ("1/2", "12"), ("1.5", "15"), ("x+1", "x-1"), ("(3,4)", "(34)"), ("(1,000)", "(1000)"), ("0.33", "1/3"), ("", ""), ("1/0", "1"), ("5", "five"), ("[1,2)", "(1,2)"), ("3", "3.0001"), ("1,23", "123"), ("100, 200", "100200"), ("2, 125", "2125"), ("\\{100,200\\}", "\\{100200\\}"), ("0.5", "50"), ("\\frac{1}{0}", "1")]


@pytest.mark.parametrize("a, b, same", [(*p, True) for p in SAME] + [(*p, False) for p in DIFFERENT])
def test_math_equal(a, b, same):
    assert math_equal(a, b) == same and math_equal(b, a) == same


@pytest.mark.parametrize("text", ["9" * 10**6, "5^(5^(5^(5^5)))", "\\boxed{" * 1000, "1e999999999", "\0", "{" * 10**5, "\\frac" * 1000, "1" + ",000" * 10**4])
def test_math_equal_survives(text):
    assert math_equal(text, "1") is False


def test_last_boxed_is_linear():
    import time
    started = time.perf_counter()
    assert last_boxed("\\boxed{" * 200_000) is None and last_boxed("\\boxed{" * 100_000 + "}" * 100_000) == ""
    assert time.perf_counter() - started < 3


@pytest.mark.parametrize("answers, task", [(["\\text{Evelyn}"], "math"), (["3\\sqrt{3} - 6"], "math"), (["70"], "math"), (["-3/4"], "math"), (["1,000"], "math"), (["$5"], "math"), (["50%"], "math"), (["x^2 + 1"], "math"), (["\\$32"], "math"),
                                           (["Frank Lowy"], "qa"), (["29MP"], "qa"), (["SH207"], "qa"), (["1.95 m"], "qa"), (["161.27元"], "qa"), (["2022年9月1日"], "qa"), (["yes"], "qa"), (["12", "twelve"], "qa"), (["A"], "qa")])
def test_guess_task(answers, task):
    assert judge.guess_task(answers) == task


# ---- estimators

@pytest.mark.parametrize("n, c", [(5, 0), (5, 2), (5, 5), (8, 3)])
def test_pass_at_k_equals_the_average_over_all_subsets(n, c):
    results = [1] * c + [0] * (n - c)
    for k in range(1, n + 1):
        assert pass_at_k(n, c, k) == pytest.approx(statistics.mean(max(s) for s in itertools.combinations(results, k)))
    with pytest.raises(ValueError, match="pass@k"):
        pass_at_k(n, c, n + 1)


# ---- data

def write(path, *rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_formats(tmp_path):
    chat = [{"role": "system", "content": "Put it in \x08oxed{}."}, {"role": "user", "content": "Q?", "extra": 1}]
    rows = [{"data_source": "d", "prompt": chat, "ability": "math", "reward_model": {"ground_truth": "3\\sqrt{3}", "style": "rule"}, "extra_info": {"index": 0}, "metadata": None},
            {"prompt": chat, "ability": None, "reward_model": {"ground_truth": {"target": ["a", "b"]}}}, {"question": "Who?", "answer": ["Frank Lowy", "F. Lowy"]}, {"problem": "Sum?", "answer": 70, "id": "0"},
            {"Question": "G?", "answer": "17", "task_id": "t", "Level": 2}, {"question": "J?", "answer": "16-3=13\n#### 18"}, {"prompt": "plain", "answer": "yes"}, {"prompt": chat, "answer": "4", "task": "qa"}]
    q = load_questions(write(tmp_path / "all.jsonl", *rows))
    assert [x.answers for x in q] == [["3\\sqrt{3}"], ["a", "b"], ["Frank Lowy", "F. Lowy"], ["70"], ["17"], ["18"], ["yes"], ["4"]]
    assert [x.task for x in q] == ["math", "qa", "qa", "math", "math", "math", "qa", "qa"]
    assert q[0].messages == [{"role": "system", "content": "Put it in \\boxed{}."}, {"role": "user", "content": "Q?"}] and q[0].meta["repaired"] and not q[2].meta["repaired"]
    assert q[2].messages[0]["content"] == judge.SYSTEM_PROMPT and q[2].messages[1] == {"role": "user", "content": "Who?"}
    assert {x.task for x in load_questions(str(tmp_path / "all.jsonl"), task="qa")} == {"qa"}
    assert load_questions(write(tmp_path / "empty_first.jsonl", {"question": "a", "reward_model": {"ground_truth": ""}, "answer": "5", "ability": "MATH"}))[0].answers == ["5"]
    assert [x.id for x in q] == ["1", "2", "3", "0", "t", "6", "7", "8"] and q[4].meta["Level"] == 2


@pytest.mark.parametrize("row, message", [({"question": "a"}, "row 2 has no answer"), ({"question": "a", "answer": " "}, "row 2 has no answer"), ({"question": "a", "answer": []}, "row 2 has no answer"), ({"answer": "1"}, "row 2 has no question"), ("[1]\n", "row 2 has another form"), ({"prompt": ["a"], "answer": "1"}, "row 2 has another form"), ({"prompt": [{"role": "user"}], "answer": "1"}, "row 2 has another form"), ({"prompt": [{"role": "user", "content": None}], "answer": "1"}, "row 2 has another form"),
                                           ({"question": 5, "answer": "1"}, "row 2 has another form"), ({"question": "a", "reward_model": "5"}, "row 2 has another form"), ("{oops\n", "row 2 is not JSON")])
def test_bad_rows_are_named(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        load_questions(write(tmp_path / "bad.jsonl", {"question": "fine", "answer": "1"}, row))


def test_bad_rows_can_be_left_out(tmp_path, capsys):
    path = write(tmp_path / "bad.jsonl", {"question": "fine", "answer": "1"}, {"question": "b"}, "{oops\n", {"question": "fine too", "answer": "2"})
    with pytest.raises(ValueError, match="row 2 has no answer.*\n.*row 3 is not JSON.*\n--skip_bad"):
        load_questions(path)
    assert [q.answers for q in load_questions(path, skip_bad=True)] == [["1"], ["2"]]
    assert capsys.readouterr().out.count("left out:") == 2


def test_bad_files(tmp_path):
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
    monkeypatch.setattr(builtins, "__import__", lambda name, *a, **k: (_ for _ in ()).throw(ImportError(name)) if name.startswith("pyarrow") else original(name, *a, **k))
    with pytest.raises(ValueError, match="pip install pyarrow"):
        load_questions(str(path))
    monkeypatch.undo()
    pq = pytest.importorskip("pyarrow.parquet", reason="needs `pip install pyarrow`")
    import pyarrow
    pq.write_table(pyarrow.Table.from_pylist([{"prompt": [{"role": "user", "content": "Q"}], "reward_model": {"ground_truth": "5", "style": "rule"}}]), path)
    assert load_questions(str(path))[0].answers == ["5"]


# ---- a run

def test_command_line(world, agent_folder, tmp_path, capsys):
    """The golds of every other question are what the model answers greedily: then exactly those are right, in each of three greedy samples."""
    def run(data, *flags):
        judge.main(["--model", str(agent_folder), "--data", str(data), "--corpus", str(world / "corpus.jsonl"), "--topk", "1", "--max_tokens", "128", "--max_calls", "4", "--max_result_tokens", "48", "--out", str(tmp_path / "out.json"), *flags])
        return json.loads((tmp_path / "out.json").read_text())
    rows = [json.loads(line) for line in open(world / "test.jsonl")][:12]
    first = run(write(tmp_path / "a.jsonl", *rows), "--temperature", "0")
    own = [last_boxed(row["text"][0]) for row in first["rows"]]
    assert sum(a is not None for a in own) >= 8
    golds = [a if a is not None and k % 2 == 0 else "no such answer" for k, a in enumerate(own)]
    result = run(write(tmp_path / "b.jsonl", *[row | {"answer": gold} for row, gold in zip(rows, golds)]), "--temperature", "0", "--samples", "3", "--questions", "10")
    expected = [gold != "no such answer" for gold in golds[:10]]
    assert [row["correct"] for row in result["rows"]] == [[e] * 3 for e in expected]
    assert result["numbers"]["avg@3"] == result["numbers"]["pass@3"] == pytest.approx(sum(expected) / 10) and 0 < sum(expected) < 10
    assert result["settings"]["seed"] == 0 and "avg@3" in capsys.readouterr().out
    sampled = run(tmp_path / "b.jsonl", "--temperature", "1", "--samples", "4")
    correct = [row["correct"] for row in sampled["rows"]]
    assert sampled["numbers"]["avg@4"] == pytest.approx(sum(map(sum, correct)) / 48) and sampled["numbers"]["pass@4"] == pytest.approx(sum(map(any, correct)) / 12)
    assert all(math.isfinite(v) for v in sampled["numbers"].values())


@pytest.mark.parametrize("flags, message", [(["--samples", "0"], "--samples must be >= 1"), (["--temperature", "-1"], "--temperature must be >= 0"), (["--questions", "-1"], "--questions must be >= 0"), (["--rows", "0"], "--rows must be >= 1"), ([], "data file .* does not exist"), (["--data", ""], "--model and --data are needed")])
def test_bad_flags(flags, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        judge.main(["--model", str(tmp_path / "m"), "--data", str(tmp_path / "no.jsonl"), *flags])


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="--model .*nothing is neither"):
        judge.main(["--model", str(tmp_path / "nothing"), "--data", write(tmp_path / "d.jsonl", {"question": "a", "answer": "1"}), "--tools", "python", "--out", str(tmp_path / "new" / "out.json")])
