"""Where a run begins: its folder and its weights. Imports no torch.

1. default_out       the folder of a run that names none
2. saved_settings    what an earlier start left in it
3. beginning         the checkpoint that --model or --from stands for
4. crossed_out       flags that --from leaves no room for
"""

import json
from pathlib import Path

from support.files import newest_in


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
