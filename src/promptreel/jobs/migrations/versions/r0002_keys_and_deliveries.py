"""API keys, webhook deliveries, and facts about the whole installation, such as its webhook secret."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    create_api_keys()
    create_job_indexes()
    create_deliveries()
    create_delivery_attempts()
    widen_the_index_by_batch()
    op.create_table("facts", sa.Column("name", sa.String(64), primary_key=True), sa.Column("value", sa.Text, nullable=False))


def widen_the_index_by_batch() -> None:
    """Adds the cost, so that the index alone can sum up the queued work."""
    op.drop_index("jobs_queued_by_batch", "jobs")
    where = sa.text("status = 'queued'")
    columns = ["batch_key", "priority", "vt", "id", "cost"]
    op.create_index("jobs_queued_by_batch", "jobs", columns, sqlite_where=where, postgresql_where=where)


def create_api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("webhook_secret", sa.String(128), nullable=False),
        sa.Column("max_running", sa.Integer),
        sa.Column("max_queued", sa.Integer),
        sa.Column("requests_a_minute", sa.Integer),
        sa.Column("weight", sa.Double, nullable=False, server_default="1"),
        sa.Column("last_vt", sa.Double, nullable=False, server_default="0"),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double),
        sqlite_autoincrement=True,
    )


def create_job_indexes() -> None:
    queued = sa.text("status = 'queued'")
    columns = ["api_key_id", "batch_key", "priority", "vt", "id", "cost"]
    op.create_index("jobs_queued_by_api_key", "jobs", columns, sqlite_where=queued, postgresql_where=queued)
    no_key = sa.text("api_key_id IS NULL")
    op.create_index(
        "jobs_idem_key_without_key", "jobs", ["idem_key"], unique=True, sqlite_where=no_key, postgresql_where=no_key
    )


def create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("job_id", _job_id(), sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("owner", sa.String(255)),
        sa.Column("lease_until", sa.Double),
        sa.Column("tried_since", sa.Double),
        sa.Column("next_at", sa.Double, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.UniqueConstraint("job_id", "event", name="deliveries_once"),
        sa.CheckConstraint("state IN ('pending', 'sending', 'delivered', 'dead')", name="deliveries_state"),
    )
    op.create_index("deliveries_open", "deliveries", ["state", "next_at"])


def create_delivery_attempts() -> None:
    op.create_table(
        "delivery_attempts",
        sa.Column("delivery_id", sa.String(64), sa.ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("seconds", sa.Double),
        sa.Column("status", sa.Integer),
        sa.Column("error", sa.Text),
    )


def _job_id() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer, "sqlite")
