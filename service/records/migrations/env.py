"""Run by Alembic with the connection, and the lock, that database.py holds."""

from __future__ import annotations

from alembic import context

from service.records.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite's too, since BEGIN is sent before its DDL
)
with context.begin_transaction():
    context.run_migrations()
