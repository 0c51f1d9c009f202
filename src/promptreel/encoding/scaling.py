"""Brings a clip to the size that was asked for."""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from promptreel.media import Clip

# Bicubic rings less than Lanczos around hard edges. The other two ask for exact sums, not for what this processor adds fastest.
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


def scale_clip(clip: Clip, width: int, height: int) -> Clip:
    """The clip at `width` x `height` pixels; the same clip when it already has that size.

    Another aspect ratio is scaled until it covers the new size and cropped around its centre: nothing is stretched.
    """
    if (clip.width, clip.height) == (width, height):
        return clip
    cover_width, cover_height = _covering_size(clip, width, height)
    left, top = (cover_width - width) // 2, (cover_height - height) // 2
    reformatter = VideoReformatter()
    frames = np.empty((clip.num_frames, height, width, 3), np.uint8)
    for index, pixels in enumerate(clip.frames):
        # Red, green and blue travel as the three full-size planes of a YUV frame. libswscale scales planes as they are, while
        # it would take RGB through YUV and back, which shifts colours.
        planes = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels.transpose(2, 0, 1)), format="yuv444p")
        scaled = reformatter.reformat(planes, width=cover_width, height=cover_height, interpolation=SCALING, threads=1)
        frames[index] = scaled.to_ndarray().transpose(1, 2, 0)[top : top + height, left : left + width]
    return Clip(frames, clip.fps)


def _covering_size(clip: Clip, width: int, height: int) -> tuple[int, int]:
    """The smallest size of the clip's aspect ratio that is at least `width` x `height`; integers, so that it is exact."""
    if width * clip.height >= height * clip.width:
        return width, -(-clip.height * width // clip.width)
    return -(-clip.width * height // clip.height), height
