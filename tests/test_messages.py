"""support/messages.py: what a message may hold is kept, or refused by its name."""

import json
import time

import pytest

from support.examples import split_chat
from support.messages import call_text, chat_of, split_tags, text_of

QUESTION = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "<answer> 1 </answer>"}


def said(*messages, **row) -> list[str]:
    """The texts of a row's messages after the first one."""
    return [m["content"] for m in chat_of({"messages": [QUESTION, *messages], **row})[1:]]


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"reasoning_content": "6*7 is 42"}, "<think> 6*7 is 42 </think><answer> 1 </answer>"),
        ({"reasoning": "\n a\n b \n"}, "<think> a\n b </think><answer> 1 </answer>"),
        ({"thinking": "<think>a</think>"}, "<think> a </think><answer> 1 </answer>"),
        ({"reasoning": "a", "reasoning_content": " a "}, "<think> a </think><answer> 1 </answer>"),
        ({"reasoning_content": " "}, "<answer> 1 </answer>"),
        ({"reasoning_content": None, "content": "x"}, "x"),
        (
            {"reasoning": "a  b", "content": "<think> so a\nb. </think> x"},
            "<think> so a\nb. </think> x",
        ),
        ({"reasoning": "x", "content": "x"}, "<think> x </think>x"),
        (
            {"reasoning_content": "a", "content": "<think>\n\n</think>\n\nx"},
            "<think> a </think>x",
        ),
        ({"content": "<think>\n\n</think>\n\nx"}, "<think>\n\n</think>\n\nx"),
        (
            {"reasoning": "4", "content": "<think> 14 </think> x"},
            "<think> 4 </think><think> 14 </think> x",
        ),
        (
            {"reasoning": "a.", "content": "<think> b </think> a. <think> c </think>"},
            "<think> a. </think><think> b </think> a. <think> c </think>",
        ),
        (
            {"reasoning": "a", "content": "<think> b </think>"},
            "<think> a </think><think> b </think>",
        ),
        ({"reasoning": "a", "content": None}, "<think> a </think>"),
        ({"reasoning": "日本 😀"}, "<think> 日本 😀 </think><answer> 1 </answer>"),
    ],
)
def test_a_thought_is_kept_once(fields, text):
    assert said(ANSWER | fields) == [text]


@pytest.mark.parametrize("value", [0, 0.0, False])
def test_what_is_not_imitated_is_marked(value):
    for field in ("weight", "train", "training", "loss", "trainable", "train_on_turn"):
        chat = chat_of({"messages": [QUESTION, ANSWER | {field: value}, ANSWER]})
        assert [m.get("imitated", True) for m in chat] == [True, False, True]
        assert "imitated" not in chat_of({"messages": [QUESTION | {field: value}]})[0]


def test_what_a_row_says_holds_for_all_its_messages():
    row = {"messages": [QUESTION, ANSWER, ANSWER | {"weight": 1}]}
    for given in ({"weight": 0}, {"train": False}, {"trainable": False}):
        assert [m.get("imitated") for m in chat_of(row | given)] == [None, False, False]
    kept = {"weight": 1, "train": True, "label": True, "loss_mask": None, "labels": []}
    assert chat_of(row | kept) == chat_of(row)


@pytest.mark.parametrize(
    "given",
    [{"label": False}, {"loss_mask": [0, 0]}, {"loss_mask": [1, 1]}, {"weight": 0.5}],
)
def test_what_a_row_says_and_cannot_be_kept_is_refused(given):
    with pytest.raises(ValueError, match=f"field '{next(iter(given))}'"):
        said(ANSWER, **given)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_response>\nr\n</tool_response>",
        " <tool_response>r</tool_response>\n",
        "<tool_response>\nr\n</tool_response>\n\n",
    ],
)
@pytest.mark.parametrize("role", ["user", "tool", "observation"])
def test_qwen_s_result_is_a_tool_s_message(role, text):
    chat = chat_of({"messages": [QUESTION, {"role": role, "content": text}]})
    assert chat[1] == {"role": "tool", "content": "r"}


def test_a_tool_may_quote_the_tag():
    quoted = "see <tool_response> in the manual"
    assert said({"role": "tool", "content": quoted}) == [quoted]


@pytest.mark.parametrize(
    "name, arguments, text",
    [
        ("python", {"code": "print(1)"}, "<python>print(1)</python>"),
        ("search", '{"query": "q", "topk": null}', "<search>q</search>"),
        ("python", {"code": "a\n  b", "query": None}, "<python>a\n  b</python>"),
    ],
)
def test_a_call_of_one_text(name, arguments, text):
    for field in ("arguments", "parameters"):
        bare = {"name": name, field: arguments}
        for call in (bare, {"id": "1", "type": "function", "function": bare}):
            assert call_text(call) == call_text(json.dumps(call)) == text
            assert said({"role": "assistant", "tool_calls": [call]}) == [text]
            written = f"a <tool_call>\n{json.dumps(call)}\n</tool_call>\n b"
            assert said({"role": "assistant", "content": written}) == [f"a {text}b"]


RESPONSE = "<tool_response>\nr\n</tool_response>"


def call(name, **arguments):
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"function": function}]}


SEARCH = {"name": "search", "arguments": {"query": "q"}}


def part(**fields):
    return {"type": "text", "text": "x"} | fields


def with_call(call):
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.mark.parametrize(
    "message, reason",
    [
        (ANSWER | {"images": ["a.png"]}, "the field 'images' of a message of assistant"),
        (QUESTION | {"audio": {"data": "x"}}, "the field 'audio' of a message of user"),
        (ANSWER | {"reasoning_details": [{"text": "x"}]}, "the field 'reasoning_details'"),
        (ANSWER | {"score": 0}, "the field 'score'"),
        (ANSWER | {"learn": False}, "the field 'learn' of a message of assistant"),
        (ANSWER | {"supervise": False}, "the field 'supervise' of a message of assistant"),
        (
            QUESTION | {"reasoning_content": "x"},
            "the field 'reasoning_content' of a message of user",
        ),
        (QUESTION | {"tool_calls": [{"id": "1"}]}, "the field 'tool_calls' of a message of user"),
        (ANSWER | {"weight": 0.5}, "the field 'weight' is 0.5: only 0 and 1"),
        (ANSWER | {"train": "no"}, "the field 'train' is 'no'"),
        (ANSWER | {"reasoning": "a", "thinking": "b"}, "reasoning and thinking hold two thoughts"),
        (ANSWER | {"reasoning": "a </think> b"}, "the field 'reasoning' holds </think>"),
        (ANSWER | {"reasoning": "<search> x </search>"}, "the field 'reasoning' holds <search>"),
        (ANSWER | {"reasoning": "a", "content": "b </think> c"}, "is not paired"),
        (ANSWER | {"reasoning": "\udc00"}, "a lone surrogate, '.udc00', in its reasoning"),
        (call("search", query="\udc00"), "a lone surrogate, '.udc00', in its call"),
        (call("search", query="q", topk=3), "the argument 'topk' of 'search' cannot be kept"),
        (call("python", code="x", timeout=5), "the argument 'timeout' of 'python'"),
        (call("python", query="x"), "the argument 'query' of 'python'.*takes 'code'"),
        (call("search", query=["x"]), "'search' whose argument 'query' is no text"),
        (call("search"), "'search' whose argument 'query' is no text"),
        (call("fly", to="x"), "a call of 'fly' with 1 arguments"),
        (QUESTION | {"content": RESPONSE * 2}, "several <tool_response> at once"),
        (QUESTION | {"content": RESPONSE + " and now?"}, "beside other text of the user"),
        (QUESTION | {"content": "<tool_response> r"}, "beside other text of the user"),
        (ANSWER | {"content": "a " + RESPONSE}, "<tool_response> in the assistant's text"),
        (QUESTION | {"content": None}, "a message of user has no content"),
        ({"role": "tool"}, "a message of tool has no content"),
        ({"content": "x"}, "unknown role None; known are system, developer, user"),
        ({"role": ["user"], "content": "x"}, "unknown role ..user..;"),
        ("x", "a message must be an object, not str"),
        (ANSWER | {"content": [part(weight=0)]}, "the field 'weight' of a content part"),
        (ANSWER | {"content": [part(), part(train=False)]}, "the field 'train' of a content part"),
        (QUESTION | {"content": [part(cache_control={"a": 1})]}, "the field 'cache_control' of a"),
        (ANSWER | {"content": [part(text=None)]}, "a content part of type 'text'"),
        (ANSWER | {"content": [{"type": "tool_use", "name": "search"}]}, "of type 'tool_use'"),
        (QUESTION | {"content": [{"type": "tool_result", "content": "x"}]}, "'tool_result'"),
        (ANSWER | {"content": [{"type": "thinking", "thinking": "x"}]}, "of type 'thinking'"),
        (ANSWER | {"content": [{"text": "x"}]}, "a content part of type None"),
        (with_call({"function": SEARCH, "weight": 0}), "the field 'weight' of a call"),
        (with_call({"function": SEARCH | {"weight": 0}}), "the field 'weight' of a call"),
        (with_call(SEARCH | {"train": False}), "the field 'train' of a call"),
        (with_call({"type": "custom", "custom": {"x": 1}}), "the field 'custom' of a call"),
        (with_call({"name": "search"}), "a call that is not a JSON object: 'None'"),
        (with_call({"name": ["search"], "arguments": {}}), "a call of ..search..* with 0"),
        (ANSWER | {"content": "<tool_call> {}"}, "<tool_call> in the assistant's text"),
        (ANSWER | {"content": "<tool_call>x</tool_call>"}, "a call that is not a JSON object: 'x'"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(message, reason):
    with pytest.raises(ValueError, match=reason):
        said(message)


def test_media_of_a_row_are_refused_by_name():
    for field in ("images", "audio", "videos"):
        with pytest.raises(ValueError, match=f"the row's field '{field}'"):
            said(ANSWER, **{field: ["a"]})
        assert said(ANSWER, **{field: []}) == said(ANSWER, **{field: None}) == [ANSWER["content"]]


def test_fields_that_hold_nothing_are_no_fields():
    """Parquet gives every row the fields of all."""
    nothing = {"function_call": {"name": None, "arguments": None}, "tool_calls": None}
    nothing |= {"images": [], "audio": {"data": None}, "score": None, "refusal": ""}
    assert said(ANSWER | nothing) == [ANSWER["content"]]


def test_parts_of_text_are_joined():
    """Parquet fills the fields of other parts with nothing."""
    assert text_of([part(), part(text="y", image_url=None, annotations=[])]) == "xy"
    assert said(ANSWER | {"content": [part(weight=None)]}) == ["x"]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_of_a_row(field):
    """In Alpaca's form it is the thought of the output; else nobody knows of which message."""
    row = {"instruction": "q", "output": "x", "history": [["a", "b"]]}
    texts = ["a", "b", "q", "<think> t </think>x"]
    assert [m["content"] for m in chat_of(row | {field: "t"})] == texts
    assert chat_of(row | {field: None}) == chat_of(row)
    shared = {"conversations": [{"from": "human", "value": "q"}]}
    for row in ({"messages": [QUESTION, ANSWER]}, shared):
        with pytest.raises(ValueError, match=f"the row's field '{field}' cannot be kept"):
            chat_of(row | {field: "t"})
        assert chat_of(row | {field: ""}) == chat_of(row)


def test_calls_of_a_row_are_refused():
    for row in ({"messages": [QUESTION, ANSWER]}, {"instruction": "q", "output": "x"}):
        with pytest.raises(ValueError, match="the row's field 'tool_calls' cannot be kept"):
            chat_of(row | {"tool_calls": [SEARCH]})


def test_a_developer_is_the_system():
    chat = [{"role": "developer", "content": "s"}, QUESTION]
    assert chat_of({"messages": chat})[0] == {"role": "system", "content": "s"}
    named = [{"from": m["role"], "value": m["content"]} for m in chat]
    assert chat_of({"messages": named}) == chat_of({"conversations": named})
    assert chat_of({"conversations": named}) == chat_of({"messages": chat})


def test_what_stands_within_tags():
    assert split_tags("a<t>b</t>c<t>d</t>", "t") == ["a", "b", "c", "d", ""]
    assert split_tags("</t><t><t>b</t><t>", "t") == ["</t>", "<t>b", "<t>"]
    assert split_tags("", "t") == [""]


@pytest.mark.parametrize(
    "text",
    ["<tool_call>" + " " * 10**5, "<tool_call>\n{" + " " * 10**5 + "</tool_call>"]
    + [f"<{tag}>" * 50_000 for tag in ("tool_call", "tool_response", "result", "think")]
    + [f"</{tag}>" * 50_000 for tag in ("tool_call", "tool_response", "result", "search")]
    + ["</think>" * 20_000 + "<think>" * 20_000, "<think>" + " " * 10**5, "\n" * 10**5 + "x"],
)
def test_long_texts_take_no_time(text):
    started = time.process_time()
    for message in (QUESTION, ANSWER, ANSWER | {"reasoning": "t"}, {"role": "tool"}):
        try:
            split_chat(chat_of({"messages": [QUESTION, message | {"content": text}, ANSWER]}))
        except ValueError:
            pass
    assert time.process_time() - started < 1
