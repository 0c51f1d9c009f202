"""The first frame of a video, as a picture."""

from __future__ import annotations

from pathlib import Path

from promptreel.errors import NotAvailable
from promptreel.extras import install_command, is_installed


def poster_of(path: Path) -> bytes:
    """The first frame of a video. Raises NotAvailable without the extra `media`."""
    if not is_installed("media"):
        raise NotAvailable(f"This server makes no thumbnails. Its operator can add them with: {install_command('media')}")
    from promptreel.encoding.poster import make_poster  # noqa: PLC0415 - an extra

    return make_poster(path)
