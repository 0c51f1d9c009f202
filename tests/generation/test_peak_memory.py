from __future__ import annotations

import gc
import mmap

from promptreel.generation.peak_memory import MEGABYTE, MemoryWatch, Peak
from tests.generation.conftest import CPU


def hold_for_a_moment(megabytes: int) -> None:
    """Memory that is really there: written, and given back at once. From the system itself: the C library may keep some."""
    with mmap.mmap(-1, megabytes * MEGABYTE) as memory:
        for _ in range(megabytes):
            memory.write(b"x" * MEGABYTE)


def megabytes(peak: Peak) -> float:
    assert peak.megabytes is not None
    return peak.megabytes


def test_peak_is_the_most_that_was_held_inside_the_block() -> None:
    gc.collect()  # or what earlier tests left is freed between the watches
    memory = MemoryWatch(CPU)
    hold_for_a_moment(200)
    with memory.watch() as nothing:
        pass
    with memory.watch() as much:
        hold_for_a_moment(100)

    assert 90 < megabytes(much) - megabytes(nothing) < 150


def test_watches_that_overlap_see_what_fell_into_them() -> None:
    gc.collect()
    memory = MemoryWatch(CPU)
    with memory.watch() as outer:
        hold_for_a_moment(200)
        with memory.watch() as inner:
            hold_for_a_moment(50)
        with memory.watch() as later:
            pass

    assert megabytes(outer) - megabytes(inner) > 100
    assert 40 < megabytes(inner) - megabytes(later) < 100
