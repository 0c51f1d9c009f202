"""Alembic runs this file. The connection, with its transaction already begun, comes from `database.migrate`."""

from __future__ import annotations

from alembic import context

from promptreel.jobs.tables import metadata


def run_migrations() -> None:
    connection = context.config.attributes["connection"]
    # SQLite cannot alter most of a table in place; batch mode copies it.
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    context.run_migrations()


run_migrations()
