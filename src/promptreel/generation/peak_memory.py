"""Peak memory of a clip: the GPU's on a GPU; on a CPU the whole process's, models included."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from promptreel.generation.devices import Device

MEGABYTE = 1024 * 1024
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")  # writing 5 resets the process's peak memory (proc(5))


@dataclass
class Peak:
    """The peak so far, in bytes; None if it cannot be measured."""

    size: int | None = None

    @property
    def megabytes(self) -> float | None:
        return None if self.size is None else round(self.size / MEGABYTE, 1)


class MemoryWatch:
    """Measures several peaks at once with the one counter there is. Safe to use from several threads.

    To begin a watch: credit the peak to the open watches, then reset.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._open: list[Peak] = []
        self._changing = threading.Lock()

    @contextmanager
    def watch(self) -> Iterator[Peak]:
        """The peak of the block, complete when it ends."""
        peak = Peak()
        with self._changing:
            self._note()
            if self._reset():
                self._open.append(peak)
        try:
            yield peak
        finally:
            with self._changing:
                self._note()
                self._open = [other for other in self._open if other is not peak]

    def _note(self) -> None:
        if self._open:
            highest = self._highest()
            for peak in self._open:
                peak.size = max(peak.size or 0, highest)

    def _highest(self) -> int:
        if self._device.name.startswith("cuda"):
            return int(torch.cuda.max_memory_allocated(self._device.name))
        (line,) = [line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024

    def _reset(self) -> bool:
        """Resets the counter. False if there is none: only Linux has one for a process."""
        if self._device.name.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self._device.name)
            return True
        try:
            _RESET.write_text("5")
        except OSError:
            return False
        return True
