"""The examples of a training, before it is queued: read, made ready for the trainer, and stored. Imports no torch.

Each one that cannot be used is named, all of them at once.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from promptreel.encoding.decoder import Decoder
from promptreel.encoding.inits import read_init, readable_types, recognise
from promptreel.errors import InitUnusable, InvalidParams, UrlUnusable
from promptreel.jobs.training_params import Example, ExampleKind
from promptreel.media import INIT_TYPES, ExampleShape, Init, InitKind
from promptreel.storage.local import LocalStorage

MAX_MEGABYTES = 20
"""Of one example, as it is sent."""
MAX_BYTES = MAX_MEGABYTES * 1024 * 1024
AT_ONCE = 4
"""So many are fetched at a time."""
MOST_SECONDS = 120.0
"""For all of them together. Whoever sent them is waiting."""
INIT_KINDS: Mapping[ExampleKind, InitKind] = {ExampleKind.PICTURE: "image", ExampleKind.CLIP: "video"}
_OTHER: Mapping[ExampleKind, ExampleKind] = {
    ExampleKind.PICTURE: ExampleKind.CLIP,
    ExampleKind.CLIP: ExampleKind.PICTURE,
}


@dataclass(frozen=True)
class SentExample:
    """`shown`: how messages call it. `load` returns its bytes; it may raise UrlUnusable and InitUnusable."""

    shown: str
    caption: str | None
    load: Callable[[], bytes]


class NotOfKind(InitUnusable):
    """An example is readable, but no picture where pictures belong, or no clip where clips belong."""


@dataclass(frozen=True, kw_only=True)
class Gatherer:
    """Makes examples of one training ready. `folder`: the beginning of their keys in storage."""

    kind: ExampleKind
    shape: ExampleShape
    decoder: Decoder
    storage: LocalStorage
    folder: str
    most_seconds: float = MOST_SECONDS

    def gather(self, sent: Sequence[SentExample], *, field: str, instance_prompt: str) -> tuple[Example, ...]:
        """Stores the examples. If one cannot be used, or anything fails, none stays.

        Raises InvalidParams, which names each that cannot be used; DecoderBusy, StorageFailed and DiskFull.
        """
        deadline = time.monotonic() + self.most_seconds
        with self._all_or_none(len(sent)), ThreadPoolExecutor(AT_ONCE, thread_name_prefix="examples") as pool:
            tasks = [pool.submit(self._try, number, each, instance_prompt, deadline) for number, each in enumerate(sent, 1)]
            try:
                results = [task.result() for task in tasks]
            finally:
                pool.shutdown(cancel_futures=True)
            if wrong := [f"{field}: {result}" for result in results if isinstance(result, str)]:
                raise InvalidParams({field: wrong})
            return tuple(result for result in results if isinstance(result, Example))

    @contextmanager
    def _all_or_none(self, count: int) -> Iterator[None]:
        try:
            yield
        except BaseException:
            for number in range(1, count + 1):
                self.storage.delete(self._key(number))
            raise

    def _try(self, number: int, sent: SentExample, instance_prompt: str, deadline: float) -> Example | str:
        """The example, or why it cannot be used."""
        called = f"number {number} ({sent.shown})"
        if time.monotonic() > deadline:
            return f"{called} was not read within {self.most_seconds:g} s for all: send fewer or smaller ones."
        try:
            made = self.decoder.make_example(self._recognise(sent.load()), self.shape)
        except NotOfKind as error:
            return f"{called} is not a {self.kind}: {error}"
        except (InitUnusable, UrlUnusable) as error:
            return f"{called} cannot be used: {_rename(error)}"
        key = self._key(number)
        self.storage.save_bytes(made.data, key)
        caption = (sent.caption or "").strip() or instance_prompt
        return Example(key, self.kind, caption, hashlib.sha256(made.data).hexdigest())

    def _key(self, number: int) -> str:
        ending = "png" if self.kind is ExampleKind.PICTURE else "mp4"
        return f"{self.folder}/examples/{number:04d}.{ending}"

    def _recognise(self, data: bytes) -> Init:
        """Tells the file's type by its first bytes. Raises InitUnusable."""
        if len(data) > MAX_BYTES:
            raise InitUnusable(f"it is larger than {MAX_MEGABYTES} MB.")
        ending, wanted = recognise(data), INIT_KINDS[self.kind]
        other = _OTHER[self.kind]
        if ending not in readable_types(wanted) and ending in INIT_TYPES[INIT_KINDS[other]]:
            raise NotOfKind(f"it is a {_NAMES[other]}, and this preset learns from {self.kind}s.")
        return read_init(data, [wanted], named=str(self.kind))


_NAMES = {ExampleKind.PICTURE: "picture", ExampleKind.CLIP: "video"}


def _rename(error: Exception) -> str:
    """The decoder calls all that it gets an init."""
    return str(error).replace("The init image", "the picture").replace("The init video", "the video")


def delete_examples(storage: LocalStorage, examples: Iterable[Example]) -> None:
    """Raises StorageFailed."""
    for example in examples:
        storage.delete(example.key)
