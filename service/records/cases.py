"""Cases: reviewed flaws with the descriptors of their regions, which the memory compares new flaws with."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import sqlalchemy as sa

from service.records.database import Database
from service.records.entities import StoredCase
from service.records.schema import cases

_AT_ONCE = 1000


def insert_case(connection: sa.Connection, case: StoredCase, region: int, at: datetime) -> None:
    """Write a case. The region must have none: withdraw_cases() comes first."""
    row = {
        "id": case.case_id,
        "inspection_id": case.inspection_id,
        "region": region,
        "created_at": at,
        "product": case.product,
        "teacher_sha256": case.teacher_sha256,
        "label": case.label,
        "cause": case.cause,
        "action": case.action,
        "descriptor": case.descriptor,
    }
    connection.execute(sa.insert(cases), row)


def withdraw_cases(connection: sa.Connection, inspection_id: str, region: int | None) -> tuple[str, ...]:
    """Remove the case of a region, or all of an inspection; the ids that went."""
    mine = [cases.c.inspection_id == inspection_id] + ([] if region is None else [cases.c.region == region])
    ids = tuple(connection.execute(sa.select(cases.c.id).where(*mine).order_by(cases.c.id)).scalars())
    if ids:
        connection.execute(sa.delete(cases).where(cases.c.id.in_(ids)))
    return ids


def read_cases(database: Database, *, product: str | None = None) -> Iterator[StoredCase]:
    """Every case (of a product), in the order of ids; read in batches, no transaction is held between them."""
    last = ""
    while True:
        query = sa.select(cases).where(cases.c.id > last).order_by(cases.c.id).limit(_AT_ONCE)
        if product is not None:
            query = query.where(cases.c.product == product)
        with database.reading() as connection:
            rows = connection.execute(query).mappings().all()
        yield from map(case_from, rows)
        if len(rows) < _AT_ONCE:
            return
        last = rows[-1]["id"]


def case_from(row: sa.RowMapping) -> StoredCase:
    """The case of a row of `cases`."""
    names = ("inspection_id", "product", "teacher_sha256", "label", "cause", "action", "descriptor")
    return StoredCase(row["id"], *(row[name] for name in names))
