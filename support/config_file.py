"""config.json of a run: what it says, and what may differ when the run goes on. Imports no torch.

1. write_config     settings, versions, hashes of the data, what confines model code
2. differences      what is other than in the config.json of a run that has begun
3. refuse_another   refuses it, but for the names of --allow_change
4. note_changes     what --allow_change let change, in events.jsonl and on the screen
"""

import dataclasses
import json
import re
from pathlib import Path

from config import NO_SETTINGS, RETIRED, ColdStart, Config, named_in
from support.files import write_aside
from support.runfiles import complete, newest, sha256, shown_settings, step_in, versions
from support.settings import free_names, new_names, outlived

# what a run begins with and never reads again
BEGINNING = {f.name for f in dataclasses.fields(ColdStart)} | {"model", "from_run"}
FILES = ("data", "eval_data", "cold_start", "corpus")


def write_config(run: Config, sandbox_level: str) -> None:
    """Write config.json; changes that --allow_change names are kept in events.jsonl.

    Raises: ValueError naming what changed, if settings or data would make it another run.
    """
    path = Path(run.out) / "config.json"
    named = {name: getattr(run, name) for name in FILES}
    named |= code_of(run)
    files = {name: file for name, file in named.items() if Path(file).is_file()}
    hashes = {name: sha256(file) for name, file in files.items()}
    now = shown_settings(run) | {"data_sha256": hashes}
    # it holds for one command
    del now["allow_change"]
    if (newest(run.out) or newest(run.out, "cold")) and path.exists():
        check_changes(run, path, new_names(Config, json.loads(json.dumps(now))), set(files))
    elif run.allow_change:
        why = f"{run.out} holds no run to go on with"
        raise ValueError(f"--allow_change {run.allow_change}: {why}: leave it out")
    extra = {"versions": versions(), "sandbox_level": sandbox_level}
    write_aside(path, json.dumps(now | extra, indent=2))


def check_changes(run: Config, path: Path, now: dict, files: set[str]) -> None:
    """Refuse or note what differs from the config.json of a run that has begun."""
    try:
        before = new_names(Config, json.loads(path.read_text()))
    except ValueError as problem:
        why = "without it nothing says whether this is the same run"
        newer = f"a new run may begin with --model {newest(run.out) or run.model} and another --out"
        raise ValueError(f"{path} cannot be read: {problem}; {why}: mend it; {newer}") from None
    if lines := outlived(str(path), before, RETIRED):
        raise ValueError("\n".join(lines))
    old, new = before.get("data_sha256", {}), now["data_sha256"]
    # a mended reward or tool may go on
    code = code_of(run)
    for name in sorted(files & set(code)):
        if old.get(name) != new[name]:
            print(f"{code[name]}: the file has changed since this run began", flush=True)
    changed = differences(before, now, files - set(code))
    refuse_another(run, changed)
    note_changes(run, changed)


def code_of(run: Config) -> dict[str, str]:
    """The files of a reward and of tools of one's own, by a name for their hash."""
    places = [place.strip() for place in run.tools.split(",") if ".py:" in place]
    named = {f"tools {file}": file for file in (place.rpartition(":")[0] for place in places)}
    return named | ({"reward_fn": run.reward_fn.rpartition(":")[0]} if run.reward_fn else {})


def differences(before: dict, now: dict, files: set[str]) -> dict[str, tuple]:
    """Fixed settings that differ, and files whose content does: name -> (before, now).

    The values are a setting's, or hashes of the content of a file whose name is the same.
    """
    fixed = set(now) - free_names(Config) - files - NO_SETTINGS
    old, new = before.get("data_sha256", {}), now["data_sha256"]
    changed = {name: (old.get(name), new[name]) for name in sorted(files)}
    # an earlier version had no such setting
    changed |= {name: (before[name], now[name]) for name in sorted(fixed) if name in before}
    return {name: pair for name, pair in changed.items() if pair[0] != pair[1]}


def refuse_another(run: Config, changed: dict[str, tuple]) -> None:
    """ValueError for what changed without --allow_change, and for names there that did not."""
    allowed, noted = named_in(run.allow_change), noted_values(run.out)
    begins = [name for name in allowed if name in BEGINNING]
    if begins:
        names = ", ".join(f"--{name}" for name in begins)
        why = f"{names} can only say how a run begins, and {run.out} has begun"
        raise ValueError(f"--allow_change {','.join(begins)}: {why}: give another --out")
    left = [name for name in changed if name not in allowed]
    # a world's files follow from seed and world: only those are named
    left = [name for name in left if name in ("seed", "world")] or left
    if left:
        others = ", ".join(f"--{name} ({_told(name, changed[name])})" for name in left)
        names = ",".join([*allowed, *left])
        advice = "give another --out"
        if not BEGINNING & set(left):
            advice += f", or --allow_change {names} if this run shall go on so"
        raise ValueError(f"{run.out} holds a run with another {others}: {advice}")
    # a command that is given again finds its change made
    same = [name for name in allowed if name not in changed and name not in noted]
    if same:
        raise ValueError(f"--allow_change {','.join(same)}: not changed: leave it out")
    reference = Path(run.out) / "step_000000"
    needed = "kl_coef" in changed and run.kl_coef and newest(run.out)
    if needed and not complete(reference):
        gone = f"--kl_coef {run.kl_coef} needs the checkpoint {reference}, which is not kept"
        raise ValueError(f"{gone}: start another run with --from {newest(run.out)}")


def note_changes(run: Config, changed: dict[str, tuple]) -> None:
    """A line in events.jsonl, and one on the screen, for each change that is not there yet."""
    path, step = Path(run.out) / "events.jsonl", step_in(newest(run.out))
    noted = noted_values(run.out)
    rows = []
    for name, (before, now) in changed.items():
        if noted.get(name, before) != now:
            rows.append({"step": step, "event": "changed", "name": name})
            rows[-1] |= {"before": before, "now": now}
            told = _told(name, (before, now))
            print(f"after step {step} --{name} changes: {told}", flush=True)
    if rows:
        text = path.read_text() if path.exists() else ""
        write_aside(path, text + "".join(json.dumps(row) + "\n" for row in rows))


def noted_values(out: str) -> dict:
    """The latest value of each setting, or hash of each file, that events.jsonl names."""
    path = Path(out) / "events.jsonl"
    rows = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return {row["name"]: row["now"] for row in rows if row["event"] == "changed"}


def _told(name: str, pair: tuple) -> str:
    """A change in words."""
    if name in FILES and all(_is_hash(value) for value in pair):
        return "the file's content differs"
    return f"{pair[0]!r}, now {pair[1]!r}"


def _is_hash(value) -> bool:
    """Is it a hash of a file's content, or the lack of one?"""
    return value is None or bool(re.fullmatch("[0-9a-f]{64}", str(value)))
