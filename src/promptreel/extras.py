"""pip's extras: which modules each one brings, and whether they are installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

_MEDIA = ("av", "numpy", "PIL")
MODULES: Mapping[str, Sequence[str]] = {
    "media": _MEDIA,
    "hub": ("huggingface_hub",),
    "worker": (*_MEDIA, "torch", "diffusers", "transformers", "scipy"),
}
"""The modules that the base installation lacks, by extra."""


def missing_modules(extra: str) -> list[str]:
    """The extra's modules that are not installed. None is imported: torch takes seconds."""
    return [name for name in MODULES[extra] if find_spec(name) is None]


def is_installed(extra: str) -> bool:
    return not missing_modules(extra)


def install_command(extra: str) -> str:
    return f"pip install 'promptreel[{extra}]'"
