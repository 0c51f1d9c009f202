"""Job kinds: what can be queued. A kind is a params class, a line in KINDS, and a recipe in the worker (worker/recipes/)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from promptreel.jobs.params import VideoParams


class Params(Protocol):
    """What a job was asked for, complete and frozen. This much of it the queue reads, whatever the kind."""

    @property
    def kind(self) -> str: ...

    @property
    def model_id(self) -> str:
        """The model that the job uses or makes. Only jobs of the same one run side by side."""

    @property
    def batch_key(self) -> str:
        """Jobs with the same kind and key do the same work, so that estimates can add them up."""

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class UnknownParams:
    """Of a kind that only a newer version knows. Such a job can be shown, cancelled and deleted; it is not claimed."""

    kind: str
    model_id: str
    batch_key: str
    data: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return dict(self.data)


Kinds = Mapping[str, Callable[[Mapping[str, Any]], Params]]
"""How the params of each kind are read from what their `to_json` wrote."""

KINDS: Kinds = MappingProxyType({VideoParams.kind: VideoParams.from_json})
"""All kinds that this version knows."""
