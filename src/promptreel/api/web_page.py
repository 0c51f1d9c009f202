"""`/`: the page for people (web/). The package contains all of it, so the page needs no network.

The files' addresses contain a hash of all files. So a browser keeps them for good, and gets all new ones after an upgrade.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from promptreel.api.cookies import read_session
from promptreel.api.parts import parts_of
from promptreel.api.v1 import requests as limits
from promptreel.extras import is_installed
from promptreel.jobs.params import MAX_FRAMES, MAX_SEED, MOST_ADD_ONS, OUTPUT_TYPES, SCHEDULERS

FOLDER = Path(__file__).parent.parent / "web"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain", ".mp4": "video/mp4"}
_OF_PAGE = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FOR_GOOD = "public, max-age=31536000, immutable"
_VERSION_MARK, _FACTS_MARK = "{{version}}", "{{facts}}"


@dataclass(frozen=True)
class WebFile:
    """A file in memory, plain and compressed."""

    content: bytes
    compressed: bytes | None
    media_type: str


@dataclass(frozen=True)
class WebFiles:
    """The page, and the files that it loads, by their paths under /web/<version>/."""

    page: str
    files: Mapping[str, WebFile]
    version: str


@cache
def read_web_files() -> WebFiles:
    paths = sorted(path for path in FOLDER.rglob("*") if path.suffix in TYPES)
    contents = {path.relative_to(FOLDER).as_posix(): path.read_bytes() for path in paths}
    page = (FOLDER / "index.html").read_text()
    digest = hashlib.sha256(page.encode())
    for name, content in contents.items():
        digest.update(f"\n{name}\n".encode() + content)
    version = digest.hexdigest()[:12]
    files = {name: _to_file(content, TYPES[PurePosixPath(name).suffix]) for name, content in contents.items()}
    return WebFiles(page.replace(_VERSION_MARK, version), MappingProxyType(files), version)


def _to_file(content: bytes, media_type: str) -> WebFile:
    is_text = not media_type.startswith("video/")
    return WebFile(content, gzip.compress(content, mtime=0) if is_text else None, media_type)


def add_routes(router: APIRouter) -> None:
    router.add_api_route("/", send_page, methods=["GET", "HEAD"], include_in_schema=False)
    router.add_api_route("/web/{version}/{path:path}", send_part, methods=["GET", "HEAD"], include_in_schema=False)


async def send_page(request: Request) -> Response:
    """The page's URLs are relative, so it works behind a proxy that adds a path prefix."""
    parts = parts_of(request)
    if not parts.has_page:
        raise HTTPException(404, "The page is switched off here: see /docs for the API.")
    session = read_session(request)
    has_session = session is not None and await parts.authenticator.knows_id(session)
    needs_key = not has_session and not await parts.authenticator.know_everyone()
    facts = _facts(parts.version) | {"needs_key": needs_key, "has_session": has_session}
    page = read_web_files().page.replace(_FACTS_MARK, html.escape(json.dumps(facts)))
    return Response(page, media_type="text/html", headers=_OF_PAGE)


def send_part(request: Request, version: str, path: str) -> Response:
    web = read_web_files()
    file = web.files.get(path)
    if file is None or version != web.version or not parts_of(request).has_page:
        raise HTTPException(404, "There is no such file.")
    headers = {"Cache-Control": _FOR_GOOD, "Vary": "Accept-Encoding"}
    if file.compressed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.compressed, media_type=file.media_type, headers=headers | {"Content-Encoding": "gzip"})
    return Response(file.content, media_type=file.media_type, headers=headers)


def _facts(version: str) -> dict[str, object]:
    """What the page's form must know; the same constants as the API checks."""
    ranges = {"steps": limits.STEPS, "guidance": limits.GUIDANCE, "fps": limits.FPS, "strength": limits.STRENGTH}
    return {
        "version": version,
        "has_thumbnails": is_installed("media"),
        "schedulers": SCHEDULERS,
        "output_types": OUTPUT_TYPES,
        "max_seed": MAX_SEED,
        "max_frames": MAX_FRAMES,
        "max_text": limits.MAX_TEXT,
        "most_loras": MOST_ADD_ONS,
        **{name: [each.minimum, each.maximum] for name, each in ranges.items()},
    }
