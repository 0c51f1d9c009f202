"""Who asks: from the key in a request to the Caller whose jobs it is about, or to a refusal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from math import ceil

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from promptreel.api.bodies import keys_beside_body, read_any_fields
from promptreel.errors import InvalidApiKey, RateLimitExceeded
from promptreel.jobs.keys import LOCAL_CALLER, ApiKey, Caller, KeyStore, hash_key

REMEMBERED_SECONDS = 1.0
"""How long a key that was found is believed, and so how long one that was revoked may still be used."""

MINUTE = 60.0


class Callers:
    """Finds callers. It remembers a little of the key table, and counts requests, so there is one for the api's process.

    `serves_local`: whether everyone who reaches us is at this machine, and may ask without a key as long as there is none.
    """

    def __init__(self, keys: KeyStore, *, serves_local: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._serves_local = serves_local
        self._now = now
        self._any_active = (float("-inf"), False)
        self._found: dict[str, tuple[float, ApiKey]] = {}
        self._requests: dict[int, deque[float]] = {}

    async def find(self, request: Request) -> Caller:
        """Raises InvalidApiKey and RateLimitExceeded. The request's body is only read if a key is needed."""
        if await self.know_everyone():
            return LOCAL_CALLER
        sent = await _read_key(request)
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


async def _read_key(request: Request) -> str | None:
    """From the field `key` of the body, else of the query; else from the header `key`; else from a Bearer token."""
    in_fields = (await read_any_fields(request)).get("key")
    if isinstance(in_fields, str) and in_fields.strip():
        return in_fields.strip()
    return next(iter(keys_beside_body(request)), None)
