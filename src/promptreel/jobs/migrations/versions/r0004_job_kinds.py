"""Adds the job kind; existing jobs are of kind `video`. The indexes that sum up jobs include it.

The indexes also include `run_at`, so that a job that was put off does not count as work ahead of others.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # Not in batch mode, which drops the old table: the foreign keys would then delete all attempts.
    op.add_column("jobs", sa.Column("kind", sa.String(32), nullable=False, server_default="video"))
    replace_index("jobs_queued", "queued", ["priority", "vt", "id", "kind", "run_at", "api_key_id"])
    place = ["batch_key", "priority", "vt", "id", "cost", "kind", "run_at"]
    replace_index("jobs_queued_by_batch", "queued", place)
    replace_index("jobs_queued_by_api_key", "queued", ["api_key_id", *place])
    replace_index("jobs_succeeded_by_model", "succeeded", ["kind", "model_id", "id"])


def replace_index(name: str, status: str, columns: list[str]) -> None:
    op.drop_index(name, "jobs")
    where = sa.text(f"status = '{status}'")
    op.create_index(name, "jobs", columns, sqlite_where=where, postgresql_where=where)
