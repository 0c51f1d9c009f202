"""Encoded pictures and videos, made in memory, to use as inits."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from promptreel.encoding.yuv import ordinary_priority

# Bars from left to right: those that remain show where a crop cut.
BARS = [(220, 30, 30), (30, 200, 30), (30, 30, 220), (200, 200, 40)]


def make_bars(width: int = 64, height: int = 16) -> np.ndarray:
    """uint8 [height, width, 3] of four vertical bars."""
    bars = np.array(BARS, np.uint8)[None].repeat(height, axis=0)
    return bars.repeat(width // len(BARS), axis=1)


def make_greys(count: int, size: int = 32) -> np.ndarray:
    """uint8 [count, size, size, 3]. Each frame is one gray, lighter than the one before, which identifies it."""
    return np.arange(20, 20 + 10 * count, 10, np.uint8)[:, None, None, None].repeat(size, 1).repeat(size, 2).repeat(3, 3)


def encode_image(pixels: np.ndarray, file_format: str = "PNG", **options: Any) -> bytes:
    """Frames [T, H, W, 3] make an animation."""
    first, *more = [Image.fromarray(frame) for frame in (pixels if pixels.ndim == 4 else [pixels])]
    animation = {"save_all": True, "append_images": more, "duration": 125} if more else {}
    file = io.BytesIO()
    first.save(file, file_format, **animation, **options)
    return file.getvalue()


@ordinary_priority()
def encode_video(
    frames: np.ndarray, ending: str = "mp4", *, fps: int = 25, codec: str = "libx264", rotation: int | None = None
) -> bytes:
    """Encodes frames [T, H, W, 3], nearly lossless."""
    file = io.BytesIO()
    with ordinary_priority(), av.open(file, "w", format=ending) as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
