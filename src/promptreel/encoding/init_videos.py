"""Short videos to start from: mp4, mov, webm and gif, brought to the length that is generated."""

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
"""Of all frames together: some seconds of one processor."""
MAX_ASPECT = 16
"""How many times as wide as high, or as high as wide, a pixel may be."""
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
                _show(frame, reformatter, _aspect_of(stream), CHECK_SIZE)
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
            yield _show(frame, reformatter, _aspect_of(stream), size), times
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
            if not frame.format.is_rgb:
                codec, size = stream.codec.canonical_name, (frame.width, frame.height)
                frame.colorspace = guess_matrix(frame.colorspace, codec=codec, size=size)
            yield frame.pts * frame.time_base, frame


def _aspect_of(stream: VideoStream) -> Fraction:
    """How wide a pixel is for its height. Square, if the file says nothing or nonsense."""
    aspect = stream.sample_aspect_ratio
    return aspect if aspect and 1 / MAX_ASPECT <= aspect <= MAX_ASPECT else Fraction(1)


def _show(frame: av.VideoFrame, reformatter: VideoReformatter, aspect: Fraction, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame as players show it: upright, its pixels `aspect` times as wide as high, in sRGB; uint8 [H, W, 3].

    It is scaled until it covers `size` (width, height), and cropped around its centre.
    """
    across, down, lies = _read_matrix(frame)
    pixels = _to_rgb(frame, reformatter, size[::-1] if lies else size)
    picture = Image.fromarray(np.ascontiguousarray((pixels.swapaxes(0, 1) if lies else pixels)[::down, ::across]))
    shown = picture.resize(
        size, Image.Resampling.BICUBIC, box=_covering_box(picture.size, 1 / aspect if lies else aspect, size)
    )
    table = make_table(frame.color_trc, frame.color_primaries)
    opaque = flatten(shown)
    return np.asarray(opaque.filter(table) if table else opaque)


def _read_matrix(frame: av.VideoFrame) -> tuple[int, int, bool]:
    """A frame's display matrix, to the nearest right angle: steps across and down, and whether rows become columns before."""
    turned = {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}
    a, b, c, d = turned.get(frame.rotation % 360, (1, 0, 0, 1))  # all that is known beside notes that PyAV does not know
    with suppress(KeyError, ValueError):
        notes = cast("SideDataContainer", frame.side_data)  # PyAV's own stub names another type
        matrix = np.frombuffer(bytes(notes[SideDataType.DISPLAYMATRIX]), "<i4")
        a, b, c, d = (int(matrix[index]) for index in (0, 1, 3, 4))
    if lies := abs(b) + abs(c) > abs(a) + abs(d):
        a, d = c, b
    return -1 if a < 0 else 1, -1 if d < 0 else 1, lies


def _to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter, size: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], or 4 if it may be transparent; brought near to `size` (width, height) if it is far greater.

    That takes a third of the time.
    """
    share = max(1, min(frame.width // size[0], frame.height // size[1]) // 2)
    wanted = {"width": frame.width // share, "height": frame.height // share}
    layout = "rgba" if any(component.is_alpha for component in frame.format.components) else "rgb24"
    rgb = reformatter.reformat(frame, **wanted, format=layout, interpolation=CONVERSION, threads=1).to_ndarray()
    return rgb.astype(np.uint8, copy=False)


def _covering_box(picture: tuple[int, int], aspect: Fraction, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The greatest part around a picture's centre that has the shape of `size`, for pixels `aspect` times as wide as high."""
    width = min(float(picture[0]), picture[1] * size[0] / size[1] / float(aspect))
    height = min(float(picture[1]), picture[0] * float(aspect) * size[1] / size[0])
    left, top = (picture[0] - width) / 2, (picture[1] - height) / 2
    return left, top, left + width, top + height
