"""One verdict for a part that was seen in several views or shots."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from service.errors import InvalidParameter, NoSuchRecord
from service.records.database import Database
from service.records.entities import Record
from service.records.inspections import whole_records
from service.records.rows import clean
from service.records.schema import inspections
from service.records.truth import is_flawed
from service.types import Decision

_WORST_FIRST = (Decision.NOT_OK, Decision.REVIEW, Decision.UNDECIDABLE, Decision.OK)


@dataclass(frozen=True, slots=True)
class PartVerdict:
    """A part's verdict from its latest shot of each view at each station, which are `latest` (newest first).

    `verdict` is the detector's; `after_review` is what holds after people's reviews of these shots. `shots` counts all.
    """

    serial: str
    product: str
    verdict: Decision
    after_review: Decision
    latest: tuple[Record, ...]
    shots: int


def part_verdict(database: Database, serial: str, product: str | None = None) -> PartVerdict:
    """The verdict on the part of this serial.

    The rule: of every view at every station the latest shot counts, since a part is shown again after a doubtful one; the
    worst of these is the part's: not_ok before review before undecidable before ok. So a part is ok only when each of its
    views was last seen ok. After review: what people said of a shot goes before the detector's verdict, overkill of all
    its flaws making it ok and an escape not_ok.
    Raises NoSuchRecord, and InvalidParameter when several products have this serial and none is named.
    """
    c = inspections.c
    mine = [c.serial == clean(serial)] + ([] if product is None else [c.product == clean(product)])
    place = sa.func.row_number().over(
        partition_by=(c.product, c.station, c.view), order_by=(c.created_at.desc(), c.id.desc())
    )
    ranked = sa.select(c.id, place.label("place")).where(*mine).subquery()
    newest = sa.select(ranked.c.id).where(ranked.c.place == 1)
    light = [column for column in c if column.name != "descriptors"]
    query = sa.select(*light).where(c.id.in_(newest)).order_by(c.created_at.desc(), c.id.desc())
    if not serial:
        raise NoSuchRecord("a part needs a serial")
    with database.reading() as connection:
        latest = tuple(whole_records(connection, query))
        shots = connection.execute(sa.select(sa.func.count()).select_from(inspections).where(*mine)).scalar_one()
    if not latest:
        raise NoSuchRecord(f"no inspection has the serial {serial}")
    products = sorted({record.product for record in latest})
    if len(products) > 1:
        raise InvalidParameter(f"several products have the serial {serial}: {', '.join(products)}; name one")
    return PartVerdict(
        serial=serial,
        product=products[0],
        verdict=worst(record.decision for record in latest),
        after_review=worst(map(reviewed_decision, latest)),
        latest=latest,
        shots=shots,
    )


def worst(decisions: Iterable[Decision]) -> Decision:
    """not_ok before review before undecidable before ok. Raises ValueError for none."""
    return min(decisions, key=_WORST_FIRST.index)


def reviewed_decision(record: Record) -> Decision:
    """What holds of an inspection after its reviews: all flaws overkill makes it ok, an escape not_ok."""
    said = [(stored.review.verdict, stored.review.region) for stored in record.reviews]
    flawed = is_flawed(record.decision, len(record.regions), said)
    if flawed is False:
        return Decision.OK
    if flawed and record.decision in (Decision.OK, Decision.UNDECIDABLE):
        return Decision.NOT_OK
    return record.decision
