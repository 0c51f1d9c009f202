"""Encodes RGB frames as H.264 or AV1: converts them to YUV 4:2:0 in BT.709, and tags the stream accordingly."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import av
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from promptreel.media import Footage

Codec = Literal["libx264", "libsvtav1"]
PIXEL_FORMAT = "yuv420p"
BT709 = 1  # in H.273's tables of matrices, primaries and transfer functions
LIMITED_RANGE = 1  # luma from 16 to 235
REAL_TIME = frozenset({1, 2})  # SCHED_FIFO and SCHED_RR
CONVERSION = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


def write_stream(
    container: OutputContainer, clip: Footage, codec: Codec, options: Mapping[str, str], *, threads: int | None = None
) -> None:
    """Encodes all frames into a new stream of the container. Without `threads`, the codec's options decide their number."""
    stream = container.add_stream(codec, rate=clip.fps, options=dict(options))
    stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, PIXEL_FORMAT
    if threads is not None:
        stream.codec_context.thread_count = threads
    tag_colors(stream.codec_context)
    with ordinary_priority() as restore:
        for frame in convert_frames(clip):
            container.mux(stream.encode(frame))
            if frame.pts == 0:  # the encoder has started its threads by now
                restore()
        container.mux(stream.encode())


@contextmanager
def ordinary_priority() -> Iterator[Callable[[], None]]:
    """Undoes SVT-AV1's real-time priority: at the end of the block, and whenever the yielded function is called.

    With the right to do so, as root has, SVT-AV1 gives the highest real-time priority to its threads and to the thread that
    opens it. Later threads inherit it, and starve the rest of the machine. Nothing happens if this thread had real-time
    priority before.
    """
    before = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None

    def restore() -> None:
        if before is None or before in REAL_TIME:
            return
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):  # the thread has just ended
                if os.sched_getscheduler(int(task.name)) in REAL_TIME:
                    os.sched_setscheduler(int(task.name), before, os.sched_param(0))

    try:
        yield restore
    finally:
        restore()


def tag_colors(codec: VideoCodecContext) -> None:
    """Tags the stream as BT.709, limited range: players guess an untagged file's matrix, and some guess wrong."""
    codec.colorspace = codec.color_primaries = codec.color_trc = BT709
    codec.color_range = LIMITED_RANGE


def convert_frames(clip: Footage) -> Iterator[av.VideoFrame]:
    """The frames in YUV 4:2:0, one tick of the stream's clock (1 / fps s) apart."""
    reformatter = VideoReformatter()
    for index, pixels in enumerate(clip.frames):
        frame = reformatter.reformat(
            av.VideoFrame.from_ndarray(pixels, format="rgb24"),
            format=PIXEL_FORMAT,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=CONVERSION,
            threads=1,
        )
        frame.pts = index
        yield frame
