"""A trainer: the child process that does a training (training/child.py), and its lines of JSON."""

from __future__ import annotations

import json
import logging
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

log = logging.getLogger(__name__)

END_SECONDS = 5.0
"""How long a trainer may take to end, once its stdin is closed."""


class TrainerDied(Exception):
    """The trainer has ended without a last word."""


class Trainer:
    """Started with an order. It ends when its stdin is closed, so it never outlives the worker."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "promptreel.training.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="trainer", daemon=True).start()
        self._say(order)

    def next_event(self, seconds: float) -> dict[str, Any] | None:
        """What the trainer says next; None if it says nothing for so long. Raises TrainerDied."""
        try:
            event = self._events.get(timeout=seconds)
        except queue.Empty:
            return None
        if event is None:
            raise TrainerDied(f"the trainer has ended with exit status {self._process.wait()}")
        return event

    def command(self, command: str, **details: Any) -> None:
        self._say({"command": command, **details})

    def end(self) -> None:
        """Ends the process; what it has not saved is lost."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _say(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # next_event tells
            log.debug("the trainer does not read any more")

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._events.put(json.loads(line))
        self._events.put(None)


@contextmanager
def started(order: Mapping[str, Any]) -> Iterator[Trainer]:
    """A trainer that ends with the block."""
    trainer = Trainer(order)
    try:
        yield trainer
    finally:
        trainer.end()
