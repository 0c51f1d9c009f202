"""What a training tells beyond its stage and progress: kept in the job's row, so that it survives restarts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SECONDS_APART = 2.0
"""Between two reports of steps."""
MOST_LINES = 200
"""Of the log; the oldest leave first."""


@dataclass
class TrainingReport:
    """`checkpoint`: the newest training checkpoint, as attempt/name. `samples`: each with its step, prompt and key.
    `validation`: losses at fixed noise, each with its ratio to the first. `log`: what happened, a line each.
    """

    steps: int
    step: int = 0
    loss: float | None = None
    seconds_per_step: float | None = None
    checkpoint: str | None = None
    checkpoint_step: int = 0
    samples: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    _written_at: float = field(default=float("-inf"), repr=False)

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None, *, steps: int) -> TrainingReport:
        """Starts at the newest checkpoint: steps after it will be done again."""
        known = {name: value for name, value in (data or {}).items() if name in cls.__dataclass_fields__ and name[0] != "_"}
        report = cls(**{**known, "steps": steps})
        report.step = report.checkpoint_step
        return report

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}

    @property
    def share(self) -> float:
        return min(1.0, self.step / self.steps)

    @property
    def seconds_left(self) -> float | None:
        return None if self.seconds_per_step is None else max(0.0, (self.steps - self.step) * self.seconds_per_step)

    def on_step(self, event: Mapping[str, Any]) -> bool:
        """Returns whether it is time to write the report."""
        self.step, self.loss = int(event["step"]), float(event["loss"])
        self.seconds_per_step = float(event["seconds_per_step"])
        now = time.monotonic()
        if now - self._written_at < SECONDS_APART:
            return False
        self._written_at = now
        return True

    def on_checkpoint(self, name: str, step: int) -> None:
        self.checkpoint, self.checkpoint_step = name, step
        self.step = max(self.step, self.checkpoint_step)
        self._tell(self._progress())

    def on_validation(self, event: Mapping[str, Any]) -> None:
        told = {name: event[name] for name in ("step", "loss", "ratio")}
        self.validation = [each for each in self.validation if each["step"] < told["step"]] + [told]

    def on_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        self.samples += [dict(sample) for sample in samples]
        self._tell(f"Step {step}: {len(samples)} sample clips.")

    def has_samples(self, step: int) -> bool:
        return any(sample["step"] == step for sample in self.samples)

    def on_rolled_back(self, event: Mapping[str, Any]) -> None:
        self.step = int(event["step"])
        self._tell(f"The loss was no number: back to step {self.step} with the rate {event['learning_rate']:g}.")

    def on_done(self, step: int) -> None:
        self.step = step
        self._tell(f"Training done after {step} steps.")

    def _progress(self) -> str:
        told = f"Step {self.step} of {self.steps}"
        if self.loss is not None:
            told += f", loss {self.loss:.4f}"
        if (left := self.seconds_left) is not None:
            told += f", about {left / 60:.0f} minutes to go" if left >= 90 else f", about {left:.0f} seconds to go"
        return f"{told}."

    def _tell(self, line: str) -> None:
        self.log = [*self.log, line][-MOST_LINES:]
