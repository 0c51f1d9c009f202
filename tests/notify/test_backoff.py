from __future__ import annotations

import itertools
from datetime import datetime, timedelta

from promptreel.notify.backoff import next_attempt
from tests.jobs.factories import START


def attempts_of_a_day(slowness: float = 0.0) -> list[datetime]:
    """The times of attempts that all fail, each after `slowness` seconds."""
    times = [START]
    while (after := next_attempt(times[-1] + timedelta(seconds=slowness), tried_since=START)) is not None:
        times.append(after)
    return times


def test_waits_double_from_five_seconds_to_an_hour_and_end_after_a_day() -> None:
    times = attempts_of_a_day()
    waits = [(after - before).total_seconds() for before, after in itertools.pairwise(times)]

    assert 4 <= waits[0] <= 6
    assert all(1.4 < after / before < 2.8 for before, after in itertools.pairwise(waits[:7]))
    assert max(waits) <= 3600 * 1.2
    assert times[-1] - START == timedelta(hours=24)
    assert 28 <= len(times) <= 45


def test_attempts_that_hang_are_equally_many() -> None:
    assert 25 <= len(attempts_of_a_day(slowness=20)) <= 45


def test_deliveries_that_failed_together_are_retried_apart() -> None:
    later = START + timedelta(hours=2)

    assert len({next_attempt(later, tried_since=START) for _ in range(50)}) > 40
