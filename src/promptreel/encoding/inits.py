"""Encoded picture or video -> the frames to start from, of the length and size that is generated.

What a client sent is decoded in the process of encoding/decoder.py alone, which calls the functions below `recognise`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from promptreel.encoding.init_images import check_image, crop_square, decode_image
from promptreel.encoding.init_videos import check_video, decode_video
from promptreel.errors import InitUnusable
from promptreel.media import INIT_TYPES, Init


def recognise(data: bytes) -> str | None:
    """The ending that a file's first bytes speak of, one of those in INIT_TYPES; None for anything else."""
    starts = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpg", b"GIF8": "gif", b"\x1aE\xdf\xa3": "webm"}
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        return "mp4"
    return next((ending for start, ending in starts.items() if data.startswith(start)), None)


def check_init(init: Init) -> None:
    """Decodes all of the file and keeps nothing. Raises InitUnusable for what is not its kind, damaged or too large."""
    if recognise(init.data) != init.ending:
        raise InitUnusable(f"The init {init.kind} is not {INIT_TYPES[init.kind][init.ending]}, as it says: check the file.")
    if init.kind == "image":
        check_image(init.data, init.ending)
    else:
        check_video(init.data, init.ending)


def crop_init(init: Init) -> Init:
    """The largest square around a picture's centre, upright; of a gif, its first frame as a PNG. Raises InitUnusable."""
    ending = "png" if init.ending == "gif" else init.ending
    return Init(init.kind, ending, crop_square(init.data, init.ending, ending))


def decode_init(init: Init, *, num_frames: int, fps: int, width: int, height: int) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Frames, uint8 [height, width, 3], and how often each is shown: `num_frames` in all, `fps` of them a second.

    An image is repeated. Of a video, each frame is the one whose time is nearest, from its start on: a longer one is cut, a
    shorter one holds its last frame. Another aspect ratio is scaled until it covers the size and cropped around its centre.
    Raises InitUnusable.
    """
    size = (width, height)
    if init.kind == "image":
        yield decode_image(init.data, init.ending, size), num_frames
    else:
        yield from decode_video(init.data, init.ending, num_frames=num_frames, fps=fps, size=size)
