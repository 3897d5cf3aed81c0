"""Settings as a dataclass: each field with help and range, a flag for each, and all that is wrong
said at once. Imports no torch, which takes seconds.

    1. fixed, free   declare a field; a fixed one may not change when a run goes on
    2. parser_for    transformers.HfArgumentParser with a flag per field, --like_this or --like-this
    3. typed         the flags that were given, as values of the fields' types
    4. read_json     the settings of a file, keys as the flags; see `outlived` for retired ones
    5. problems      what is wrong with values: types, ranges, and rules between them
"""

import argparse
import dataclasses
import difflib
import inspect
import json
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from transformers import HfArgumentParser

KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple[float, float]: "two numbers",
    tuple[str, ...]: "a list of texts",
    tuple[int, ...]: "a list of whole numbers",
}
# setting of earlier versions -> (its only value that is still meant, what to do with another)
Retired = Mapping[str, tuple[Any, str]]


def fixed(default, text: str, least=None, old: str = ""):
    """A field that may not change when a run goes on.

    text: meaning, unit, source in brackets. least: the least value. old: an earlier name, which
    flags and JSON keys may still use. Choices are the field's type, Literal[...].
    """
    metadata = {"help": text, "least": least, "old": old, "free": False}
    return dataclasses.field(default=default, metadata=metadata)


def free(default, text: str, least=None, old: str = ""):
    """A field that may change when a run goes on; else as `fixed`."""
    metadata = {"help": text, "least": least, "old": old, "free": True}
    return dataclasses.field(default=default, metadata=metadata)


def free_names(kind: type) -> set[str]:
    """The fields that may change when a run goes on."""
    return {f.name for f in dataclasses.fields(kind) if f.metadata["free"]}


def new_names(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with old names replaced by those of the fields, lists by tuples."""
    names = {f.metadata["old"]: f.name for f in dataclasses.fields(kind) if f.metadata["old"]}
    return {names.get(k, k): tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def parser_for(kind: type, **about) -> HfArgumentParser:
    """A parser with a flag for every field of a dataclass, grouped by the classes that declare it.

    A group's title is the first line of its class' docstring. Flags that are not given are absent
    from what is parsed; those given are text, see `typed`. about: as ArgumentParser takes it.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    groups = []
    for part in (*kind.__bases__, kind):
        own = [fields.pop(name) for name in inspect.get_annotations(part) if name in fields]
        title = (part.__doc__ or part.__name__).partition("\n")[0].rstrip(".")
        flags = [(f.name, str, _flag(f)) for f in own]
        space = {"_argument_group_name": title}
        groups.append(dataclasses.make_dataclass(part.__name__, flags, namespace=space))
    return HfArgumentParser(
        groups, formatter_class=argparse.HelpFormatter, allow_abbrev=False, **about
    )


def _flag(f: dataclasses.Field) -> dataclasses.Field:
    """A field as HfArgumentParser wants it."""
    how: dict[str, Any] = {"help": f.metadata["help"].replace("%", "%%")}
    free = ["free"] * f.metadata["free"]
    default = [f"default {f.default}"] * (f.default not in ("", ()))
    if free or default:
        how["help"] += f" ({', '.join(default + free)})"
    if get_origin(f.type) is tuple:
        how["nargs"] = "+" if Ellipsis in get_args(f.type) else len(get_args(f.type))
    if f.type is bool:
        how |= {"nargs": "?", "const": "true"}
    names = {int: "N", float: "X", bool: "BOOL", tuple[float, float]: "X"}
    how["metavar"] = names.get(f.type, "TEXT")
    if get_origin(f.type) is Literal:
        how["metavar"] = "{" + ",".join(map(str, get_args(f.type))) + "}"
    if f.metadata["old"]:
        how["aliases"] = [f"--{f.metadata['old']}"]
    return dataclasses.field(default=argparse.SUPPRESS, metadata=how)


def typed(kind: type, given: argparse.Namespace) -> dict[str, Any]:
    """Parsed flags by name. Text that is no value of its field's type stays text."""
    kinds = {f.name: f.type for f in dataclasses.fields(kind)}
    return {
        name: _value(kinds[name], text) if name in kinds else text
        for name, text in vars(given).items()
    }


def unknown_flags(parser: HfArgumentParser, rest: list[str]) -> list[str]:
    """What to say of arguments that a parser did not take, a line each."""
    known = [flag for action in parser._actions for flag in action.option_strings]
    lines = []
    for flag in [word for word in rest if word.startswith("-")] or rest[:1]:
        near = difflib.get_close_matches(flag.partition("=")[0], known, 1)
        hint = f"; did you mean {near[0]}?" if near else "; --help lists them all"
        lines.append(f"unknown flag {flag}{hint}")
    return lines


def _value(kind: Any, text: Any) -> Any:
    """A flag's text as a value."""
    if get_origin(kind) is tuple:
        return tuple(_value(get_args(kind)[0], part) for part in text)
    if get_origin(kind) is Literal:
        return {str(choice): choice for choice in get_args(kind)}.get(text, text)
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


def outlived(path: str, found: Mapping[str, Any], retired: Retired) -> list[str]:
    """What to say of retired settings in a file whose value is not meant any more, a line each."""
    return [
        f"{path}: {name} = {found[name]!r} is no setting any more: {instead.format(found[name])}"
        for name, (meant, instead) in retired.items()
        if found.get(name, meant) != meant
    ]


def read_json(
    kind: type, path: str, ignored: Iterable[str] = (), retired: Retired | None = None
) -> tuple[dict, list[str]]:
    """The settings that a JSON object holds, and what is wrong with its keys, a line each.

    ignored: keys that are no settings and stand for nothing here. retired: see `outlived`.
    Raises: FileNotFoundError, ValueError if there is no such object.
    """
    if not Path(path).is_file():
        missing = "is not a file" if Path(path).exists() else "does not exist"
        raise FileNotFoundError(f"--config {path} {missing}")
    try:
        found = json.loads(Path(path).read_text())
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"--config {path} is not JSON: {problem}") from None
    if not isinstance(found, dict):
        raise ValueError(f"--config {path} is not an object of settings")
    values = new_names(kind, found)
    known = {f.name for f in dataclasses.fields(kind)}
    old = {f.metadata["old"]: f.name for f in dataclasses.fields(kind)}
    twice = [
        f"--config {path}: {key!r} and {old[key]!r} are two names of one setting: keep one"
        for key in found
        if old.get(key) in found
    ]
    retired = retired or {}
    unknown = sorted(set(values) - known - set(ignored) - set(retired))
    hint = "`python train.py --help` lists them all"
    lines = [f"--config {path}: unknown key {key!r}; {hint}" for key in unknown]
    lines += outlived(f"--config {path}", found, retired)
    return {name: value for name, value in values.items() if name in known}, twice + lines


def problems(kind: type, values: Mapping[str, Any], rules: Callable) -> list[str]:
    """What is wrong with the values of all fields, a line each that names the flag.

    rules: a function of the values that yields (names, line) for each rule between them that is
    broken. It sees `sound` values; rules about a value that is wrong in itself are left out.
    """
    wrong = _complaints(kind, values)
    broken = rules(sound(kind, values))
    return [*wrong.values(), *(line for names, line in broken if not wrong.keys() & set(names))]


def sound(kind: type, values: Mapping[str, Any]) -> types.SimpleNamespace:
    """The values of all fields, with the default where a value is wrong in itself."""
    wrong = _complaints(kind, values)
    fields = dataclasses.fields(kind)
    return types.SimpleNamespace(
        **{f.name: f.default if f.name in wrong else values[f.name] for f in fields}
    )


def _complaints(kind: type, values: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with each value in itself: name -> a line that names the flag."""
    found = {f: _complaint(f, values[f.name]) for f in dataclasses.fields(kind)}
    return {f.name: f"{_named(f)} {text}" for f, text in found.items() if text}


def _named(f: dataclasses.Field) -> str:
    """A field's flag, with its old name if it has one."""
    return "/".join(f"--{name}" for name in (f.name, f.metadata["old"]) if name)


def _complaint(f: dataclasses.Field, value: Any) -> str:
    """What is wrong with a field's value; "" if nothing is."""
    choices = get_args(f.type) if get_origin(f.type) is Literal else ()
    if choices:
        known = any(value == choice and type(value) is type(choice) for choice in choices)
        listed = ", ".join(map(str, choices))
        return "" if known else f"must be one of {listed}, got {value!r}"
    if not _is(f.type, value):
        return f"must be {KINDS[f.type]}, got {value!r}"
    least = f.metadata["least"]
    if least is not None and not value >= least:
        return f"must be >= {least}, got {value}"
    if value == math.inf and not re.search(r"\binf\b", f.metadata["help"]):
        return f"must be finite, got {value}"
    return ""


def _is(kind: Any, value: Any) -> bool:
    """Is a value of a field's type? A whole number is a float too, a bool is no number."""
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        sized = Ellipsis in parts or isinstance(value, tuple) and len(value) == len(parts)
        return isinstance(value, tuple) and sized and all(_is(parts[0], part) for part in value)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind
