"""Sessions of the page: a cookie in place of an API key, which the browser's scripts cannot read, and no URL contains.

The cookie names the key's id, and is signed. So nothing is stored, all processes accept it, and a revoked key ends it. It
counts only for this service's own page: other sites, even on the same host, must send a key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

SECONDS = 30 * 86400
_TOKEN = re.compile(r"([0-9]{1,10})\.([0-9]{1,12})\.([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class SessionMaker:
    """Makes and reads the cookie's value. `secret` is the installation's."""

    secret: bytes = field(repr=False)
    now: Callable[[], float] = time.time

    @property
    def cookie(self) -> str:
        """The cookie's name. It differs between installations, because cookies are shared by all ports of a host."""
        return f"promptreel_{self._sign('name')[:8]}"

    def make(self, api_key_id: int) -> str:
        told = f"{api_key_id}.{int(self.now()) + SECONDS}"
        return f"{told}.{self._sign(told)}"

    def read(self, value: str) -> int | None:
        """The id of the API key; None if the value is not ours, or has expired."""
        match = _TOKEN.fullmatch(value)
        if match is None or not hmac.compare_digest(match[3], self._sign(f"{match[1]}.{match[2]}")):
            return None
        return int(match[1]) if int(match[2]) > self.now() else None

    def _sign(self, told: str) -> str:
        return hmac.new(self.secret, f"session\n{told}".encode(), hashlib.sha256).hexdigest()
