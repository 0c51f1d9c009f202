"""How many rows of one shape may share a forward: measured, because it differs between devices and shapes.

A forward over more rows may use other kernels, and so compute other bits: a linear layer over two rows need not equal the first
two rows of one over eight. A seed must give the same bytes alone or in company. So only row counts that change no bit are
used, and of these only those that take less time per row than fewer rows would.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from promptreel.generation.failures import is_out_of_memory

ROW_COUNTS = (2, 4, 8)
WORTH = 0.9
"""More rows are used if they take at most this share of the time per row."""

Forward = Callable[[list[int]], Tensor]
"""Runs the model over the rows with these numbers, out of ROW_COUNTS[-1] fixed ones; returns the outputs in this order."""


@dataclass(frozen=True)
class RowPlan:
    """`row_counts` that a forward may have, ascending. `single_agrees`: a single row has the same bits as among others."""

    row_counts: tuple[int, ...] = (2,)
    single_agrees: bool = False
    seconds_per_row: tuple[float, ...] = ()

    @property
    def most(self) -> int:
        return self.row_counts[-1]

    def row_count_for(self, rows: int) -> int:
        """The smallest allowed row count that holds `rows`."""
        return 1 if rows == 1 else next(count for count in self.row_counts if count >= rows)

    def __str__(self) -> str:
        timed = zip(self.row_counts, self.seconds_per_row, strict=False)
        measured = ", ".join(f"{count} rows: {seconds * 1000:.0f} ms a row" for count, seconds in timed)
        single = "agrees" if self.single_agrees else "differs"
        return f"up to {self.most} rows a forward ({measured}); a row by itself {single} in its bits"


def measure_row_plan(forward: Forward, *, worth: float = WORTH) -> RowPlan:
    """Tries ever more rows, until a row count changes bits, does not pay, or does not fit into memory."""
    pair = list(range(ROW_COUNTS[0]))
    expected = forward(pair)
    single_agrees = all(torch.equal(forward([row]), expected[row : row + 1]) for row in pair)
    counts, seconds = [ROW_COUNTS[0]], [_time_a_row(forward, pair)]
    for count in ROW_COUNTS[1:]:
        try:
            if not _agrees(forward, count, expected):
                break
            taken = _time_a_row(forward, list(range(count)))
        except Exception as error:
            if is_out_of_memory(error):
                break
            raise
        if taken > worth * seconds[-1]:
            break
        counts.append(count)
        seconds.append(taken)
    return RowPlan(tuple(counts), single_agrees, tuple(seconds))


def _agrees(forward: Forward, count: int, expected: Tensor) -> bool:
    """Whether a pair of rows has the same bits among `count` rows: beside others, and at every even position.

    Guided calls are pairs and stand at even positions. Single rows share only when position doesn't change their bits.
    """
    agrees_beside_others = torch.equal(forward(list(range(count)))[:2], expected)
    return agrees_beside_others and all(torch.equal(pair, expected) for pair in forward([0, 1] * (count // 2)).split(2))


def _time_a_row(forward: Forward, rows: list[int]) -> float:
    """Seconds a row, of a call whose row count has run before."""
    started = time.monotonic()
    forward(rows)
    return (time.monotonic() - started) / len(rows)
