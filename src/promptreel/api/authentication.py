"""Authentication: an API key in; its Caller, or a refusal, out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from math import ceil

from starlette.concurrency import run_in_threadpool

from promptreel.errors import InvalidApiKey, RateLimitExceeded
from promptreel.jobs.keys import ApiKey, Caller, KeyStore, hash_key

REMEMBERED_SECONDS = 1.0
"""How long a valid key is cached. A revoked key may work that much longer."""

MINUTE = 60.0


class Authenticator:
    """Finds callers by their keys and limits their requests. It caches and counts, so the api's process has only one.

    `serves_local`: whether only this machine can reach the service. Then callers need no key as long as none is active.
    """

    def __init__(self, keys: KeyStore, *, serves_local: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._serves_local = serves_local
        self._now = now
        self._any_active = (float("-inf"), False)
        self._found: dict[str, tuple[float, ApiKey]] = {}
        self._requests: dict[int, deque[float]] = {}

    async def find(self, sent: str | None) -> Caller:
        """The caller whose key was sent. Raises InvalidApiKey and RateLimitExceeded."""
        key = None if sent is None else await self._find_key(sent)
        if key is None:
            raise InvalidApiKey("Invalid API key")
        self._count(key)
        return Caller(api_key_id=key.id)

    async def find_by_id(self, key_id: int) -> Caller:
        """The caller whose signed cookie names this key. Raises InvalidApiKey and RateLimitExceeded."""
        key = await self._find(f"id {key_id}", lambda: self._keys.find_by_id(key_id))
        if key is None:
            raise InvalidApiKey("Invalid API key")
        self._count(key)
        return Caller(api_key_id=key.id)

    async def knows_id(self, key_id: int) -> bool:
        """Whether a key is valid, by its id. Does not count as a request."""
        return await self._find(f"id {key_id}", lambda: self._keys.find_by_id(key_id)) is not None

    async def still_knows(self, caller: Caller) -> bool:
        """Whether a caller who was found earlier would be found again. Does not count as a request."""
        if caller.api_key_id is None:
            return await self.know_everyone()
        return await self.knows_id(caller.api_key_id)

    async def know_everyone(self) -> bool:
        """Whether callers need no key."""
        if not self._serves_local:
            return False
        read_at, any_active = self._any_active
        if self._now() - read_at >= REMEMBERED_SECONDS:
            any_active = await run_in_threadpool(self._keys.any_active)
            self._any_active = (self._now(), any_active)
        return not any_active

    async def know(self, sent: Sequence[str]) -> bool:
        """Whether one of the keys is valid."""
        for each in sent:
            if await self._find_key(each) is not None:
                return True
        return False

    async def _find_key(self, sent: str) -> ApiKey | None:
        return await self._find(hash_key(sent), lambda: self._keys.find(sent))

    async def _find(self, name: str, look: Callable[[], ApiKey | None]) -> ApiKey | None:
        """Caches only valid keys; misses are unbounded."""
        read_at, key = self._found.get(name, (float("-inf"), None))
        if key is not None and self._now() - read_at < REMEMBERED_SECONDS:
            return key
        key = await run_in_threadpool(look)
        if key is None:
            self._found.pop(name, None)
        else:
            self._found[name] = (self._now(), key)
        return key

    def _count(self, key: ApiKey) -> None:
        """Limits the key's requests in any 60 seconds. Refused ones do not count. Raises RateLimitExceeded."""
        limit = key.limits.requests_a_minute
        if limit is None:
            return
        lately, now = self._requests.setdefault(key.id, deque()), self._now()
        while lately and now - lately[0] >= MINUTE:
            lately.popleft()
        if len(lately) >= limit:
            wait = ceil(lately[-limit] + MINUTE - now)
            raise RateLimitExceeded(
                f"This API key may send {limit} requests per minute. Try again later.", retry_after=max(1, wait)
            )
        lately.append(now)
