"""What other services on the same database changed in the cases: read off the audit, to which every review adds in its turn."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from service.records.cases import case_from
from service.records.database import Database
from service.records.entities import StoredCase
from service.records.schema import audit, cases

_AT_ONCE = 500
REVIEW = "review"  # kind of a review's entry in the audit


@dataclass(frozen=True, slots=True)
class CaseChanges:
    """Cases that came and ids of those that went since an earlier mark; `mark`: where to go on from."""

    mark: int
    cases: tuple[StoredCase, ...] = ()
    withdrawn: tuple[str, ...] = ()


def present_mark(database: Database) -> int:
    """Where the cases stand now; take it before reading them."""
    with database.reading() as connection:
        return int(connection.execute(sa.select(sa.func.coalesce(sa.func.max(audit.c.id), 0))).scalar_one())


def read_changes(database: Database, mark: int) -> CaseChanges:
    """What changed after `mark`, at most 500 reviews at once; costs one look at an index where nothing did."""
    c = audit.c
    query = sa.select(c.id, c.detail).where(c.id > mark, c.kind == REVIEW).order_by(c.id).limit(_AT_ONCE)
    with database.reading() as connection:
        entries = connection.execute(query).all()
        if not entries:
            return CaseChanges(mark)
        came = {entry.detail["case"] for entry in entries} - {None}
        went = {case_id for entry in entries for case_id in entry.detail["withdrawn"]}
        found = connection.execute(sa.select(cases).where(cases.c.id.in_(came - went))).mappings().all()
    there = tuple(case_from(row) for row in found)
    gone = (came | went) - {case.case_id for case in there}  # a later review may have withdrawn one already
    return CaseChanges(entries[-1].id, there, tuple(sorted(gone)))
