"""Where a rollout of a bundled world decides, read from what the policy wrote.

    1. decisions         token -> what is decided there: hop, version, operator or python
    2. hops_of           relations in a question
    3. decision_recall   how many of them a choice of branch points has found

A decision is the first token in which a right and a wrong continuation of a trace (traces.py)
differ. After the openers of a thought:

    "the"                a relation is followed; a wrong trace names a version here
    relation word        only with several relations left: a wrong trace has skipped one
    "new" or "old"       the version; a skipped last relation shows here too
    "use N" operator     the operator
    tag after "use ..."  <python>, or <think> or <answer> without it

What a tool wrote decides nothing. A thought of another form has no decision, so a malformed rollout
has few or none. Standard library only.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate, groupby

from extras.world.modes import EIGHT_OPENERS, OPERATORS, RELATIONS, VERSIONS


def one_of(words: Collection[str]) -> str:
    """A pattern for one of these words, whole."""
    return rf"(?:{'|'.join(words)})\b"


RELATION = one_of(RELATIONS)
THOUGHT = re.compile(
    rf"<think>(?: {one_of(EIGHT_OPENERS)})* (?:"
    rf"(?P<hop>the) (?P<relation>{RELATION}) of\b"
    rf"|(?P<version>{one_of(VERSIONS)})"
    rf"|use \d+ (?P<operator>{one_of(OPERATORS)})"
    rf"(?: \d+</think>(?=<(?P<python>python|think|answer)>))?)"
)


def hops_of(question: str) -> int:
    """Relations that a question, or a prompt with it, asks to follow."""
    return len(re.findall(rf"\bthe {RELATION} of\b", question))


def decisions(texts: Sequence[str], mask: Sequence[bool], hops: int = 1) -> dict[int, str]:
    """The tokens at which a rollout decides, in order: index -> hop, version, operator or python.

    Args: texts: of each token alone. mask: True where the policy chose the token.
          hops: of the question. Relation words count while more than one of them is left.
    """
    found, followed = {}, 0
    for own, turn in groupby(range(len(texts)), key=lambda t: bool(mask[t])):
        tokens = list(turn)
        ends = list(accumulate(len(texts[t]) for t in tokens))
        text = "".join(texts[t] for t in tokens) if own else ""
        for thought in THOUGHT.finditer(text):
            for name in (name for name, word in thought.groupdict().items() if word):
                if name == "relation" and hops - followed <= 1:
                    continue
                # of the word's first letter: a space or "<" before it may be another token
                token = tokens[bisect_right(ends, thought.start(name))]
                found[token] = "hop" if name == "relation" else name
            followed += thought["hop"] is not None
    return found


def decision_recall(
    points: Sequence[Collection[int]], decided: Sequence[Collection[int]]
) -> dict[str, float]:
    """How well branch points find decisions; points and decisions of the same rollouts, in order.

    Rollouts without a decision are left out. Returns shares, 0 of nothing:
        recall       of the decisions, those that are branch points: at most B / decisions
        precision    of the branch points, those that are decisions
        after_last   of the branch points, those behind the last decision of their rollout
    """
    pairs = [(p, d) for p, d in zip(points, decided, strict=True) if d]
    hits = sum(len(set(p) & set(d)) for p, d in pairs)
    after = sum(t > max(d) for p, d in pairs for t in p)
    forks, there = sum(len(p) for p, _ in pairs), sum(len(d) for _, d in pairs)
    shares = {"recall": (hits, there), "precision": (hits, forks), "after_last": (after, forks)}
    return {name: part / whole if whole else 0.0 for name, (part, whole) in shares.items()}
