"""The audit: who did what to what. Entries are added and read; the database itself refuses to change or remove one."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from service.records.database import Database
from service.records.entities import AuditEntry
from service.records.rows import clean, plain
from service.records.schema import audit


def add_entry(
    connection: sa.Connection, *, at: datetime, who: str, kind: str, subject: str, detail: dict[str, Any]
) -> None:
    """Write an entry in the connection's transaction. `kind`: review, model, …; `subject`: the id of what it happened to."""
    row = {"at": at, "who": clean(who), "kind": kind, "subject": clean(subject), "detail": plain(detail)}
    connection.execute(sa.insert(audit), row)


def read_entries(
    database: Database, *, after: int = 0, limit: int = 100, kind: str | None = None, subject: str | None = None
) -> tuple[AuditEntry, ...]:
    """At most `limit` entries, oldest first, with ids above `after`."""
    query = sa.select(audit).where(audit.c.id > after).order_by(audit.c.id).limit(limit)
    if kind is not None:
        query = query.where(audit.c.kind == kind)
    if subject is not None:
        query = query.where(audit.c.subject == subject)
    with database.reading() as connection:
        return tuple(AuditEntry(**row) for row in connection.execute(query).mappings())


def newest_entries(database: Database, limit: int) -> tuple[AuditEntry, ...]:
    """The last `limit` entries, newest first."""
    query = sa.select(audit).order_by(audit.c.id.desc()).limit(limit)
    with database.reading() as connection:
        return tuple(AuditEntry(**row) for row in connection.execute(query).mappings())
