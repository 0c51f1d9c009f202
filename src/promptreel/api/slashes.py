"""Paths with a slash too many: a client that puts an address together from parts makes `//api/...` or `.../text2video/`."""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

_SEVERAL = re.compile("/{2,}")


class PlainSlashes:
    """Middleware. A redirect would lose the body with many clients. `kept` are the paths that end in a slash."""

    def __init__(self, app: ASGIApp, *, kept: Collection[str]) -> None:
        self._app = app
        self._kept = frozenset(kept)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = _SEVERAL.sub("/", scope["path"])
            if path not in self._kept:
                path = path.rstrip("/") or "/"
            scope = {**scope, "path": path}
        await self._app(scope, receive, send)
