"""support/files.py: renamed whole, locked by one process."""

import os
import subprocess
import sys

import pytest

from support.files import lock_file, lost_folder, newest_in, replace, write_aside


def test_a_file_is_written_aside_and_renamed(tmp_path, monkeypatch):
    """A kill before the rename leaves the file before."""
    write_aside(tmp_path / "a.json", "one")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_aside(tmp_path / "a.json", "two")
    assert (tmp_path / "a.json").read_text() == "one"


def test_a_folder_takes_the_place_of_another(tmp_path):
    old, new = tmp_path / "run", tmp_path / "run.tmp"
    for folder, name in ((old, "old"), (new, "new")):
        folder.mkdir()
        (folder / name).write_text(name)
    replace(new, old)
    assert [file.name for file in old.iterdir()] == ["new"] and not new.exists()


def test_a_lock_of_another_process(tmp_path):
    code = f"""
import sys
from pathlib import Path
from support.files import lock_file
with lock_file(Path({str(tmp_path / "lock")!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="somebody writes"):
        with lock_file(tmp_path / "lock", "somebody writes"):
            pytest.fail("two hold it")
    other.communicate("")
    with lock_file(tmp_path / "lock", "somebody writes"):
        pass
    with pytest.raises(OSError):
        with lock_file(tmp_path, "never said: it is a folder"):
            pass


def test_a_run_s_folder_stands_for_its_newest_checkpoint(tmp_path):
    assert newest_in("org/name") == "org/name" and newest_in("") == ""
    (tmp_path / "latest").write_text("step_000040")
    assert newest_in(str(tmp_path)) == str(tmp_path / "step_000040")


@pytest.mark.parametrize(
    "name, lost",
    [
        ("gpt2", False),
        ("Qwen/Qwen2.5-7B-Instruct", False),
        ("", False),
        ("here", False),
        ("here/model", True),
        ("./model", True),
        ("/no/model", True),
        ("runs/x/step_000040", True),
    ],
)
def test_a_folder_that_is_not_there(tmp_path, monkeypatch, name, lost):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert lost_folder(name) is lost
