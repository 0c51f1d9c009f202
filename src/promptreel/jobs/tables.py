"""The tables, as the newest migration leaves them. Times are stored as floats: UTC seconds since 1970.

`run_at`, `passed_at`, `next_at`, `tried_since`, `last_seen` and `lease_until` are steady-clock times (clock.py), the others
wall-clock times.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
    literal_column,
    text,
)
from sqlalchemy.types import TypeDecorator

from promptreel.jobs.job import JobStatus


class UtcTime(TypeDecorator[datetime]):
    """An aware datetime in Python, a float in the database, so that SQLite and PostgreSQL compare and sort it alike."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> float | None:  # noqa: ARG002
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time needs a time zone; {value} has none")
        return value.timestamp()

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else datetime.fromtimestamp(value, UTC)


def utc_now() -> datetime:
    """The default wall clock of every store."""
    return datetime.now(UTC)


metadata = MetaData()

# SQLite auto-increments only INTEGER primary keys.
_JobId = BigInteger().with_variant(Integer, "sqlite")

jobs = Table(
    "jobs",
    metadata,
    Column("id", _JobId, primary_key=True),
    Column("file_prefix", String(36), nullable=False, unique=True),
    Column("api_key_id", Integer),
    Column("idem_key", String(255)),
    Column("request_hash", String(64)),
    Column("params", JSON, nullable=False),
    Column("request", JSON, nullable=False),
    Column("track_id", Text),
    Column("webhook_url", Text),
    Column("model_id", String(255), nullable=False),
    Column("batch_key", String(511), nullable=False),
    Column("cost", Double, nullable=False),
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    Column("vt", Double, nullable=False, server_default="0"),
    Column("status", String(16), nullable=False),
    Column("stage", String(16)),
    Column("progress", Double, nullable=False, server_default="0"),
    Column("run_at", UtcTime, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("max_attempts", Integer, nullable=False),
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("owner", String(255)),
    Column("lease_until", UtcTime),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("finished_at", UtcTime),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("result_key", Text),
    Column("result_bytes", BigInteger),
    Column("result_sha256", String(64)),
    Column("result_facts", JSON(none_as_null=True)),
    Column("kind", String(32), nullable=False, server_default="video"),
    Column("passed_at", UtcTime),
    # What a running job tells beyond stage and progress. It stays when the job returns to the queue.
    Column("report", JSON(none_as_null=True)),
    UniqueConstraint("api_key_id", "idem_key", name="jobs_idem_key"),
    CheckConstraint("status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="jobs_status"),
    # Ids are public: an id is never reused, even after its row is deleted.
    sqlite_autoincrement=True,
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", _JobId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("worker", String(255), nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("ended_at", UtcTime),
    Column("outcome", String(16)),
    Column("units", Double, nullable=False),
    Column("seconds", Double),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(255), primary_key=True),
    Column("device", String(255), nullable=False),
    Column("seconds_per_unit", Double),
    Column("last_seen", UtcTime, nullable=False),
    # The ids of the models that it has loaded.
    Column("loaded", JSON, nullable=False, server_default="[]"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(255), nullable=False),
    # SHA-256 of the key, which is random enough to need no salt. The key itself is shown once and not stored.
    Column("hash", String(64), nullable=False, unique=True),
    Column("prefix", String(16), nullable=False),
    Column("webhook_secret", String(128), nullable=False),
    Column("max_running", Integer),
    Column("max_queued", Integer),
    Column("requests_a_minute", Integer),
    Column("weight", Double, nullable=False, server_default="1"),
    Column("last_vt", Double, nullable=False, server_default="0"),
    Column("created_at", UtcTime, nullable=False),
    Column("revoked_at", UtcTime),
    sqlite_autoincrement=True,
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("job_id", _JobId, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("event", String(32), nullable=False),
    Column("url", Text, nullable=False),
    Column("host", String(255), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("owner", String(255)),
    Column("lease_until", UtcTime),
    # The first attempt's time, or that of the first since a redelivery was requested. Retries end a day later.
    Column("tried_since", UtcTime),
    Column("next_at", UtcTime, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("ended_at", UtcTime),
    UniqueConstraint("job_id", "event", name="deliveries_once"),
    CheckConstraint("state IN ('pending', 'sending', 'delivered', 'dead')", name="deliveries_state"),
)

delivery_attempts = Table(
    "delivery_attempts",
    metadata,
    Column("delivery_id", String(64), ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("started_at", UtcTime, nullable=False),
    Column("seconds", Double),
    Column("status", Integer),
    Column("error", Text),
)

# Imported models. Their files are in <data-dir>/model-files, under their hashes (models/stored_files.py).
models = Table(
    "models",
    metadata,
    Column("id", String(100), primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("family", String(64)),
    # What it is made for, or made of: an adapter fits a checkpoint of the same base.
    Column("base", String(64)),
    Column("card", JSON, nullable=False),
    # By the file's name as its author published it: its hash and its size in bytes.
    Column("files", JSON, nullable=False),
    # SHA-256 of the names and hashes of the files.
    Column("hash", String(64), nullable=False),
    Column("source", Text, nullable=False),
    # The API key that imported it; null: the command line, or the local caller of a service without keys.
    Column("api_key_id", Integer),
    Column("is_public", Boolean, nullable=False),
    Column("created_at", UtcTime, nullable=False),
)

# The last change of each job that a caller can see, by a number that grows over all jobs. Triggers write it, so no statement
# that changes a job can forget to. The last of the deleted jobs are kept, for those who ask what they missed.
changes = Table(
    "changes",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("job_id", _JobId, nullable=False, unique=True),
    Column("kind", String(32), nullable=False),
    Column("api_key_id", Integer),
    Column("is_deleted", Boolean, nullable=False),
    sqlite_autoincrement=True,
)

facts = Table(
    "facts",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)


def has_status(status: JobStatus) -> ColumnElement[bool]:
    """`status = 'queued'` with a literal value: SQLite uses no partial index for a bound parameter."""
    return jobs.c.status == literal_column(f"'{status.value}'")


def is_of(api_key_id: int | None) -> ColumnElement[bool]:
    """Condition: the job belongs to this API key, or to no key if None."""
    return jobs.c.api_key_id.is_(None) if api_key_id is None else jobs.c.api_key_id == api_key_id


def _index_while(status: JobStatus, name: str, *columns: str) -> Index:
    where = text(f"status = '{status.value}'")
    return Index(name, *(jobs.c[column] for column in columns), sqlite_where=where, postgresql_where=where)


# Covers all columns of the claim query: otherwise SQLite prefers another covering index, and sorts.
_index_while(JobStatus.QUEUED, "jobs_queued", "priority", "vt", "id", "kind", "run_at", "api_key_id")
_index_while(JobStatus.QUEUED, "jobs_queued_by_batch", "batch_key", "priority", "vt", "id", "cost", "kind", "run_at")
_index_while(
    JobStatus.QUEUED, "jobs_queued_by_api_key", "api_key_id", "batch_key", "priority", "vt", "id", "cost", "kind", "run_at"
)
_index_while(JobStatus.RUNNING, "jobs_running_by_lease", "lease_until")
_index_while(JobStatus.RUNNING, "jobs_running_by_api_key", "api_key_id")
_index_while(JobStatus.SUCCEEDED, "jobs_succeeded_by_model", "kind", "model_id", "id")
# The table's unique constraint treats nulls as distinct.
_without_key = jobs.c.api_key_id.is_(None)
Index("jobs_idem_key_without_key", jobs.c.idem_key, unique=True, sqlite_where=_without_key, postgresql_where=_without_key)
Index("jobs_by_api_key", jobs.c.api_key_id, jobs.c.id.desc())
Index("deliveries_open", deliveries.c.state, deliveries.c.next_at)
Index("changes_by_api_key", changes.c.api_key_id, changes.c.seq)
Index("changes_deleted", changes.c.seq, sqlite_where=text("is_deleted"), postgresql_where=text("is_deleted"))

DELETED_KEPT = 10_000
"""How many deleted jobs the table of changes remembers."""

_NOTE = "INSERT OR REPLACE INTO changes (job_id, kind, api_key_id, is_deleted) VALUES"
_TRIGGERS = (
    f"CREATE TRIGGER jobs_inserted AFTER INSERT ON jobs BEGIN {_NOTE} (NEW.id, NEW.kind, NEW.api_key_id, false); END",
    "CREATE TRIGGER jobs_updated AFTER UPDATE OF status, stage, progress, report ON jobs "
    "WHEN NEW.status IS NOT OLD.status OR NEW.stage IS NOT OLD.stage OR NEW.progress IS NOT OLD.progress "
    "OR NEW.report IS NOT OLD.report "
    f"BEGIN {_NOTE} (NEW.id, NEW.kind, NEW.api_key_id, false); END",
    f"CREATE TRIGGER jobs_deleted AFTER DELETE ON jobs BEGIN {_NOTE} (OLD.id, OLD.kind, OLD.api_key_id, true); "  # noqa: S608
    "DELETE FROM changes WHERE is_deleted AND seq <= "
    f"(SELECT seq FROM changes WHERE is_deleted ORDER BY seq DESC LIMIT 1 OFFSET {DELETED_KEPT}); END",
)
for _trigger in _TRIGGERS:
    event.listen(changes, "after_create", DDL(_trigger))  # type: ignore[no-untyped-call]
