"""sft.py: the forms of worked examples, what is imitated of them, the schedule, and a cold start
that is interrupted.
"""

import dataclasses
import json
import math
import re
from functools import partial

import pytest
import torch
from conftest import sampler_for

from config import read_settings
from policy import Policy
from protocol import encode_prompt
from support import sft
from support.ranks import Ranks
from support.runfiles import forget_cold_start, newest


def test_examples_are_encoded_as_rollouts_are(agent, world, tools, prompts):
    """Ids and mask of an example equal those of a rollout with the same text:
    results not imitated, the end of turn imitated.
    """
    example = json.loads((world / "traces.jsonl").read_text().splitlines()[-1])["messages"]
    ids, mask = sft.encode_example(agent.tokenizer, *sft.split_chat(example))
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
    for r in sampler.initial(prompts[:8], 1, list(range(8))):
        if r.finish == "stop":
            ids, mask = sft.encode_example(
                agent.tokenizer,
                *sft.split_chat(
                    [
                        *example[:-1],
                        {"role": "assistant", "content": r.text.removesuffix("<|im_end|>")},
                    ]
                ),
            )
            skip = len(encode_prompt(agent.tokenizer, example[:-1]))
            assert ids[skip:] == r.ids and mask[skip:] == r.mask


@pytest.mark.parametrize(
    "budget, passes",
    [
        pytest.param(4096, 1, marks=pytest.mark.slow),
        pytest.param(1, 3, marks=pytest.mark.slow),
        (300, 2),
    ],
)
def test_imitation_loss_by_hand(agent, world, budget, passes, monkeypatch):
    example = sft.read_examples(str(world / "traces.jsonl"), agent.tokenizer)[-3:]
    total, count = 0.0, 0
    for ids, mask in example:
        logp = agent.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        for t in range(1, len(ids)):
            if mask[t]:
                total, count = total - logp[t - 1, ids[t]].item(), count + 1
    run, still = (
        dataclasses.replace(read_settings([]), micro_tokens=budget),
        torch.optim.SGD(agent.model.parameters(), lr=0.0),
    )
    seen, logp_of = [], Policy.logp
    monkeypatch.setattr(Policy, "logp", lambda *a: seen.append(1) or logp_of(*a))
    assert (
        sft.imitate(agent, [still], example, run, Ranks())[0]
        == pytest.approx(total / count, abs=1e-5)
        and len(seen) == passes
    )


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
    """The same conversation in ten forms:
    the result is context, everything the assistant says is imitated, the end of turn too.
    """
    ((ids, mask),) = sft.read_examples(written(tmp_path / "x.jsonl", FORMS[form]), agent.tokenizer)
    start = encode_prompt(agent.tokenizer, [QUESTION])
    assert ids[: len(start)] == start and not any(mask[: len(start)])

    def text(own):
        return agent.decode([i for i, m in zip(ids[len(start) :], mask[len(start) :]) if m == own])

    assert (
        agent.decode(ids[len(start) :]) == SAID + "<|im_end|>"
        and text(False) == " <result>\nc d\n</result>"
    )
    assert (ids, mask) == sft.read_examples(
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
    ((ids, mask),) = sft.read_examples(
        written(tmp_path / "x.jsonl", {"messages": chat}), agent.tokenizer
    )
    assert (
        agent.decode([i for i, m in zip(ids, mask) if m]) == "second<|im_end|>"
        and ids[:-2]
        and agent.decode(ids).count("first") == 1
    )


def test_a_list_in_json_and_parquet_are_read(agent, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    (tmp_path / "x.json").write_text(json.dumps([FORMS["messages"], FORMS["ShareGPT"]], indent=1))
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([FORMS["messages"]] * 2), tmp_path / "x.parquet"
    )
    lines = sft.read_examples(
        written(tmp_path / "x.jsonl", FORMS["messages"], FORMS["messages"]), agent.tokenizer
    )
    assert (
        lines
        == sft.read_examples(str(tmp_path / "x.json"), agent.tokenizer)
        == sft.read_examples(str(tmp_path / "x.parquet"), agent.tokenizer)
    )


BAD = {
    "empty": ({"messages": []}, "does not end with the assistant's own words"),
    "other row": ({"text": "x"}, "KeyError.*a row is"),
    "no JSON": ("oops", "is not JSON"),
    "a list": ("[1]", "must be an object, not list"),
    "no answer": ({"messages": [QUESTION]}, "does not end with the assistant's own words"),
    "no role": ({"messages": [{"content": "q"}]}, "KeyError.*role"),
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
        sft.read_examples(path, agent.tokenizer, 200)
    assert len(sft.read_examples(path, agent.tokenizer, 200, skip_bad=True)) == 1 and re.search(
        f"left out: .*row 2.*{message}", capsys.readouterr().out
    )
    with pytest.raises(ValueError, match="holds no example"):
        sft.read_examples(written(tmp_path / "y.jsonl", row), agent.tokenizer, 200, skip_bad=True)


# ---- schedule and order


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_the_schedule_rises_and_falls_to_0(schedule, warmup):
    """By hand, also where a cold start goes on in the middle."""
    run = dataclasses.replace(read_settings([]), cold_schedule=schedule, cold_warmup=warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    schedules, up = sft.schedules_of([optimizer], 37, run), math.ceil(warmup * 37)
    for i in [*range(37), 5]:
        done = (i - up) / (37 - up)
        down = 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        sft.set_rates(schedules, i)
        share = i / up if i < up else down
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * share, abs=1e-12)


def test_every_epoch_is_a_new_order_or_the_files():
    run = dataclasses.replace(read_settings([]), cold_batch=4, cold_shuffle=True)
    seen = [k for i in range(5) for k in sft.batch_at(i, 10, run)]
    assert (
        sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
        and seen[:10] != seen[10:]
        and seen[:10] != list(range(10))
    )
    assert [
        k
        for i in range(5)
        for k in sft.batch_at(i, 10, dataclasses.replace(run, cold_shuffle=False))
    ] == [*range(10), *range(10)]


# ---- a cold start that is interrupted

SHORT = dict(cold_steps=7, cold_save_every=3, micro_tokens=4096)


def reached(rows, stop):
    """Are there as many rows?"""
    return len(rows) == stop


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_cold_start_goes_on_bit_for_bit(optimizer, world, tmp_path):
    """Seven steps at once, and five, a request to stop, two more from the folder:
    the same weights and the same numbers.
    """
    run, results, rows = (
        dataclasses.replace(read_settings([]), cold_optimizer=optimizer, **SHORT),
        {},
        {"whole": [], "parts": []},
    )
    for name, stops in (("whole", [99]), ("parts", [5, 99])):
        for stop in stops:
            folder = newest(tmp_path / name, "cold")
            policy = Policy.load(str(folder or world / "model"))
            examples = sft.read_examples(str(world / "traces.jsonl"), policy.tokenizer)[:24]
            (tmp_path / name).mkdir(exist_ok=True)
            loss = sft.cold_start(
                policy,
                examples,
                run,
                Ranks(),
                sft.Beside(
                    progress=False,
                    folder=tmp_path / name,
                    checkpoint=folder,
                    log=rows[name].append,
                    asked=partial(reached, rows[name], stop),
                ),
            )
            assert (loss is None) == (stop == 5)
        results[name] = list(policy.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(results["whole"], results["parts"]))
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in rows["whole"]] == [
        {k: v for k, v in row.items() if k != "seconds"} for row in rows["parts"]
    ]
    assert {f.name for f in tmp_path.glob("*/cold_*")} == {"cold_000006"}, (
        "the one before is deleted"
    )
    forget_cold_start(tmp_path / "parts")
    assert not list((tmp_path / "parts").glob("cold_*"))


@pytest.mark.slow
def test_a_cold_start_whose_gradients_are_not_finite_stops(agent, world):
    with torch.no_grad():
        agent.model.lm_head.weight[5] = float("nan")
    examples = sft.read_examples(str(world / "traces.jsonl"), agent.tokenizer)[:8]
    with pytest.raises(
        ValueError,
        match="cold start: the gradients of 3 steps in a row were not finite, the last at step 3; "
        "a smaller --cold_lr may help",
    ):
        sft.cold_start(
            agent,
            examples,
            dataclasses.replace(read_settings([]), **SHORT),
            Ranks(),
            sft.Beside(progress=False),
        )
