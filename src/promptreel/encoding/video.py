"""Clip -> Video: a file of the requested output type, with the parameters that reproduce it in its comment."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import av

from promptreel.encoding.gif import write_gif
from promptreel.encoding.mp4 import write_mp4
from promptreel.encoding.webm import write_webm
from promptreel.errors import DiskFull, EncodingFailed, is_disk_full
from promptreel.media import MEDIA_TYPES, Footage, Video

WRITERS: Mapping[str, Callable[[Footage, Path, str], None]] = {"mp4": write_mp4, "webm": write_webm, "gif": write_gif}


def encode(clip: Footage, path: Path, *, output_type: str, metadata: Mapping[str, object]) -> Video:
    """Writes the clip to `path` as one of WRITERS, with `metadata` as JSON in the file's comment.

    Equal frames, fps and metadata give equal bytes. Raises EncodingFailed and DiskFull, and then leaves no file behind.
    """
    if clip.num_frames < 1 or clip.fps < 1:
        raise EncodingFailed(f"A video needs at least 1 frame and 1 fps, not {clip.num_frames} frames at {clip.fps} fps.")
    # ASCII, because UTF-8 cannot encode a lone surrogate in a prompt. Sorted, so that equal metadata gives equal bytes.
    comment = json.dumps(dict(metadata), sort_keys=True, allow_nan=False)
    try:
        WRITERS[output_type](clip, path, comment)
        return describe(path, MEDIA_TYPES[output_type])
    except (av.error.FFmpegError, OSError) as error:
        _remove(path)
        if is_disk_full(error):
            raise DiskFull("The video could not be written: the disk is full. Make room on it.") from error
        raise EncodingFailed(
            f"The video could not be written: {error.strerror}. Check the permissions of the data directory."
        ) from error
    except BaseException:
        _remove(path)
        raise


def read_metadata(path: Path) -> dict[str, object]:
    """The metadata that `encode` put into the comment; empty for a video made elsewhere.

    Raises EncodingFailed when the file cannot be read as a video.
    """
    try:
        with av.open(str(path)) as container:
            tags = {name.lower(): text for name, text in container.metadata.items()}  # WebM's names are upper case
    except (av.error.FFmpegError, OSError) as error:
        raise EncodingFailed(f"{path.name} cannot be read as a video: {error.strerror}.") from error
    try:
        metadata = json.loads(tags.get("comment", ""))
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def describe(path: Path, media_type: str) -> Video:
    """A finished file as a Video. Raises OSError."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Video(path=path, media_type=media_type, size_bytes=path.stat().st_size, sha256=sha256)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the first error matters more
        path.unlink()
