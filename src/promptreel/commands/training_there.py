"""`promptreel train --server`: sends the examples, and follows the training on the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptreel.client_trainings import TrainingClient
from promptreel.commands.terminal import progress_bar, tell
from promptreel.commands.trainings import FoundExample, Look, follow
from promptreel.errors import InvalidParams, PromptreelError
from promptreel.remote import RemoteTraining, to_job_error


def train_there(
    wanted: Mapping[str, Any],
    examples: Sequence[FoundExample],
    server: str,
    api_key: str | None,
    *,
    field: str,
    output: Path | None,
) -> str:
    """Returns the id of the model."""
    with TrainingClient(server, api_key) as client, progress_bar() as show:
        captions = [example.caption for example in examples]
        try:
            training = client.train([each.path for each in examples], captions=captions, field=field, **wanted)
        except InvalidParams as error:
            raise _name_files(error, examples) from error
        tell(training.answer.get("tip"))
        there = There(client, training)
        follow(there, output or Path(f"{there.model_id}-samples"), show)
    return there.model_id


def _name_files(error: InvalidParams, examples: Sequence[FoundExample]) -> InvalidParams:
    """The server knows files by their numbers only."""

    def name(message: str) -> str:
        for number, example in enumerate(examples, 1):
            message = message.replace(f"number {number} (a file)", f"number {number} ({example.path.name})")
        return message

    return InvalidParams({field: [name(message) for message in messages] for field, messages in error.fields.items()})


class There:
    """A training on a server."""

    def __init__(self, client: TrainingClient, training: RemoteTraining) -> None:
        self.model_id = training.model
        self._client = client
        self._training = training

    def look(self) -> Look:
        now = self._client.training(self._training)
        return Look(
            label=now.stage or now.status,
            percent=now.progress,
            step=now.step,
            steps=now.steps,
            loss=now.loss,
            eta=now.eta,
            queue_position=now.queue_position,
            samples=[sample.step for sample in now.samples],
            is_done=now.is_done,
            error=to_job_error(now) if now.status == "failed" else None,
        )

    def save_sample(self, number: int, path: Path) -> Path:
        return self._client.download_sample(self._training, number, path)

    def cancel(self) -> None:
        try:
            self._client.cancel_training(self._training)
        except PromptreelError as error:
            tell(f"{self._training.id} could not be cancelled and goes on: {error}")
        else:
            tell(f"{self._training.id} was cancelled on {self._client.base_url}")
