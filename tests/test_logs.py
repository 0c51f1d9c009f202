from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from promptreel.logs import EventFormatter, Seldom


def make_event(message: str, *arguments: object, error: BaseException | None = None) -> str:
    exc_info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("promptreel.api", logging.INFO, __file__, 1, message, arguments, exc_info)
    record.created = 0.5
    return EventFormatter().format(record)


def test_event_is_one_line_with_its_time_in_utc() -> None:
    assert make_event("job=%s", 7) == "1970-01-01T00:00:00.500+00:00 INFO promptreel.api: job=7"


def test_line_feed_in_a_message_cannot_fake_an_event() -> None:
    assert make_event("a\nb\r\nc").endswith(": a\\nb\\r\\nc")


def test_traceback_follows_its_event_indented() -> None:
    event, *traceback = make_event("failed", error=ValueError("first\nsecond")).splitlines()

    assert event.endswith(": failed")
    assert traceback == ["    ValueError: first", "    second"]


def test_own_events_go_to_stderr_from_the_level_on_and_uvicorns_access_log_is_off() -> None:
    code = """
import logging
from promptreel.logs import set_up_logging
set_up_logging("error"); set_up_logging("info")
logging.getLogger("promptreel.api").info("own")
logging.getLogger("promptreel.api").debug("own detail")
logging.getLogger("uvicorn.error").info("uvicorn")
logging.getLogger("uvicorn.access").info("GET /?key=secret")
logging.getLogger("library").info("library detail")
logging.getLogger("library").warning("library")
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert done.stdout == ""
    assert [line.rsplit(": ")[-1] for line in done.stderr.splitlines()] == ["own", "uvicorn", "library"]


def test_repeated_warning_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    seconds = [0.0]
    seldom = Seldom(logging.getLogger("promptreel.test"), now=lambda: seconds[0])
    for second in (0, 1, 59, 60, 61):
        seconds[0] = second
        seldom.warning("no room for %s", "it")
    seldom.warning("no time for %s", "it")

    assert caplog.messages == ["no room for it", "no room for it (2 more since the last such line)", "no time for it"]


def test_counts_of_kept_back_warnings_are_added_up(caplog: pytest.LogCaptureFixture) -> None:
    seconds = [0.0]
    seldom = Seldom(logging.getLogger("promptreel.test"), now=lambda: seconds[0])
    for second, closed in ((0, 5), (1, 20), (2, 3), (60, 1)):
        seconds[0] = second
        seldom.warning("%d closed", closed, count=closed)

    assert caplog.messages == ["5 closed", "1 closed (23 more since the last such line)"]
