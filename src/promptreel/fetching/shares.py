"""Fair sharing of a limited amount, such as places or bytes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable


class Shares:
    """Divides `total` of something among holders. Thread-safe.

    A holder may take more while it holds less than is free (dynamic thresholds: Choudhury and Hahne, "Dynamic queue length
    thresholds for shared-memory packet switches", 1998). A single holder gets half; each of n holders gets 1 / (n + 1), and
    as much stays free for a newcomer, so n need not be known in advance. `at_most` also limits each holder.
    """

    def __init__(self, total: int, *, at_most: int | None = None) -> None:
        self._free = total
        self._at_most = total if at_most is None else at_most
        self._held: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    def take(self, holder: Hashable, amount: int = 1) -> bool:
        """Takes the amount if the holder may have it. Returns whether it did."""
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
