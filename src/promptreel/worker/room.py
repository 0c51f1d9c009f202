"""How many jobs a worker may have in hand at once, and the memory for them."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

_CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),  # version 2 of control groups
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),  # version 1
)


@dataclass(frozen=True)
class Room:
    """How many jobs a worker has in hand at once, and the bytes that they may take, by estimate. A job alone always runs."""

    jobs: int
    memory: int


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
