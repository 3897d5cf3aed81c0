"""What a user brings without editing, as a user would: rewards in train.py and eval.py."""

import json
import sys
import threading
from pathlib import Path

import pytest
from conftest import SMALL, arguments, lines, sampler_for
from eval_parts import rollout, settings

import eval as evaluation
import train
from rollout import Call
from support.compare import regrade_all
from support.http import Unavailable
from support.inputs import read_run
from support.plugins import load_name, open_reward
from support.questions import Question, load_questions
from support.reward_calls import Rewards

EXAMPLES = Path(train.__file__).parent / "examples"
CALLS = """
def score(rollout, question):
    seen.append(rollout)
    calls = len(rollout.calls)
    return {"reward": calls / 10, "calls": calls, "number": question.row["number"]}
seen = []
"""


@pytest.fixture
def own(tmp_path):
    """A file of a user, with what it holds in place of {}."""

    def own(text, name="score"):
        (tmp_path / "own.py").write_text(text)
        # it is run anew, as a new process would
        for module in [m for m in sys.modules if m.startswith("user_file_own_")]:
            del sys.modules[module]
        return f"{tmp_path / 'own.py'}:{name}"

    return own


@pytest.fixture
def unanswered(world, tmp_path):
    """The world's questions without their answers, with a column of their own."""

    def unanswered(name):
        rows = [json.loads(line) for line in open(world / f"{name}.jsonl")]
        rows = [{"prompt": row["prompt"], "number": k % 2} for k, row in enumerate(rows)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / f"{name}.jsonl"

    return unanswered


def run_of(world, folder, tmp_path, **changes):
    return arguments(world, tmp_path, model=folder, **SMALL | dict(steps=1) | changes)


# ---- rewards in training


@pytest.mark.slow
def test_training_on_rows_without_answers(own, unanswered, world, agent_folder, tmp_path, capsys):
    place = own(CALLS)
    data = dict(data=unanswered("train"), eval_data=unanswered("test"))
    train.main(run_of(world, agent_folder, tmp_path, reward_fn=place, **data))
    first, step, last = lines(tmp_path / "run", "metrics")
    assert step["reward"] == pytest.approx(step["reward_fn_calls"] / 10)
    assert step["reward_fn_calls"] == pytest.approx(step["calls"]) and step["reward_failed"] == 0
    assert 0 <= step["reward_fn_number"] <= 1
    assert not {"reward_auto", "reward_math"} & set(step)
    for line in (first, last):
        assert line["eval_reward"] == pytest.approx(line["eval_reward_fn_calls"] / 10)
        assert not {"eval_avg@1", "eval_f1"} & set(line) and line["eval_greedy"] > 0
    assert "held-out reward 0." in capsys.readouterr().out
    # every rollout once: 4 prompts x 4 x (1 + 3); 2 evaluations of 4 questions, 2 samples, 1 greedy
    seen = load_name(f"{place.rpartition(':')[0]}:seen", "reward_fn")
    assert len(seen) == len({id(r) for r in seen}) == 4 * 4 * 4 + 2 * 4 * (2 + 1)


def test_a_reward_begins_while_others_are_sampled(agent, tools, prompts):
    """Each is answered before the next rollout is complete."""
    order = []
    rewards = Rewards(lambda r: order.append("reward") or 0.0)

    def finished(r):
        order.append("complete")
        rewards.begin(r)
        rewards.asked[id(r)].result()

    sampler = sampler_for(agent, tools, decode_rows=2)
    rewards.set(sampler.initial(prompts[:4], 2, [1, 2, 3, 4], finished=finished))
    assert order == ["complete", "reward"] * 8


@pytest.mark.slow
def test_a_few_failures_are_told_and_counted(own, world, agent_folder, tmp_path, capsys):
    text = (
        "count = []\ndef score(r, q):\n    count.append(r)\n    assert len(count) % 8, 'eighth'\n"
    )
    place = own(text + "    return 1.0\n")
    train.main(run_of(world, agent_folder, tmp_path, reward_fn=place, eval_questions=0))
    (step,) = lines(tmp_path / "run", "metrics")
    assert step["reward_failed"] == 1 / 8 and step["reward"] == 1 and "reward_auto" in step
    told = [x for x in capsys.readouterr().out.splitlines() if "rollouts failed" in x]
    assert len(told) == 1
    assert "step 1: the reward of 8 of 64 rollouts failed: AssertionError: eighth" in told[0]
    assert "(own.py, line 4). Its rollout: '<think>" in told[0]


@pytest.mark.slow
def test_a_reward_that_fails_mostly_ends_the_run_and_a_mended_one_goes_on(
    own, world, agent_folder, tmp_path, capsys
):
    def run(text):
        flags = dict(reward_fn=own(text), eval_questions=0)
        train.main(run_of(world, agent_folder, tmp_path, **flags))

    said = (
        r"step 1: rewards: 16 of 16 failed: KeyError: 'tests' \(own.py, line 2\).*step 0 is saved"
    )
    with pytest.raises(Unavailable, match=said):
        run("def score(r, question):\n    return question.row['tests']\n")
    assert not lines(tmp_path / "run", "metrics")
    run("def score(r, question):\n    return 1.0\n")
    assert "own.py: the file has changed since this run began" in capsys.readouterr().out
    assert lines(tmp_path / "run", "metrics")[0]["reward"] == 1


@pytest.mark.slow
def test_another_reward_is_another_run(own, world, agent_folder, tmp_path):
    text = "def score(r, q):\n    return 1.0\nother = score\n"
    train.main(run_of(world, agent_folder, tmp_path, reward_fn=own(text), eval_questions=0))
    with pytest.raises(ValueError, match="another --reward_fn"):
        changes = dict(reward_fn=own(text, "other"), eval_questions=0)
        train.main(run_of(world, agent_folder, tmp_path, **changes))


def test_a_bad_reward_is_refused_with_all_else(own, world, agent_folder, tmp_path):
    changes = dict(reward_fn=own("X = 1\n"), data=tmp_path / "no.jsonl", minibatch=3)
    with pytest.raises(ValueError) as told:
        read_run(run_of(world, agent_folder, tmp_path, **changes))
    assert "no.jsonl does not exist" in str(told.value) and "has no score" in str(told.value)


def test_without_a_reward_of_ones_own_an_answer_is_needed(unanswered):
    path = str(unanswered("train"))
    with pytest.raises(ValueError, match="row 1 has no answer.*with --reward_fn none is needed"):
        load_questions(path)
    question = load_questions(path, answered=False)[1]
    assert question.answers == [] and question.row["number"] == 1


@pytest.mark.parametrize("answer", [{"a": 1}, [{"x": 2}], [[]], None, 3])
def test_an_answer_in_a_form_of_ones_own(tmp_path, answer):
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "q", "answer": answer}) + "\n")
    (question,) = load_questions(str(tmp_path / "a.jsonl"), answered=False)
    assert question.row["answer"] == answer
    assert question.answers == (["3"] if answer == 3 else [])


# ---- rewards in evaluation


def test_an_evaluation_with_a_reward(own, unanswered, world, agent_folder, tmp_path, capsys):
    flags = dict(samples=2, questions=3, reward_fn=own(CALLS))
    evaluation.main(settings(agent_folder, world, tmp_path, unanswered("test"), **flags))
    (path,) = (tmp_path / "out").glob("eval_*.json")
    result = json.loads(path.read_text())
    samples = [s for row in result["rows"] for s in row["samples"]]
    assert [s["reward"] for s in samples] == [len(s["calls"]) / 10 for s in samples]
    assert result["numbers"]["reward_fn_calls"] == pytest.approx(result["numbers"]["calls"])
    assert "correct" not in samples[0] and "avg@2" not in result["numbers"]
    reward = f"{result['numbers']['reward']:.2f}"
    assert f"| {reward} |" in capsys.readouterr().out.splitlines()[-1]
    # what cannot be computed again is kept
    numbers = regrade_all([str(path)])[path.stem.removeprefix("eval_")]["numbers"]
    assert numbers == result["numbers"]


@pytest.mark.slow
def test_an_evaluation_whose_reward_fails_stops_at_once(own, world, agent_folder, tmp_path):
    flags = dict(questions=3, reward_fn=own("def score(r, q):\n    return None\n"))
    arguments = settings(agent_folder, world, tmp_path, world / "test.jsonl", **flags)
    said = "--reward_fn failed at the first question of .*test.jsonl: it returned None, which is"
    with pytest.raises(ValueError, match=said):
        evaluation.main(arguments)
    # nothing was kept: a mended one begins anew
    own("def score(r, q):\n    return 2.0\n")
    evaluation.main(arguments)
    (path,) = (tmp_path / "out").glob("eval_*.json")
    assert json.loads(path.read_text())["numbers"]["reward"] == 2


@pytest.mark.slow
def test_an_evaluation_takes_the_runs_reward(own, world, agent_folder, tmp_path):
    place = own(CALLS.replace('question.row["number"]', "1"))
    run = run_of(world, agent_folder, tmp_path, reward_fn=place, eval_questions=0)
    train.main(run)
    assert evaluation.settings_of_run(str(tmp_path / "run"))["reward_fn"] == place


# ---- the examples


def test_a_length_penalty():
    short_answer = open_reward(f"{EXAMPLES / 'own_reward.py'}:short_answer")
    question = Question("1", [], ["Paris"], "qa")
    text = "<think> {} </think><answer> \\boxed{{{}}} </answer>"
    assert short_answer(rollout(text.format("t", "Paris")), question)["reward"] == 1
    assert short_answer(rollout(text.format("t", "Rome")), question)["reward"] == 0
    assert short_answer(rollout("Paris"), question) == {"reward": -1, "right": 0}
    long = rollout(text.format("t" * 2000, "Paris"))
    over = len(long.policy_text) - 400
    assert short_answer(long, question)["reward"] == pytest.approx(1 - 0.1 * over / 1000)


def test_unit_tests_in_the_jail():
    try:
        unit_tests = open_reward(f"{EXAMPLES / 'unit_tests.py'}:unit_tests")
    except ValueError as problem:
        pytest.skip(f"no whole jail here: {problem}")
    tests = ["assert double(2) == 4", "assert double(-1) == -2", "assert double('a') == 'aa'"]
    question = Question("1", [], [], "qa", row={"tests": tests})

    def earned(code):
        r = rollout("t")
        r.calls = [Call("python", code, "ok", 0.0, 0, 0)]
        return unit_tests(r, question)

    assert earned("def double(x):\n    return 2 * x") == {"reward": 1, "passed": 1}
    assert earned("def double(x):\n    return x + x * 1")["reward"] == 1
    assert earned("def double(x):\n    return abs(2 * x)")["reward"] == pytest.approx(1 / 3)
    assert earned("import os; os.kill(os.getppid(), 9)")["reward"] == 0
    assert unit_tests(rollout("t"), question) == {"reward": -1, "passed": 0}


def test_64_answers_are_judged_at_once(serve, monkeypatch):
    """The server answers when all 64 have been asked, or fails after 30 seconds."""
    everybody = threading.Barrier(64, timeout=30)

    def reply(path, payload):
        everybody.wait()
        yes = "Paris" in payload["messages"][0]["content"].split("Answer:")[1]
        return {"choices": [{"message": {"content": "YES" if yes else "NO"}}]}

    server = serve(reply)
    module = open_reward(f"{EXAMPLES / 'own_reward.py'}:judged").__globals__
    monkeypatch.setitem(module, "JUDGE_URL", server.url)
    question = Question("1", [{"role": "user", "content": "Capital of France?"}], [], "qa")
    text = "<think> t </think><answer> \\boxed{{{}}} </answer>"
    rollouts = [rollout(text.format("Paris" if k % 2 else "Rome")) for k in range(64)]
    rewards = Rewards(lambda r: module["judged"](r, question))
    for r in rollouts:
        rewards.begin(r)
    rewards.set(rollouts)
    assert [r.reward for r in rollouts] == [float(k % 2) for k in range(64)]
    assert not any(r.reward_fault for r in rollouts)
