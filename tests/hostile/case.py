"""A hostile input, and what a service must answer to it. Each file of this folder has those of one door, as `CASES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.flows.service import Service


@dataclass(frozen=True)
class HostileCase:
    """`attack` sends the input to a running service without API keys, and asserts that the answer is the right one.

    What it holds open (connections, slow hosts) it closes before it returns. Checkpoints go into `service.data_dir / "models"`,
    and are removed again.
    """

    name: str
    attack: Callable[[Service], None]
