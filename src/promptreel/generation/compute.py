"""The threads of a process that run networks: on a CPU one for each row of a guided call, on a GPU a single one.

On a CPU each row is a forward of its own, in a row thread with its share of the cores, whether there are others or not. Both
rows in one forward, with all cores, take as long on an idle machine; but then the cores wait for each other thousands of times
in a forward, and whenever another process takes one of them, all wait for that one (ADR 15).

All other threads compute serially. Each thread that computes in parallel gets helpers of its own from OpenMP, and with more of
them in a process than cores, they are put to sleep and woken between any two operations (ADR 9).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")

ROWS_OF_A_CALL = 2


class ComputeThreads:
    """Row threads, which run what they are given in the order in which it was asked, and side by side."""

    def __init__(self, threads: int | None = None, *, row_threads: int = 1) -> None:
        """`threads` of torch's in all (None: as many as it takes by itself), shared evenly between the row threads, of which
        there are no more than `threads`.
        """
        total = threads or torch.get_num_threads()
        self.row_threads = min(row_threads, total)
        self._own = threading.local()

        def start() -> None:
            self._own.is_row_thread = True
            torch.get_num_threads()  # else torch does this at the first operation, and takes what another thread set last
            torch.set_num_threads(total // self.row_threads)

        self._pool = ThreadPoolExecutor(self.row_threads, thread_name_prefix="row", initializer=start)

    def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises; it may itself call `run`."""
        return work() if self._is_own() else self._pool.submit(work).result()

    def run_each(self, works: Iterable[Callable[[], T]]) -> Generator[T, None, None]:
        """What each of them returns, in their order; side by side, and no more of them at once than there are row threads, so
        that others' work comes in between. When one raises, or the iterator is closed, those under way come to their end first.
        """
        if self._is_own():
            yield from (work() for work in works)
            return
        under_way: deque[Future[T]] = deque()
        try:
            for work in works:
                if len(under_way) == self.row_threads:
                    yield under_way.popleft().result()
                under_way.append(self._pool.submit(work))
            while under_way:
                yield under_way.popleft().result()
        finally:
            wait(under_way)

    def _is_own(self) -> bool:
        return getattr(self._own, "is_row_thread", False)


@contextmanager
def serial_arithmetic() -> Iterator[None]:
    """Inside the block, this thread's own tensors are computed by it alone, so that it takes no helpers from OpenMP.

    Every thread that touches tensors needs it, but for the row threads: even to put two rows together takes helpers.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
