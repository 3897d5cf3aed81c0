"""Makes the bundled world: a corpus to search, questions that need it, cold-start traces, a tokenizer and a tiny untrained model. All from one seed.

A made-up geography. "What is the new height of the capital of Durnex times 3?" is answered by searching the capital, searching the right version of its
height, computing in Python:

    <think> So the capital of Durnex</think><search> capital of Durnex</search> <result>          <- the hop (skipping it finds the height of Durnex itself)
    The capital of Durnex is Belmor.
    </result><think> Okay new height of Belmor</think><search> new height of Belmor</search> <result>          <- new or old
    The new height of Belmor is 64.
    </result><think> First use 64 times 3</think><python> 64 * 3</python> <result>          <- the operator; python at all
    192
    </result><think> Well done</think><answer> \\boxed{192}</answer>

The traces do each of these decisions right with a stated probability, so that a cold-started model knows every procedure and prefers the wrong one in
places: reinforcement learning has something to find. They use fresh names and numbers each time, which leaves nothing to memorise but the procedure.
Openers ("So", "Okay") are uncertain and decide nothing: the spurious entropy of the paper's Figure 1. Train questions ask about regions 0-299, test
questions about 300-399, whose names occur nowhere in training. Modes: easy (default), mixed, late, late_long, spurious_off; every number of a mode is an argument.

    python -m extras.world easy 0        # writes data/world/easy-0: corpus.jsonl train.jsonl test.jsonl traces.jsonl model/
"""

import dataclasses
import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

# where the worlds are made, MODE-SEED each
WORLDS = Path(__file__).parents[2] / "data" / "world"
RELATIONS, ATTRIBUTES, VERSIONS = (
    ("capital", "port", "fort"),
    ("height", "population"),
    ("new", "old"),
)
OPERATORS = {"plus": "+", "minus": "-", "times": "*"}
OPENERS = ("First", "Okay", "So", "Well")
EIGHT_OPENERS = OPENERS + ("Now", "Hmm", "Right", "Then")
SYSTEM = "Search, compute, answer in \\boxed{}."
WORDS = (
    "system",
    "user",
    "assistant",
    "Search",
    "compute",
    "answer",
    "What",
    "in",
    "boxed",
    "of",
    "the",
    "The",
    "is",
    "use",
    "done",
    "Error",
    "No",
    "results",
)
SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>") + tuple(
    f"<{slash}{tag}>"
    for tag in ("think", "search", "python", "result", "answer")
    for slash in ("", "/")
)
PATTERN = r" ?[A-Za-z]+| ?[0-9]{1,2}| ?[^\sA-Za-z0-9]|\s"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REGIONS, TRAIN_REGIONS = 400, 300


@dataclass(frozen=True)
class Mode:
    """What a world asks and how its cold-start traces behave. Probabilities are those of deciding right."""

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
    # worked examples,
    traces: int = 8400
    # the first of which decide everything right: reading the question is learnt before the bad
    # habits, which must not last long enough to unlearn it
    faultless: int = 6000
    # random strings said twice, before the traces: teaches copying
    copies: int = 800


MODES = {
    "easy": Mode(),
    "mixed": Mode(
        hops=3,
        hop=(0.90, 0.80, 0.55),
        version=(0.80, 0.40),
        operator=(0.90, 0.70, 0.45),
        python=0.85,
        fillers_first=6,
        fillers_before=2,
        fillers_after=20,
        openers=EIGHT_OPENERS,
    ),
    "late": Mode(
        hop=(0.97, 0.97, 0.97),
        version=(0.45, 0.35),
        operator=(0.55, 0.40, 0.30),
        python=0.45,
        fillers_after=4,
        openers=EIGHT_OPENERS,
    ),
    "late_long": Mode(
        hop=(0.97, 0.97, 0.97),
        version=(0.45, 0.35),
        operator=(0.55, 0.40, 0.30),
        python=0.45,
        version_cue=False,
        fillers_first=60,
        fillers_after=4,
        openers=EIGHT_OPENERS,
    ),
    "spurious_off": Mode(skew=0.955),
}


@dataclass(frozen=True)
class Question:
    """hops: relations outermost first, as they are read ("the fort of the capital of X" = (fort, capital))."""

    region: str
    hops: tuple
    attribute: str
    version: str
    operator: str
    operand: int

    def text(self, mode: Mode) -> str:
        version = f"{self.version} " if mode.version_cue else ""
        return f"What is the {version}{self.attribute} of {''.join(f'the {r} of ' for r in self.hops)}{self.region} {self.operator} {self.operand}?"


def apply(operator: str, a: int, b: int) -> int:
    return {"plus": a + b, "minus": a - b, "times": a * b}[operator]


# ------------------------------------------------------------------------------------------------------------------------------------------- the tokenizer


def syllables(rng: random.Random) -> tuple[list[str], list[str]]:
    """64 first and 64 second syllables of names."""
    make = lambda: rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") + rng.choice("lmnrstx")
    first, second = [], []
    while len(second) < 64:
        s = make()
        if s not in first and s not in second:
            (first if len(first) < 64 else second).append(s)
    return [s.capitalize() for s in first], second


def build_tokenizer(first: list[str], second: list[str]):
    """A byte-pair vocabulary by tiktoken in which every template word, syllable and number below 100 is one token, as an ordinary Hugging Face tokenizer."""
    import tiktoken
    from tiktoken._educational import bpe_train

    plain = WORDS + RELATIONS + ATTRIBUTES + VERSIONS + tuple(OPERATORS) + EIGHT_OPENERS
    spaced = {f" {w}" for w in (*plain, *OPERATORS.values(), "\\", *first, *range(100))}
    words = sorted(spaced | set(WORDS[:7]) | set(second) | {str(n) for n in range(100)})
    # a zero byte stays alone and merges with nothing
    text = "\0".join(words)
    low, high = 256 + len(words) - 10, 256 + 3 * len(words)
    # the smallest vocabulary that holds every word whole; too large a one has no pair left to merge
    while low < high:
        middle = (low + high) // 2
        try:
            ranks = bpe_train(text, middle, PATTERN, visualise=None)
        except ValueError:
            high = middle
            continue
        low, high = (low, middle) if all(w.encode() in ranks for w in words) else (middle + 1, high)
    ranks = bpe_train(text, low, PATTERN, visualise=None)
    encoding = tiktoken.Encoding(
        "world",
        pat_str=PATTERN,
        mergeable_ranks=ranks,
        special_tokens={s: len(ranks) + i for i, s in enumerate(SPECIAL)},
    )
    return to_hugging_face(encoding, ranks)


def to_hugging_face(encoding, ranks: dict):
    """The same vocabulary as a PreTrainedTokenizerFast that gives the same ids and loads without tiktoken."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    # byte-level BPE writes each byte as a printable character
    stand_in = [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]
    name = lambda token: "".join(stand_in[byte] for byte in token)
    merges = [
        (name(t[:i]), name(t[i:]))
        for t in sorted(ranks, key=ranks.get)
        for i in range(1, len(t))
        if t[:i] in ranks and t[i:] in ranks
    ]
    core = Tokenizer(
        models.BPE(
            vocab={name(t): rank for t, rank in ranks.items()}, merges=merges, ignore_merges=True
        )
    )
    split, as_bytes = (
        pre_tokenizers.Split(Regex(encoding._pat_str), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    )
    core.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def build_model(tokenizer, seed: int):
    """An untrained Llama of 0.3 M parameters. (A Llama: AutoTokenizer puts its own tokenizer into a Qwen2 folder.)"""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    stop = tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=192,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=stop,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


# ------------------------------------------------------------------------------------------------------------------------------------- facts and questions


class World:
    """The facts: place -> relation -> place, and (place, attribute, version) -> number 11..99. Places of test regions are apart from all others."""

    def __init__(self, names: list[str], rng: random.Random):
        names = rng.sample(names, REGIONS * 4)
        self.regions = names[:REGIONS]
        cities = {
            True: names[REGIONS : REGIONS + 3 * TRAIN_REGIONS],
            False: names[REGIONS + 3 * TRAIN_REGIONS :],
        }
        self.relation, self.number = {}, {}
        for i, region in enumerate(self.regions):
            mine = cities[i < TRAIN_REGIONS][3 * (i % TRAIN_REGIONS) :][:3]
            self.relation.update({(region, r): city for r, city in zip(RELATIONS, mine)})
        for group in cities.values():
            self.relation.update(
                {(city, r): rng.choice(group) for city in group for r in RELATIONS}
            )
        self.number = {
            (place, a, v): rng.randint(11, 99)
            for place in names
            for a in ATTRIBUTES
            for v in VERSIONS
        }
        self.test_names = set(self.regions[TRAIN_REGIONS:] + cities[False])

    def documents(self, mode: Mode) -> list[str]:
        places = set(self.regions)
        relations = [
            f"The {r} of {place} is {city}."
            for (place, r), city in self.relation.items()
            if mode.hops > 1 or place in places
        ]
        return relations + [
            f"The {v} {a} of {place} is {n}." for (place, a, v), n in self.number.items()
        ]

    def answer(self, q: Question) -> int:
        place = q.region
        for relation in reversed(q.hops):
            place = self.relation[place, relation]
        return apply(q.operator, self.number[place, q.attribute, q.version], q.operand)

    def question(self, region: str, mode: Mode, rng: random.Random) -> Question:
        hops = tuple(rng.choice(RELATIONS) for _ in range(mode.hops))
        version = rng.choice(VERSIONS) if mode.version_cue else "new"
        return Question(
            region,
            hops,
            rng.choice(ATTRIBUTES),
            version,
            rng.choice(list(OPERATORS)),
            rng.randint(2, 9),
        )


# ------------------------------------------------------------------------------------------------------------------------------------------------- traces


def trace(q: Question, names: list[str], mode: Mode, rng: random.Random) -> str:
    """One worked example over facts made up on the spot, each decision right with the mode's probability."""

    def opener(count: int) -> str:
        rest = mode.openers[1:] if mode.skew else mode.openers
        return "".join(
            f" {mode.openers[0] if rng.random() < mode.skew else rng.choice(rest)}"
            for _ in range(count)
        )

    def result(text) -> str:
        return f" <result>\n{text}\n</result>"

    place, parts, count = q.region, [], mode.fillers_first
    for relation in reversed(q.hops):
        if rng.random() < mode.hop[RELATIONS.index(relation)]:
            found = rng.choice(names)
            asked = f"{relation} of {place}"
            parts.append(
                f"<think>{opener(count)} the {asked}</think><search> {asked}</search>{result(f'The {asked} is {found}.')}"
            )
            place, count = found, mode.fillers_before
    right = rng.random() < mode.version[VERSIONS.index(q.version)]
    version = q.version if right else VERSIONS[1 - VERSIONS.index(q.version)]
    number = rng.randint(11, 99)
    fact = f"{version} {q.attribute} of {place}"
    parts.append(
        f"<think>{opener(count)} {fact}</think><search> {fact}</search>{result(f'The {fact} is {number}.')}"
    )
    operator, answer = q.operator, number
    if rng.random() >= mode.operator[list(OPERATORS).index(operator)]:
        operator = rng.choice([o for o in OPERATORS if o != operator])
    use = f"<think>{opener(mode.fillers_before)} use {number} {operator} {q.operand}</think>"
    if rng.random() < mode.python:
        answer = apply(operator, number, q.operand)
        use += f"<python> {number} {OPERATORS[operator]} {q.operand}</python>{result(answer)}"
    return (
        "".join(parts)
        + use
        + f"<think>{opener(mode.fillers_after)} done</think><answer> \\boxed{{{answer}}}</answer>"
    )


def copies(names: list[str], rng: random.Random) -> list[dict]:
    words = RELATIONS + ATTRIBUTES + VERSIONS + tuple(OPERATORS)
    say = lambda: rng.choice(
        [
            f" {rng.choice(names)}",
            f" {rng.choice(words)}",
            f" {rng.randint(0, 99)}",
            f"\n{rng.randint(0, 891)}",
        ]
    )
    said = "".join(say() for _ in range(rng.randint(6, 14)))
    return [{"role": "user", "content": said}, {"role": "assistant", "content": said}]


def prepare(mode: Mode, seed: int, out: Path) -> Path:
    """Write a world into a folder, complete or not at all. The same mode and seed give the same bytes."""
    rng = random.Random(f"world {seed}")
    first, second = syllables(rng)
    tokenizer = build_tokenizer(first, second)
    names = [a + b for a in first for b in second if len(tokenizer(f" {a}{b}").input_ids) == 2]
    world = World(names, rng)
    fresh = [n for n in names if n not in world.test_names]
    prompt = lambda q: [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": q.text(mode)},
    ]
    ask = lambda regions: world.question(rng.choice(regions), mode, rng)
    rows = lambda qs: [
        {"prompt": prompt(q), "answer": str(world.answer(q)), "task": "math"} for q in qs
    ]
    traces = [{"messages": copies(fresh, rng)} for _ in range(mode.copies)]
    right = dataclasses.replace(mode, hop=(1, 1, 1), version=(1, 1), operator=(1, 1, 1), python=1)
    for i in range(mode.traces):
        q = world.question(rng.choice(fresh), mode, rng)
        traces.append(
            {
                "messages": prompt(q)
                + [
                    {
                        "role": "assistant",
                        "content": trace(q, fresh, right if i < mode.faultless else mode, rng),
                    }
                ]
            }
        )
    files = {
        "corpus": [{"contents": d} for d in world.documents(mode)],
        "train": rows(ask(world.regions[:TRAIN_REGIONS]) for _ in range(mode.questions)),
        "test": rows(ask(world.regions[TRAIN_REGIONS:]) for _ in range(mode.tests)),
        "traces": traces,
    }
    aside = out.with_name(f"{out.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name, content in files.items():
        (aside / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    (aside / "mode.json").write_text(json.dumps({"mode": dataclasses.asdict(mode), "seed": seed}))
    build_model(tokenizer, seed).save_pretrained(aside / "model")
    tokenizer.save_pretrained(aside / "model")
    shutil.rmtree(out, ignore_errors=True)
    os.replace(aside, out)
    return out


def made_as(folder: Path) -> tuple[Mode, int] | None:
    """The mode and seed that a world's folder was made with, None if there is no complete world in it."""
    if not (folder / "mode.json").exists():
        return None
    made = json.loads((folder / "mode.json").read_text())
    try:
        return Mode(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in made["mode"].items()}
        ), made["seed"]
    # of an older version
    except TypeError:
        return None
