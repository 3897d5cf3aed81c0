"""support/settings.py: fields, flags and files of any dataclass, all problems at once."""

import dataclasses
import json
import math
from typing import Literal

import pytest

from support.settings import (
    fixed,
    free,
    free_names,
    new_names,
    parser_for,
    problems,
    read_json,
    sound,
    typed,
    unknown_flags,
)


@dataclasses.dataclass(frozen=True)
class Engine:
    """The engine: how it runs."""

    cylinders: int = fixed(4, "how many", 1)
    fuel: Literal["petrol", "gas", 2] = fixed("petrol", "what it burns")
    turbo: bool = free(False, "with a turbo")
    limit: float = free(1.0, "of speed, or inf", 0, old="max")
    weight: float = free(1.0, "in tons", 0)
    bounds: tuple[float, float] = fixed((0.8, 1.2), "low and high")
    files: tuple[str, ...] = free((), "what to read")


def no_rules(values):
    return iter(())


def parse(*argv):
    return typed(Engine, parser_for(Engine).parse_args(argv))


def test_flags_become_values_of_their_fields_types():
    given = parse(*("--cylinders 6 --fuel 2 --turbo --max inf --bounds 0.5 2 --files a b").split())
    assert given == dict(
        cylinders=6, fuel=2, turbo=True, limit=math.inf, bounds=(0.5, 2.0), files=("a", "b")
    )
    assert parse() == {}, "flags that are not given are absent"


def test_text_that_is_no_value_stays_text_and_is_named():
    given = parse("--cylinders", "many", "--turbo", "perhaps")
    values = {f.name: f.default for f in dataclasses.fields(Engine)} | given
    said = problems(Engine, values, no_rules)
    assert len(said) == 2 and "--cylinders must be a whole number, got 'many'" in said
    assert "--turbo must be true or false, got 'perhaps'" in said


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(cylinders=0), "--cylinders must be >= 1, got 0"),
        (dict(cylinders=True), "--cylinders must be a whole number, got True"),
        (dict(fuel="air"), "--fuel must be one of petrol, gas, 2, got 'air'"),
        (dict(fuel="2"), "--fuel must be one of petrol, gas, 2, got '2'"),
        (dict(limit=math.nan), "--limit/--max must be >= 0, got nan"),
        (dict(weight=math.inf), "--weight must be finite, got inf"),
        (dict(bounds=(1.0,)), "--bounds must be two numbers, got (1.0,)"),
        (dict(bounds=("a", 1.0)), "--bounds must be two numbers, got ('a', 1.0)"),
    ],
)
def test_every_kind_of_wrong_value(wrong, message):
    values = {f.name: f.default for f in dataclasses.fields(Engine)} | wrong
    assert problems(Engine, values, no_rules) == [message]
    (name,) = wrong
    assert getattr(sound(Engine, values), name) == getattr(Engine(), name)


def test_a_rule_about_a_wrong_value_is_left_out():
    def rules(c):
        yield ("cylinders", "weight"), "too heavy"
        yield ("limit",), "too fast"

    values = {f.name: f.default for f in dataclasses.fields(Engine)} | dict(cylinders=-1)
    assert problems(Engine, values, rules) == ["--cylinders must be >= 1, got -1", "too fast"]


def test_files_may_use_old_names_but_not_both(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"max": 2, "bounds": [1, 2], "versions": 1, "colour": "red"}))
    values, lines = read_json(Engine, str(path), {"versions"})
    assert values == {"limit": 2, "bounds": (1, 2)}
    assert len(lines) == 1 and "unknown key 'colour'" in lines[0]
    path.write_text(json.dumps({"max": 2, "limit": 3}))
    _, lines = read_json(Engine, str(path))
    assert "'max' and 'limit' are two names of one setting" in lines[0]
    assert new_names(Engine, {"max": 1}) == {"limit": 1}


def test_a_retired_setting_may_have_one_value(tmp_path):
    path, retired = tmp_path / "a.json", {"colour": ("red", "see --{}")}
    path.write_text(json.dumps({"colour": "red"}))
    assert read_json(Engine, str(path), retired=retired) == ({}, [])
    path.write_text(json.dumps({"colour": "blue", "max": 2}))
    values, lines = read_json(Engine, str(path), retired=retired)
    assert values == {"limit": 2}
    assert lines == [f"--config {path}: colour = 'blue' is no setting any more: see --blue"]


def test_a_misspelt_flag_is_told_its_neighbour():
    (line,) = unknown_flags(parser_for(Engine), ["--cylindres", "6"])
    assert line == "unknown flag --cylindres; did you mean --cylinders?"


def test_free_settings():
    assert free_names(Engine) == {"turbo", "limit", "weight", "files"}
