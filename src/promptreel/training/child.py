"""The process of one training: `python -m promptreel.training.child`. Reads an order and commands, writes events.

Both are lines of JSON. The process ends at once when its stdin closes, because nobody would notice what it does.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any, TextIO

from promptreel.errors import PromptreelError, TrainingFailed

PARENT_GONE = 3
"""The exit code of a child whose stdin closed."""


class Pipes:
    """Talk (loop.py) over this process's stdin and stdout. What libraries print goes to stderr."""

    def __init__(self) -> None:
        self._events: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._commands: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()

    def read_order(self) -> str:
        line = sys.stdin.readline()
        if not line.endswith("\n"):
            os._exit(PARENT_GONE)
        threading.Thread(target=self._read_commands, name="commands", daemon=True).start()
        return line

    def _read_commands(self) -> None:
        for line in sys.stdin:
            try:
                command = json.loads(line)
            except ValueError:
                command = None
            if isinstance(command, dict):
                self._commands.put(command)
            else:
                logging.getLogger(__name__).warning("not a command: %.100r", line)
        os._exit(PARENT_GONE)

    def say(self, event: str, **facts: Any) -> None:
        try:
            print(json.dumps({"event": event, **facts}), file=self._events, flush=True)
        except OSError:
            os._exit(PARENT_GONE)

    def take(self) -> Mapping[str, Any] | None:
        try:
            return self._commands.get_nowait()
        except queue.Empty:
            return None

    def wait(self) -> Mapping[str, Any]:
        return self._commands.get()


def main() -> int:
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes stdin
    pipes = Pipes()
    line = pipes.read_order()
    pipes.say("loading")
    try:
        from promptreel.training.orders import Order  # noqa: PLC0415 - only now is somebody told of errors
        from promptreel.training.training import train  # noqa: PLC0415 - loads torch

        train(Order.read(line), pipes)
    except PromptreelError as error:
        logging.getLogger(__name__).warning("the training failed", exc_info=error)
        pipes.say("failed", code=error.code, message=error.message)
        return 1
    except Exception as error:
        logging.getLogger(__name__).exception("the training failed")
        pipes.say("failed", code=TrainingFailed.code, message=f"The training failed: {type(error).__name__}; see the log.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
