"""Removes surplus slashes from paths. Clients that join URLs from parts send `//api/...` or `.../text2video/`."""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

_SEVERAL = re.compile("/{2,}")


class PlainSlashes:
    """Middleware. It does not redirect, because many clients lose the body then. `kept` paths keep their final slash."""

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
