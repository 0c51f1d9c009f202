"""Decodes inits to frames of the length and size that is generated.

Only the decoder's process (encoding/decoder.py) may decode what a client sent: call these functions there alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from promptreel.encoding.init_images import check_image, crop_square, decode_image
from promptreel.encoding.init_videos import check_video, decode_video
from promptreel.media import Init


def check_init(init: Init) -> None:
    """Decodes the whole file. Raises InitUnusable if it is damaged or too large."""
    if init.kind == "image":
        check_image(init.data, init.ending)
    else:
        check_video(init.data, init.ending)


def crop_init(init: Init) -> Init:
    """The largest centered square of a picture, upright. AVIF, HEIC and GIF become PNG or JPEG. Raises InitUnusable."""
    ending, data = crop_square(init.data, init.ending)
    return Init(init.kind, ending, data)


def decode_init(init: Init, *, num_frames: int, fps: int, width: int, height: int) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Frames, uint8 [height, width, 3], each with its repeat count: `num_frames` in all, at `fps` frames a second.

    An image is repeated. A video gives the frame nearest to each time from its start on; a longer one is cut, a shorter one
    holds its last frame. Another aspect ratio is scaled to cover the size and cropped around its center. Raises InitUnusable.
    """
    size = (width, height)
    if init.kind == "image":
        yield decode_image(init.data, init.ending, size), num_frames
    else:
        yield from decode_video(init.data, init.ending, num_frames=num_frames, fps=fps, size=size)
