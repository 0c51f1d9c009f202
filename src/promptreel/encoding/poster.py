"""Makes a picture of a finished video's first frame."""

from __future__ import annotations

import io
from pathlib import Path

import av
from PIL import Image

from promptreel.errors import EncodingFailed

_QUALITY = 85


def make_poster(path: Path) -> bytes:
    """The first frame as WebP, at the video's size. Raises EncodingFailed when the file cannot be decoded."""
    try:
        with av.open(path) as container:
            picture = Image.fromarray(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    except (av.error.FFmpegError, OSError, StopIteration, IndexError) as error:
        raise EncodingFailed("The first frame of the video cannot be read: its file is damaged.") from error
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=_QUALITY)
    return file.getvalue()
