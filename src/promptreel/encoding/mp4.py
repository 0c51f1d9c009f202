"""Clip -> mp4 file: H.264 for every browser, in BT.709 colours, ready to play before it is loaded whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import av
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from promptreel.errors import EncodingFailed
from promptreel.media import Clip, Video

MEDIA_TYPE = "video/mp4"
# x264 gives other bytes for another number of threads, so the number does not follow the machine.
ENCODER_THREADS = 2
# Macroblock-tree rate control gives other bytes for equal frames now and then, by what the heap held before (seen in short
# clips, in up to four of ten encodings of a process): seeds that reproduce are worth the few bytes that it saves.
ENCODER_OPTIONS = {"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0"}
BT709 = 1  # the number of BT.709 in H.264's tables of matrices, primaries and transfer curves
LIMITED_RANGE = 1  # luma from 16 to 235
CONVERSION = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


def encode_mp4(clip: Clip, path: Path, *, metadata: Mapping[str, object]) -> Video:
    """Writes the clip to `path` with `metadata` as JSON in the file's comment.

    Equal frames, fps and metadata give equal bytes. Raises EncodingFailed, and then leaves no file behind.
    """
    _check(clip)
    # ASCII only: a prompt may hold half of a surrogate pair, which UTF-8 cannot. Sorted: equal metadata, equal bytes.
    comment = json.dumps(dict(metadata), sort_keys=True, allow_nan=False)
    try:
        _write(clip, path, comment)
        return _describe(path)
    except (av.error.FFmpegError, OSError) as error:
        _remove(path)
        raise EncodingFailed(f"The video could not be written: {error.strerror}. Check the disk's space and rights.") from error
    except BaseException:
        _remove(path)
        raise


def read_metadata(path: Path) -> dict[str, object]:
    """What `encode_mp4` put into the comment; empty for a video that was made elsewhere.

    Raises EncodingFailed when the file cannot be read as a video.
    """
    try:
        with av.open(str(path)) as container:
            comment = container.metadata.get("comment", "")
    except (av.error.FFmpegError, OSError) as error:
        raise EncodingFailed(f"{path.name} cannot be read as a video: {error.strerror}.") from error
    try:
        metadata = json.loads(comment)
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _check(clip: Clip) -> None:
    if clip.num_frames < 1 or clip.fps < 1:
        raise EncodingFailed(f"A video needs a frame and a frame a second at least, not {clip.num_frames} at {clip.fps} fps.")
    if clip.width < 2 or clip.height < 2 or clip.width % 2 or clip.height % 2:
        raise EncodingFailed(f"H.264 needs an even width and height, not {clip.width}x{clip.height}. Use multiples of 8.")


def _write(clip: Clip, path: Path, comment: str) -> None:
    # faststart moves the index in front of the pictures: it opens the file again by name, so a buffer would not do.
    # The clock of the whole file divides by fps too, or its duration would be rounded to a millisecond.
    options = {"movflags": "+faststart", "movie_timescale": str(1000 * clip.fps)}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        container.metadata["comment"] = comment
        stream = _add_stream(container, clip)
        for frame in _frames(clip):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _add_stream(container: OutputContainer, clip: Clip) -> VideoStream:
    stream = container.add_stream("libx264", rate=clip.fps, options=dict(ENCODER_OPTIONS))
    stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
    codec = stream.codec_context
    codec.thread_count = ENCODER_THREADS
    # Players guess the matrix of a file that does not say it, and some guess wrong.
    codec.colorspace = codec.color_primaries = codec.color_trc = BT709
    codec.color_range = LIMITED_RANGE
    return stream


def _frames(clip: Clip) -> Iterator[av.VideoFrame]:
    """The frames in YUV 4:2:0, one tick of the stream's clock (1 / fps) after another."""
    reformatter = VideoReformatter()
    for index, pixels in enumerate(clip.frames):
        frame = reformatter.reformat(
            av.VideoFrame.from_ndarray(pixels, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=CONVERSION,
            threads=1,
        )
        frame.pts = index
        yield frame


def _describe(path: Path) -> Video:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Video(path=path, media_type=MEDIA_TYPE, size_bytes=path.stat().st_size, sha256=sha256)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the error that led here is the one to tell
        path.unlink()
