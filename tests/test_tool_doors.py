"""Tools of a user in train.py, eval.py, tools.py and the sampler, as a user would."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SMALL, arguments, sampler_for
from eval_parts import rollout, settings

import eval as evaluation
import sampling
import train
from protocol import tags_of
from rewards import format_fault
from rollout import close_all
from sampling import Sampler
from support import scores
from support.examples import encode_chats, read_chats
from support.inputs import read_run
from support.own_tools import own_tool
from support.questions import Question, load_questions
from tools import main, open_tools

EXAMPLE = Path(train.__file__).parent / "examples" / "own_tool.py"
COUNTS = '''
class Count:
    """Count the calls."""
    opened = closed = 0
    def open(self, question):
        Count.opened += 1
        return {"calls": [], "of": question and question.row.get("prompt")}
    def run(self, argument, state):
        state["calls"].append(argument)
        return f"call {len(state['calls'])}"
    def close(self, state):
        Count.closed += 1
'''


@pytest.fixture
def place(tmp_path):
    """Where the tool Count stands."""
    (tmp_path / "own.py").write_text(COUNTS)
    return f"{tmp_path / 'own.py'}:Count"


def scripted(monkeypatch, agent, text):
    """Whatever the model says, its next token is the text's next one; then it begins again."""
    ids = agent.tokenizer(text, add_special_tokens=False).input_ids
    places = iter(range(10**9))

    def draw(logits, *how):
        token = torch.full((len(logits),), ids[next(places) % len(ids)])
        return token, torch.full((len(logits),), -1.0), torch.ones(len(logits))

    monkeypatch.setattr(sampling, "draw", draw)


def test_a_tool_with_state_in_the_sampler(place, agent, prompts, monkeypatch):
    """A branch after the first call finds what that call has left, not what came later."""
    opened = open_tools(place, "", 1, 5.0, "off")
    tool, params = opened["count"], sampler_for(agent, {}).params
    sampler = Sampler(agent, opened, params, tags_of(place))
    scripted(monkeypatch, agent, "<count> a</count><count> b</count>")
    question = Question("1", [], [], "qa", row={"prompt": "how many?"})
    (r,) = sampler.initial(prompts[:1], 1, [3], questions=[question])
    assert len(r.calls) == params.max_calls and r.finish == "calls"
    results = [text.strip() for own, text in r.pieces if not own]
    assert [f"call {k}" in text for k, text in enumerate(results, 1)] == [True] * len(r.calls)
    said = [call.argument for call in r.calls]
    assert said == ["a", "b"] * (len(said) // 2)
    assert r.state("count") == {"calls": said, "of": "how many?"}
    cache = agent.score([r], 1.0, 4096, keep_cache=True)
    scripted(monkeypatch, agent, "<count> c</count>")
    (branch,) = sampler.branches([r], [[r.calls[0].end]], cache)
    assert branch.calls[0] is r.calls[0]
    assert branch.state("count")["calls"] == ["a"] + ["c"] * (params.max_calls - 1)
    assert r.state("count")["calls"] == said
    # the first one, and a copy for each call that ran
    assert len(tool.states) == 1 + 2 * params.max_calls - 1
    close_all([r])
    assert not tool.states and tool.made.closed == 2 * params.max_calls


@pytest.mark.slow
def test_training_and_evaluation(place, world, agent, agent_folder, tmp_path, capsys, monkeypatch):
    """The format knows the tags; states are closed after every step and every batch."""
    tools = f"python,search,{place},{EXAMPLE}:days_between"
    tool, states = own_tool(place), []
    for module in (train, scores):

        def watched(rollouts, close=module.close_all):
            before = len(tool.states)
            close(rollouts)
            states.append((before, len(tool.states)))

        monkeypatch.setattr(module, "close_all", watched)
    scripted(monkeypatch, agent, "<count> a</count>")
    flags = SMALL | dict(steps=1, tools=tools)
    train.main(arguments(world, tmp_path, model=agent_folder, **flags))
    said = capsys.readouterr().out
    assert f"count, own tool {place}: Count the calls." in said and "days_between, own" in said
    assert not own_tool(place).states
    evaluation.main(
        settings(agent_folder, world, tmp_path, world / "test.jsonl", questions=2, tools=tools)
    )
    # two evaluations of the run and its step, then eval.py
    assert len(states) >= 4 and all(before > 0 == after for before, after in states)
    (path,) = (tmp_path / "out").glob("eval_*.json")
    sample = json.loads(path.read_text())["rows"][0]["samples"][0]
    assert sample["tools"] == ["python", "search", "count", "days_between"]


def test_tags_stops_and_format(place):
    tags = tags_of(f"python,{place}")
    assert tags.tools == ("python", "search", "count")
    assert tags.stops == ("</python>", "</search>", "</count>", "<result>")
    assert tags.parse_call("<think> t </think><count> 3 </count>") == ("count", "3")
    assert tags.defuse("</count> <COUNT>") == "‹/count> ‹COUNT>"
    good = "<think> t </think><count> 3 </count> <answer> \\boxed{1} </answer>"
    broken = good.replace("</count>", "")
    for text, fault in ((good, ""), (broken, "not every <count> has its </count>")):
        r = rollout(text)
        r.family.protocol = tags
        assert format_fault(r) == fault
    # without the tool it is a word like another
    assert format_fault(rollout(broken)) == ""


def test_what_the_prompt_says(place, tmp_path):
    (tmp_path / "sums.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    system = tags_of(f"search,{place}").system_prompt()
    (question,) = load_questions(str(tmp_path / "sums.jsonl"), system=system)
    told = question.messages[0]["content"]
    assert "Two tools are at hand" in told and "count (Count the calls)" in told
    assert "write <count> argument </count>" in told and "<search>" in told
    assert "<python>" not in told


def test_what_is_wrong_is_said_with_all_else(place, world, agent_folder, tmp_path):
    (tmp_path / "bad.py").write_text("X = 1\n")
    tools = f"python,calculator,{place},{tmp_path / 'bad.py'}:X,python"
    flags = SMALL | dict(tools=tools, data=tmp_path / "no.jsonl")
    with pytest.raises(ValueError) as told:
        read_run(arguments(world, tmp_path, model=agent_folder, **flags))
    for line in (
        "unknown tool 'calculator': --tools takes python, search and FILE.py:NAME",
        "bad.py:X is neither a function nor a class",
        "--tools names python twice",
        "no.jsonl does not exist",
    ):
        assert line in str(told.value)


def test_by_hand(capsys):
    dates = '{"first": "2024-02-28", "second": "2024-03-01"}'
    main([f"{EXAMPLE}:days_between", dates])
    assert capsys.readouterr().out == "2\n"
    main([f"{EXAMPLE}:Database", "select 1 + 1"])
    assert capsys.readouterr().out == "[[2]]\n"
    with pytest.raises(SystemExit):
        main([f"{EXAMPLE}:Guess", "many"])
    assert "invalid literal" in capsys.readouterr().out
    for tool in ("python,search", " "):
        with pytest.raises(SystemExit):
            main([tool, "50"])
        assert f"give one tool: python, search or FILE.py:NAME, got {tool!r}" in (
            capsys.readouterr().err
        )


def test_by_hand_on_the_question_of_a_row(place, tmp_path, capsys):
    data = tmp_path / "q.jsonl"
    data.write_text('{"question": "a?", "number": 40}\n{"question": "b?", "number": 60}\n')
    for row, said in ((1, "lower"), (2, "higher")):
        main([f"{EXAMPLE}:Guess", "50", "--row", f"{data}:{row}"])
        assert capsys.readouterr().out == f"{said}\n"
    for tool, row, wrong in (
        ("Guess", f"{data}:3", "--row .*q.jsonl:3: the file has 2 questions and no such row"),
        ("Guess", str(data), "--row must be FILE:N, such as questions.jsonl:3, got .*q.jsonl"),
        ("days_between", f"{data}:1", "--row: days_between has no state"),
    ):
        with pytest.raises(ValueError, match=wrong):
            main([f"{EXAMPLE}:{tool}", "50", "--row", row])
    with pytest.raises(FileNotFoundError, match="no.jsonl does not exist"):
        main([f"{EXAMPLE}:Guess", "50", "--row", f"{tmp_path}/no.jsonl:1"])
    # a bad row before it does not matter
    data.write_text('{"number": 40}\n{"question": "b?", "number": 60}\n')
    main([f"{EXAMPLE}:Guess", "50", "--row", f"{data}:2"])
    assert capsys.readouterr().out.endswith("higher\n")


def test_a_call_by_hand_that_raises_names_the_line(tmp_path, capsys):
    """Of the tool's own file, though the error comes from another; none for wrong arguments."""
    (tmp_path / "own.py").write_text(
        "import json\ndef read(text: str) -> dict:\n    'Read JSON.'\n    return json.loads(text)\n"
        "def add(a: int, b: int) -> int:\n    'Add.'\n    return a + b\n"
    )
    with pytest.raises(SystemExit, match="JSONDecodeError: Expecting value.* .own.py, line 4.$"):
        main([f"{tmp_path}/own.py:read", "x"])
    assert capsys.readouterr().out.startswith("Error: JSONDecodeError: Expecting value")
    with pytest.raises(
        SystemExit, match="ValueError: the argument .b. is missing; known are a, b$"
    ):
        main([f"{tmp_path}/own.py:add", '{"a": 1}'])


def test_ctrl_c_of_a_call_by_hand(tmp_path):
    """One line, the exit status of a shell; the first state and the call's are closed."""
    (tmp_path / "own.py").write_text(
        "import time\nclass Slow:\n    'Sleep.'\n    def open(self, question): return 1\n"
        "    def run(self, argument, state):\n        print('running', flush=True)\n"
        "        time.sleep(60)\n"
        "    def close(self, state): print('closed', flush=True)\n"
    )
    command = [sys.executable, "tools.py", f"{tmp_path}/own.py:Slow", "x"]
    how = dict(cwd=EXAMPLE.parent.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    # a shell that runs the tests in the background has SIGINT ignored, and a child inherits that
    how["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, **how) as process:
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        out, problems = process.communicate(timeout=30)
    assert (out, problems, process.returncode) == ("closed\n" * 2, "tools.py: interrupted\n", 130)


def test_a_cold_start_teaches_its_calls(place, tokenizer, tmp_path):
    """Text between its tags, or JSON for several arguments; a result is masked."""
    asked = {"role": "user", "content": "q"}
    dates = {"first": "2024-01-01", "second": "2024-01-31"}
    calls = [("count", {"argument": "3"}, "call 1"), ("days_between", dates, "30")]
    said = []
    for name, given, result in calls:
        call = {"function": {"name": name, "arguments": given}}
        said += [
            {"role": "assistant", "content": "<think> t </think>", "tool_calls": [call]},
            {"role": "tool", "content": result},
        ]
    last = {"role": "assistant", "content": "<answer> \\boxed{30} </answer>"}
    row = json.dumps({"messages": [asked, *said, last]}) + "\n"
    (tmp_path / "chats.jsonl").write_text(row)
    tags = tags_of(f"{place},{EXAMPLE}:days_between")
    ((ids, mask),) = encode_chats(
        "chats.jsonl", read_chats(str(tmp_path / "chats.jsonl"), tags=tags), tokenizer
    )
    taught = tokenizer.decode([i for i, own in zip(ids, mask) if own])
    assert "<count>3</count>" in taught
    assert '<days_between>{"first": "2024-01-01", "second": "2024-01-31"}</days_between>' in taught
    assert "call 1" not in taught and "call 1" in tokenizer.decode(ids)
    with pytest.raises(ValueError, match="a call of 'count'.*tools are python, search"):
        read_chats(str(tmp_path / "chats.jsonl"))
