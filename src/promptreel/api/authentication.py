"""Who asks: an API key in, the Caller whose jobs it is about out, or a refusal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from math import ceil

from starlette.concurrency import run_in_threadpool

from promptreel.errors import InvalidApiKey, RateLimitExceeded
from promptreel.jobs.keys import ApiKey, Caller, KeyStore, hash_key

REMEMBERED_SECONDS = 1.0
"""How long a key that was found is believed, and so how long one that was revoked may still be used."""

MINUTE = 60.0


class Authenticator:
    """Finds callers by their keys. It remembers a little of the key table, and counts requests: the api's process has one.

    `serves_local`: whether everyone who reaches us is at this machine, and may ask without a key as long as there is none.
    """

    def __init__(self, keys: KeyStore, *, serves_local: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._serves_local = serves_local
        self._now = now
        self._any_active = (float("-inf"), False)
        self._found: dict[str, tuple[float, ApiKey]] = {}
        self._requests: dict[int, deque[float]] = {}

    async def find(self, sent: str | None) -> Caller:
        """Whose key was sent. Raises InvalidApiKey and RateLimitExceeded."""
        key = None if sent is None else await self._find_key(sent)
        if key is None:
            raise InvalidApiKey("Invalid API key")
        self._count(key)
        return Caller(api_key_id=key.id)

    async def know_everyone(self) -> bool:
        """Whether no key is needed."""
        if not self._serves_local:
            return False
        read_at, any_active = self._any_active
        if self._now() - read_at >= REMEMBERED_SECONDS:
            any_active = await run_in_threadpool(self._keys.any_active)
            self._any_active = (self._now(), any_active)
        return not any_active

    async def know(self, sent: Sequence[str]) -> bool:
        """Whether one of them is a valid key."""
        for each in sent:
            if await self._find_key(each) is not None:
                return True
        return False

    async def _find_key(self, sent: str) -> ApiKey | None:
        """Only keys that there are, are remembered: of others there is no end."""
        hashed = hash_key(sent)
        read_at, key = self._found.get(hashed, (float("-inf"), None))
        if key is not None and self._now() - read_at < REMEMBERED_SECONDS:
            return key
        key = await run_in_threadpool(self._keys.find, sent)
        if key is None:
            self._found.pop(hashed, None)
        else:
            self._found[hashed] = (self._now(), key)
        return key

    def _count(self, key: ApiKey) -> None:
        """Lets as many requests through in any minute as the key may send; those that are refused do not count."""
        limit = key.limits.requests_a_minute
        if limit is None:
            return
        lately, now = self._requests.setdefault(key.id, deque()), self._now()
        while lately and now - lately[0] >= MINUTE:
            lately.popleft()
        if len(lately) >= limit:
            wait = ceil(lately[-limit] + MINUTE - now)
            raise RateLimitExceeded(
                f"So many requests a minute may be sent with this API key: {limit}.", retry_after=max(1, wait)
            )
        lately.append(now)
