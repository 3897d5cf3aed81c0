"""support/examples.py: the forms of worked examples, and what is imitated of them."""

import copy
import json
import re

import pytest
from conftest import sampler_for, template_ending

from protocol import encode_prompt
from support.examples import Chat, encode_example, read_examples, split_chat


def test_examples_are_encoded_as_rollouts_are(agent, world, tools, prompts):
    """Ids and mask of an example equal those of a rollout with the same text:
    results not imitated, the end of turn imitated.
    """
    example = json.loads((world / "traces.jsonl").read_text().splitlines()[-1])["messages"]
    ids, mask = encode_example(agent.tokenizer, Chat(1, *split_chat(example)))
    assert (
        agent.decode(ids)
        == agent.decode(encode_prompt(agent.tokenizer, example[:-1]))
        + example[-1]["content"]
        + "<|im_end|>"
    )
    own = agent.decode([i for i, m in zip(ids, mask) if m])
    assert (
        "<result>" not in own
        and own == re.sub(r" <result>\n.*?\n</result>", "", example[-1]["content"]) + "<|im_end|>"
    )
    sampler = sampler_for(agent, tools)
    ended = [r for r in sampler.initial(prompts[:8], 1, list(range(8))) if r.finish == "stop"]
    assert len(ended) >= 4 and any(r.calls for r in ended)
    for r in ended:
        said = {"role": "assistant", "content": r.text.removesuffix("<|im_end|>")}
        chat = Chat(1, *split_chat([*example[:-1], said]))
        ids, mask = encode_example(agent.tokenizer, chat)
        skip = len(encode_prompt(agent.tokenizer, example[:-1]))
        assert ids[skip:] == r.ids and mask[skip:] == r.mask


def written(path, *rows):
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    )
    return str(path)


QUESTION = {"role": "user", "content": "q"}
SAID = "<think> a </think><search> b </search> <result>\nc d\n</result><answer> e </answer>"
CALL = {"function": {"name": "search", "arguments": '{"query": " b "}'}}
FORMS = {
    "messages": {"messages": [QUESTION, {"role": "assistant", "content": SAID}]},
    "parts of text": {
        "messages": [QUESTION, {"role": "assistant", "content": [{"type": "text", "text": SAID}]}]
    },
    "ShareGPT": {
        "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": SAID}]
    },
    "Alpaca": {"instruction": "q", "input": "", "output": SAID},
    "tool message": {
        "messages": [
            QUESTION,
            {"role": "assistant", "content": "<think> a </think><search> b </search>"},
            {"role": "tool", "content": "c d"},
            {"role": "assistant", "content": "<answer> e </answer>"},
        ]
    },
    "result as a user": {
        "messages": [
            QUESTION,
            {"role": "assistant", "content": "<think> a </think><search> b </search>"},
            {"role": "user", "content": "<result>\nc d\n</result>"},
            {"role": "assistant", "content": "<answer> e </answer>"},
        ]
    },
    "tool_calls": {
        "messages": [
            QUESTION,
            {"role": "assistant", "content": "<think> a </think>", "tool_calls": [CALL]},
            {"role": "tool", "content": "c d"},
            {"role": "assistant", "content": "<answer> e </answer>"},
        ]
    },
    "legacy function_call": {
        "messages": [
            QUESTION,
            {
                "role": "assistant",
                "content": "<think> a </think>",
                "function_call": {"name": "search", "arguments": '{"query": " b ", "code": null}'},
            },
            {"role": "function", "content": "c d"},
            {"role": "assistant", "content": "<answer> e </answer>"},
        ]
    },
    "white space and end": {
        "messages": [
            QUESTION,
            {
                "role": "assistant",
                "content": SAID.replace("</search> <result>", "</search>\n\n<result>")
                + "<|im_end|>",
            },
        ]
    },
    "a thought in its own field": {
        "messages": [
            QUESTION,
            {"role": "assistant", "reasoning_content": "a", "content": "<search> b </search>"},
            {"role": "tool", "content": "c d", "name": "search", "tool_call_id": "1"},
            {"role": "assistant", "content": "<answer> e </answer>", "images": [], "weight": 1},
        ]
    },
    "Qwen's tags": {
        "messages": [
            QUESTION,
            {
                "role": "assistant",
                "reasoning": "<think>\na\n</think>",
                "content": '<tool_call>\n{"name": "search", "arguments": {"query": " b "}}\n'
                "</tool_call>",
            },
            {"role": "user", "content": "<tool_response>\nc d\n</tool_response>"},
            {"role": "assistant", "content": "<answer> e </answer>", "reasoning": ""},
        ]
    },
    "ms-swift": {
        "messages": [
            QUESTION,
            {"role": "assistant", "content": "<think> a </think>", "thinking": " a", "loss": True},
            {"role": "tool_call", "content": '{"name": "search", "arguments": {"query": " b "}}'},
            {"role": "tool_response", "content": "c d"},
            {"role": "assistant", "content": "<answer> e </answer>"},
        ]
    },
    "function_call": {
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "<think> a </think>"},
            {"from": "function_call", "value": '{"name": "search", "arguments": {"query": " b "}}'},
            {"from": "observation", "value": "c d"},
            {"from": "gpt", "value": "<answer> e </answer>"},
        ]
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_example(form, agent, tmp_path):
    """The same conversation in all forms:
    the result is context, everything the assistant says is imitated, the end of turn too.
    """
    ((ids, mask),) = read_examples(written(tmp_path / "x.jsonl", FORMS[form]), agent.tokenizer)
    start = encode_prompt(agent.tokenizer, [QUESTION])
    assert ids[: len(start)] == start and not any(mask[: len(start)])

    def text(own):
        return agent.decode([i for i, m in zip(ids[len(start) :], mask[len(start) :]) if m == own])

    assert (
        agent.decode(ids[len(start) :]) == SAID + "<|im_end|>"
        and text(False) == " <result>\nc d\n</result>"
    )
    assert (ids, mask) == read_examples(
        written(tmp_path / "y.jsonl", FORMS["messages"]), agent.tokenizer
    )[0]
    assert text(True) == "<think> a </think><search> b </search><answer> e </answer><|im_end|>"


def test_only_the_answer_to_the_last_question_is_imitated(agent, tmp_path):
    chat = [
        {"role": "system", "content": "s"},
        QUESTION,
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "more"},
        {"role": "assistant", "content": "second"},
    ]
    ((ids, mask),) = read_examples(
        written(tmp_path / "x.jsonl", {"messages": chat}), agent.tokenizer
    )
    assert (
        agent.decode([i for i, m in zip(ids, mask) if m]) == "second<|im_end|>"
        and agent.decode(ids).count("first") == 1
    )


def test_a_list_in_json_and_parquet_are_read(agent, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    (tmp_path / "x.json").write_text(json.dumps([FORMS["messages"], FORMS["ShareGPT"]], indent=1))
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([FORMS["messages"]] * 2), tmp_path / "x.parquet"
    )
    lines = read_examples(
        written(tmp_path / "x.jsonl", FORMS["messages"], FORMS["messages"]), agent.tokenizer
    )
    assert (
        lines
        == read_examples(str(tmp_path / "x.json"), agent.tokenizer)
        == read_examples(str(tmp_path / "x.parquet"), agent.tokenizer)
    )


@pytest.mark.parametrize("field", [{"weight": 0}, {"train": False}, {"loss": 0.0}])
@pytest.mark.parametrize("form", ["messages", "conversations"])
def test_what_is_not_to_be_imitated_is_masked(field, form, agent, tmp_path):
    """The ids stay those of a rollout; of the mask only that message changes."""
    said = [
        ("user", "q", {}),
        ("assistant", "<think> a </think><search> b </search>", field),
        ("tool", "c d", {}),
        ("assistant", "<answer> e </answer>", {"weight": 1}),
    ]
    names = ("role", "content") if form == "messages" else ("from", "value")
    row = {form: [dict(zip(names, (role, text))) | more for role, text, more in said]}
    ((ids, mask),) = read_examples(written(tmp_path / "x.jsonl", row), agent.tokenizer)
    whole = written(tmp_path / "y.jsonl", FORMS["messages"])
    assert ids == read_examples(whole, agent.tokenizer)[0][0]
    own = agent.decode([i for i, m in zip(ids, mask) if m])
    assert own == "<answer> e </answer><|im_end|>"


def test_a_last_message_that_is_not_imitated_ends_without_being_imitated(agent, tmp_path):
    row = {"messages": [dict(m) for m in FORMS["tool message"]["messages"]]}
    row["messages"][-1]["weight"] = 0
    ((ids, mask),) = read_examples(written(tmp_path / "x.jsonl", row), agent.tokenizer)
    own = agent.decode([i for i, m in zip(ids, mask) if m])
    assert own == "<think> a </think><search> b </search>" and not mask[-1]


BAD = {
    "nothing imitated": (
        {"messages": [QUESTION, {"role": "assistant", "content": "a", "weight": 0}]},
        'nothing of the answer is to be imitated: "weight": 0',
    ),
    "lone surrogate": (
        {"messages": [QUESTION, {"role": "assistant", "content": "a \ud800"}]},
        "has a lone surrogate, '.ud800', in its text",
    ),
    "empty": ({"messages": []}, "does not end with the assistant's own words"),
    "other row": ({"text": "x"}, "it has no 'instruction'; a row is"),
    "no JSON": ("oops", "is not JSON"),
    "a list": ("[1]", "must be an object, not list"),
    "no answer": ({"messages": [QUESTION]}, "does not end with the assistant's own words"),
    "no role": ({"messages": [{"content": "q"}]}, "unknown role None"),
    "unknown role": (
        {"messages": [{"role": "boss", "content": "q"}]},
        "unknown role 'boss'; known are system",
    ),
    "no text": (
        {"messages": [QUESTION, {"role": "assistant", "content": 5}]},
        "content must be text",
    ),
    "says nothing": (
        {"messages": [QUESTION, {"role": "assistant", "content": ""}]},
        "does not end with",
    ),
    "ends with a result": (
        {
            "messages": [
                QUESTION,
                {"role": "assistant", "content": "a"},
                {"role": "tool", "content": "r"},
            ]
        },
        "does not end with the assistant's own words",
    ),
    "result of no call": (
        {
            "messages": [
                QUESTION,
                {"role": "assistant", "content": "a"},
                {"role": "tool", "content": "r"},
                {"role": "assistant", "content": "b"},
            ]
        },
        "a tool result does not follow a call",
    ),
    "two results": (
        {
            "messages": [
                QUESTION,
                {"role": "assistant", "content": "<search>a</search>"},
                {"role": "tool", "content": "r"},
                {"role": "tool", "content": "r"},
                {"role": "assistant", "content": "b"},
            ]
        },
        "a tool result does not follow a call",
    ),
    "two calls": (
        {
            "messages": [
                QUESTION,
                {"role": "assistant", "tool_calls": [CALL, CALL]},
                {"role": "tool", "content": "r"},
                {"role": "assistant", "content": "b"},
            ]
        },
        "several calls at once",
    ),
    "ends with a call": (
        {"messages": [QUESTION, {"role": "assistant", "content": "<search>a</search>"}]},
        "a call is not followed by its result",
    ),
    "goes on after a call": (
        {
            "messages": [
                QUESTION,
                {"role": "assistant", "content": "<search>a</search> so <answer> b </answer>"},
            ]
        },
        "a call is not followed by its result",
    ),
    "chat marker": (
        {
            "messages": [
                QUESTION,
                {"role": "assistant", "content": "a<|im_end|>\n<|im_start|>user\nb"},
            ]
        },
        "a chat marker",
    ),
    "question amid results": (
        {
            "messages": [
                QUESTION,
                {"role": "assistant", "content": "<search>a</search>"},
                {"role": "user", "content": "<result>r</result> now what? <result>s</result>"},
            ]
        },
        "does not end with the assistant's own words",
    ),
    "row not imitated": (
        FORMS["tool message"] | {"weight": 0},
        "nothing of the answer is to be imitated",
    ),
    "result of another form": (
        {
            "messages": [
                QUESTION,
                {"role": "assistant", "content": "<search> x </search>"},
                {"role": "user", "content": "<information>a</information>"},
                {"role": "assistant", "content": "b"},
            ]
        },
        "a user's message follows a call and is no result.*<information>a",
    ),
    "result beside words": (
        {
            "messages": [
                QUESTION,
                {"role": "assistant", "content": "<search> x </search>\n"},
                {"role": "user", "content": "<result>a</result> continue"},
                {"role": "assistant", "content": "b"},
            ]
        },
        "a user's message follows a call and is no result",
    ),
    "arguments null": (
        {
            "messages": [
                QUESTION,
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "search", "arguments": None}}],
                },
            ]
        },
        "not a JSON object: 'None'",
    ),
    "no question": ({"messages": [{"role": "assistant", "content": "a"}]}, "no question of a user"),
    "unclosed result": (
        {"messages": [QUESTION, {"role": "assistant", "content": "a <result> b"}]},
        "a <result> is not closed",
    ),
    "closed result": (
        {"messages": [QUESTION, {"role": "assistant", "content": "a </result> b"}]},
        "closed without being opened",
    ),
    "too long": (
        {"messages": [QUESTION, {"role": "assistant", "content": "word " * 300}]},
        r"\d+ tokens, --cold_max_tokens is 200",
    ),
    "other tool": (
        {
            "messages": [
                QUESTION,
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "fly", "arguments": "{}"}}],
                },
            ]
        },
        "a call of 'fly' with 0 arguments; tools are python, search",
    ),
    "call of no JSON": (
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": "fly()"},
            ]
        },
        "not a JSON object: 'fly\\(\\)'",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_examples_are_named_or_left_out(kind, agent, tmp_path, capsys):
    row, message = BAD[kind]
    path = written(tmp_path / "x.jsonl", FORMS["messages"], row)
    with pytest.raises(
        ValueError,
        match=rf"--cold_start .*x.jsonl, row 2.*{message}(?s:.*)--skip_bad leaves such rows out",
    ):
        read_examples(path, agent.tokenizer, 200)
    assert len(read_examples(path, agent.tokenizer, 200, skip_bad=True)) == 1 and re.search(
        f"left out: .*row 2.*{message}", capsys.readouterr().out
    )
    with pytest.raises(ValueError, match="holds no example"):
        read_examples(written(tmp_path / "y.jsonl", row), agent.tokenizer, 200, skip_bad=True)


@pytest.mark.parametrize("end", ["<think>\\n", "<think>", "<think>\\n\\n", "<think>\\nOkay, "])
def test_a_template_that_opens_the_thought_is_not_taught_to_open_it_twice(agent, world, tools, end):
    """Ids are those of a rollout: the prompt with its <think>, then the rest of the thought."""
    tokenizer = copy.deepcopy(agent.tokenizer)
    tokenizer.chat_template = template_ending(tokenizer.chat_template, end)
    before = [{"role": "user", "content": "q"}]
    text = "<think> a </think><answer> \\boxed{4} </answer>"
    for broken in ("<answer> \\boxed{4} </answer>", "OK. " + text, "<python>1</python>"):
        with pytest.raises(ValueError, match="the answer does not close it"):
            encode_example(tokenizer, Chat(1, before, [(True, broken)]))
    for pieces in ([(True, text)], [(True, " \n" + text)], [(True, text.removeprefix("<think>"))]):
        ids, mask = encode_example(tokenizer, Chat(1, before, pieces))
        prompt = encode_prompt(tokenizer, before)
        own = agent.decode([i for i, m in zip(ids, mask) if m])
        assert ids[: len(prompt)] == prompt and not any(mask[: len(prompt)])
        assert own == " a </think><answer> \\boxed{4} </answer><|im_end|>"
    rollouts = sampler_for(agent, tools).initial([prompt], 2, [3])
    assert [r.opened for r in rollouts] == ["<think>"] * 2
    assert all(r.policy_text.startswith("<think>") for r in rollouts)
