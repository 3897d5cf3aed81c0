"""The facts of a bundled world and the questions about them."""

import random
from dataclasses import dataclass

from extras.world.modes import ATTRIBUTES, OPERATORS, RELATIONS, VERSIONS, Mode

REGIONS, TRAIN_REGIONS = 400, 300


@dataclass(frozen=True)
class Question:
    """A question. hops as they are read: (fort, capital) in "the fort of the capital of X"."""

    region: str
    hops: tuple
    attribute: str
    version: str
    operator: str
    operand: int

    def text(self, mode: Mode) -> str:
        """The question as the policy reads it."""
        version = f"{self.version} " if mode.version_cue else ""
        place = "".join(f"the {relation} of " for relation in self.hops) + self.region
        return f"What is the {version}{self.attribute} of {place} {self.operator} {self.operand}?"


def related(relation: str, place: str, city: str, mode: Mode) -> str:
    """What search finds of a relation.

    With several hops a place is also the city of others: said twice, its own facts come first.
    """
    fact = f"The {relation} of {place} is {city}."
    return f"{place}: {fact}" if mode.hops > 1 else fact


def apply(operator: str, a: int, b: int) -> int:
    """a plus, minus or times b."""
    return {"plus": a + b, "minus": a - b, "times": a * b}[operator]


class World:
    """Facts: place -> relation -> place, and (place, attribute, version) -> number 11..99.

    Places of test regions are apart from all others.
    """

    def __init__(self, names: list[str], rng: random.Random):
        names = rng.sample(names, REGIONS * 4)
        self.regions = names[:REGIONS]
        split = REGIONS + 3 * TRAIN_REGIONS
        train_cities, test_cities = names[REGIONS:split], names[split:]
        self.relation, self.number = {}, {}
        for i, region in enumerate(self.regions):
            cities = train_cities if i < TRAIN_REGIONS else test_cities
            own = cities[3 * (i % TRAIN_REGIONS) :][:3]
            self.relation.update({(region, r): city for r, city in zip(RELATIONS, own)})
        for cities in (train_cities, test_cities):
            for city in cities:
                self.relation.update({(city, r): rng.choice(cities) for r in RELATIONS})
        for place in names:
            for a in ATTRIBUTES:
                self.number.update({(place, a, v): rng.randint(11, 99) for v in VERSIONS})
        self.test_names = set(self.regions[TRAIN_REGIONS:] + test_cities)

    def documents(self, mode: Mode) -> list[str]:
        """What search finds: a fact each. Relations of cities: with several hops only."""
        regions = set(self.regions)
        relations = [
            related(relation, place, city, mode)
            for (place, relation), city in self.relation.items()
            if mode.hops > 1 or place in regions
        ]
        return relations + [
            f"The {v} {a} of {place} is {n}." for (place, a, v), n in self.number.items()
        ]

    def answer(self, q: Question) -> int:
        """The right answer."""
        place = q.region
        for relation in reversed(q.hops):
            place = self.relation[place, relation]
        return apply(q.operator, self.number[place, q.attribute, q.version], q.operand)

    def question(self, region: str, mode: Mode, rng: random.Random) -> Question:
        """A random question about a region."""
        hops = tuple(rng.choice(RELATIONS) for _ in range(mode.hops))
        version = rng.choice(VERSIONS) if mode.version_cue else "new"
        return Question(
            region=region,
            hops=hops,
            attribute=rng.choice(ATTRIBUTES),
            version=version,
            operator=rng.choice(list(OPERATORS)),
            operand=rng.randint(2, 9),
        )
