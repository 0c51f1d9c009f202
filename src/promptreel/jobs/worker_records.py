"""What workers tell of themselves, in the table `workers`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, insert, select, update

from promptreel.jobs.tables import workers

_SEEN_SINCE = select(workers).where(workers.c.last_seen >= bindparam("since")).order_by(workers.c.id)


@dataclass(frozen=True, kw_only=True)
class WorkerRecord:
    """What a worker reports about itself. It measures `seconds_per_unit` when it warms up; None before that. `loaded`: the ids
    of the models that it has loaded.
    """

    id: str
    device: str
    seconds_per_unit: float | None
    loaded: tuple[str, ...] = ()


Holders = Mapping[str, Sequence[WorkerRecord]]
"""The workers that have a model loaded, by the model's id."""


def write_worker(connection: Connection, worker: WorkerRecord, *, now: datetime) -> None:
    """Replaces the worker's record, and marks it as seen now. Must run inside a write transaction."""
    values = {**asdict(worker), "loaded": list(worker.loaded), "last_seen": now}
    if connection.execute(update(workers).where(workers.c.id == worker.id).values(values)).rowcount == 0:
        connection.execute(insert(workers).values(values))


def read_workers(connection: Connection, *, since: datetime) -> list[WorkerRecord]:
    """The workers seen since then, sorted by id."""
    return [
        WorkerRecord(id=row.id, device=row.device, seconds_per_unit=row.seconds_per_unit, loaded=tuple(row.loaded))
        for row in connection.execute(_SEEN_SINCE, {"since": since})
    ]


def list_holders(records: Iterable[WorkerRecord]) -> Holders:
    holders: dict[str, list[WorkerRecord]] = defaultdict(list)
    for record in records:
        for model_id in record.loaded:
            holders[model_id].append(record)
    return holders
