"""pip's extras: which modules each one brings, whether they are installed, and how to import a lot of them."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

_MEDIA = ("av", "numpy", "PIL")
MODULES: Mapping[str, Sequence[str]] = {
    "media": _MEDIA,
    "hub": ("huggingface_hub",),
    "worker": (*_MEDIA, "torch", "diffusers", "transformers", "scipy", "peft"),
}
"""The modules that the base installation lacks, by extra."""


def missing_modules(extra: str) -> list[str]:
    """The extra's modules that are not installed. None is imported: torch takes seconds."""
    return [name for name in MODULES[extra] if find_spec(name) is None]


def is_installed(extra: str) -> bool:
    return not missing_modules(extra)


def install_command(extra: str) -> str:
    return f"pip install 'promptreel[{extra}]'"


@contextmanager
def imports_for_good() -> Iterator[None]:
    """The garbage collector skips what is imported in the block. Searching torch's objects would take a fifth of its import."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
