"""Decodes init videos (mp4, mov, webm and gif) to the length and size of the video to generate."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import TypeVar, cast

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from promptreel.encoding.init_colours import guess_matrix, make_table
from promptreel.encoding.init_images import flatten
from promptreel.errors import InitUnusable

MAX_FRAMES = 1_800  # a minute at 30 fps
MAX_FRAME_PIXELS = 4096 * 2304
MAX_PIXELS = MAX_FRAMES * 1280 * 720
"""Limits the pixels of all frames together. Decoding that many takes a few seconds of CPU time."""
MAX_ASPECT = 16
"""Limits the pixel aspect ratio, and its inverse."""
CHECK_SIZE = (64, 64)
# What browsers and phones write. Fewer decoders mean a smaller attack surface.
CODECS = frozenset({"h264", "hevc", "mpeg4", "vp8", "vp9", "av1", "gif"})
# libavformat gets these, too: it decodes a little when it opens a file. libdav1d decodes av1. No protocol is allowed, so a file
# cannot make libavformat open another file or a URL.
LIMITS = {
    "codec_whitelist": ",".join(sorted({*CODECS, "libdav1d"})),
    "max_pixels": str(MAX_FRAME_PIXELS),
    "max_streams": "16",
    "protocol_whitelist": "none",
}
CONVERSION = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT

F = TypeVar("F")


def check_video(data: bytes, ending: str) -> None:
    """Counts the frames, then decodes them. Raises InitUnusable for no, too many, too large or damaged frames."""
    with _open(data, ending) as (container, stream):
        frames = sum(packet.size > 0 for packet, _ in zip(container.demux(stream), range(MAX_FRAMES + 2), strict=False))
        pixels = frames * stream.width * stream.height
    if frames > MAX_FRAMES:
        raise InitUnusable(f"The init video must not be longer than {MAX_FRAMES} frames: send a shorter one.")
    if frames == 0:
        raise InitUnusable("The init video has no frame: check the file, or save it again.")
    _check_pixels(pixels)
    _decode_all(data, ending)


def _decode_all(data: bytes, ending: str) -> None:
    """Decodes all frames, and scales the first of each pixel format and size. Raises InitUnusable."""
    forms = set()
    reformatter = VideoReformatter()
    with _open(data, ending) as (container, stream):
        for _, frame in _timed_frames(container, stream):
            form = (frame.format.name, frame.width, frame.height)
            if form not in forms:
                _show(frame, reformatter, _aspect_of(stream), CHECK_SIZE)
            forms.add(form)
    if not forms:
        raise InitUnusable("The init video has no frame that can be decoded: check the file, or save it again.")


def measure_video(data: bytes, ending: str) -> tuple[Fraction, tuple[int, int]]:
    """How many seconds the video takes, and the width and height at which players show it. Raises InitUnusable."""
    begin = end = Fraction(0)
    count, shown = 0, (0, 0)
    with _open(data, ending) as (container, stream):
        for time, frame in _timed_frames(container, stream):
            if count == 0:
                begin, shown = time, _shown_size(frame, _aspect_of(stream))
            end, count = time, count + 1
    if count == 0:
        raise InitUnusable("The init video has no frame that can be decoded: check the file, or save it again.")
    return (end - begin) * count / max(1, count - 1), shown  # the last frame is shown as long as the others


def _shown_size(frame: av.VideoFrame, aspect: Fraction) -> tuple[int, int]:
    width, height = max(1, round(frame.width * aspect)), frame.height
    return (height, width) if _read_matrix(frame)[2] else (width, height)


def decode_video(
    data: bytes, ending: str, *, num_frames: int, fps: int, size: tuple[int, int]
) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Frames, uint8 [H, W, 3] at `size` (width, height), each with its repeat count. The counts add up to `num_frames`.

    Each frame is the nearest one in time. Raises InitUnusable.
    """
    found = False
    reformatter = VideoReformatter()
    with _open(data, ending) as (container, stream):
        for frame, times in pick_nearest(_timed_frames(container, stream), num_frames=num_frames, fps=fps):
            found = True
            yield _show(frame, reformatter, _aspect_of(stream), size), times
    if not found:
        raise InitUnusable("The init video has no frame that can be decoded: check the file, or save it again.")


def pick_nearest(frames: Iterable[tuple[Fraction, F]], *, num_frames: int, fps: int) -> Iterator[tuple[F, int]]:
    """The frames nearest to 0, 1 / fps, 2 / fps ... seconds after the first one, each with its repeat count.

    `frames` are (seconds, frame) pairs in rising order. Of two equally near frames, the earlier is taken. The last is repeated.
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
    """Opens the container and its first video stream. Turns PyAV's errors inside the block into InitUnusable."""
    try:
        with av.open(io.BytesIO(data), "r", format=ending, options=LIMITS, metadata_errors="ignore") as container:
            stream = _find_stream(container)
            stream.codec_context.options = {"max_pixels": LIMITS["max_pixels"]}
            stream.codec_context.thread_count = 1  # with one thread, damaged frames look the same each time
            yield container, stream
    except MemoryError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InitUnusable("The init video cannot be decoded: check the file, or save it again.") from error


def _find_stream(container: InputContainer) -> VideoStream:
    """The first video stream. Raises InitUnusable if there is none, or if its codec or size is not accepted."""
    if not container.streams.video:
        raise InitUnusable("The init video has no video stream: send mp4, webm or gif.")
    stream = container.streams.video[0]
    codec = stream.codec_context and stream.codec.canonical_name
    if codec not in CODECS:
        raise InitUnusable(f"The init video must be in one of {', '.join(sorted(CODECS))}: save it as one of these.")
    if not 0 < stream.width * stream.height <= MAX_FRAME_PIXELS:
        raise InitUnusable("A frame of the init video must not have more than 4096x2304 pixels: send a smaller one.")
    return stream


def _check_pixels(of_all_frames: int) -> None:
    if of_all_frames > MAX_PIXELS:
        raise InitUnusable(
            f"The init video must not have more than {MAX_PIXELS // 1_000_000} million pixels in all frames together, "
            f"which is {MAX_FRAMES} frames of 1280x720: send a shorter or smaller one."
        )


def _timed_frames(container: InputContainer, stream: VideoStream) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Pairs of a timestamp in seconds and a frame, at most MAX_FRAMES. Skips frames without timestamps. Sizes may differ."""
    pixels = 0
    for frame, _ in zip(container.decode(stream), range(MAX_FRAMES), strict=False):
        _check_pixels(pixels := pixels + frame.width * frame.height)
        if frame.pts is not None and frame.time_base is not None:
            if not frame.format.is_rgb:
                codec, size = stream.codec.canonical_name, (frame.width, frame.height)
                frame.colorspace = guess_matrix(frame.colorspace, codec=codec, size=size)
            yield frame.pts * frame.time_base, frame


def _aspect_of(stream: VideoStream) -> Fraction:
    """The width of a pixel divided by its height. 1 if the file has no value, or an absurd one."""
    aspect = stream.sample_aspect_ratio
    return aspect if aspect and 1 / MAX_ASPECT <= aspect <= MAX_ASPECT else Fraction(1)


def _show(frame: av.VideoFrame, reformatter: VideoReformatter, aspect: Fraction, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The frame as players show it, uint8 [H, W, 3]: upright, with square pixels, in sRGB.

    `aspect` is the pixels' aspect ratio. The frame is scaled to cover `size` (width, height), then cropped around its center.
    """
    across, down, transposed = _read_matrix(frame)
    pixels = _to_rgb(frame, reformatter, size[::-1] if transposed else size)
    picture = Image.fromarray(np.ascontiguousarray((pixels.swapaxes(0, 1) if transposed else pixels)[::down, ::across]))
    shown = picture.resize(
        size, Image.Resampling.BICUBIC, box=_covering_box(picture.size, 1 / aspect if transposed else aspect, size)
    )
    table = make_table(frame.color_trc, frame.color_primaries)
    opaque = flatten(shown)
    return np.asarray(opaque.filter(table) if table else opaque)


def _read_matrix(frame: av.VideoFrame) -> tuple[int, int, bool]:
    """The display matrix, rounded to right angles: steps across and down (1 or -1), and whether to transpose before that."""
    turned = {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}
    a, b, c, d = turned.get(frame.rotation % 360, (1, 0, 0, 1))  # used if PyAV cannot read the matrix below
    with suppress(KeyError, ValueError):
        side_data = cast("SideDataContainer", frame.side_data)  # PyAV's own stub names another type
        matrix = np.frombuffer(bytes(side_data[SideDataType.DISPLAYMATRIX]), "<i4")
        a, b, c, d = (int(matrix[index]) for index in (0, 1, 3, 4))
    if transposed := abs(b) + abs(c) > abs(a) + abs(d):
        a, d = c, b
    return -1 if a < 0 else 1, -1 if d < 0 else 1, transposed


def _to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter, size: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], or [H, W, 4] if the format has alpha.

    A frame much larger than `size` (width, height) is first scaled down to about twice that, which takes a third of the time.
    """
    share = max(1, min(frame.width // size[0], frame.height // size[1]) // 2)
    wanted = {"width": frame.width // share, "height": frame.height // share}
    layout = "rgba" if any(component.is_alpha for component in frame.format.components) else "rgb24"
    rgb = reformatter.reformat(frame, **wanted, format=layout, interpolation=CONVERSION, threads=1).to_ndarray()
    return rgb.astype(np.uint8, copy=False)


def _covering_box(picture: tuple[int, int], aspect: Fraction, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest centered box (left, top, right, bottom) in the shape of `size`, for pixels of this aspect ratio."""
    width = min(float(picture[0]), picture[1] * size[0] / size[1] / float(aspect))
    height = min(float(picture[1]), picture[0] * float(aspect) * size[1] / size[0])
    left, top = (picture[0] - width) / 2, (picture[1] - height) / 2
    return left, top, left + width, top + height
