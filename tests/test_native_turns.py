"""support/native_calls.py: thoughts of a template, limits of results, template arguments."""

import inspect
import json
from types import SimpleNamespace

import pytest
from eval_parts import settings
from native_parts import CHAT, FORMATS, PYTHON, ended, hermes, protocol, read, sampled
from transformers import PreTrainedTokenizerBase

import eval as evaluation
from protocol import Tags, opened_by
from rewards import answer_of, format_fault
from support.inputs import encode
from support.native_calls import NOT_OF_TEMPLATES, Hermes, Llama3, frame_of, template_arguments
from support.sampling_params import short_results
from support.served import Served

LLAMA = '{"name": "python", "parameters": {"code": "print(1)"}}'
CALLED = ("python", "print(1)", "")


@pytest.fixture
def thinking(agent_of):
    """As agent_of, with Qwen3's template as that of a model that always thinks."""

    def thinking(said):
        policy = agent_of("qwen3", said)
        old, new = "<|im_start|>assistant\\n' }}\n", "<|im_start|>assistant\\n<think>\\n' }}\n"
        head, found, tail = policy.tokenizer.chat_template.rpartition(old)
        assert found
        policy.tokenizer.chat_template = head + new + tail
        return policy

    return thinking


# ---- thoughts


@pytest.mark.parametrize(
    "said, finish, calls, answer",
    [
        # a call inside of a thought that does not end, in the first turn and in the second
        ([f"I could write{hermes(PYTHON)} but"], "stop", 0, None),
        ([f"so\n</think>{hermes(PYTHON)}", f"again{hermes(PYTHON)}"], "stop", 1, None),
        # so is an answer
        (["maybe \\boxed{7}"], "stop", 0, None),
        ([f"so\n</think>{hermes(PYTHON)}", "maybe \\boxed{7}"], "stop", 1, None),
        # a draft in a thought that ends is none; what stands behind it counts
        (
            [
                f"use{hermes(PYTHON)}?\n</think>{hermes(PYTHON)}",
                "7 or 8?\n</think>\n\\boxed{8}",
            ],
            "stop",
            1,
            "8",
        ),
    ],
)
def test_a_thought_that_the_template_opens(thinking, tools, said, finish, calls, answer):
    """In every turn, as the prompt opens the first one."""
    policy, how = thinking(said), protocol("qwen3", "python")
    prompt = how.encode_prompt(policy.tokenizer, CHAT)
    assert opened_by(policy.tokenizer, [prompt]) == ["<think>"]
    assert how.reopened(policy.tokenizer) == "<think>"
    r = sampled(policy, how, tools, prompt)
    assert (r.finish, len(r.calls), answer_of(r)) == (finish, calls, answer)
    assert format_fault(r) == ("" if answer else "the thought does not end")


@pytest.mark.parametrize("last", [f"again{hermes(PYTHON)}", "maybe \\boxed{7}"])
def test_a_thought_that_the_template_opens_for_a_served_model(thinking, tools, judging, last):
    policy, said = thinking([]), iter(["ready", f"so\n</think>{hermes(PYTHON)}", last])
    server = judging(lambda asked: {"text": next(said), "finish_reason": "stop"})
    run = SimpleNamespace(
        **dict(tools="python", protocol="hermes", chat_template_kwargs="", decode_rows=1),
        **dict(temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0, max_tokens=1024),
        **dict(max_calls=4, max_tool_calls="", max_result_tokens=512),
    )
    served = Served(server.url, "m", policy.tokenizer, tools, run)
    (r,) = served([served.protocol.encode_prompt(policy.tokenizer, CHAT)], 1, [0])
    assert (r.finish, len(r.calls), answer_of(r)) == ("stop", 1, None)
    assert format_fault(r) == "the thought does not end"


def test_a_template_that_opens_no_thought_leaves_none_open(of_model):
    assert protocol("qwen3").reopened(of_model("qwen3")) == ""
    assert protocol("qwen3", enable_thinking=False).reopened(of_model("qwen3")) == ""
    assert Tags().reopened(of_model("qwen3")) == ""


@pytest.mark.parametrize(
    "pieces, opened, answer",
    [
        (["a</think> call", "</tool_response><think>\n", "\\boxed{7}"], "<think>", None),
        (["a</think> call", "</tool_response><think>\n", "b</think>\\boxed{7}"], "<think>", "7"),
        # an empty thought, as Qwen3's template writes it without thinking
        (["call", "<think>\n\n</think>\n\n", "\\boxed{7}"], "", "7"),
        (["</think> <think> \\boxed{7}"], "", None),
    ],
)
def test_the_answer_behind_the_thought_of_a_turn(pieces, opened, answer):
    assert answer_of(ended(protocol("qwen3"), *pieces, opened=opened)) == answer


# ---- calls


def coded(code):
    """A call of python in JSON, and how it is read."""
    call = json.dumps({"name": "python", "arguments": {"code": code}})
    return call, ("python", code, "")


THOUGHT_IN_CODE = coded("print('</think>')")
CALL_IN_CODE = coded("print('</tool_call><tool_call>')")


@pytest.mark.parametrize(
    "kind, text, calls",
    [
        (Hermes, hermes(THOUGHT_IN_CODE[0]), [THOUGHT_IN_CODE[1]]),
        (Hermes, f"<think>x</think>{hermes(THOUGHT_IN_CODE[0])}", [THOUGHT_IN_CODE[1]]),
        (Hermes, hermes(CALL_IN_CODE[0], PYTHON), [CALL_IN_CODE[1], CALLED]),
        (Hermes, f"{hermes(PYTHON)}<think>x</think>{hermes(PYTHON)}", [CALLED, CALLED]),
        (Hermes, f"{hermes(PYTHON)}<think>x{hermes(PYTHON)}", []),
        (Hermes, f"<think>{hermes(PYTHON)}</think> \\boxed{{5}}", []),
        (Llama3, THOUGHT_IN_CODE[0], [THOUGHT_IN_CODE[1]]),
        (Llama3, f"<think>x</think>\n{THOUGHT_IN_CODE[0]}", [THOUGHT_IN_CODE[1]]),
        (Llama3, f"the end</think>\n{LLAMA}", [CALLED]),
        (Llama3, f"<think>\n{LLAMA}", []),
        (Llama3, f"<think>\n{LLAMA}\n</think>\n\\boxed{{5}}", []),
        # behind the tag code may be what looks like JSON
        (Llama3, "<|python_tag|>{1,2}", [("python", "{1,2}", "")]),
        (Llama3, '<|python_tag|>{"a": 1}["a"]', [("python", '{"a": 1}["a"]', "")]),
        (Llama3, f"<|python_tag|>{LLAMA}; {LLAMA}<|eom_id|>", [CALLED, CALLED]),
        # Meta's format is the object alone
        (Llama3, '{"title": "Mr", "name": "Bob"} \\boxed{3}', []),
        (Llama3, f"{LLAMA} \\boxed{{3}}", []),
    ],
)
def test_what_is_a_call(kind, text, calls):
    assert read(kind, text, "python") == calls


@pytest.mark.parametrize(
    "text, said",
    [
        (hermes("[]"), "a call is an object with a name and arguments, got []"),
        (hermes(""), "the call is not JSON"),
        (hermes(PYTHON + " and so on"), "the call is not JSON: text follows it: and so on"),
        (f"<tool_call>\n{PYTHON} <tool_call>", "a <tool_call> is not closed by </tool_call>"),
    ],
)
def test_what_hermes_cannot_read_is_said(text, said):
    assert all(fault.startswith(said) for _, _, fault in read(Hermes, text, "python"))
    assert read(Hermes, text, "python")


def test_a_function_whose_parameter_is_called_argument(tmp_path):
    (tmp_path / "own.py").write_text(
        "def double(argument: int) -> int:\n"
        '    """Double.\n\n    Args:\n        argument: the number\n    """\n'
        "    return 2 * argument\n"
        'class Say:\n    """Say."""\n    def run(self, argument): return argument\n'
    )
    tools = f"{tmp_path}/own.py:double,{tmp_path}/own.py:Say"
    call = '{"name": "double", "arguments": {"argument": 5}}'
    assert read(Hermes, hermes(call), tools) == [("double", {"argument": 5}, "")]
    ((_, _, fault),) = read(Hermes, hermes(call.replace("double", "say")), tools)
    assert fault == 'the arguments of say must be {"argument": "..."}'


# ---- limits of results


@pytest.mark.parametrize("name", FORMATS)
def test_the_frame_is_never_cut(of_model, name):
    """Neither by the limit of a result, nor by several results in a turn, nor by the budget."""
    tokenizer, how = of_model(name), protocol(name)
    least, frame = how.least_result(tokenizer), frame_of(tokenizer, {})
    for count in (1, 2, 5):
        for longest in (8, least - 1, least, least + 3, 200):
            for room in (0, 8, least, 5 * least, 2000):
                ids = how.encode_results(tokenizer, ["long " * 99] * count, longest, room)
                text = tokenizer.decode(ids)
                whole = text.startswith(frame.head) and text.endswith(frame.tail)
                assert not ids or whole and text.count(frame.between) == count - 1
                assert len(ids) <= room and bool(ids) >= (longest >= least and room >= 5 * least)
                assert longest >= least or not ids
    assert len(how.encode_results(tokenizer, ["long " * 99], least, 2000)) == least


def test_every_result_of_a_turn_may_be_as_long_as_the_limit(of_model):
    tokenizer, how = of_model("qwen2.5"), protocol("qwen2.5")
    one, three = (
        tokenizer.decode(how.encode_results(tokenizer, ["a " * 99] * n, 60, 2000)) for n in (1, 3)
    )
    assert three.count("a ") >= 3 * one.count("a ") > 0


@pytest.mark.parametrize("name", [None, *FORMATS])
def test_a_limit_that_cannot_hold_a_result_is_refused(of_model, name):
    tokenizer, how = of_model(name or "qwen2.5"), protocol(name) if name else Tags()
    least = how.least_result(tokenizer)

    def said(longest, calls=3):
        limits = SimpleNamespace(max_result_tokens=longest, max_calls=calls)
        return short_results(limits, how, tokenizer)

    assert said(least) == "" == said(least - 1, calls=0)
    assert f"--max_result_tokens {least - 1} cannot hold a result with" in said(least - 1)
    assert f"--protocol {how.name} writes around it: give at least {least}" in said(least - 1)


def test_a_start_refuses_it(of_model):
    from config import Config
    from support.inputs import Unencoded
    from support.questions import Question

    run = Config(model="m", data="d.jsonl", protocol="hermes", max_result_tokens=16)
    rows = Unencoded(train=[Question("1", CHAT, ["5"], "qa", {"row": 1})])
    with pytest.raises(ValueError, match="--max_result_tokens 16 cannot hold a result"):
        encode(run, rows, of_model("qwen2.5"))


def test_an_evaluation_refuses_it(world, agent_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Tags, "least_result", lambda self, tokenizer: 49)
    with pytest.raises(ValueError, match="--max_result_tokens 48 cannot hold a .* at least 49"):
        evaluation.main(settings(agent_folder, world, tmp_path, world / "test.jsonl", questions=1))


def test_a_budget_too_short_for_the_results_ends_a_rollout(agent_of, tools):
    said = [hermes(PYTHON, PYTHON)]
    policy, how = agent_of("qwen2.5", [*said, "\\boxed{1}"]), protocol("qwen2.5")
    prompt = how.encode_prompt(policy.tokenizer, CHAT)
    turn = len(policy.tokenizer(said[0], add_special_tokens=False).input_ids) + 1
    framed = sum(map(len, how.around(policy.tokenizer, 2)))
    for room, results in ((framed + 1, 0), (framed + 2, framed + 2)):
        agent_of("qwen2.5", [*said, "\\boxed{1}"])
        r = sampled(policy, how, tools, prompt, max_tokens=turn + room)
        assert (r.finish, len(r.ids)) == ("length", turn + results)
        assert r.mask == [True] * turn + [False] * results
        assert [c.status for c in r.calls] == ["ok", "ok"] and r.calls[-1].end == turn + results


# ---- template arguments


def test_what_apply_chat_template_takes_is_no_template_argument():
    """Of the installed transformers nothing is missing; what templates take goes through."""
    taken = set(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
    assert taken - {"documents"} <= NOT_OF_TEMPLATES
    given = '{"tokenize": false, "enable_thinking": false, "messages": 1}'
    with pytest.raises(ValueError, match="--chat_template_kwargs may not hold messages, tokenize:"):
        template_arguments(given)
    for name in NOT_OF_TEMPLATES:
        with pytest.raises(ValueError, match=f"may not hold {name}:"):
            template_arguments(json.dumps({name: None}))
    passed = '{"enable_thinking": false, "date_string": "1 Jan 2026", "documents": []}'
    assert template_arguments(passed) == json.loads(passed)
