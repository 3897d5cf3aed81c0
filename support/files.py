"""Files and folders that others may read at any time, and that one process at a time writes.

1. replace       what was made beside its place takes that place, whole
2. write_aside   the same for a text
3. lock_file     a lock, for this process alone
4. newest_in     the checkpoint that a run's folder stands for
5. lost_folder   is a model's folder missing? The Hub need not be asked

Imports the standard library; filelock where a lock is taken, so that a Python tool needs neither.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def replace(aside: Path, place: Path) -> None:
    """A finished file or folder takes its place: a kill leaves the one before, or none."""
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    os.replace(aside, place)


def write_aside(path: Path, text: str) -> None:
    """Write a text beside its place, then rename it: a full disk leaves the one before, too."""
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text)
    replace(aside, path)


@contextlib.contextmanager
def lock_file(path: Path, refusal: str = "") -> Iterator[None]:
    """Hold a lock file.

    refusal: what to say if another process holds it; "": wait for it.
    Raises: ValueError with that refusal; OSError if the file cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(blocking=not refusal)
    except Timeout:
        raise ValueError(refusal) from None
    try:
        yield
    finally:
        lock.release()


def newest_in(model: str) -> str:
    """A run's folder stands for its newest checkpoint, any other name for itself."""
    marker = Path(model) / "latest"
    return str(marker.parent / marker.read_text().strip()) if marker.is_file() and model else model


def lost_folder(model: str) -> bool:
    """Does a model's name mean a folder, and there is none? On the Hub it is NAME or OWNER/NAME."""
    if not model or Path(model).exists():
        return False
    parts = Path(model).parts
    return model.startswith(("/", ".", "~")) or len(parts) > 2 or Path(parts[0]).is_dir()
