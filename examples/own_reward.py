"""Rewards of your own. Copy one, change it, and name it:

    python train.py --reward_fn examples/own_reward.py:short_answer ...
    python eval.py --reward_fn examples/own_reward.py:judged ...

A reward takes (rollout, question) and returns a number, or {"reward": number, NAME: number, ...}:
the other numbers are logged as reward_fn_NAME. rollout: see rollout.py; rollout.text is the
response with tool results. question.row: every column of the row in your file; question.answers:
its answers, empty if it has none. Many calls run at once, in threads.
"""

import os

from rewards import answer_of
from support.http import post_json
from support.words import exact_match

# characters that cost nothing
FREE = 400
JUDGE_URL = os.environ.get("JUDGE_URL", "http://localhost:8000/v1/chat/completions")


def short_answer(rollout, question) -> dict:
    """Exact match, less 0.1 for every 1,000 characters beyond the free ones; -1 without answer."""
    answer = answer_of(rollout)
    if answer is None:
        return {"reward": -1.0, "right": 0.0}
    right = float(exact_match(answer, question.answers))
    penalty = 0.1 * max(0, len(rollout.policy_text) - FREE) / 1000
    return {"reward": right - penalty, "right": right, "penalty": penalty}


def judged(rollout, question) -> float:
    """1 or 0, as a model behind JUDGE_URL says of the answer; -1 without an answer."""
    answer = answer_of(rollout)
    if answer is None:
        return -1.0
    asked = question.messages[-1]["content"]
    prompt = f"Question: {asked}\nAnswer: {answer}\nIs the answer right? Reply YES or NO."
    chat = {"model": "judge", "messages": [{"role": "user", "content": prompt}], "temperature": 0}
    reply = post_json(JUDGE_URL, chat, timeout=60)["choices"][0]["message"]["content"]
    return float(reply.strip().upper().startswith("YES"))
