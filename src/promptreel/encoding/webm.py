"""Clip -> webm file: AV1 in BT.709 colors. A fraction of the mp4's size, for recent browsers."""

from __future__ import annotations

import os
from pathlib import Path

import av

from promptreel.encoding.yuv import write_stream
from promptreel.errors import EncodingFailed
from promptreel.media import Footage

# Clips of the built-in model at 512x512 come out 1 dB below the mp4, at a seventh of its size. `lp`, SVT-AV1's level of
# parallelism, is fixed so that the bytes do not depend on the machine. lp=2 gives the same bytes, is no faster, and takes
# 80 MB more.
ENCODER_OPTIONS = {"crf": "24", "preset": "8", "svtav1-params": "lp=1"}
MIN_SIZE = 4  # SVT-AV1's minimum, in pixels a side


def write_webm(clip: Footage, path: Path, comment: str) -> None:
    """Writes the file. Raises EncodingFailed if it is too small for AV1, and PyAV's errors, which may leave a partial file.

    Frame times are rounded to a millisecond, WebM's resolution; the stated frame rate is exact.
    """
    if clip.width < MIN_SIZE or clip.height < MIN_SIZE:
        raise EncodingFailed(f"AV1 needs at least {MIN_SIZE} pixels a side, not {clip.width}x{clip.height}. Make it larger.")
    # SVT-AV1 prints its settings to stderr at every start. Only this variable silences it.
    os.environ.setdefault("SVT_LOG", "1")  # 1: errors only
    # bitexact: fixed instead of random ids of the file and its track. The index (cues) in front lets players seek at once.
    options = {"fflags": "+bitexact", "cues_to_front": "1"}
    with av.open(str(path), "w", format="webm", options=options) as container:
        container.metadata["comment"] = comment
        write_stream(container, clip, "libsvtav1", ENCODER_OPTIONS)
