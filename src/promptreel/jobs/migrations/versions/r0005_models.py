"""The table of imported models."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("id", sa.String(100), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("family", sa.String(64)),
        sa.Column("base", sa.String(64)),
        sa.Column("card", sa.JSON, nullable=False),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("api_key_id", sa.Integer),
        sa.Column("is_public", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
