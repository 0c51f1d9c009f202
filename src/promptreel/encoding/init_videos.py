"""Short videos to start from: mp4, webm and gif, brought to the length that is generated."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from promptreel.encoding.init_images import fit
from promptreel.errors import InitUnusable

MAX_FRAMES = 1_800  # a minute at 30 fps
MAX_FRAME_PIXELS = 4096 * 2304
MAX_PIXELS = MAX_FRAMES * 1280 * 720
"""Of all frames together: some seconds of one processor."""
CHECK_SIZE = (64, 64)
# Those that browsers and phones write. Fewer decoders, fewer ways into this process.
CODECS = frozenset({"h264", "hevc", "mpeg4", "vp8", "vp9", "av1", "gif"})
# libavformat decodes a little when it opens a file, so it is given the limits too; av1 is decoded by libdav1d. Should a file
# refer to another one, or to an address, there is no protocol by which it could be opened.
LIMITS = {
    "codec_whitelist": ",".join(sorted({*CODECS, "libdav1d"})),
    "max_pixels": str(MAX_FRAME_PIXELS),
    "max_streams": "16",
    "protocol_whitelist": "none",
}
CONVERSION = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT

F = TypeVar("F")


def check_video(data: bytes, ending: str) -> None:
    """Counts the frames, then decodes all. Raises InitUnusable for none, for too many or too large ones, and for damage."""
    with _open(data, ending) as (container, stream):
        frames = sum(packet.size > 0 for packet, _ in zip(container.demux(stream), range(MAX_FRAMES + 2), strict=False))
        pixels = frames * stream.width * stream.height
    if frames > MAX_FRAMES:
        raise InitUnusable(f"The init video must not be longer than {MAX_FRAMES} frames: send a shorter one.")
    if frames == 0:
        raise InitUnusable("The init video holds no frame: check the file, or save it again.")
    _check_pixels(pixels)
    _decode_all(data, ending)


def _decode_all(data: bytes, ending: str) -> None:
    """And brings the first frame of each form to a size. Raises InitUnusable."""
    forms = set()
    reformatter = VideoReformatter()
    with _open(data, ending) as (container, stream):
        for _, frame in _timed_frames(container, stream):
            form = (frame.format.name, frame.width, frame.height)
            if form not in forms:
                fit(_to_rgb(frame, reformatter, CHECK_SIZE), CHECK_SIZE)
            forms.add(form)
    if not forms:
        raise InitUnusable("The init video holds no frame that can be decoded: check the file, or save it again.")


def decode_video(
    data: bytes, ending: str, *, num_frames: int, fps: int, size: tuple[int, int]
) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """`num_frames` frames in all, uint8 [H, W, 3] at `size` (width, height), each the one nearest in time, and how often.

    Raises InitUnusable.
    """
    found = False
    reformatter = VideoReformatter()
    with _open(data, ending) as (container, stream):
        for frame, times in pick_nearest(_timed_frames(container, stream), num_frames=num_frames, fps=fps):
            found = True
            yield fit(_to_rgb(frame, reformatter, size), size), times
    if not found:
        raise InitUnusable("The init video holds no frame that can be decoded: check the file, or save it again.")


def pick_nearest(frames: Iterable[tuple[Fraction, F]], *, num_frames: int, fps: int) -> Iterator[tuple[F, int]]:
    """The frames nearest to 0, 1 / fps, 2 / fps ... seconds after the first, each with how many of these times are its own.

    `frames` come with their times in seconds, rising. Halfway between two, the earlier one is taken; the last one is held.
    """
    taken = 0
    before: tuple[Fraction, F] | None = None
    begin = Fraction(0)
    for time, frame in frames:
        if before is None:
            begin = time
        else:
            halfway = (before[0] + time) / 2 - begin
            until = min(num_frames, max(taken, int(halfway * fps) + 1))
            if until > taken:
                yield before[1], until - taken
                taken = until
            if taken == num_frames:
                return
        before = (time, frame)
    if before is not None:
        yield before[1], num_frames - taken


@contextmanager
def _open(data: bytes, ending: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream; whatever PyAV raises inside the block becomes InitUnusable.

    libavformat sees these bytes alone, so a file that refers to other files or to addresses leads nowhere.
    """
    try:
        with av.open(io.BytesIO(data), "r", format=ending, options=LIMITS, metadata_errors="ignore") as container:
            stream = _find_stream(container)
            stream.codec_context.options = {"max_pixels": LIMITS["max_pixels"]}
            stream.codec_context.thread_count = 1  # damaged frames are mended alike at each decoding
            yield container, stream
    except MemoryError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InitUnusable("The init video cannot be decoded: check the file, or save it again.") from error


def _find_stream(container: InputContainer) -> VideoStream:
    """The first video stream, if it is one that will be decoded. Raises InitUnusable."""
    if not container.streams.video:
        raise InitUnusable("The init video holds no moving picture: send mp4, webm or gif.")
    stream = container.streams.video[0]
    codec = stream.codec_context and stream.codec.canonical_name
    if codec not in CODECS:
        raise InitUnusable(f"The init video must be in one of {', '.join(sorted(CODECS))}: save it as one of these.")
    if not 0 < stream.width * stream.height <= MAX_FRAME_PIXELS:
        raise InitUnusable("The init video must not be greater than 4096x2304 pixels, or as many in another shape.")
    return stream


def _check_pixels(of_all_frames: int) -> None:
    if of_all_frames > MAX_PIXELS:
        raise InitUnusable(
            f"The frames of the init video must not hold more than {MAX_PIXELS // 1_000_000} million pixels together, "
            f"as {MAX_FRAMES} of 1280x720 do: send a shorter or smaller one."
        )


def _timed_frames(container: InputContainer, stream: VideoStream) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """The frames that say when they are shown, in seconds; no more of them than there may be. Their size may change."""
    pixels = 0
    for frame, _ in zip(container.decode(stream), range(MAX_FRAMES), strict=False):
        _check_pixels(pixels := pixels + frame.width * frame.height)
        if frame.pts is not None and frame.time_base is not None:
            yield frame.pts * frame.time_base, frame


def _to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter, size: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], turned upright; brought near to `size` (width, height) if it is far greater, which takes a third."""
    width, height = size if frame.rotation % 180 == 0 else size[::-1]
    share = max(1, min(frame.width // width, frame.height // height) // 2)
    wanted = {"width": frame.width // share, "height": frame.height // share}
    rgb = reformatter.reformat(frame, **wanted, format="rgb24", interpolation=CONVERSION, threads=1).to_ndarray()
    return np.ascontiguousarray(np.rot90(rgb, frame.rotation // 90).astype(np.uint8, copy=False))
