"""What the stages hand on: frames in memory, and an encoded file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MEDIA_TYPES = {"mp4": "video/mp4", "webm": "video/webm", "gif": "image/gif"}
"""What a Video can be, by the ending of its file's name, and what HTTP calls it."""

PREVIEW_MEDIA_TYPE = "image/webp"


@dataclass(frozen=True)
class Clip:
    """Decoded frames: uint8 [T, H, W, 3], RGB, at `fps` frames a second."""

    frames: NDArray[np.uint8]
    fps: int

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[3] != 3:
            raise ValueError(f"a clip is uint8 [T, H, W, 3], not {self.frames.dtype} {list(self.frames.shape)}")

    @property
    def num_frames(self) -> int:
        return int(self.frames.shape[0])

    @property
    def height(self) -> int:
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        return int(self.frames.shape[2])


@dataclass(frozen=True)
class Video:
    """An encoded file on disk, not yet stored under a key."""

    path: Path
    media_type: str
    size_bytes: int
    sha256: str
