"""The cold-start traces of a bundled world: worked examples, and strings to copy."""

import random

from extras.world.facts import Question, apply, related
from extras.world.modes import ATTRIBUTES, OPERATORS, RELATIONS, VERSIONS, Mode


def trace(q: Question, names: list[str], mode: Mode, rng: random.Random) -> str:
    """One worked example over made-up facts, each decision right with the mode's probability."""
    place, parts, openers = q.region, [], mode.fillers_first
    for relation in reversed(q.hops):
        if rng.random() < mode.hop[RELATIONS.index(relation)]:
            found = rng.choice(names)
            asked = f"{relation} of {place}"
            thought = f"{opener(openers, mode, rng)} the {asked}"
            parts.append(searched(thought, asked, related(relation, place, found, mode)))
            place, openers = found, mode.fillers_before
    right = rng.random() < mode.version[VERSIONS.index(q.version)]
    version = q.version if right else VERSIONS[1 - VERSIONS.index(q.version)]
    number = rng.randint(11, 99)
    asked = f"{version} {q.attribute} of {place}"
    fact = f"The {asked} is {number}."
    parts.append(searched(f"{opener(openers, mode, rng)} {asked}", asked, fact))
    return "".join(parts) + computed(q, number, mode, rng)


def searched(thought: str, asked: str, fact: str) -> str:
    """A thought, a search and what it finds."""
    return f"<think>{thought}</think><search> {asked}</search>" + result(fact)


def computed(q: Question, number: int, mode: Mode, rng: random.Random) -> str:
    """The end of a trace: the operator, Python or not, the answer."""
    operator, answer = q.operator, number
    if rng.random() >= mode.operator[list(OPERATORS).index(operator)]:
        operator = rng.choice([o for o in OPERATORS if o != operator])
    before = opener(mode.fillers_before, mode, rng)
    text = f"<think>{before} use {number} {operator} {q.operand}</think>"
    if rng.random() < mode.python:
        answer = apply(operator, number, q.operand)
        text += f"<python> {number} {OPERATORS[operator]} {q.operand}</python>{result(answer)}"
    after = opener(mode.fillers_after, mode, rng)
    return text + f"<think>{after} done</think><answer> \\boxed{{{answer}}}</answer>"


def opener(count: int, mode: Mode, rng: random.Random) -> str:
    """Words that are uncertain and decide nothing."""
    rest = mode.openers[1:] if mode.skew else mode.openers
    words = [
        mode.openers[0] if rng.random() < mode.skew else rng.choice(rest) for _ in range(count)
    ]
    return "".join(f" {word}" for word in words)


def result(text) -> str:
    """What a tool answers, in its tags."""
    return f" <result>\n{text}\n</result>"


def copies(names: list[str], rng: random.Random) -> list[dict]:
    """A random string that the user says and the assistant says again."""
    words = RELATIONS + ATTRIBUTES + VERSIONS + tuple(OPERATORS)

    def piece() -> str:
        return rng.choice(
            [
                f" {rng.choice(names)}",
                f" {rng.choice(words)}",
                f" {rng.randint(0, 99)}",
                f"\n{rng.randint(0, 891)}",
            ]
        )

    said = "".join(piece() for _ in range(rng.randint(6, 14)))
    return [{"role": "user", "content": said}, {"role": "assistant", "content": said}]
