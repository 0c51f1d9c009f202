"""Clip -> gif file: one palette of 256 colors for the whole clip, dithered, in an endless loop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext
from av.video.format import VideoFormat
from numpy.typing import NDArray

from promptreel.media import Footage

TICK = Fraction(1, 100)  # GIF counts its delays in hundredths of a second
# Floyd-Steinberg error diffusion (1976) gains 1 to 3 dB of PSNR after a small blur, which imitates the eye, over the nearest
# color; ordered dithering gains less or loses. `rectangle` dithers only the changed part of a frame again, so still parts
# neither flicker nor take space.
DITHERING = {"dither": "floyd_steinberg", "diff_mode": "rectangle"}
RGB = "rgb24"
PALETTE_SIDE = 16  # a palette is a picture of 16 x 16 colors
COMMENT_LABEL = b"\x21\xfe"
TRAILER = b"\x3b"
MAX_BLOCK = 255


def write_gif(clip: Footage, path: Path, comment: str) -> None:
    """Writes the file; `comment` is ASCII. Raises PyAV's errors, and may leave a partial file then.

    Each frame starts at the tick nearest to its time: at 8 fps, delays of 13 and 12 alternate, so the total length is right.
    """
    starts = [(2 * index * TICK.denominator + clip.fps) // (2 * clip.fps) for index in range(clip.num_frames + 1)]
    options = {"loop": "0", "final_delay": str(starts[-1] - starts[-2])}  # loop 0: forever
    with av.open(str(path), "w", format="gif", options=options) as container:
        stream = container.add_stream("gif", rate=clip.fps)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "pal8"
        stream.codec_context.time_base = TICK
        stream.codec_context.thread_count = 1
        for frame in _map_colors(clip, _choose_palette(clip), starts):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    _append_comment(path, comment)


def _choose_palette(clip: Footage) -> av.VideoFrame:
    """The best 256 colors for the whole clip, by median cut over all its pixels (Heckbert 1982)."""
    graph = _make_graph()
    source = _add_source(graph, clip.width, clip.height, RGB)
    chooser = graph.add("palettegen", reserve_transparent="0")
    sink = graph.add("buffersink")
    source.link_to(chooser)
    chooser.link_to(sink)
    graph.configure()
    for index, pixels in enumerate(clip.frames):
        source.push(_make_frame(pixels, index))
    source.push(None)
    (palette,) = _pull_all(sink)
    return palette


def _map_colors(clip: Footage, palette: av.VideoFrame, starts: list[int]) -> Iterator[av.VideoFrame]:
    """The frames as indices into the palette; `starts` are in ticks."""
    graph = _make_graph()
    source = _add_source(graph, clip.width, clip.height, RGB)
    colors = _add_source(graph, PALETTE_SIDE, PALETTE_SIDE, palette.format.name)
    mapper = graph.add("paletteuse", **DITHERING)
    sink = graph.add("buffersink")
    source.link_to(mapper, 0, 0)
    colors.link_to(mapper, 0, 1)
    mapper.link_to(sink)
    graph.configure()
    palette.pts, palette.time_base = 0, TICK
    colors.push(palette)
    colors.push(None)
    for index, pixels in enumerate(clip.frames):
        source.push(_make_frame(pixels, starts[index]))
        yield from _pull_all(sink)
    source.push(None)
    yield from _pull_all(sink)


def _make_graph() -> Graph:
    graph = Graph()
    graph.threads = 1
    return graph


def _add_source(graph: Graph, width: int, height: int, pixel_format: str) -> FilterContext:
    return graph.add_buffer(width=width, height=height, format=VideoFormat(pixel_format), time_base=TICK)


def _make_frame(pixels: NDArray[np.uint8], start: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(pixels, format=RGB)
    frame.pts, frame.time_base = start, TICK
    return frame


def _pull_all(sink: FilterContext) -> Iterator[av.VideoFrame]:
    """The frames that are ready now."""
    while True:
        try:
            frame = sink.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(frame, av.VideoFrame)
        yield frame


def _append_comment(path: Path, comment: str) -> None:
    """Inserts a comment extension (GIF89a, section 24) before the trailer: ffmpeg reads these but cannot write them."""
    text = comment.encode("ascii")
    blocks = (text[start : start + MAX_BLOCK] for start in range(0, len(text), MAX_BLOCK))
    extension = COMMENT_LABEL + b"".join(bytes([len(block)]) + block for block in blocks) + b"\x00"
    with path.open("r+b") as file:
        file.seek(-len(TRAILER), os.SEEK_END)
        file.write(extension + TRAILER)
