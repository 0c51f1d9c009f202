"""What `promptreel train` does alike here and on a server: finds the examples, and follows the training to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from promptreel.errors import InvalidParams, PromptreelError

CAPTION = ".txt"
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class FoundExample:
    """A file of the folder, and the text beside it."""

    path: Path
    caption: str | None


@dataclass(frozen=True, kw_only=True)
class Look:
    """How far a training is. `samples`: the step of each clip so far. `error`: why there is no model, once it has ended."""

    label: str
    percent: float
    step: int
    steps: int
    loss: float | None
    eta: int | None
    queue_position: int | None
    samples: Sequence[int]
    is_done: bool
    error: PromptreelError | None

    @property
    def note(self) -> str:
        place = f"place {self.queue_position} in the queue" if self.queue_position else ""
        step = f"step {self.step} of {self.steps}" if self.step else ""
        loss = "" if self.loss is None else f"loss {self.loss:.4f}"
        eta = f"{self.eta} s to go" if self.eta and not self.is_done else ""
        return ", ".join(filter(None, [place, step, loss, eta]))


class Followed(Protocol):
    """A training that somebody watches."""

    model_id: str

    def look(self) -> Look: ...

    def save_sample(self, number: int, path: Path) -> object:
        """Writes the clip with this number, counted from 0."""

    def cancel(self) -> object: ...


def find_examples(folder: Path, field: str) -> list[FoundExample]:
    """All files of the folder but captions and hidden ones, by name. Raises InvalidParams."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        found = [FoundExample(path, _read_caption(path)) for path in paths if path.suffix.lower() != CAPTION]
    except OSError as error:
        raise InvalidParams({"folder": [f"The folder {str(folder)!r} cannot be read: {error.strerror}."]}) from error
    except UnicodeDecodeError as error:
        raise InvalidParams({"folder": [f"A caption in the folder {str(folder)!r} is not UTF-8: {error}."]}) from error
    if not found:
        raise InvalidParams({"folder": [f"The folder {str(folder)!r} has no {field} in it."]})
    return found


def _read_caption(path: Path) -> str | None:
    file = path.with_suffix(CAPTION)
    return file.read_text(encoding="utf-8-sig").strip() or None if file.is_file() else None


def follow(training: Followed, output: Path, show: Callable[..., None], *, watch: Callable[[], None] = lambda: None) -> None:
    """Shows the training's progress until it has ended, and writes its samples as they come.

    `watch` is called at each look; it may raise. Ctrl-C cancels the training. Raises the reason if no model was made.
    """
    written = 0
    try:
        while True:
            now = training.look()
            show(now.label, now.percent, now.note)
            written = _write_samples(training, now, output, written)
            if now.is_done:
                break
            watch()
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        training.cancel()
        raise
    if now.error is not None:
        raise now.error


def _write_samples(training: Followed, now: Look, output: Path, written: int) -> int:
    """Writes those that are new. Returns how many there are."""
    for number in range(written, len(now.samples)):
        step = now.samples[number]
        path = output / f"{step:06d}-{now.samples[:number].count(step)}.mp4"
        output.mkdir(parents=True, exist_ok=True)
        training.save_sample(number, path)
        print(path)  # noqa: T201
    return max(written, len(now.samples))
