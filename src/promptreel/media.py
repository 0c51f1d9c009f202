"""The types that stages pass on: clips in memory, encoded videos, and inits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self, cast

if TYPE_CHECKING:  # numpy comes with the extra `media`
    import numpy as np
    from numpy.typing import NDArray

MEDIA_TYPES = {"mp4": "video/mp4", "webm": "video/webm", "gif": "image/gif"}
"""Media types of a Video, by the ending of its file's name."""

InitKind = Literal["image", "video"]

INIT_TYPES: Mapping[InitKind, Mapping[str, str]] = {
    "image": {
        "png": "image/png",
        "jpg": "image/jpeg",
        "webp": "image/webp",
        "avif": "image/avif",
        "heic": "image/heic",
        "gif": "image/gif",
    },
    "video": {**MEDIA_TYPES, "mov": "video/quicktime"},
}
"""Media types of an Init, by the ending of its key. A gif is an image (its first frame) or a video, depending on the field."""
PREVIEW_MEDIA_TYPE = "image/webp"
POSTER_MEDIA_TYPE = "image/webp"


@dataclass(frozen=True)
class Clip:
    """Decoded frames: uint8 [T, H, W, 3], RGB, at `fps` frames a second."""

    frames: NDArray[np.uint8]
    fps: int

    def __post_init__(self) -> None:
        if self.frames.dtype.name != "uint8" or self.frames.ndim != 4 or self.frames.shape[3] != 3:
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


class Footage(Protocol):
    """What can be encoded: a Clip, or frames that are computed one by one as they are read (scaling.py).

    So a long, large clip is never in memory as a whole.
    """

    @property
    def frames(self) -> Iterable[NDArray[np.uint8]]:
        """uint8 [H, W, 3], RGB; may be iterated more than once."""

    @property
    def fps(self) -> int: ...

    @property
    def num_frames(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...


@dataclass(frozen=True)
class Video:
    """An encoded file on disk, not yet stored under a key."""

    path: Path
    media_type: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Init:
    """The encoded picture or short video that a clip starts from, unchanged. `ending` is one in INIT_TYPES."""

    kind: InitKind
    ending: str
    data: bytes

    @property
    def key(self) -> str:
        """The key in storage: a hash, so equal files share it, and no part of it is chosen by a client."""
        return f"inits/{self.kind}/{hashlib.sha256(self.data).hexdigest()}.{self.ending}"

    @classmethod
    def from_key(cls, key: str, data: bytes) -> Self:
        """The init whose `key` this is."""
        return cls(kind_of_init(key), key.rpartition(".")[2], data)


@dataclass(frozen=True, kw_only=True)
class ExampleShape:
    """What pictures and clips to learn from are fitted to: an area of `pixels`, and sides that are a multiple of `multiple`.

    A clip has `num_frames` to `most_frames` frames at `fps`.
    """

    pixels: int
    multiple: int = 8
    num_frames: int = 1
    most_frames: int = 1
    fps: int = 8


def kind_of_init(key: str) -> InitKind:
    """The kind of the init with this key."""
    return cast("InitKind", key.split("/")[1])
