"""Where a run begins: its folder, its weights, the settings that --from takes over. No torch.

1. default_out       the folder of a run that names none
2. saved_settings    what an earlier start left in it
3. settings_behind   the settings of the run that --from names
4. beginning         the checkpoint that --model or --from stands for
5. crossed_out       flags that --from leaves no room for
"""

import json
from collections.abc import Callable
from pathlib import Path

from methods import ALGOS, PRESETS, RETIRED
from support.files import newest_in
from support.settings import outlived


def settings_behind(
    start: str, given: dict, read: Callable[[str], tuple[dict, list]]
) -> tuple[dict, list[str]]:
    """What a run that begins with --from takes over, and what is wrong with that checkpoint.

    Where another method or preset is given, what the old one had set is not taken over.
    read: the settings of a JSON file, as read_json.
    """
    if not start:
        return {}, []
    checkpoint = Path(newest_in(start))
    config = checkpoint.parent / "config.json"
    if not ((checkpoint / "manifest.json").is_file() and config.is_file()):
        return {}, [f"--from {start} is no checkpoint of a run, nor the folder of one that has any"]
    values, _ = read(str(config))
    own = {"out", "model", "cold_start", "from_run", "allow_change"}
    if any(name in given and given[name] != values.get(name) for name in ("algo", "preset")):
        own |= {"preset", *PRESETS.get(str(values.get("preset")), {})}
        own |= ALGOS.get(str(values.get("algo")), {}).keys()
    wrong = outlived(str(config), json.loads(config.read_text()), RETIRED)
    return {name: value for name, value in values.items() if name not in own}, wrong


def beginning(values: dict, before: dict) -> dict:
    """Where the weights of a run come from; before: what its folder says of an earlier start.

    A run's folder stands for its newest checkpoint at the first start, whatever came later.
    """

    def settled(name: str) -> dict:
        now, first = str(values[name]), str(before.get(name, ""))
        folders = [p.resolve() for p in (Path(first), Path(first).parent)] if first else []
        return {name: first if Path(now).resolve() in folders else newest_in(now)}

    if not values["from_run"]:
        return settled("model")
    checkpoint = settled("from_run")
    return checkpoint | {"model": checkpoint["from_run"], "cold_start": ""}


def crossed_out(values: dict, flags: dict) -> list[str]:
    """A line for each flag that --from leaves no room for."""
    names = ("model", "cold_start") if values["from_run"] else ()
    none = "--from brings the model and needs no cold start"
    return [
        f"{none}: leave --{name} {flags[name]} out"
        for name in names
        if flags.get(name, values[name]) != values[name]
    ]


def saved_settings(out: str) -> dict:
    """What the config.json of a run in this folder says, {} if there is none that can be read."""
    path = Path(out) / "config.json"
    try:
        saved = json.loads(path.read_text()) if path.is_file() else {}
    # config_file.check_changes refuses such a file
    except (OSError, ValueError):
        return {}
    return saved if isinstance(saved, dict) else {}


def default_out(model: str, data: str) -> str:
    """The folder of a run that names none: made of the last two parts of the model's and the
    data's name."""
    if not model:
        return "runs/laptop"
    parts = [*Path(model).parts[-2:], *Path(data).parent.parts[-1:], Path(data).stem]
    return "runs/" + "-".join(part for part in parts if part.strip("/."))
