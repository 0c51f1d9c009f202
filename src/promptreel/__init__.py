"""Promptreel: text to video on your own machine. Programs that use a server import `Client` from here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from promptreel.client import Client as Client
    from promptreel.remote import RemoteModel as RemoteModel
    from promptreel.remote import RemoteVideo as RemoteVideo

_HOMES = {"Client": "promptreel.client", "RemoteModel": "promptreel.remote", "RemoteVideo": "promptreel.remote"}


def __getattr__(name: str) -> object:
    """Imports lazily: the service's own processes need no HTTP client."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'promptreel' has no attribute {name!r}")
