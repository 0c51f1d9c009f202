"""Logging: one event a line, to stderr. Keys and prompts are never logged."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime


class EventFormatter(logging.Formatter):
    """Time in UTC, level, logger and message. Line breaks in a message are escaped, so that no input can forge an event.

    A traceback follows its event and is indented, so only events begin at the start of a line.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - logging's
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        return super().formatMessage(record).replace("\r", "\\r").replace("\n", "\\n")

    def format(self, record: logging.LogRecord) -> str:
        event, *traceback = super().format(record).split("\n")
        return "\n    ".join([event, *traceback])


def set_up_logging(level: str) -> None:
    """Sends events to stderr: ours from `level` up, those of libraries from warnings up. May be called again.

    uvicorn's access log is off, because it writes query strings, which may contain a key. The api writes its own.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("promptreel").setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers = []
        library.propagate = True
    logging.getLogger("uvicorn").setLevel(logging.INFO)
    logging.getLogger("uvicorn.access").disabled = True


class Seldom:
    """Rate-limits warnings that may repeat many times a second: passes on one of each kind a minute."""

    def __init__(self, log: logging.Logger, *, seconds: float = 60.0, now: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._seconds = seconds
        self._now = now
        self._told_at: dict[str, float] = {}
        self._kept_back: Counter[str] = Counter()

    def warning(self, message: str, *arguments: object, count: int = 1) -> None:
        """Logs a warning, or counts it for the next one. `message`, a constant format string, identifies the kind.

        `count` is the number of events that this warning reports; those kept back are added up.
        """
        if self._now() - self._told_at.get(message, float("-inf")) < self._seconds:
            self._kept_back[message] += count
            return
        kept_back = self._kept_back.pop(message, 0)
        more = f" ({kept_back} more since the last such line)" if kept_back else ""
        self._told_at[message] = self._now()
        self._log.warning(message + more, *arguments)
