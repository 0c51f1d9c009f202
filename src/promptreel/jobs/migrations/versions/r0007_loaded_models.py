"""Adds which models a worker has loaded."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("workers", sa.Column("loaded", sa.JSON, nullable=False, server_default="[]"))
