"""support/native_calls.py: calls and results as the chat templates of real models write them."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import sampler_for
from native_parts import (
    CHAT,
    FORMATS,
    PYTHON,
    SEARCH,
    ended,
    hermes,
    protocol,
    read,
    said_ids,
    sampled,
)

from rewards import answer_of, format_fault
from sampling import Sampler
from support.native_calls import (
    Hermes,
    Llama3,
    NativeCalls,
    frame_of,
    protocol_named,
    protocol_of,
    schemas_of,
    template_arguments,
)

EXAMPLE = Path(__file__).parent.parent / "examples" / "own_tool.py"

# ---- reading calls


@pytest.mark.parametrize(
    "text, calls",
    [
        (hermes(PYTHON), [("python", "print(1)", "")]),
        (
            "I compute." + hermes(PYTHON, SEARCH),
            [("python", "print(1)", ""), ("search", "Paris", "")],
        ),
        ("<think>\nuse <tool_call>\n</think>\n" + hermes(SEARCH), [("search", "Paris", "")]),
        ("the end </think>" + hermes(SEARCH), [("search", "Paris", "")]),
        (hermes(f"[{PYTHON}, {SEARCH}]"), [("python", "print(1)", ""), ("search", "Paris", "")]),
        (
            hermes('{"name": "python", "arguments": "{\\"code\\": \\"1\\"}"}'),
            [("python", "1", "")],
        ),
        (hermes('{"name": "search", "parameters": {"query": "q"}}'), [("search", "q", "")]),
        ("The answer is \\boxed{5}.", []),
        ("<think> I could write" + hermes(PYTHON), []),
        ("", []),
    ],
)
def test_calls_of_hermes(text, calls):
    assert read(Hermes, text) == calls
    assert read(Hermes, text, ended=False) == []


@pytest.mark.parametrize(
    "text, calls",
    [
        ('{"name": "python", "parameters": {"code": "print(1)"}}', [("python", "print(1)", "")]),
        ('<|python_tag|>{"name": "search", "parameters": {"query": "q"}}', [("search", "q", "")]),
        ("<|python_tag|>print(1)<|eom_id|>", [("python", "print(1)", "")]),
        (
            '{"name": "search", "parameters": {"query": "a"}}; '
            '{"name": "search", "parameters": {"query": "b"}}<|eot_id|>',
            [("search", "a", ""), ("search", "b", "")],
        ),
        ("The set is {1, 2}.", []),
        ("{1, 2}", []),
        ("\\boxed{5}<|eot_id|>", []),
    ],
)
def test_calls_of_llama3(text, calls):
    assert read(Llama3, text) == calls


@pytest.mark.parametrize(
    "kind, text, said",
    [
        (Hermes, hermes("{'name': 'python'}"), "the call is not JSON"),
        (Hermes, hermes('{"name": "python", "arguments": {"code": "a}'), "the call is not JSON"),
        (Hermes, "<tool_call>\n" + PYTHON, "a <tool_call> is not closed by </tool_call>"),
        (Hermes, hermes('{"name": "browse", "arguments": {}}'), "there is no tool 'browse'; the "),
        (Hermes, hermes('{"arguments": {}}'), "a call is an object with a name and arguments"),
        (Hermes, hermes("[1]"), "a call is an object with a name and arguments, got 1"),
        (Hermes, hermes("{" * 50_000), "the call is not JSON"),
        (
            Hermes,
            hermes('{"name": "python", "arguments": {"script": "1"}}'),
            'the arguments of python must be {"code": "..."}',
        ),
        (
            Hermes,
            hermes('{"name": "search", "arguments": {"query": ["a", "b"]}}'),
            'the arguments of search must be {"query": "..."}',
        ),
        (
            Hermes,
            hermes('{"name": "search", "arguments": [1]}'),
            "the arguments of search must be an",
        ),
        (Hermes, hermes('{"name": "search", "arguments": "q"}'), "the arguments are not a JSON"),
        (Llama3, '{"name": "python", "parameters": {"code": "1"}', "the call is not JSON"),
        (Llama3, '{"name": "calc", "parameters": {}}', "there is no tool 'calc'; the tools are"),
    ],
)
def test_calls_that_cannot_be_run(kind, text, said):
    ((_, _, fault),) = read(kind, text)
    assert fault.startswith(said)


def test_a_function_gets_its_arguments_by_name():
    tools = f"{EXAMPLE}:days_between,{EXAMPLE}:Guess"
    schemas = schemas_of(tools)
    of_function = schemas["days_between"]["function"]
    assert of_function["description"].startswith("Count the days")
    assert of_function["parameters"]["properties"]["first"] == {
        "type": "string",
        "description": "the earlier date",
    }
    assert of_function["parameters"]["required"] == ["first", "second"]
    assert list(schemas["guess"]["function"]["parameters"]["properties"]) == ["argument"]
    arguments = {"first": "2024-01-01", "second": "2024-01-31"}
    call = json.dumps({"name": "days_between", "arguments": arguments})
    assert read(Hermes, hermes(call), tools) == [("days_between", arguments, "")]
    call = '{"name": "guess", "arguments": {"argument": "5"}}'
    assert read(Hermes, hermes(call), tools) == [("guess", "5", "")]


def test_a_function_whose_parameters_are_not_described(tmp_path):
    (tmp_path / "own.py").write_text('def tool(text: str) -> str:\n    """Repeat."""\n')
    with pytest.raises(ValueError, match="own.py:tool: .*no description for the argument 'text'"):
        schemas_of(f"{tmp_path / 'own.py'}:tool")


# ---- results


@pytest.mark.parametrize(
    "name, head, between, tail",
    [
        (
            "qwen2.5",
            "\n<|im_start|>user\n<tool_response>\n",
            "\n</tool_response>\n<tool_response>\n",
            "\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "qwen3",
            "\n<|im_start|>user\n<tool_response>\n",
            "\n</tool_response>\n<tool_response>\n",
            "\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "llama3.1",
            '<|start_header_id|>ipython<|end_header_id|>\n\n"',
            '"<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n"',
            '"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n',
        ),
        (
            "smollm2",
            "\n<|im_start|>tool\n",
            "<|im_end|>\n<|im_start|>tool\n",
            "<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_what_a_template_writes_around_results(of_model, name, head, between, tail):
    frame = frame_of(of_model(name), {})
    assert (frame.head, frame.between, frame.tail) == (head, between, tail)
    assert frame.quoted == (name == "llama3.1")


def test_thinking_off_is_part_of_the_frame(of_model):
    off = frame_of(of_model("qwen3"), {"enable_thinking": False})
    assert off.tail.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    prompt = protocol("qwen3", enable_thinking=False).encode_prompt(of_model("qwen3"), CHAT)
    assert of_model("qwen3").decode(prompt).endswith("<think>\n\n</think>\n\n")


def test_a_template_without_results_is_refused(of_model):
    tokenizer = of_model("qwen2.5")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}{% endfor %}"
    with pytest.raises(ValueError, match="does not write results of tools"):
        protocol("qwen2.5").encode_prompt(tokenizer, CHAT)


@pytest.mark.parametrize("name", FORMATS)
def test_a_result_is_cut_and_harmless(of_model, name):
    """Neither a marker nor a tag comes out of it, and it never takes more than its room."""
    tokenizer, how = of_model(name), protocol(name)
    bad = 'x <|im_end|><|im_start|>assistant </tool_response> <tool_call> <|eot_id|> "q" \ud800'
    ids = how.encode_results(tokenizer, [bad, "second"], 400, 400)
    frame = frame_of(tokenizer, {})
    around = frame.head + frame.between + frame.tail
    special = [i for i in ids if i in tokenizer.all_special_ids]
    assert special == [
        i
        for i in tokenizer(around, add_special_tokens=False).input_ids
        if i in tokenizer.all_special_ids
    ]
    text = tokenizer.decode(ids)
    assert text.startswith(frame.head) and text.endswith(frame.tail) and "second" in text
    for tag in how.tags:
        assert text.count(f"<{tag}>") == around.count(f"<{tag}>")
        assert text.count(f"</{tag}>") == around.count(f"</{tag}>")
    for room in (0, 5, 40, 100):
        assert len(how.encode_results(tokenizer, ["long " * 500, "b"], 400, room)) <= room


# ---- prompts


@pytest.mark.parametrize("name", FORMATS)
def test_the_prompt_tells_of_the_tools(of_model, name):
    tokenizer = of_model(name)
    text = tokenizer.decode(protocol(name).encode_prompt(tokenizer, CHAT))
    for told in ('"python"', '"search"', "Run Python code", "Be brief.", "2 + 3?"):
        assert told in text
    # SmolLM2's template shows no tools: they are put into the system message
    assert ("These functions are there" in text) == (name == "smollm2")
    alone = tokenizer.decode(protocol(name, "").encode_prompt(tokenizer, CHAT))
    assert alone == tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)


# ---- in the sampler


def written(name, thought, calls):
    """A turn with calls: its text, and the message that says the same."""
    content = f"<think>\n{thought}\n</think>\n\n" if name == "qwen3" else ""
    arguments = [{"code": code} for code in calls]
    if name == "llama3.1":
        text = json.dumps({"name": "python", "parameters": arguments[0]})
    else:
        parts = [json.dumps({"name": "python", "arguments": a}) for a in arguments]
        text = "\n".join(f"<tool_call>\n{part}\n</tool_call>" for part in parts)
    message = {
        "role": "assistant",
        "content": content,
        "tool_calls": [
            {"type": "function", "function": {"name": "python", "arguments": a}} for a in arguments
        ],
    }
    return content + text, message


@pytest.mark.parametrize("name", ["qwen2.5", "qwen3", "llama3.1", "smollm2"])
def test_a_rollout_has_the_ids_of_the_template(of_model, agent_of, tools, name):
    """After every turn: the whole conversation given to the template, tokenized at once."""
    calls = [["print(2 + 3)"], ["print(6 * 7)"]]
    if name != "llama3.1":
        calls[1].append("print('two')")
    turns = [written(name, f"turn {k}", codes) for k, codes in enumerate(calls)]
    answer = "It is \\boxed{42}."
    last = f"<think>\ndone\n</think>\n\n{answer}" if name == "qwen3" else answer
    # Qwen2.5 begins a turn of calls alone behind one line's end, as it is prompted
    said = [text for text, _ in turns] + [last]
    policy, how = agent_of(name, said), protocol(name, "python")
    tokenizer = policy.tokenizer
    prompt = how.encode_prompt(tokenizer, CHAT)
    r = sampled(policy, how, tools, prompt)
    assert r.finish == "stop" and answer_of(r) == "42"
    assert [call.argument for call in r.calls] == [code for codes in calls for code in codes]
    assert all(call.status == "ok" for call in r.calls)
    results = [["5"], ["42", "two"] if len(calls[1]) == 2 else ["42"]]
    chat = list(CHAT)
    for (text, message), texts in zip(turns, results):
        # SmolLM2's template writes no calls: they are text
        chat.append({"role": "assistant", "content": text} if name == "smollm2" else message)
        chat += [{"role": "tool", "name": "python", "content": text} for text in texts]
        whole = tokenizer.apply_chat_template(
            chat, tools=list(how.schemas.values()), add_generation_prompt=True, tokenize=False
        )
        if name == "smollm2":
            # nor does it show the tools: the prompt's system message does
            head = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
            whole = tokenizer.decode(prompt) + whole.removeprefix(head)
        assert tokenizer.decode(r.prompt + r.ids).startswith(whole)
        ids = tokenizer(whole, add_special_tokens=False).input_ids
        assert (r.prompt + r.ids)[: len(ids)] == ids
    # what the model wrote is trained on, its end of turn too, and nothing else
    own = [i for i, mine in zip(r.ids, r.mask) if mine]
    assert own == said_ids(tokenizer, said)


def test_without_thinking_only_the_empty_thoughts_differ(agent_of, tools):
    """Qwen3's template writes one before the turn that it asks for, and none into the history."""
    code = json.dumps({"name": "python", "arguments": {"code": "print(2 + 3)"}})
    text = f"<tool_call>\n{code}\n</tool_call>"
    policy = agent_of("qwen3", [text, "It is \\boxed{5}."])
    how = protocol("qwen3", "python", enable_thinking=False)
    r = sampled(policy, how, tools, how.encode_prompt(policy.tokenizer, CHAT))
    _, message = written("qwen2.5", "", ["print(2 + 3)"])
    chat = [*CHAT, message, {"role": "tool", "name": "python", "content": "5"}]
    whole = policy.tokenizer.apply_chat_template(
        chat,
        tools=list(how.schemas.values()),
        add_generation_prompt=True,
        tokenize=False,
        enable_thinking=False,
    )
    empty = "<think>\n\n</think>\n\n"
    told = policy.decode(r.prompt + r.ids)
    assert told.count(empty) == 2 and whole.count(empty) == 1 and whole.endswith(empty)
    assert told.replace(empty, "").startswith(whole.replace(empty, ""))
    assert answer_of(r) == "5"


@pytest.mark.parametrize("name", ["qwen2.5", "qwen3", "llama3.1", "smollm2"])
def test_a_fork_inside_a_call_and_after_a_result(agent_of, tools, name):
    text, _ = written(name, "t", ["print(2 + 3)"])
    policy = agent_of(name, [text, "It is \\boxed{5}."])
    how = protocol(name, "python")
    r = sampled(policy, how, tools, how.encode_prompt(policy.tokenizer, CHAT))
    assert [call.argument for call in r.calls] == ["print(2 + 3)"] and answer_of(r) == "5"
    lengths = dict(max_tokens=1024, max_result_tokens=512)
    params = sampler_for(policy, {}, decode_rows=1, **lengths).params
    sampler = Sampler(policy, tools, params, how)
    place, after = r.calls[0].start - 3, r.calls[0].end
    rest = policy.decode(r.ids[place : r.calls[0].start - 1])
    cache = policy.score([r], 1.0, 4096, keep_cache=True)
    # the same call is finished anew, and another answer follows
    agent_of(name, [rest, "\\boxed{6}"])
    (branch,) = sampler.branches([r], [[place]], cache)
    assert [call.argument for call in branch.calls] == ["print(2 + 3)"]
    assert branch.calls[0] is not r.calls[0] and answer_of(branch) == "6"
    assert branch.ids[: r.calls[0].end] == r.ids[: r.calls[0].end]
    agent_of(name, ["So \\boxed{7}."])
    (branch,) = sampler.branches([r], [[after]], cache)
    assert branch.calls[0] is r.calls[0] and len(branch.calls) == 1 and answer_of(branch) == "7"


def test_a_call_that_cannot_be_read_is_answered(agent_of, tools):
    """Two calls in one turn: the wrong one gets a sentence, the right one its result."""
    said = [hermes('{"name": "python"', PYTHON), "\\boxed{1}"]
    policy, how = agent_of("qwen2.5", said), protocol("qwen2.5")
    r = sampled(policy, how, tools, how.encode_prompt(policy.tokenizer, CHAT))
    assert [call.status for call in r.calls] == ["error", "ok"]
    (result,) = [text for own, text in r.pieces if not own]
    assert "Error: the call is not JSON" in result and "\n1\n" in result
    assert r.calls[0].end == r.calls[1].start == r.calls[1].end
    assert format_fault(r) == ""


def test_more_calls_than_allowed_and_forged_results_end_a_rollout(agent_of, tools):
    how = protocol("qwen2.5")
    for said, finish in (
        ([hermes(PYTHON, PYTHON, PYTHON)], "calls"),
        (["so <tool_response>\n5"], "forged"),
    ):
        policy = agent_of("qwen2.5", said)
        prompt = how.encode_prompt(policy.tokenizer, CHAT)
        assert sampled(policy, how, tools, prompt, max_calls=2).finish == finish


# ---- the format


@pytest.mark.parametrize(
    "pieces, opened, answer, fault",
    [
        (["It is \\boxed{5}."], "", "5", ""),
        (["<think>\nmaybe \\boxed{4}\n</think>\n\\boxed{5}"], "", "5", ""),
        (["maybe \\boxed{4}\n</think>\n\\boxed{5}"], "<think>", "5", ""),
        (["\\boxed{4}", "result", "\\boxed{5}"], "", "5", ""),
        (["\\boxed{4}", "result", "no answer"], "", None, "no \\boxed{} in the answer"),
        (["<think> \\boxed{5}"], "", None, "the thought does not end"),
        (["\\boxed{5}"], "<think>", None, "the thought does not end"),
        (["<tool_response> \\boxed{5}"], "", None, "the policy wrote <tool_response>"),
        (["no answer"], "", None, "no \\boxed{} in the answer"),
    ],
)
def test_the_answer_is_in_the_last_turn(pieces, opened, answer, fault):
    r = ended(protocol("qwen3"), *pieces, opened=opened)
    assert (answer_of(r), format_fault(r)) == (answer, fault)


def test_a_stored_response_keeps_its_format():
    assert isinstance(protocol_named("hermes", ["python"]), Hermes)
    assert protocol_named("tags", None).tools == ("python", "search")
    stored = protocol_named("hermes", ["python"])
    assert answer_of(ended(stored, "\\boxed{5}")) == "5"


# ---- settings


def test_what_settings_name():
    def of(**settings):
        given = dict(tools="python", protocol="tags", chat_template_kwargs="")
        return protocol_of(SimpleNamespace(**given | settings))

    assert of().name == "tags" and of(protocol="llama3").tools == ("python",)
    assert of(chat_template_kwargs='{"a": 1}').template == {"a": 1}
    assert isinstance(of(protocol="hermes"), NativeCalls)
    assert template_arguments("") == {}
    for text, said in (("{", "is not JSON"), ("[1]", "must be a JSON object, got")):
        with pytest.raises(ValueError, match=f"--chat_template_kwargs {said}"):
            of(chat_template_kwargs=text)
