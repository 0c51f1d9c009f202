"""Clip -> mp4 file: H.264 in BT.709 colors. It plays in every browser, and before it is fully downloaded."""

from __future__ import annotations

from pathlib import Path

import av

from promptreel.encoding.yuv import write_stream
from promptreel.errors import EncodingFailed
from promptreel.media import Footage

# Fixed, because x264's bytes depend on the number of threads.
ENCODER_THREADS = 2
# Macroblock-tree rate control is off: its bytes depend on what the heap held before (seen in short clips, in up to four of
# ten encodings). Reproducible files are worth the few bytes it saves.
ENCODER_OPTIONS = {"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0"}


def write_mp4(clip: Footage, path: Path, comment: str) -> None:
    """Writes the file. Raises EncodingFailed for an odd size, and PyAV's errors, which may leave a partial file."""
    if clip.width < 2 or clip.height < 2 or clip.width % 2 or clip.height % 2:
        raise EncodingFailed(f"H.264 needs an even width and height, not {clip.width}x{clip.height}. Use multiples of 8.")
    # faststart moves the index to the front; it reopens the file by name, so `path` cannot be a buffer.
    # The movie timescale is a multiple of fps; the default would round the duration to a millisecond.
    options = {"movflags": "+faststart", "movie_timescale": str(1000 * clip.fps)}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        container.metadata["comment"] = comment
        write_stream(container, clip, "libx264", ENCODER_OPTIONS, threads=ENCODER_THREADS)
