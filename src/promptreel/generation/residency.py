"""Which models are loaded: several at once, as many as fit into a budget of bytes.

If there is no room for another, the least recently used idle one is unloaded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from promptreel.generation.compute import serial_arithmetic
from promptreel.generation.families.family import Loadable, LoadedModel
from promptreel.generation.seat import WAIT_SECONDS, OnWait, in_turn, keep_waiting
from promptreel.models.composition import ModelSet

log = logging.getLogger(__name__)

KEPT_CHECKS = 100
"""How many models' checks are remembered. Files that stay the same need not be checked again."""


Fingerprint = tuple[tuple[int, int, int], ...] | None
"""Device, inode and modification time of each file; None if one is gone."""


@dataclass(frozen=True)
class Source:
    """A model whose files were checked, and what the files were like then."""

    loadable: Loadable
    fingerprint: Fingerprint

    @property
    def is_current(self) -> bool:
        return self.fingerprint is not None and self.fingerprint == _look_at(self.loadable.files)


@dataclass(eq=False)
class Resident:
    """A loaded model. `users`: how many requests use it now."""

    models: ModelSet
    model: LoadedModel
    source: Source
    users: int = 0
    last_used: float = field(default_factory=time.monotonic)


class Residency:
    """The loaded models of a device. Safe to use from several threads.

    Models are loaded one after another; running requests go on meanwhile. A model that is larger than the budget is kept
    alone. A model whose card or files were replaced is loaded anew, also while requests still use its old weights.
    """

    def __init__(self, check: Callable[[ModelSet], Loadable], budget_bytes: int) -> None:
        """`check` opens a model's files and raises CheckpointUnusable if they cannot be loaded."""
        self._check = check
        self._budget_bytes = budget_bytes
        self._residents: list[Resident] = []
        self._checked: OrderedDict[ModelSet, Source] = OrderedDict()
        self._changed = threading.Condition()
        self._loading = threading.Semaphore(1)

    @contextmanager
    def use(self, models: ModelSet, on_wait: OnWait = keep_waiting) -> Iterator[LoadedModel]:
        """The model, loaded while the block runs. Waits until there is room for it.

        Raises CheckpointUnusable, and what loading or `on_wait` raises.
        """
        resident = self._enter(models) or self._load(models, on_wait)
        try:
            yield resident.model
        finally:
            with self._changed:
                resident.users -= 1
                resident.last_used = time.monotonic()
                self._changed.notify_all()

    def list_loaded(self) -> list[ModelSet]:
        """Those with the most users first, then the most recently used."""
        with self._changed:
            latest = sorted(self._residents, key=lambda each: (each.users, each.last_used), reverse=True)
            return [each.models for each in latest]

    def _enter(self, models: ModelSet) -> Resident | None:
        """Counts a user of the model, if it is loaded."""
        with self._changed:
            found = next((each for each in self._residents if each.models == models and each.source.is_current), None)
            if found is not None:
                found.users += 1
            return found

    def _load(self, models: ModelSet, on_wait: OnWait) -> Resident:
        with in_turn(self._loading, on_wait):
            found = self._enter(models)  # another request has loaded it meanwhile
            if found is not None:
                return found
            started = time.monotonic()
            with serial_arithmetic():
                source = self._check_once(models)
                size_bytes = source.loadable.size_bytes
                self._make_room(size_bytes, models, on_wait)
                resident = Resident(models, source.loadable.load(), source, users=1)
            with self._changed:
                self._residents.append(resident)
            log.info(
                "%s was loaded in %.1f s and takes %.0f MB",
                models.checkpoint.model_id,
                time.monotonic() - started,
                size_bytes / 1e6,
            )
            return resident

    def _check_once(self, models: ModelSet) -> Source:
        """Checks a model's files, which reads all of them, unless they were checked and are the same."""
        known = self._checked.get(models)
        if known is None or not known.is_current:
            loadable = self._check(models)
            known = Source(loadable, _look_at(loadable.files))
        self._checked[models] = known
        self._checked.move_to_end(models)
        while len(self._checked) > KEPT_CHECKS:
            self._checked.popitem(last=False)
        return known

    def _make_room(self, size_bytes: int, models: ModelSet, on_wait: OnWait) -> None:
        """Drops idle models until `size_bytes` fit, the least recently used first. Waits while those in use take too much."""
        while True:
            with self._changed:
                self._drop(lambda each: each.models.name == models.name)  # an older version of it
                while self._residents and self._used_bytes() + size_bytes > self._budget_bytes:
                    if not self._drop_least_recent():
                        break
                if not self._residents or self._used_bytes() + size_bytes <= self._budget_bytes:
                    return
                self._changed.wait(WAIT_SECONDS)
            on_wait()

    def _used_bytes(self) -> int:
        return sum(each.source.loadable.size_bytes for each in self._residents)

    def _drop_least_recent(self) -> bool:
        idle = [each for each in self._residents if not each.users]
        if not idle:
            return False
        least = min(idle, key=lambda each: each.last_used)
        return self._drop(lambda each: each is least)

    def _drop(self, which: Callable[[Resident], bool]) -> bool:
        """Drops the idle models that match. Returns whether there were any."""
        kept = [each for each in self._residents if each.users or not which(each)]
        dropped = len(kept) < len(self._residents)
        self._residents = kept
        return dropped


def _look_at(files: Iterable[Path]) -> Fingerprint:
    try:
        stats = [file.stat() for file in files]
    except OSError:
        return None
    return tuple((each.st_dev, each.st_ino, each.st_mtime_ns) for each in stats)
