"""support/heldout.py: when a run is evaluated; what that writes is tests/test_train.py."""

import pytest
from conftest import sampler_for, template_ending

from config import Config
from protocol import encode_prompt
from support.heldout import due, sample_share
from support.questions import Question
from support.ranks import Ranks


@pytest.mark.parametrize("every, steps", [(0, [0]), (3, [0, 3, 6, 9]), (5, [0, 5, 10]), (20, [0])])
def test_before_the_first_step_and_every_so_often(every, steps):
    run = Config(steps=10, eval_every=every)
    assert [step for step in range(11) if due(run, step)] == steps


def test_a_thought_that_the_template_opens_is_stored(agent, tools):
    """An evaluation while training counts it as the training does."""
    tokenizer = agent.tokenizer
    tokenizer.chat_template = template_ending(tokenizer.chat_template, "<think>\\nOkay, ")
    asked = Question("1", [{"role": "user", "content": "q"}], ["5"], "math")
    test = [asked], [encode_prompt(tokenizer, asked.messages)]
    sampler = sampler_for(agent, tools, max_tokens=8)
    share = sample_share(Config(eval_samples=1), sampler, test, Ranks(), lambda: False)
    samples = [row["samples"][0] for _, *rows in share for row in rows]
    assert [s["opened"] for s in samples] == ["<think>"] * 2
