"""How much memory a job needs of its own, beside the model and what jobs share, so that a worker takes no more than fit."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from promptreel.generation.engine import generated_size
from promptreel.jobs.params import VideoParams
from promptreel.models.registry import ModelCard

# Bytes a pixel and frame as the clip is generated: its frames, which are put together of parts, and what a sampler keeps of its
# latents, some twelve of them at a sixteenth of the pixels' number in floats.
_GENERATED = 2 * 3 + 6
_INIT = 2 * 3  # more, for the frames that it starts from
# Bytes a pixel of one frame as it is encoded: what the encoder looks ahead and remembers. Measured at 1792x1024.
_ENCODER = {"mp4": 75, "webm": 215, "gif": 30}
# A gif's palette is chosen by how often each color occurs.
_COLOR, _MOST_COLORS = 80, 1 << 24

_CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),  # version 2 of control groups
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),  # version 1
)


@dataclass(frozen=True)
class Room:
    """How many jobs a worker has in hand at once, and the bytes that they may take, by estimate. A job alone always runs."""

    jobs: int
    memory: int


def estimate_bytes(params: VideoParams, card: ModelCard) -> int:
    """At most, for a clip that is hard to encode; half of it is common."""
    width, height = generated_size(card, params)
    generated = params.num_frames * width * height * (_GENERATED + (_INIT if params.init_key else 0))
    pixels = params.width * params.height
    colors = min(_MOST_COLORS, params.num_frames * pixels) if params.output_type == "gif" else 0
    return generated + pixels * _ENCODER[params.output_type] + colors * _COLOR


def return_freed_memory() -> None:
    """Gives the system back what this process has freed. glibc keeps it, hundreds of megabytes after a large clip's encoder."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none, and keep less
    if trim is not None:
        trim(0)


def machine_memory(container_limits: tuple[Path, ...] = _CONTAINER_LIMITS) -> int:
    """Bytes that this machine has, or that its container may use."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in container_limits:
        try:
            sizes.append(int(path.read_text()))
        except (OSError, ValueError):  # another kind of container, or `max`, which is no limit
            continue
    return min(sizes)
