"""Clip -> a small animated WebP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from promptreel.encoding.scaling import scale_clip
from promptreel.encoding.video import describe
from promptreel.media import PREVIEW_MEDIA_TYPE, Clip, Video

MOST_FRAMES = 16
MOST_PIXELS = 160
"""On the longer side."""

_QUALITY = 75
_EFFORT = 2  # of 6: low, since a preview is soon replaced


def encode_preview(clip: Clip, path: Path, *, width: int, height: int) -> Video:
    """Writes a looping preview of a video of `width` x `height` pixels: smaller, with fewer frames over the same time.

    Raises OSError, and ValueError for a clip that cannot be scaled.
    """
    scale = min(1.0, MOST_PIXELS / max(width, height))
    thin, milliseconds = _thin_out(clip)
    small = scale_clip(thin, max(1, round(width * scale)), max(1, round(height * scale)))
    first, *others = map(Image.fromarray, small.frames)
    options = {"duration": milliseconds, "loop": 0, "quality": _QUALITY, "method": _EFFORT}
    first.save(path, "WEBP", save_all=True, append_images=others, **options)
    return describe(path, PREVIEW_MEDIA_TYPE)


def _thin_out(clip: Clip) -> tuple[Clip, list[int]]:
    """At most MOST_FRAMES frames, evenly spread, and each one's duration in milliseconds."""
    starts = np.linspace(0, clip.num_frames, min(MOST_FRAMES, clip.num_frames) + 1).astype(int)
    shown = np.diff(np.round(starts * 1000 / clip.fps).astype(int))
    return Clip(clip.frames[starts[:-1]], clip.fps), shown.tolist()
