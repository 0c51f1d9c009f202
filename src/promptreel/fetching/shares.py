"""Places, or bytes, that nobody can take away from the others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable


class Shares:
    """`total` of something for many holders. Safe to use from several threads.

    A holder is given more as long as it holds less than is free (dynamic thresholds: Choudhury and Hahne, "Dynamic queue length
    thresholds for shared-memory packet switches", 1998). So one alone gets half of it, each of n holders gets 1 / (n + 1), and
    as much is left for who comes next: nobody has to know how many there will be. `at_most` is a limit for each besides.
    """

    def __init__(self, total: int, *, at_most: int | None = None) -> None:
        self._free = total
        self._at_most = total if at_most is None else at_most
        self._held: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    def take(self, holder: Hashable, amount: int = 1) -> bool:
        """Whether the holder got it."""
        with self._lock:
            held = self._held.get(holder, 0)
            if amount > self._free or held >= self._free or held + amount > self._at_most:
                return False
            self._free -= amount
            self._held[holder] += amount
            return True

    def give_back(self, holder: Hashable, amount: int = 1) -> None:
        with self._lock:
            self._free += amount
            self._held[holder] -= amount
            if not self._held[holder]:
                del self._held[holder]
