"""A client that trains models on a Promptreel server, over `/v1/trainings`. It makes videos with them, too.

with TrainingClient("http://127.0.0.1:8000") as client:
    training = client.train([Path("snail-1.png"), Path("snail-2.png")], id="my-snail", trigger="sks snail")
    while not client.training(training).is_done:
        time.sleep(5)
    client.create("sks snail moving left", model="my-snail")
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from promptreel.client import UNAVAILABLE, Client
from promptreel.errors import InvalidParams, StorageFailed
from promptreel.remote import RemoteTraining, read_training

MOST_MEGABYTES = 32
"""The server takes a little more in one request."""


class TrainingClient(Client):
    """See Client."""

    def train(
        self, examples: Sequence[Path], *, captions: Sequence[str | None] = (), field: str = "images", **options: Any
    ) -> RemoteTraining:
        """Queues a training on these files. `field`: `images`, or `videos` for clips. `options`: as docs/api.md lists them.

        Raises InvalidParams for bad options, and for examples that cannot be used.
        """
        fields = {name: value for name, value in options.items() if value is not None}
        if any(captions):
            fields["captions"] = list(captions)
        form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
        files = [(field, (path.name, _read(path, field))) for path in examples]
        size = sum(len(data) for _, (_, data) in files)
        if size > MOST_MEGABYTES << 20:
            why = f"The files have {size / 2**20:.0f} MB together, and may have {MOST_MEGABYTES}. Make them smaller."
            raise InvalidParams({field: [why]})
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        answer = self._ask("POST", "/v1/trainings", retry_on=UNAVAILABLE, headers=headers, data=form, files=files)
        return read_training(answer)

    def training(self, training: str | RemoteTraining) -> RemoteTraining:
        """The training's current state. Raises JobNotFound."""
        return read_training(self._ask("GET", _path_of(training)))

    def cancel_training(self, training: str | RemoteTraining) -> RemoteTraining:
        """Cancels a training. What was trained so far stays as a model that says so. Raises JobNotFound."""
        return read_training(self._ask("POST", f"{_path_of(training)}/cancel"))

    def download_sample(self, training: str | RemoteTraining, number: int, path: Path) -> Path:
        """Writes a sample's file to `path`. Raises RequestRefused if there is none, and StorageFailed."""
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._retry(lambda: self._download_to(partial, f"{_path_of(training)}/samples/{number}"))
            partial.replace(path)
        except OSError as error:
            raise StorageFailed(f"The sample could not be written to {str(path)!r}: {error.strerror}.") from error
        finally:
            with suppress(OSError):
                partial.unlink()
        return path


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidParams({field: [f"The file {str(path)!r} cannot be read: {error.strerror}."]}) from error


def _path_of(training: str | RemoteTraining) -> str:
    return f"/v1/trainings/{quote(training if isinstance(training, str) else training.id, safe='')}"
