"""Notes each change of a job under a growing number, so that a client learns what it has missed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_NOTE = "INSERT OR REPLACE INTO changes (job_id, kind, api_key_id, is_deleted) VALUES"
_TRIGGERS = (
    f"CREATE TRIGGER jobs_inserted AFTER INSERT ON jobs BEGIN {_NOTE} (NEW.id, NEW.kind, NEW.api_key_id, false); END",
    "CREATE TRIGGER jobs_updated AFTER UPDATE OF status, stage, progress, report ON jobs "
    "WHEN NEW.status IS NOT OLD.status OR NEW.stage IS NOT OLD.stage OR NEW.progress IS NOT OLD.progress "
    "OR NEW.report IS NOT OLD.report "
    f"BEGIN {_NOTE} (NEW.id, NEW.kind, NEW.api_key_id, false); END",
    f"CREATE TRIGGER jobs_deleted AFTER DELETE ON jobs BEGIN {_NOTE} (OLD.id, OLD.kind, OLD.api_key_id, true); "  # noqa: S608
    "DELETE FROM changes WHERE is_deleted AND seq <= "
    "(SELECT seq FROM changes WHERE is_deleted ORDER BY seq DESC LIMIT 1 OFFSET 10000); END",
)


def upgrade() -> None:
    op.create_table(
        "changes",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False, unique=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("api_key_id", sa.Integer),
        sa.Column("is_deleted", sa.Boolean, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("changes_by_api_key", "changes", ["api_key_id", "seq"])
    op.create_index("changes_deleted", "changes", ["seq"], sqlite_where=sa.text("is_deleted"))
    for trigger in _TRIGGERS:
        op.execute(trigger)
