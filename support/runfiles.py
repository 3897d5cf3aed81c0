"""The files of a run's folder."""

import platform
from importlib import metadata


def versions() -> dict[str, str]:
    """What a result depends on besides its settings."""
    packages = {name: metadata.version(name) for name in ("torch", "transformers")}
    return {"python": platform.python_version()} | packages
