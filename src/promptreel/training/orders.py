"""What the process of a training (training/child.py) is told: one order, then commands. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from promptreel.errors import TrainingFailed
from promptreel.jobs.training_params import TrainingParams
from promptreel.training.presets import PRESETS, Preset


@dataclass(frozen=True, kw_only=True)
class ModelPlaces:
    """Where the base is looked for. `database`: a path, or a URL; `model_files`: what its rows of models name."""

    built_in: str
    models_dir: str
    database: str | None = None
    model_files: str | None = None


@dataclass(frozen=True, kw_only=True)
class Order:
    """`examples`: the files of `params.examples`, in their order. `folder`: of this job; it survives the process.

    `resume`: the name of a training checkpoint in the folder, or None to begin anew.
    """

    params: TrainingParams
    examples: tuple[str, ...]
    models: ModelPlaces
    device: str
    threads: int
    folder: str
    resume: str | None = None
    checkpoint_seconds: float = 120.0

    @property
    def preset(self) -> Preset:
        return PRESETS[self.params.preset]

    @property
    def path(self) -> Path:
        return Path(self.folder)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "params": self.params.to_json()}

    @classmethod
    def read(cls, line: str) -> Self:
        """Raises TrainingFailed for anything but an order."""
        try:
            told = json.loads(line)
            order = cls(
                **{
                    **told,
                    "params": TrainingParams.from_json(told["params"]),
                    "examples": tuple(told["examples"]),
                    "models": ModelPlaces(**told["models"]),
                }
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TrainingFailed(f"The order of the training cannot be read: {type(error).__name__}: {error}.") from error
        order.check()
        return order

    def check(self) -> None:
        """Raises TrainingFailed for params that no training can have."""
        params, numbers = self.params, (self.params.steps, self.params.batch_size, self.params.rank, self.threads)
        if params.preset not in PRESETS:
            raise TrainingFailed(f"There is no preset {params.preset!r}; there are {', '.join(PRESETS)}.")
        if any(not isinstance(number, int) or number < 1 for number in numbers):
            raise TrainingFailed("steps, batch_size, rank and threads must be whole numbers above 0.")
        if not params.examples or len(self.examples) != len(params.examples):
            raise TrainingFailed(f"{len(self.examples)} files are given for {len(params.examples)} examples.")
        if wrong := [each.kind for each in params.examples if each.kind is not self.preset.examples]:
            raise TrainingFailed(f"The preset {params.preset!r} learns from {self.preset.examples}s, not from a {wrong[0]}.")


def describe(params: Mapping[str, Any]) -> str:
    """Params as text that is the same for equal ones."""
    return json.dumps(params, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
