"""The installed version of Promptreel."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    try:
        return version("promptreel")
    except PackageNotFoundError:
        return "unknown"
