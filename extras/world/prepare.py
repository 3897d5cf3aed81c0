"""Makes the bundled world: documents, questions, cold-start traces, a tiny untrained model.

    1. student    names, a tokenizer in which each is two tokens, an untrained Llama
    2. facts      a made-up geography, its documents, its questions
    3. traces     worked examples that decide right with a stated probability
    4. prepare    writes them into a folder, complete or not at all; all from one seed
    5. with_world the settings of a run that uses it

"What is the new height of the capital of Durnex times 3?" takes two searches and one computation:

    <think> So the capital of Durnex</think><search> capital of Durnex</search>
    <result> The capital of Durnex is Belmor. </result>
    <think> Okay new height of Belmor</think><search> new height of Belmor</search>
    <result> The new height of Belmor is 64. </result>
    <think> First use 64 times 3</think><python> 64 * 3</python>
    <result> 192 </result>
    <think> Well done</think><answer> \\boxed{192}</answer>

The decisions are: follow the relation (the hop), new or old, the operator, Python at all.
A cold-started model knows every procedure and prefers the wrong one in places. This is what
reinforcement learning has to find. Each trace uses fresh names and numbers: there is nothing to
memorise. Openers ("So", "Okay") are uncertain and decide nothing: the spurious entropy of the
paper's Figure 1. Train questions ask about regions 0-299, test questions about 300-399. Names of
test regions and their cities occur nowhere in training.
"""

import dataclasses
import json
import os
import random
import shutil
from pathlib import Path

from config import Config
from extras.world.facts import TRAIN_REGIONS, Question, World
from extras.world.modes import MODES, Mode
from extras.world.student import build_model, build_tokenizer, syllables
from extras.world.traces import copies, trace
from support.files import replace
from support.runfiles import unpaired

# where the worlds are made, MODE-SEED each
WORLDS = Path(__file__).parents[2] / "data" / "world"
SYSTEM = "Search, compute, answer in \\boxed{}."


def prepare(mode: Mode, seed: int, out: Path) -> Path:
    """Write a world into a folder, complete or not at all. Same mode, same seed, same bytes."""
    rng = random.Random(f"world {seed}")
    first, second = syllables(rng)
    tokenizer = build_tokenizer(first, second)
    names = [a + b for a in first for b in second if len(tokenizer(f" {a}{b}").input_ids) == 2]
    world = World(names, rng)
    fresh = [name for name in names if name not in world.test_names]
    # the order of these lines is the order of the random draws
    traces = written_traces(world, fresh, mode, rng)
    train = asked(world, world.regions[:TRAIN_REGIONS], mode, count=mode.questions, rng=rng)
    test = asked(world, world.regions[TRAIN_REGIONS:], mode, count=mode.tests, rng=rng)
    corpus = [{"contents": document} for document in world.documents(mode)]
    aside = out.with_name(f"{out.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    files = {"corpus": corpus, "train": train, "test": test, "traces": traces}
    for name, rows in files.items():
        (aside / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (aside / "mode.json").write_text(json.dumps({"mode": dataclasses.asdict(mode), "seed": seed}))
    build_model(tokenizer, seed).save_pretrained(aside / "model")
    tokenizer.save_pretrained(aside / "model")
    replace(aside, out)
    return out


def prompt_of(q: Question, mode: Mode) -> list[dict]:
    """The messages that ask a question."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": q.text(mode)},
    ]


def asked(
    world: World, regions: list[str], mode: Mode, *, count: int, rng: random.Random
) -> list[dict]:
    """Rows of questions about these regions, with their answers."""
    rows = []
    for _ in range(count):
        q = world.question(rng.choice(regions), mode, rng)
        answer = str(world.answer(q))
        rows.append({"prompt": prompt_of(q, mode), "answer": answer, "task": "math"})
    return rows


def written_traces(world: World, names: list[str], mode: Mode, rng: random.Random) -> list[dict]:
    """Rows of the cold start: strings to copy, faultless traces, then traces of the mode."""
    rows = [{"messages": copies(names, rng)} for _ in range(mode.copies)]
    faultless = dataclasses.replace(
        mode, hop=(1, 1, 1), version=(1, 1), operator=(1, 1, 1), python=1
    )
    for i in range(mode.traces):
        q = world.question(rng.choice(names), mode, rng)
        text = trace(q, names, faultless if i < mode.faultless else mode, rng)
        rows.append({"messages": prompt_of(q, mode) + [{"role": "assistant", "content": text}]})
    return rows


def made_as(folder: Path) -> tuple[Mode, int] | None:
    """The mode and seed that a world's folder was made with, None if no complete world is in it."""
    if not (folder / "mode.json").exists():
        return None
    made = json.loads((folder / "mode.json").read_text())
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in made["mode"].items()}
    try:
        return Mode(**values), made["seed"]
    # its settings are those of another version
    except TypeError:
        return None


def with_world(run: Config) -> Config:
    """Fill what is empty from the bundled world, which is made if it is not there yet."""
    if run.model and run.data:
        return run
    for problem in unpaired(run):
        raise ValueError(problem)
    folder = WORLDS / f"{run.world}-{run.seed}"
    if made_as(folder) != (MODES[run.world], run.seed):
        print(f"making the bundled world in {os.path.relpath(folder)} ...", flush=True)
        prepare(MODES[run.world], run.seed, folder)
    mine = dict(model="model", data="train.jsonl", eval_data="test.jsonl")
    mine |= dict(cold_start="traces.jsonl", corpus="corpus.jsonl")
    empty = {name: str(folder / file) for name, file in mine.items() if not getattr(run, name)}
    return dataclasses.replace(run, **empty)
