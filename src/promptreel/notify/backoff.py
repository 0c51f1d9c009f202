"""When to retry a failed delivery."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

FIRST_WAIT = timedelta(seconds=5)
LONGEST_WAIT = timedelta(hours=1)
GIVE_UP_AFTER = timedelta(hours=24)
JITTER = 0.2


def next_attempt(now: datetime, *, tried_since: datetime) -> datetime | None:
    """The time of the next attempt, or None after a day of attempts; the last one is at the end of that day.

    Waits double, from 5 seconds to an hour. Doubling means that each wait equals the time passed so far, so no counter is
    needed. A jitter of a fifth spreads deliveries that failed together.
    """
    passed = now - tried_since
    if passed >= GIVE_UP_AFTER:
        return None
    spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - keeps no secret
    wait = min(FIRST_WAIT + passed, LONGEST_WAIT) * spread
    return min(now + wait, tried_since + GIVE_UP_AFTER)
