"""When a delivery that failed is tried again."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

FIRST_WAIT = timedelta(seconds=5)
LONGEST_WAIT = timedelta(hours=1)
GIVE_UP_AFTER = timedelta(hours=24)
JITTER = 0.2


def next_attempt(now: datetime, *, tried_since: datetime) -> datetime | None:
    """The wait doubles, from 5 seconds to an hour; None once it was tried for a day, the last time at its very end.

    A wait is as long as all time before it, which is what doubling comes to: so nothing has to be counted. It is up to a fifth
    shorter or longer, so that what failed together does not come back together.
    """
    passed = now - tried_since
    if passed >= GIVE_UP_AFTER:
        return None
    spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - keeps no secret
    wait = min(FIRST_WAIT + passed, LONGEST_WAIT) * spread
    return min(now + wait, tried_since + GIVE_UP_AFTER)
