"""Pictures and clips to learn from, as the trainer reads them: upright, opaque, in sRGB, without loss.

A picture becomes a PNG, a clip an mp4 of lossless H.264 in RGB, at the model's frame rate. So neither needs any of the care
that foreign files need, and each is what a person saw.

Only the decoder's process (encoding/decoder.py) may decode what a client sent: call this there alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from promptreel.encoding.init_images import decode_whole
from promptreel.encoding.init_videos import check_video, decode_video, measure_video
from promptreel.errors import InitUnusable
from promptreel.media import ExampleShape, Init

MIN_SIDE = 32
MOST_OVERSIZE = 4
"""A picture keeps so many times the pixels that are asked for: the trainer crops and scales it once more."""
MOST_ASPECT = 2.0
"""Wider or higher clips are cropped to this."""
LOSSLESS = {"qp": "0", "preset": "veryfast"}


def make_example(init: Init, shape: ExampleShape) -> Init:
    """The file that the trainer reads. Raises InitUnusable."""
    if init.kind == "image":
        return Init("image", "png", _make_picture(init, shape))
    return Init("video", "mp4", _make_clip(init, shape))


def _make_picture(init: Init, shape: ExampleShape) -> bytes:
    pixels = decode_whole(init.data, init.ending, most_pixels=MOST_OVERSIZE * shape.pixels, min_side=MIN_SIDE)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _make_clip(init: Init, shape: ExampleShape) -> bytes:
    check_video(init.data, init.ending)
    seconds, shown = measure_video(init.data, init.ending)
    num_frames = min(shape.most_frames, round(seconds * shape.fps))
    if num_frames < shape.num_frames:
        raise InitUnusable(
            f"The init video is too short: it takes {float(seconds):.2g} s, and {shape.num_frames / shape.fps:.2g} s are "
            f"needed, which are {shape.num_frames} frames at {shape.fps} fps."
        )
    size = fit_area(shown, shape)
    return write_lossless(
        decode_video(init.data, init.ending, num_frames=num_frames, fps=shape.fps, size=size), size=size, fps=shape.fps
    )


def fit_area(shown: tuple[int, int], shape: ExampleShape) -> tuple[int, int]:
    """Width and height with about as many pixels as the shape, in about the proportions of what is shown."""
    aspect = min(MOST_ASPECT, max(1 / MOST_ASPECT, shown[0] / shown[1]))
    height = math.sqrt(shape.pixels / aspect)
    width, height = (max(shape.multiple, round(side / shape.multiple) * shape.multiple) for side in (height * aspect, height))
    return width, height


def write_lossless(frames: Iterable[tuple[NDArray[np.uint8], int]], *, size: tuple[int, int], fps: int) -> bytes:
    """An mp4 that decodes to exactly these frames, uint8 [H, W, 3], each with its repeat count."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264rgb", rate=fps, options=LOSSLESS)
        stream.width, stream.height = size
        stream.pix_fmt = "rgb24"
        stream.codec_context.thread_count = 1  # the same bytes on each machine
        for frame, times in frames:
            for _ in range(times):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
