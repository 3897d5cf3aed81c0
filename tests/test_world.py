"""extras/world: bytes, the tokenizer against tiktoken, facts that tools find, traces by mode."""

import dataclasses
import hashlib
import json
import random
import re
import runpy
import sys

import pytest
import tiktoken
import transformers
from tiktoken._educational import bpe_train
from transformers.convert_slow_tokenizer import bytes_to_unicode

from eval import load_questions
from extras.world import __main__ as world_command
from extras.world import modes
from extras.world import prepare as making
from extras.world.facts import apply
from extras.world.modes import MODES, Mode
from extras.world.prepare import made_as, prepare
from extras.world.student import PATTERN, SPECIAL, build_tokenizer, smallest_vocabulary
from support.corpus import Corpus

MADE = {}


@pytest.fixture
def one_tokenizer(monkeypatch):
    """Worlds of one seed have one tokenizer, whatever their mode: it is made once."""

    def build(first, second):
        key = (*first, *second)
        if key not in MADE:
            MADE[key] = build_tokenizer(first, second)
        return MADE[key]

    monkeypatch.setattr(making, "build_tokenizer", build)


def rows(folder, name):
    return [json.loads(line) for line in open(folder / f"{name}.jsonl")]


@pytest.mark.slow
def test_same_seed_same_bytes(world, tmp_path):
    mode = Mode(questions=200, tests=40, traces=2000, copies=800)

    def digest(folder):
        return {
            p.name: hashlib.sha256(p.read_bytes()).hexdigest()
            for p in folder.rglob("*")
            if p.is_file() and ".fts5" not in p.name
        }

    again = prepare(mode, 7, tmp_path / "again")
    assert digest(again) == digest(world)
    other = prepare(dataclasses.replace(mode, traces=10), 8, tmp_path / "other")
    assert digest(other)["corpus.jsonl"] != digest(world)["corpus.jsonl"]
    assert sum(p.stat().st_size for p in (world / "model").iterdir()) < 2 << 20


def test_tokenizer_agrees_with_tiktoken_and_loads_without_it(world, tokenizer):
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    byte_of = {c: b for b, c in bytes_to_unicode().items()}
    ranks = {bytes(byte_of[c] for c in name): i for name, i in core["model"]["vocab"].items()}
    encoding = tiktoken.Encoding("check", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    rng = random.Random(0)
    words = [t for t in ranks if len(t) > 2]
    for _ in range(2000):
        text = "".join(
            rng.choice(
                [
                    rng.choice(words).decode("utf-8", "ignore"),
                    chr(rng.randrange(32, 0x2FFF)),
                    " ",
                    "\n",
                    str(rng.randrange(2000)),
                ]
            )
            for _ in range(rng.randrange(1, 20))
        )
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert ids == encoding.encode(text, disallowed_special=()) and tokenizer.decode(ids) == text


def test_vocabulary(world, tokenizer):
    def one(text):
        return len(tokenizer(text, add_special_tokens=False).input_ids) == 1

    assert 500 < len(tokenizer) < 1000
    assert all(one(str(n)) and one(f" {n}") for n in range(100)) and all(
        one(f" {w}") for w in ("capital", "height", "times", "First", "of")
    )
    assert all(one(tag) for tag in SPECIAL)
    names = {
        re.search(r"of (\w+) (?:plus|minus|times)", r["prompt"][1]["content"])[1]
        for r in rows(world, "train")
    }
    assert len(names) > 100 and all(
        len(tokenizer(f" {n}", add_special_tokens=False).input_ids) == 2 for n in names
    )


def test_an_ordinary_hugging_face_checkpoint(world):
    model = transformers.AutoModelForCausalLM.from_pretrained(world / "model")
    tok = transformers.AutoTokenizer.from_pretrained(world / "model")
    assert (
        type(model).__name__ == "LlamaForCausalLM"
        and model.config.vocab_size == len(tok)
        and tok.eos_token_id == model.config.eos_token_id
    )
    assert 2e5 < sum(p.numel() for p in model.parameters()) < 5e5
    assert (
        tok.decode(
            tok.apply_chat_template(
                [{"role": "user", "content": "x"}], add_generation_prompt=True, return_dict=False
            )
        )
        == "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_right_procedure_finds_the_answer_with_the_real_tools(world, tools):
    for q in load_questions(str(world / "test.jsonl")):
        version, attribute, relation, region, operator, operand = re.fullmatch(
            r"What is the (\w+) (\w+) of the (\w+) of (\w+) (\w+) (\d)\?", q.messages[1]["content"]
        ).groups()
        city = re.fullmatch(
            rf"The {relation} of {region} is (\w+)\.",
            tools["search"].run(f"{relation} of {region}").text,
        )[1]
        number = re.fullmatch(
            rf"The {version} {attribute} of {city} is (\d+)\.",
            tools["search"].run(f"{version} {attribute} of {city}").text,
        )[1]
        assert (
            tools["python"].run(f"{number} {modes.OPERATORS[operator]} {operand}").text
            == q.answers[0]
        )
        assert q.task == "math"


def test_test_names_are_nowhere_in_training(world):
    seen = " ".join((world / f"{name}.jsonl").read_text() for name in ("train", "traces"))
    for r in rows(world, "test"):
        name = re.search(r"of ([A-Z]\w+)", r["prompt"][1]["content"])[1]
        assert name not in seen


def decisions(folder):
    """How often the traces decide right, by decision."""
    right = {}
    for r in rows(folder, "traces"):
        if len(r["messages"]) < 3:
            continue
        asked, text = r["messages"][1]["content"], r["messages"][2]["content"]
        version, _, hops, operator, _ = re.fullmatch(
            r"What is the (?:(\w+) )?(\w+) ((?:of the \w+ )+)of \w+ (\w+) (\d)\?", asked
        ).groups()
        hops = re.findall(r"of the (\w+) ", hops)
        for relation in set(hops):
            followed = text.count(f"<search> {relation} of ")
            asked_for = hops.count(relation)
            assert followed <= asked_for
            right.setdefault(f"hop {relation}", []).extend(n < followed for n in range(asked_for))
        found = {
            f"version {version or 'new'}": f"<search> {version or 'new'} " in text,
            f"operator {operator}": f" {operator} " in text,
            "python": "<python>" in text,
        }
        for name, ok in found.items():
            right.setdefault(name, []).append(ok)
    return {name: (sum(v) / len(v), len(v)) for name, v in right.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["easy", "late", "late_long", "late_deep", "spurious_off"])
def test_traces_decide_as_their_mode_says(name, tmp_path, one_tokenizer):
    mode = dataclasses.replace(
        MODES[name], questions=20, tests=10, traces=3000, faultless=0, copies=0
    )
    folder = prepare(mode, 3, tmp_path / name)
    expected = (
        {f"hop {r}": p for r, p in zip(modes.RELATIONS, mode.hop)}
        | {f"version {v}": p for v, p in zip(modes.VERSIONS, mode.version)}
        | {f"operator {o}": p for o, p in zip(modes.OPERATORS, mode.operator)}
        | {"python": mode.python}
    )
    if not mode.version_cue:
        del expected["version old"]
    measured = decisions(folder)
    assert set(measured) == set(expected)
    for decision, (share, n) in measured.items():
        p = expected[decision]
        assert abs(share - p) < 4 * (p * (1 - p) / n) ** 0.5 + 1e-9, decision
    openers = re.findall(
        "|".join(rf"\b{w}\b" for w in mode.openers),
        " ".join(r["messages"][-1]["content"] for r in rows(folder, "traces")),
    )
    first = openers.count(mode.openers[0]) / len(openers)
    assert first == pytest.approx(mode.skew or 1 / len(mode.openers), abs=0.02)


@pytest.mark.slow
def test_faultless_traces_come_first(tmp_path, one_tokenizer):
    folder = prepare(
        dataclasses.replace(
            MODES["easy"], questions=20, tests=10, traces=300, faultless=300, copies=0
        ),
        3,
        tmp_path / "right",
    )
    assert all(share == 1 for share, _ in decisions(folder).values())
    assert Mode().faultless < Mode().traces


def test_mixed_asks_for_two_hops_and_search_finds_them(tmp_path, one_tokenizer):
    """A place is also the city of others: search has to tell its own facts from theirs."""
    folder = prepare(
        dataclasses.replace(MODES["mixed"], questions=20, tests=20, traces=50, copies=0),
        3,
        tmp_path / "mixed",
    )
    told = [r["contents"] for r in rows(folder, "corpus")]
    facts = dict(re.fullmatch(r"(?:\w+: )?The (.*) is (\w+)\.", said).groups() for said in told)
    asked = [fact for fact in facts if " of " in fact][::20]
    found = Corpus(str(folder / "corpus.jsonl"), topk=1)(asked)
    assert all(f" {fact} is {facts[fact]}." in result for fact, [result] in zip(asked, found))
    for r in rows(folder, "test") + rows(folder, "train"):
        version, attribute, a, b, region, operator, operand = re.fullmatch(
            r"What is the (\w+) (\w+) of the (\w+) of the (\w+) of (\w+) (\w+) (\d)\?",
            r["prompt"][1]["content"],
        ).groups()
        place = region
        for relation in (b, a):
            place = facts[f"{relation} of {place}"]
        assert (
            str(apply(operator, int(facts[f"{version} {attribute} of {place}"]), int(operand)))
            == r["answer"]
        )


def test_the_vocabulary_is_the_smallest_with_every_word():
    """tiktoken's, trained to that size and to one less."""
    words = [" the", "the", " then", " boxed", "ing", *(f" {n}" for n in range(100))]
    ranks = smallest_vocabulary(words)
    for less in (0, 1):
        trained = bpe_train("\0".join(words), len(ranks) - less, PATTERN, visualise=None)
        assert trained == {token: rank for token, rank in ranks.items() if rank < len(trained)}
        assert all(word.encode() in trained for word in words) == (less == 0)


def test_command_line(tmp_path, monkeypatch, capsys):
    def run(*args):
        monkeypatch.setattr(sys, "argv", ["", *args, "--out", str(tmp_path / "w")])
        runpy.run_path(world_command.__file__, run_name="__main__")

    run("late", "0", "--set", "traces=20", "questions=20", "tests=5", "copies=0", "hop=[1,1,1]")
    assert "traces.jsonl" in capsys.readouterr().out
    assert len(rows(tmp_path / "w", "traces")) == 20 and all(
        r["messages"][2]["content"].count("<search>") == 2 for r in rows(tmp_path / "w", "traces")
    )
    made, seed = made_as(tmp_path / "w")
    assert (
        made
        == dataclasses.replace(
            MODES["late"], traces=20, questions=20, tests=5, copies=0, hop=(1, 1, 1)
        )
        and seed == 0
        and made != MODES["late"]
    )
    for wrong, said in (("nonsense=1", "nonsense"), ("hop=0.5", "hop must be like")):
        with pytest.raises(SystemExit):
            run("easy", "--set", wrong)
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "seed, out, said", [("-1", "w", "seed must be >= 0"), ("0", "f", "a file")]
)
def test_what_cannot_be_made_is_refused_at_once(tmp_path, monkeypatch, capsys, seed, out, said):
    (tmp_path / "f").write_text("")
    argv = ["extras.world", "easy", seed, "--out", str(tmp_path / out)]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(world_command, "prepare", lambda *_: pytest.fail("a world was made"))
    with pytest.raises(SystemExit):
        world_command.main()
    assert said in capsys.readouterr().err
