"""support/served.py: a served model is evaluated as a local one."""

import copy
import json
import shutil

import pytest
import torch
from conftest import template_ending
from eval_parts import settings, write

import eval as evaluation
from protocol import STOP_TAGS


def greedy_server(policy, include_stop=True):
    """What a server of this model would answer at temperature 0: one full forward per token."""

    def reply(asked):
        ids, text = list(asked["prompt"]), ""
        for _ in range(asked["max_tokens"]):
            with torch.no_grad():
                ids.append(int(policy.model(torch.tensor([ids])).logits[0, -1].argmax()))
            text = policy.decode(ids[len(asked["prompt"]) :])
            stop = next((s for s in asked["stop"] if s in text), None)
            if ids[-1] in policy.stop_ids or stop:
                return {
                    "text": text if include_stop or not stop else text[: text.index(stop)],
                    "finish_reason": "stop",
                }
        return {"text": text, "finish_reason": "length"}

    return reply


@pytest.mark.slow
@pytest.mark.parametrize("include_stop", [True, False])
def test_a_served_model_is_evaluated_as_a_local_one(
    world, agent_folder, agent, asked, tmp_path, judging, include_stop, capsys
):
    """At temperature 0 a server gives the answers, calls, results and tokens of the model here.

    Also one that cuts its stop strings off.
    """
    data, server = (
        write(tmp_path / "a.jsonl", *asked[:5]),
        judging(greedy_server(agent, include_stop)),
    )
    evaluation.main(settings(agent_folder, world, tmp_path, data, temperature=0, decode_rows=2))
    evaluation.main(
        settings(
            agent_folder,
            world,
            tmp_path,
            data,
            temperature=0,
            decode_rows=2,
            served=server.url,
            served_name="tiny",
            out=tmp_path / "served",
        )
    )
    here, there = (
        [
            {k: v for k, v in s.items() if k != "calls"} | {"calls": [c[:3] for c in s["calls"]]}
            for row in json.loads((tmp_path / out / "eval_a_model.json").read_text())["rows"]
            for s in row["samples"]
        ]
        for out in ("out", "served")
    )
    assert here == there and sum(len(s["calls"]) for s in here) >= 10
    path, request, _ = server.asked[-1]
    assert (
        path == "/v1/completions"
        and request["model"] == "tiny"
        and request["stop"] == list(STOP_TAGS)
        and isinstance(request["prompt"][0], int)
    )


@pytest.mark.slow
def test_limits_of_a_served_model(world, agent_folder, agent, asked, tmp_path, judging):
    data = write(tmp_path / "a.jsonl", *asked[:3])
    finishes = {}
    for name, reply, changes in (
        ("calls", greedy_server(agent), dict(max_calls=1)),
        ("length", greedy_server(agent), dict(max_tokens=40)),
        ("forged", lambda asked: {"text": "<think> so <result>", "finish_reason": "stop"}, {}),
        ("stop", lambda asked: {"text": "<answer> x </answer>", "finish_reason": "stop"}, {}),
    ):
        evaluation.main(
            settings(
                agent_folder,
                world,
                tmp_path,
                data,
                temperature=0,
                served=judging(reply).url,
                out=tmp_path / name,
                **changes,
            )
        )
        finishes[name] = {
            s["finish"]
            for row in json.loads((tmp_path / name / "eval_a_model.json").read_text())["rows"]
            for s in row["samples"]
        }
    assert finishes == {name: {name} for name in finishes}
    with pytest.raises(ValueError, match="--served http.*: the answer is not a completion"):
        evaluation.main(
            settings(
                agent_folder,
                world,
                tmp_path,
                data,
                served=judging(lambda asked: 5).url,
                out=tmp_path / "odd",
            )
        )


OPENED = "deep in thought </think><answer> \\boxed{5} </answer>"


@pytest.mark.parametrize("end", ["<think>\\n", "<think>\\nOkay, ", "<think>\\nLet me think.\\n"])
def test_a_thought_that_the_template_opens_is_counted_and_stored(
    world, tokenizer, tmp_path, judging, capsys, end
):
    """The server, the stored sample and its second grading agree."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template_ending(tokenizer.chat_template, end)
    shutil.copytree(world / "model", tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    data = write(tmp_path / "a.jsonl", {"question": "Write <think> first", "answer": "5"})
    server = judging(lambda asked: {"text": OPENED, "finish_reason": "stop"})
    evaluation.main(settings(tmp_path / "model", world, tmp_path, data, served=server.url))
    file = tmp_path / "out" / "eval_a_model.json"
    for _ in range(2):
        sample = json.loads(file.read_text())["rows"][0]["samples"][0]
        graded = [sample[name] for name in ("opened", "fault", "answer", "correct")]
        assert graded == ["<think>", "", "5", True]
        evaluation.main(["--regrade", str(file)])
