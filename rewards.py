"""What a rollout earns.

    1. format_fault      which rule of the format the policy broke
    2. answer_of         the answer, if it broke none
    3. reward            -1 without an answer, else its score, and a bonus for using both tools
    4. is_correct        format kept and answer right: what an evaluation counts
       is_gold           the answer alone
    5. released_reward   the reward of the released code, bug for bug

Words are compared in support/words.py, mathematics in support/math_equal.py.

Differs from the released code in: the answer is read from the policy's own text, so that a search
result with "<answer>" in it neither makes nor breaks a format; only calls that were executed earn
the bonus; mathematics is compared as mathematics.
"""

from support.math_equal import last_boxed, math_equal
from support.words import exact_match, f1_of_words, normalize_answer, token_f1

REWARDS = ("auto", "f1", "math", "released")
# for an answer with a score above 0 that used both tools (released code 0.1)
BONUS = 0.1


def reward(rollout, golds: list[str], kind: str = "auto", task: str = "qa") -> float:
    """Reward of a rollout: -1 for a broken format or no end, else the score of its answer.

    A score above 0 earns 0.1 more if both tools were executed with success.

    Args:    kind: "f1" token F1; "math" math_equal as 0 or 1; "auto" math for task "math", F1 for
             "qa"; "released" released_reward of the whole response.
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
    """The answer in a rollout that kept the format, None if it broke it."""
    return None if format_fault(rollout) else _boxed_answer(rollout)


def format_fault(rollout) -> str:
    """Which rule of the format a rollout broke first, in words; "" if it kept the format.

    It ended by itself; its tags are right (`fault_in` of protocol.py, or of the call format in
    use); its answer is in a \\boxed{}.
    """
    if rollout.finish != "stop":
        return f"the rollout did not end by itself: {rollout.finish}"
    fault = rollout.family.protocol.fault_in(rollout)
    return fault or ("" if _boxed_answer(rollout) is not None else "no \\boxed{} in the answer")


def _boxed_answer(rollout) -> str | None:
    """What a response that keeps the format boxes."""
    return last_boxed(rollout.family.protocol.answer_part(rollout))


def is_correct(rollout, question) -> bool:
    """Accuracy: the format is kept and the answer is a gold."""
    answer = answer_of(rollout)
    return answer is not None and is_gold(answer, question)


def is_gold(answer: str, question) -> bool:
    """Is an answer a gold of the question, by math_equal (task "math") or exact_match?"""
    if question.task == "math":
        return any(math_equal(answer, gold) for gold in question.answers)
    return exact_match(answer, question.answers)


def released_reward(response: str, golds: list[str]) -> float:
    """The released code's reward of a response with its tool results, bug for bug.

    -1 for a broken format, or if the last \\boxed{ of the answer block does not close. Else the
    best token F1; above 0 it earns 0.1 more if both closing tool tags occur anywhere.
    In {-1} and [0, 1.1].
    """
    if not _released_format(response):
        return -1.0
    block = response[response.index("<answer>") + len("<answer>") : response.index("</answer>")]
    # The released code counts escaped braces too, and its words have no backslash anyway.
    inside = block[block.rfind("\\boxed{") + len("\\boxed{") :].replace("\\", "")
    answer = last_boxed("\\boxed{" + inside)
    if answer is None:
        return -1.0
    words = normalize_answer(answer).split()
    scores = [f1_of_words(words, normalize_answer(gold).split()) for gold in golds]
    f1 = max(scores, default=0.0)
    return f1 + BONUS if f1 > 0 and "</search>" in response and "</python>" in response else f1


def _released_format(text: str) -> bool:
    """Think tags in pairs, at least one; one boxed answer; after each call its end and a result."""
    if text.count("<think>") != text.count("</think>") or "<think>" not in text:
        return False
    if text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return False
    start, end = text.index("<answer>"), text.index("</answer>")
    if start > end or not all(_released_calls(text, tool) for tool in ("search", "python")):
        return False
    return "\\boxed{" in text[start:end] and "}" in text[start:end]


def _released_calls(text: str, tool: str) -> bool:
    """Are each <tool>, </tool>, <result> and </result> followed by the next one?"""
    at = text.find(f"<{tool}>")
    while at >= 0:
        for tag in (f"</{tool}>", "<result>", "</result>"):
            at = text.find(tag, at)
            if at < 0:
                return False
        at = text.find(f"<{tool}>", at)
    return True
