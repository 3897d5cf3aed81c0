"""What a token of a rollout belongs to, and how far it is from a tool call.

    1. regions      tag, thought, call, answer or other, by the tags around it
    2. distances    tokens to the nearest end or start of a tool result
    3. after        is it among the first tokens after a result?

Pure functions of texts and masks. T response tokens.
"""

import re
from collections.abc import Sequence

REGIONS = ("thought", "call", "answer", "tag", "other")


def regions(texts: Sequence[str], mask: Sequence[bool], tools: Sequence[str]) -> list[str]:
    """The region of every token, "" of a tool's.

    A token belongs where its first character stands. tag: a part of <think>, <answer>, a tool's
    tag, or of its closing form. call: inside a tool's tags. other: outside all tags.

    Args: texts: of each token alone. mask: True where the policy chose it. tools: names of tags.
    """
    inside = {"think": "thought", "answer": "answer"} | dict.fromkeys(tools, "call")
    tag = re.compile(rf"<(/?)({'|'.join(map(re.escape, inside))})>")
    text = "".join(t if own else " " * len(t) for t, own in zip(texts, mask, strict=True))
    labels, place, start = [], "other", 0
    for found in tag.finditer(text):
        labels += [place] * (found.start() - start) + ["tag"] * len(found[0])
        place, start = "other" if found[1] else inside[found[2]], found.end()
    labels += [place] * (len(text) - start + 1)
    out, at = [], 0
    for t, own in zip(texts, mask):
        out.append(labels[at] if own else "")
        at += len(t)
    return out


def distances(mask: Sequence[bool], results: Sequence[tuple[int, int]]) -> list[int | None]:
    """Of every policy token to the nearest tool result; None of a tool's, and without a result.

    0 is the first token after a result, -1 the last before one; at equal distance the one after.

    Args: results: (start, end) of each result in tokens.
    """

    def nearest(t: int) -> int | None:
        behind = [t - end for _, end in results if t >= end]
        before = [t - start for start, _ in results if t < start]
        return min(behind + before, key=abs, default=None)

    return [nearest(t) if own else None for t, own in enumerate(mask)]


def after(distance: int | None, tokens: int) -> bool:
    """Is a token among the first so many after a result?"""
    return distance is not None and 0 <= distance < tokens
