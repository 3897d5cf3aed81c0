"""What a bundled world can be: its words, and the modes that say how hard it is."""

from dataclasses import dataclass, replace

RELATIONS = ("capital", "port", "fort")
ATTRIBUTES = ("height", "population")
VERSIONS = ("new", "old")
OPERATORS = {"plus": "+", "minus": "-", "times": "*"}
OPENERS = ("First", "Okay", "So", "Well")
EIGHT_OPENERS = OPENERS + ("Now", "Hmm", "Right", "Then")


@dataclass(frozen=True)
class Mode:
    """What a world asks and how its cold-start traces behave. Probabilities: of deciding right."""

    # relations between the region and the place asked about
    hops: int = 1
    # follow the relation: capital, port, fort
    hop: tuple = (0.95, 0.90, 0.42)
    # search the version: new, old
    version: tuple = (0.85, 0.40)
    # plus, minus, times
    operator: tuple = (0.95, 0.95, 0.42)
    # compute rather than answer the raw number
    python: float = 0.97
    # the question names the version; without it "new" is right
    version_cue: bool = True
    # opener words before the first decision,
    fillers_first: int = 1
    # before each later one,
    fillers_before: int = 1
    # and after the last
    fillers_after: int = 1
    openers: tuple = OPENERS
    # probability of the first opener; 0: all alike
    skew: float = 0.0
    questions: int = 4000
    tests: int = 500
    # worked examples
    traces: int = 8400
    # Of them the first that decide everything right. They teach reading the question; the bad
    # habits come after it, and not for long enough to unlearn it.
    faultless: int = 6000
    # random strings said twice, before the traces: teaches copying
    copies: int = 800


MODES = {
    "easy": Mode(),
    "mixed": Mode(
        hops=2,
        hop=(0.90, 0.85, 0.65),
        version=(0.85, 0.50),
        operator=(0.90, 0.75, 0.60),
        python=0.90,
        fillers_first=4,
        fillers_before=2,
        fillers_after=12,
        openers=EIGHT_OPENERS,
    ),
    "late": Mode(
        hop=(0.97, 0.97, 0.97),
        version=(0.70, 0.50),
        operator=(0.75, 0.60, 0.50),
        python=0.70,
        fillers_first=24,
        openers=EIGHT_OPENERS,
    ),
    "late_long": Mode(
        hop=(0.97, 0.97, 0.97),
        version=(0.70, 0.50),
        operator=(0.75, 0.60, 0.50),
        python=0.70,
        version_cue=False,
        fillers_first=60,
        fillers_after=4,
        openers=EIGHT_OPENERS,
    ),
    "spurious_off": Mode(version=(0.75, 0.30), skew=0.955),
}
# late_long, but two searches come before its decisions
MODES["late_deep"] = replace(MODES["late_long"], hops=2, copies=1600)
