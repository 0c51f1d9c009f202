"""Job kinds: what can be queued. A kind is a params class, a line in KINDS, and a recipe in the worker (worker/recipes/)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from promptreel.jobs.import_params import ImportParams
from promptreel.jobs.params import VideoParams
from promptreel.jobs.training_params import TrainingParams


class Params(Protocol):
    """What the queue reads of a job's params, whatever its kind. Params are complete and frozen."""

    @property
    def kind(self) -> str: ...

    @property
    def model_id(self) -> str:
        """The model that the job uses or makes."""

    @property
    def batch_key(self) -> str:
        """Jobs with the same kind and batch key do the same kind of work, so estimates can add them up.

        Up to the first "|", it names all models that the job uses: jobs that use the same ones may run side by side.
        """

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class UnknownParams:
    """Params of a kind that only a newer version knows. The job can be shown, cancelled and deleted, but not claimed."""

    kind: str
    model_id: str
    batch_key: str
    data: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return dict(self.data)


Kinds = Mapping[str, Callable[[Mapping[str, Any]], Params]]
"""By kind: the function that reads the params from what their `to_json` wrote."""

KINDS: Kinds = MappingProxyType(
    {
        VideoParams.kind: VideoParams.from_json,
        ImportParams.kind: ImportParams.from_json,
        TrainingParams.kind: TrainingParams.from_json,
    }
)
"""The kinds that this version knows."""
