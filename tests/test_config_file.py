"""support/config_file.py: what another run is, and what --allow_change lets change."""

import dataclasses
import json
import re

import pytest

from config import Config, named_in, read_settings
from support.config_file import write_config


@pytest.fixture
def begun(tmp_path):
    """A run that has a complete checkpoint after step 40, and its data."""
    checkpoint = tmp_path / "run" / "step_000040"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    (tmp_path / "run" / "latest").write_text("step_000040")
    data = tmp_path / "data.jsonl"
    data.write_text('{"question": "a", "answer": "1"}\n')
    run = Config(model="m", data=str(data), out=str(tmp_path / "run"), lr=1e-5, prompts=32)
    write_config(run, "whole")
    return run


def events(run):
    path = f"{run.out}/events.jsonl"
    return [json.loads(line) for line in open(path)]


def test_a_change_is_refused_with_advice_that_loses_nothing(begun):
    other = dataclasses.replace(begun, lr=2e-5, seed=3, prompts=64)
    with pytest.raises(
        ValueError, match="another --seed .0, now 3.: give another --out, or "
    ) as no:
        write_config(other, "whole")
    assert "delete" not in str(no.value)
    other = dataclasses.replace(begun, lr=2e-5, prompts=64, allow_change="lr")
    with pytest.raises(ValueError, match="--prompts .32, now 64.: .* --allow_change lr,prompts if"):
        write_config(other, "whole")
    assert json.load(open(f"{begun.out}/config.json"))["lr"] == 1e-5


@pytest.mark.parametrize("change", [{"model": "other"}, {"cold_steps": 7}])
def test_how_a_run_began_cannot_change(begun, change):
    """Its weights come from its checkpoint: another model would be named and never read."""
    (name,) = change
    other = dataclasses.replace(begun, **change)
    with pytest.raises(ValueError, match=f"another --{name} .*: give another --out$"):
        write_config(other, "whole")
    allowed = dataclasses.replace(other, allow_change=name)
    with pytest.raises(ValueError, match=f"--{name} can only say how a run begins"):
        write_config(allowed, "whole")


def test_a_change_that_is_allowed_is_kept_and_told_once(begun, capsys):
    other = dataclasses.replace(begun, lr=2e-5, prompts=64, allow_change="lr, prompts")
    write_config(other, "whole")
    said = capsys.readouterr().out
    assert said.splitlines() == [
        "after step 40 --lr changes: 1e-05, now 2e-05",
        "after step 40 --prompts changes: 32, now 64",
    ]
    head = {"step": 40, "event": "changed"}
    assert events(other) == [
        head | {"name": "lr", "before": 1e-5, "now": 2e-5},
        head | {"name": "prompts", "before": 32, "now": 64},
    ]
    saved = json.load(open(f"{begun.out}/config.json"))
    assert saved["lr"] == 2e-5 and saved["prompts"] == 64 and "allow_change" not in saved
    # the same command again, as after a kill; and without the flag
    write_config(other, "whole")
    write_config(dataclasses.replace(other, allow_change=""), "whole")
    assert len(events(other)) == 2 and not capsys.readouterr().out
    # and back
    write_config(dataclasses.replace(begun, allow_change="lr,prompts"), "whole")
    assert [row["now"] for row in events(other)] == [2e-5, 64, 1e-5, 32]


def test_the_content_of_a_file_may_change_by_name(begun, capsys):
    open(begun.data, "a").write('{"question": "b", "answer": "2"}\n')
    with pytest.raises(ValueError, match="another --data .the file's content differs.: "):
        write_config(begun, "whole")
    write_config(dataclasses.replace(begun, allow_change="data"), "whole")
    assert capsys.readouterr().out == "after step 40 --data changes: the file's content differs\n"
    (row,) = events(begun)
    assert row["name"] == "data" and len(row["before"]) == len(row["now"]) == 64
    assert row["before"] != row["now"]


def test_names_that_did_not_change_are_refused(begun):
    same = dataclasses.replace(begun, lr=2e-5, allow_change="lr,kl_coef,data")
    with pytest.raises(ValueError, match="--allow_change kl_coef,data: not changed: leave it out"):
        write_config(same, "whole")


def test_a_new_run_has_nothing_to_change(begun, tmp_path):
    new = dataclasses.replace(begun, out=str(tmp_path / "new"), allow_change="lr")
    (tmp_path / "new").mkdir()
    with pytest.raises(ValueError, match="--allow_change lr: .*new holds no run to go on with"):
        write_config(new, "whole")


def test_a_reference_that_is_gone_is_named(begun):
    other = dataclasses.replace(begun, kl_coef=0.1, allow_change="kl_coef")
    with pytest.raises(
        ValueError, match="needs the checkpoint .*step_000000.*--from .*step_000040"
    ):
        write_config(other, "whole")


@pytest.mark.parametrize(
    "names, line",
    [
        ("lr,rate", "--allow_change: there is no setting 'rate'"),
        ("steps", "--allow_change: steps is free to change: leave it out"),
    ],
)
def test_names_that_cannot_be_meant(names, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        read_settings(["--allow_change", names])


def test_old_names_of_settings_count():
    run = read_settings(["--allow_change", "b"])
    assert named_in(run.allow_change) == ["future_weight"]


@pytest.mark.parametrize("value, refused", [("ppo", False), ("cispo", True)])
def test_a_run_of_an_earlier_version_goes_on_if_it_stays_the_same(begun, value, refused):
    path = f"{begun.out}/config.json"
    saved = json.load(open(path)) | {"surrogate": value}
    open(path, "w").write(json.dumps(saved))
    if refused:
        with pytest.raises(ValueError, match="surrogate = 'cispo' is no .*with --algo cispo"):
            write_config(begun, "whole")
        assert json.load(open(path)) == saved
    else:
        write_config(begun, "whole")
        assert "surrogate" not in json.load(open(path))
