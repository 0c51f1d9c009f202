"""The one thread of a process that runs networks, with all cores.

Each thread that computes in parallel gets helpers of its own from OpenMP. With more helpers in a process than cores, they no
longer wait ready between two operations but are put to sleep and woken, thousands of times in a forward: on two cores a second
thread that had once computed, idle since, made every forward take 1.6 times as long (ADR 9).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")


class ComputeThread:
    """Runs what it is given one after the other, in the order in which it was asked, with `threads` threads of torch's."""

    def __init__(self, threads: int | None = None) -> None:
        """`threads` None: as many as torch takes by itself."""
        count = threads or torch.get_num_threads()
        self._ident: int | None = None

        def start() -> None:
            self._ident = threading.get_ident()
            torch.set_num_threads(count)

        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute", initializer=start)

    def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises; it may itself call `run`."""
        if threading.get_ident() == self._ident:
            return work()
        return self._thread.submit(work).result()


@contextmanager
def serial_arithmetic() -> Iterator[None]:
    """Inside the block, this thread's own tensors are computed by it alone, so that it takes no helpers from OpenMP.

    Every thread that touches tensors needs it, but for the compute thread: even to put two rows together takes helpers.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
