"""Clip -> mp4 file: H.264 for every browser, in BT.709 colors, ready to play before it is loaded whole."""

from __future__ import annotations

from pathlib import Path

import av

from promptreel.encoding.yuv import write_stream
from promptreel.errors import EncodingFailed
from promptreel.media import Footage

# x264 gives other bytes for another number of threads, so the number does not follow the machine.
ENCODER_THREADS = 2
# Macroblock-tree rate control gives other bytes for equal frames now and then, by what the heap held before (seen in short
# clips, in up to four of ten encodings of a process): seeds that reproduce are worth the few bytes that it saves.
ENCODER_OPTIONS = {"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0"}


def write_mp4(clip: Footage, path: Path, comment: str) -> None:
    """Writes the file, whole or in part; raises EncodingFailed for an odd size, and else what PyAV raises."""
    if clip.width < 2 or clip.height < 2 or clip.width % 2 or clip.height % 2:
        raise EncodingFailed(f"H.264 needs an even width and height, not {clip.width}x{clip.height}. Use multiples of 8.")
    # faststart moves the index in front of the pictures: it opens the file again by name, so a buffer would not do.
    # The clock of the whole file divides by fps too, or its duration would be rounded to a millisecond.
    options = {"movflags": "+faststart", "movie_timescale": str(1000 * clip.fps)}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        container.metadata["comment"] = comment
        write_stream(container, clip, "libx264", ENCODER_OPTIONS, threads=ENCODER_THREADS)
