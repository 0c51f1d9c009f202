"""The tables of jobs, attempts and workers. There are no downgrades: they would lose jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_jobs()
    create_job_indexes()
    create_attempts()
    create_workers()


def create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", _job_id(), primary_key=True),
        sa.Column("file_prefix", sa.String(36), nullable=False, unique=True),
        sa.Column("api_key_id", sa.Integer),
        sa.Column("idem_key", sa.String(255)),
        sa.Column("request_hash", sa.String(64)),
        sa.Column("params", sa.JSON, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("track_id", sa.Text),
        sa.Column("webhook_url", sa.Text),
        sa.Column("model_id", sa.String(255), nullable=False),
        sa.Column("batch_key", sa.String(511), nullable=False),
        sa.Column("cost", sa.Double, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("vt", sa.Double, nullable=False, server_default="0"),
        *_state_columns(),
        *_outcome_columns(),
        sa.UniqueConstraint("api_key_id", "idem_key", name="jobs_idem_key"),
        sa.CheckConstraint("status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="jobs_status"),
        sqlite_autoincrement=True,
    )


def create_job_indexes() -> None:
    _create_index_while("queued", "jobs_queued", ["priority", "vt", "id"])
    _create_index_while("queued", "jobs_queued_by_batch", ["batch_key", "priority", "vt", "id"])
    _create_index_while("running", "jobs_running_by_lease", ["lease_until"])
    _create_index_while("running", "jobs_running_by_api_key", ["api_key_id"])
    _create_index_while("succeeded", "jobs_succeeded_by_model", ["model_id", "finished_at"])
    op.create_index("jobs_by_api_key", "jobs", ["api_key_id", sa.text("id DESC")])


def create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("job_id", _job_id(), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("worker", sa.String(255), nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("outcome", sa.String(16)),
        sa.Column("units", sa.Double, nullable=False),
        sa.Column("seconds", sa.Double),
    )


def create_workers() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.String(255), primary_key=True),
        sa.Column("device", sa.String(255), nullable=False),
        sa.Column("seconds_per_unit", sa.Double),
        sa.Column("last_seen", sa.Double, nullable=False),
    )


def _state_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("stage", sa.String(16)),
        sa.Column("progress", sa.Double, nullable=False, server_default="0"),
        sa.Column("run_at", sa.Double, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("crashes", sa.Integer, nullable=False, server_default="0"),
        sa.Column("owner", sa.String(255)),
        sa.Column("lease_until", sa.Double),
        sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.text("false")),
    ]


def _outcome_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_message", sa.Text),
        sa.Column("result_key", sa.Text),
        sa.Column("result_bytes", sa.BigInteger),
        sa.Column("result_sha256", sa.String(64)),
        sa.Column("result_facts", sa.JSON),
    ]


def _job_id() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _create_index_while(status: str, name: str, columns: list[str]) -> None:
    where = sa.text(f"status = '{status}'")
    op.create_index(name, "jobs", columns, sqlite_where=where, postgresql_where=where)
