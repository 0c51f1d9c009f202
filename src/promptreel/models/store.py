"""ModelStore: the table of imported models. Only it changes the table."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, or_, select

from promptreel.errors import InvalidParams, ModelInUse, ModelNotFound
from promptreel.jobs.database import Database, read_transaction, write_transaction
from promptreel.jobs.job import JobStatus
from promptreel.jobs.tables import jobs, models, utc_now
from promptreel.models.kinds import ModelKind
from promptreel.models.stored_files import StoredFile

_ONE = select(models).where(models.c.id == bindparam("model_id"))  # built once: building takes longer than running
_ALL = select(models).order_by(models.c.id)
REFERENCES = ("motion_adapter", "vae")
"""Fields of a job's params and of a card that may name another model."""


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """One row. `files`: by the name that the author gave each. `api_key_id`: the owner; None is the command line, or the local
    caller of a service without keys. `created_at`: None until it is stored.
    """

    id: str
    kind: ModelKind
    family: str | None
    base: str | None
    card: Mapping[str, Any]
    files: Mapping[str, StoredFile]
    source: str
    api_key_id: int | None = None
    is_public: bool = True
    created_at: datetime | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of the names and hashes of the files."""
        digest = hashlib.sha256()
        for name, file in sorted(self.files.items()):
            digest.update(name.encode() + b"\0" + bytes.fromhex(file.sha256))
        return digest.hexdigest()

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())


class ModelStore:
    """Safe to use from several threads and processes at once."""

    def __init__(self, database: Database, *, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    def find(self, model_id: str) -> ModelRecord | None:
        with read_transaction(self._database) as connection:
            row = connection.execute(_ONE, {"model_id": model_id}).one_or_none()
        return None if row is None else _to_record(row)

    def list(self) -> builtins.list[ModelRecord]:
        """All, by id."""
        with read_transaction(self._database) as connection:
            return [_to_record(row) for row in connection.execute(_ALL)]

    def add(self, record: ModelRecord, *, replace: bool = False) -> ModelRecord:
        """Writes the row; the files must be stored already. An equal model's row is written anew.

        Raises InvalidParams if the id belongs to another owner's model or, without `replace`, to other files.
        """
        with write_transaction(self._database) as connection:
            return self.write(connection, record, replace=replace)

    def write(self, connection: Connection, record: ModelRecord, *, replace: bool = False) -> ModelRecord:
        """Like `add`, as a part of a write transaction."""
        row = connection.execute(_ONE, {"model_id": record.id}).one_or_none()
        if row is not None:
            _check_replaceable(row, record, replace=replace)
            connection.execute(delete(models).where(models.c.id == record.id))
        values = {
            "id": record.id,
            "kind": record.kind.value,
            "family": record.family,
            "base": record.base,
            "card": dict(record.card),
            "files": {name: asdict(file) for name, file in record.files.items()},
            "hash": record.hash,
            "source": record.source,
            "api_key_id": record.api_key_id,
            "is_public": record.is_public,
            "created_at": self._now(),
        }
        return _to_record(connection.execute(insert(models).values(values).returning(models)).one())

    def remove(self, model_id: str, *, force: bool = False) -> ModelRecord:
        """Deletes the row and returns it. Raises ModelNotFound, and ModelInUse unless `force`."""
        with write_transaction(self._database) as connection:
            row = connection.execute(_ONE, {"model_id": model_id}).one_or_none()
            if row is None:
                raise ModelNotFound(f"There is no imported model {model_id[:100]!r}.")
            if not force:
                _check_unused(connection, model_id)
            connection.execute(delete(models).where(models.c.id == model_id))
        return _to_record(row)

    def hashes(self) -> set[str]:
        """The hashes of all models, and of all their files."""
        records = self.list()
        return {record.hash for record in records} | {file.sha256 for record in records for file in record.files.values()}


def _check_replaceable(row: Row[Any], record: ModelRecord, *, replace: bool) -> None:
    if row.api_key_id != record.api_key_id:
        raise InvalidParams({"model_id": [f"The id {record.id!r} is taken. Choose another model_id."]})
    if row.hash != record.hash and not replace:
        raise InvalidParams(
            {
                "model_id": [
                    f"The id {record.id!r} has other files already. Choose another id, or replace that model: --replace on the "
                    "command line, force_load in a request."
                ]
            }
        )


def _check_unused(connection: Connection, model_id: str) -> None:
    """Raises ModelInUse if a queued or running job, or another model's card, names the model."""
    named = [jobs.c.model_id == model_id, *(jobs.c.params[name].as_string() == model_id for name in REFERENCES)]
    named.append(jobs.c.params["base"].as_string() == model_id)  # of a training
    named += [jobs.c.params[name].as_string().contains(f'"{model_id}"', autoescape=True) for name in ("loras", "embeddings")]
    unfinished = jobs.c.status.in_([JobStatus.QUEUED.value, JobStatus.RUNNING.value])
    count = connection.execute(select(func.count()).select_from(jobs).where(unfinished, or_(*named))).scalar_one()
    if count:
        raise ModelInUse(
            f"{count} queued or running {'job needs' if count == 1 else 'jobs need'} the model {model_id!r}. Wait until they "
            "have ended, or cancel them; `promptreel models remove --force` removes it all the same, and they fail."
        )
    cards = [models.c.card[name].as_string() == model_id for name in REFERENCES]
    users = connection.execute(select(models.c.id).where(or_(*cards), models.c.id != model_id).order_by(models.c.id)).scalars()
    if names := list(users):
        raise ModelInUse(
            f"The {'model' if len(names) == 1 else 'models'} {', '.join(names)} {'is' if len(names) == 1 else 'are'} made with "
            f"{model_id!r}. Remove {'it' if len(names) == 1 else 'them'} first, or use `promptreel models remove --force`."
        )


def _to_record(row: Row[Any]) -> ModelRecord:
    return ModelRecord(
        id=row.id,
        kind=ModelKind(row.kind),
        family=row.family,
        base=row.base,
        card=row.card,
        files={name: StoredFile(each["sha256"], each["size_bytes"]) for name, each in row.files.items()},
        source=row.source,
        api_key_id=row.api_key_id,
        is_public=row.is_public,
        created_at=row.created_at,
    )
