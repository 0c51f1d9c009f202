"""Clip -> webm file: AV1 in BT.709 colors, a fraction of the mp4's size, for browsers of the last few years."""

from __future__ import annotations

import os
from pathlib import Path

import av

from promptreel.encoding.yuv import write_stream
from promptreel.errors import EncodingFailed
from promptreel.media import Footage

# On clips of the built-in model at 512x512: one dB below the mp4 at a seventh of its size. `lp` is SVT-AV1's name for the
# number of threads (for its "level of parallelism"); it is fixed, so that the bytes never follow the machine. Two give the
# same bytes, no sooner, and take 80 MB more.
ENCODER_OPTIONS = {"crf": "24", "preset": "8", "svtav1-params": "lp=1"}
MIN_SIZE = 4  # SVT-AV1 takes no fewer pixels on a side


def write_webm(clip: Footage, path: Path, comment: str) -> None:
    """Writes the file, whole or in part; raises EncodingFailed for a size that AV1 does not have, and else what PyAV raises.

    Frame times are rounded to a millisecond, the finest that WebM has; the frame rate that it states is exact.
    """
    if clip.width < MIN_SIZE or clip.height < MIN_SIZE:
        raise EncodingFailed(f"AV1 needs {MIN_SIZE} pixels a side at least, not {clip.width}x{clip.height}. Make it larger.")
    # SVT-AV1 writes its settings to stderr at every start, and hears of anything else by this variable alone.
    os.environ.setdefault("SVT_LOG", "1")  # 1: errors
    # bitexact: the ids of the file and its track are fixed, not random. The index in front lets players seek at once.
    options = {"fflags": "+bitexact", "cues_to_front": "1"}
    with av.open(str(path), "w", format="webm", options=options) as container:
        container.metadata["comment"] = comment
        write_stream(container, clip, "libsvtav1", ENCODER_OPTIONS)
