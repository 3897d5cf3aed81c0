"""What a rollout earns."""

from support.math_equal import last_boxed, math_equal
from support.questions import Question
from support.words import exact_match, f1_of_words, normalize_answer, token_f1

REWARDS = ("auto", "f1", "math", "released")


# for a correct answer that used both tools
BONUS = 0.1


def reward(rollout, golds: list[str], kind: str = "auto", task: str = "qa") -> float:
    """Reward of a rollout: -1 for a broken format or no end, else the score of its answer, + 0.1 if that is above 0 and both tools were executed with success.

    Args:    kind: "f1" token F1; "math" math_equal as 0 or 1; "auto" math for task "math", F1 for "qa"; "released" released_reward of the whole response.
    Returns: -1, or a number in [0, 1.1].
    Raises:  ValueError for an unknown kind.
    """
    if kind not in REWARDS:
        raise ValueError(f"kind must be one of {', '.join(REWARDS)}, got {kind!r}")
    if kind == "released":
        return released_reward(rollout.text, golds)
    answer = answer_of(rollout)
    if answer is None:
        return -1.0
    if kind == "math" or (kind == "auto" and task == "math"):
        score = float(any(math_equal(answer, gold) for gold in golds))
    else:
        score = token_f1(answer, golds)
    used = {call.name for call in rollout.calls if call.status == "ok"}
    return score + BONUS if score > 0 and used >= {"search", "python"} else score


def answer_of(rollout) -> str | None:
    """The answer in a rollout that kept the format, None if it broke it.

    Read from the policy's own text: <think> and </think> in pairs, at least one; exactly one <answer>..</answer> with a \\boxed{} in it; every opened tool tag
    closed; no <result> of its own; ended by itself.
    """
    text = rollout.policy_text
    if (
        rollout.finish != "stop"
        or "<result>" in text
        or "</result>" in text
        or "<think>" not in text
    ):
        return None
    if (
        any(
            text.count(f"<{tag}>") != text.count(f"</{tag}>")
            for tag in ("think", "search", "python", "answer")
        )
        or text.count("<answer>") != 1
    ):
        return None
    start, end = text.index("<answer>"), text.index("</answer>")
    return last_boxed(text[start + 8 : end]) if start < end else None


def is_correct(rollout, question: Question) -> bool:
    """Accuracy: format kept and the answer equal to a gold, by math_equal or exact_match according to the task."""
    answer = answer_of(rollout)
    if answer is None:
        return False
    return (
        any(math_equal(answer, gold) for gold in question.answers)
        if question.task == "math"
        else exact_match(answer, question.answers)
    )


def released_reward(response: str, golds: list[str]) -> float:
    """The released code's reward of a response (tool results included), bug for bug.

    -1 for a broken format or if the last \\boxed{ of the answer block does not close; else the best token F1, + 0.1 if it is above 0 and both closing tool
    tags occur anywhere. In {-1} and [0, 1.1].
    """
    if not _released_format(response):
        return -1.0
    block = response[response.index("<answer>") + 8 : response.index("</answer>")]
    answer = last_boxed(block[block.rfind("\\boxed{") :])
    if answer is None:
        return -1.0
    f1 = max(
        (
            f1_of_words(normalize_answer(answer).split(), normalize_answer(gold).split())
            for gold in golds
        ),
        default=0.0,
    )
    return f1 + BONUS if f1 > 0 and "</search>" in response and "</python>" in response else f1


def _released_format(text: str) -> bool:
    """think tags in pairs, at least one; one answer, in order, boxed; after every <search> and <python> the closing tag and a result, in order."""
    if text.count("<think>") != text.count("</think>") or "<think>" not in text:
        return False
    if (
        text.count("<answer>") != 1
        or text.count("</answer>") != 1
        or text.index("<answer>") > text.index("</answer>")
    ):
        return False
    for tool in ("search", "python"):
        at = text.find(f"<{tool}>")
        while at >= 0:
            for tag in (f"</{tool}>", "<result>", "</result>"):
                at = text.find(tag, at)
                if at < 0:
                    return False
            at = text.find(f"<{tool}>", at)
    block = text[text.index("<answer>") : text.index("</answer>")]
    return "\\boxed{" in block and "}" in block
