"""Scales a clip to the requested size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from promptreel.media import Clip, Footage

# Bicubic rings less than Lanczos around hard edges. The other two make libswscale compute the same on every CPU.
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


@dataclass(frozen=True)
class ScaledClip:
    """A clip at another size; each frame is scaled when it is read."""

    clip: Clip
    width: int
    height: int

    @property
    def fps(self) -> int:
        return self.clip.fps

    @property
    def num_frames(self) -> int:
        return self.clip.num_frames

    @property
    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """uint8 [H, W, 3]. Each access starts over at the first frame."""
        cover_width, cover_height = _covering_size(self.clip, self.width, self.height)
        left, top = (cover_width - self.width) // 2, (cover_height - self.height) // 2
        reformatter = VideoReformatter()
        for pixels in self.clip.frames:
            # R, G and B are passed off as the three planes of a YUV 4:4:4 frame, which libswscale scales as they are. It
            # would convert RGB to YUV and back, which shifts colors.
            planes = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels.transpose(2, 0, 1)), format="yuv444p")
            scaled = reformatter.reformat(
                planes, width=cover_width, height=cover_height, interpolation=SCALING, threads=1
            ).to_ndarray()
            cut = scaled.transpose(1, 2, 0)[top : top + self.height, left : left + self.width]
            yield np.ascontiguousarray(cut, dtype=np.uint8)


def scale_clip(clip: Clip, width: int, height: int) -> Footage:
    """The clip at `width` x `height` pixels; the same clip when it already has that size.

    Another aspect ratio is scaled to cover the new size and cropped around its center; nothing is stretched.
    """
    return clip if (clip.width, clip.height) == (width, height) else ScaledClip(clip, width, height)


def _covering_size(clip: Clip, width: int, height: int) -> tuple[int, int]:
    """The smallest size with the clip's aspect ratio that covers `width` x `height`. Integer arithmetic, so exact."""
    if width * clip.height >= height * clip.width:
        return width, -(-clip.height * width // clip.width)
    return -(-clip.width * height // clip.height), height
