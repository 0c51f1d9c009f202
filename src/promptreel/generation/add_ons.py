"""Add-ons of a request, LoRAs and embeddings: their files, and the copies of a model that have them.

A model itself never changes: an add-on is put into a copy that shares the model's weights. So jobs with different add-ons, and
jobs without any, run side by side.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from promptreel.errors import CheckpointUnusable
from promptreel.models.card_fields import Expert

T = TypeVar("T")

MOST_VARIANTS = 8
"""Copies kept of one model. Each takes its add-ons' weights, and some megabytes for its modules."""


@dataclass(frozen=True)
class AddOnFile:
    """A checked safetensors file."""

    model_id: str
    path: Path
    sha256: str

    def read(self) -> dict[str, Tensor]:
        """Raises CheckpointUnusable."""
        return self.read_with_metadata()[0]

    def read_with_metadata(self) -> tuple[dict[str, Tensor], Mapping[str, str]]:
        """Raises CheckpointUnusable."""
        try:
            with safe_open(self.path, framework="pt") as content:
                return {name: content.get_tensor(name).clone() for name in content.keys()}, content.metadata() or {}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CheckpointUnusable(f"The file of {self.model_id!r} cannot be read. Import it again.") from error


@dataclass(frozen=True)
class LoraFile(AddOnFile):
    """`strength`: 1 is as trained, 0 changes nothing. `expert`: the one that it is for; None: all."""

    strength: float
    expert: Expert | None = None


@dataclass(frozen=True)
class EmbeddingFile(AddOnFile):
    """`words`: what stands for it in a prompt."""

    words: tuple[str, ...]


class Variants:
    """A model's copies with add-ons, so that the next job with the same ones need not wait.

    Safe to use from several threads.
    """

    def __init__(self, most: int = MOST_VARIANTS) -> None:
        self._most = most
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._making = threading.Lock()

    def get(self, name: str, make: Callable[[str], T]) -> T:
        """The copy of this name; makes it if it is not kept. The one that was used longest ago is dropped."""
        with self._making:
            found: T = self._kept[name] if name in self._kept else make(name)
            self._kept[name] = found
            self._kept.move_to_end(name)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return found


def share_weights(module: nn.Module) -> Any:
    """A copy of a module that has the same tensors. Layers of the copy can be replaced; weights must not be written.

    Each has parameters of its own, so that one of the two may move to another device.
    """
    known: dict[int, Any] = {id(buffer): buffer for buffer in module.buffers()}
    known |= {id(weight): nn.Parameter(weight.data, requires_grad=False) for weight in module.parameters()}
    return copy.deepcopy(module, known)
