"""A hostile input and the check of the service's answer. Each file of this folder lists those of one way in, as `CASES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.flows.service import Service


@dataclass(frozen=True)
class HostileCase:
    """`attack` sends the input to a running service without API keys, and asserts that the answer is right.

    Before it returns, it closes its connections and hosts, and removes the checkpoints that it put into
    `service.data_dir / "models"`.
    """

    name: str
    attack: Callable[[Service], None]
