"""What the LLM cost a UTC day: one row, which all services on a database add to."""

from __future__ import annotations

from datetime import date

import sqlalchemy as sa

from service.records.database import Database, upsert_for
from service.records.entities import DailySpend
from service.records.schema import llm_spend


def read_spend(database: Database, day: date) -> DailySpend:
    """What was spent on `day` so far."""
    with database.reading() as connection:
        return _spent(connection, day)


def add_spend(connection: sa.Connection, more: DailySpend) -> DailySpend:
    """Add to a day's spending in the connection's transaction; the day's sum, what other services added included."""
    c = llm_spend.c
    row = {"day": more.day, "calls": more.calls, "tokens": more.tokens}
    insert = upsert_for(connection.dialect.name, llm_spend).values(**row)
    both = {"calls": c.calls + more.calls, "tokens": c.tokens + more.tokens}
    connection.execute(insert.on_conflict_do_update(index_elements=["day"], set_=both))
    return _spent(connection, more.day)


def _spent(connection: sa.Connection, day: date) -> DailySpend:
    row = connection.execute(sa.select(llm_spend).where(llm_spend.c.day == day)).first()
    return DailySpend(day) if row is None else DailySpend(*row)
