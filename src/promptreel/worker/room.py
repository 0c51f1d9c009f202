"""A worker's limits on concurrent jobs and their memory."""

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
    """How many jobs a worker may run at once, and how many bytes they may take by estimate. A job alone always runs."""

    jobs: int
    memory: int


def return_freed_memory() -> None:
    """Returns freed memory to the system. glibc would keep it: hundreds of megabytes after encoding a large clip."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it; others keep less
    if trim is not None:
        trim(0)


def machine_memory(container_limits: tuple[Path, ...] = _CONTAINER_LIMITS) -> int:
    """Bytes of memory that the machine has, or that its container may use."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in container_limits:
        try:
            sizes.append(int(path.read_text()))
        except (OSError, ValueError):  # no such file, or "max", which means no limit
            continue
    return min(sizes)
