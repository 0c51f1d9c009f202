"""A model's newest succeeded jobs are found by id, because the wall clock of `finished_at` may be set back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.drop_index("jobs_succeeded_by_model", "jobs")
    where = sa.text("status = 'succeeded'")
    op.create_index("jobs_succeeded_by_model", "jobs", ["model_id", "id"], sqlite_where=where, postgresql_where=where)
