"""How much memory a clip took at most: on a GPU, of the GPU's; on a CPU, of the process, which holds the networks too."""

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
_RESET = Path("/proc/self/clear_refs")  # writing 5 sets the process's highest memory to what it is now (proc(5))


@dataclass
class Peak:
    """The highest so far, in bytes; None where it cannot be measured."""

    size: int | None = None

    @property
    def megabytes(self) -> float | None:
        return None if self.size is None else round(self.size / MEGABYTE, 1)


class MemoryWatch:
    """Safe to use from several threads: each watch has its own highest, though the counter is one for all.

    Whoever begins a watch first notes the highest so far for those that watch already, then sets the counter back.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._open: list[Peak] = []
        self._changing = threading.Lock()

    @contextmanager
    def watch(self) -> Iterator[Peak]:
        """A peak that is complete when the block ends."""
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
        """Whether there is a counter that can be set back; other systems than Linux have none for a process."""
        if self._device.name.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self._device.name)
            return True
        try:
            _RESET.write_text("5")
        except OSError:
            return False
        return True
