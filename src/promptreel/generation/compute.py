"""The threads of a process that run models: one for each row of a guided call on a CPU, one in all on a GPU.

On a CPU each row is a separate forward, in a row thread with its share of the cores. Both rows in one forward with all cores
take as long on an idle machine. But then the cores synchronize thousands of times in a forward, and all of them wait whenever
another process takes one (ADR 15).

All other threads compute serially. OpenMP gives helper threads to each thread that computes in parallel; with more helpers
than cores, they sleep and wake between any two operations (ADR 9).
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
    """Row threads. They take work in the order in which it was submitted, and run side by side."""

    def __init__(self, threads: int | None = None, *, row_threads: int = 1) -> None:
        """`threads`: torch's in all (None: its default), divided equally among the row threads.

        There are never more row threads than `threads`.
        """
        total = threads or torch.get_num_threads()
        self.row_threads = min(row_threads, total)
        self._own = threading.local()

        def start() -> None:
            self._own.is_row_thread = True
            torch.get_num_threads()  # else torch does so at the first operation, and takes another thread's number
            torch.set_num_threads(total // self.row_threads)

        self._pool = ThreadPoolExecutor(self.row_threads, thread_name_prefix="row", initializer=start)

    def run(self, work: Callable[[], T]) -> T:
        """Runs `work` in a row thread; returns or raises what it does. `work` may call `run` itself."""
        return work() if self._is_own() else self._pool.submit(work).result()

    def run_each(self, works: Iterable[Callable[[], T]]) -> Generator[T, None, None]:
        """Runs `works` side by side and yields their results in order.

        At most as many are submitted at once as there are row threads, so that others' work comes in between. If one raises,
        or the iterator is closed, the submitted ones finish first.
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
    """Inside the block, this thread computes alone, without OpenMP helpers.

    Every thread that touches tensors needs it, except the row threads: even `torch.cat` of two rows uses helpers.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
