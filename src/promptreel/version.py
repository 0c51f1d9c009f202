"""The installed version of Promptreel, and whether the extra `worker` is installed with it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

OF_WORKERS = ("torch", "diffusers", "transformers", "scipy")
"""What the extra `worker` installs beside the base."""

INSTALL_WORKER = "pip install 'promptreel[worker]'"


def installed_version() -> str:
    try:
        return version("promptreel")
    except PackageNotFoundError:
        return "unknown"


def missing_of_workers() -> list[str]:
    """The packages of OF_WORKERS that are not there. None is imported: that takes seconds."""
    return [name for name in OF_WORKERS if find_spec(name) is None]
