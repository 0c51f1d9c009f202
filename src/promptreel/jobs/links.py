"""Links to the files of jobs and uploads. A link contains a random name, and needs no API key.

A link that expires carries the time, and an HMAC-SHA256 signature over its path and that time.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from promptreel.errors import LinkUnusable
from promptreel.jobs.job import VideoJob
from promptreel.jobs.keys import Caller

_GET_ANOTHER = "Fetch the job again for a new link, or upload the file again."


@dataclass(frozen=True)
class Links:
    """The links of one answer. `base_url` is scheme and host; `expires` is in seconds since 1970, or None for never."""

    base_url: str
    secret: bytes = field(repr=False)
    expires: int | None

    @property
    def expire_at(self) -> datetime | None:
        return None if self.expires is None else datetime.fromtimestamp(self.expires, UTC)

    def video(self, job: VideoJob) -> str:
        """The link to the job's file, which may not exist yet."""
        return self.to(f"/files/{job.file_name}")

    def preview(self, job: VideoJob) -> str:
        return self.to(f"/files/{job.preview_key}")

    def to(self, path: str) -> str:
        if self.expires is None:
            return self.base_url + path
        return f"{self.base_url}{path}?expires={self.expires}&signature={_sign(self.secret, path, str(self.expires))}"


@dataclass(frozen=True, kw_only=True)
class LinkMaker:
    """Makes and checks links. `seconds`: how long they last; None means for ever, and without a signature."""

    secret: bytes = field(repr=False)
    seconds: int | None = None
    now: Callable[[], float] = time.time

    def start(self, base_url: str) -> Links:
        """Starts one answer, whose links all expire at the same time."""
        return Links(base_url, self.secret, None if self.seconds is None else int(self.now()) + self.seconds)

    def check(self, path: str, query: Mapping[str, str]) -> None:
        """Raises LinkUnusable."""
        if self.seconds is None:
            return
        expires, signature = query.get("expires", ""), query.get("signature", "")
        expected = _sign(self.secret, path, expires)
        if not hmac.compare_digest(signature.encode(errors="surrogatepass"), expected.encode()):
            raise LinkUnusable(f"This link's signature is wrong: copy the whole link from the answer. {_GET_ANOTHER}")
        if int(expires) <= self.now():  # it is a number, because we signed it
            raise LinkUnusable(f"This link has expired. {_GET_ANOTHER}")

    def name_upload(self, upload_id: int, caller: Caller) -> str:
        """The name of an upload's file: it belongs to this caller, and cannot be guessed from the id."""
        return _sign(self.secret, "upload", f"{upload_id} of {caller.api_key_id}")[:32]


def _sign(secret: bytes, what: str, more: str) -> str:
    return hmac.new(secret, f"{what}\n{more}".encode(errors="surrogatepass"), hashlib.sha256).hexdigest()
