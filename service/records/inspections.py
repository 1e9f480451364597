"""Inspections: written as work for the writer, read by id, by filters page by page, over a span of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, takewhile
from typing import Any

import sqlalchemy as sa

from service.errors import InvalidParameter, NoSuchRecord
from service.records.database import Database, insert_unless_there
from service.records.entities import Caption, Record
from service.records.paging import Place, read_cursor, write_cursor
from service.records.rows import caption_row, clean, inspection_row, record_from, review_from, utc
from service.records.schema import WHOLE_PICTURE, classifications, inspections, labels, reviews
from service.records.truth import last_verdict
from service.types import Decision

MOST_PER_PAGE = 500
_AT_ONCE = 500  # rows read together while going over a span
_LIGHT = [column for column in inspections.c if column.name != "descriptors"]


@dataclass(frozen=True, slots=True)
class Filters:
    """Which inspections are meant; None: any. `since` <= created_at < `until`; `label`: the one that holds now; `reviewed`:
    whether a person has said something of it."""

    product: str | None = None
    lot: str | None = None
    serial: str | None = None
    station: str | None = None
    verdicts: tuple[Decision, ...] | None = None
    label: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    reviewed: bool | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Inspections, newest first. `cursor` goes on behind them; None on the last page."""

    records: tuple[Record, ...]
    cursor: str | None


def insert_record(connection: sa.Connection, record: Record) -> None:
    """Write an inspection with its caption. A record of the same id that is there already stays as it is."""
    if insert_unless_there(connection, inspections, inspection_row(record)) and record.caption is not None:
        insert_caption(connection, record.id, record.caption, record.created_at)


def insert_caption(connection: sa.Connection, inspection_id: str, caption: Caption, at: datetime) -> None:
    """Write an inspection's words, in place of those it had. Labels that a person gave stay. Raises NoSuchRecord."""
    if connection.execute(sa.select(inspections.c.id).where(inspections.c.id == clean(inspection_id))).first() is None:
        raise NoSuchRecord(f"there is no inspection {inspection_id}")
    connection.execute(sa.delete(classifications).where(classifications.c.inspection_id == inspection_id))
    connection.execute(sa.insert(classifications), caption_row(inspection_id, caption, at))
    relabel(connection, inspection_id)


def relabel(connection: sa.Connection, inspection_id: str) -> None:
    """Write the labels of an inspection that hold now, from its caption and all that people said: after each of either."""
    # another service may be writing the other of the two: who comes second waits here, and then reads both
    mine = sa.select(inspections.c.regions).where(inspections.c.id == inspection_id).with_for_update(key_share=True)
    peaks = [region["peak_score"] for region in connection.execute(mine).scalar_one()]
    r = reviews.c
    heard = sa.select(r.verdict, r.region, r.label).where(r.inspection_id == inspection_id).order_by(r.id)
    said = connection.execute(heard).all()
    captioned = _captioned(connection, inspection_id)
    holding = _of_regions(captioned, peaks, said) if peaks else _of_picture(captioned, said)
    connection.execute(sa.delete(labels).where(labels.c.inspection_id == inspection_id))
    rows = [{"inspection_id": inspection_id, "region": place, "label": label} for place, label in holding.items()]
    if rows:
        connection.execute(sa.insert(labels), rows)


def _captioned(connection: sa.Connection, inspection_id: str) -> dict[int, str]:
    """The caption's labels, by region and of the whole picture; none while it has no caption."""
    c = classifications.c
    words = connection.execute(sa.select(c.picture, c.regions).where(c.inspection_id == inspection_id)).one_or_none()
    if words is None:
        return {}
    named = {WHOLE_PICTURE: words.picture["label"]} | {n: each["label"] for n, each in enumerate(words.regions)}
    return {place: label for place, label in named.items() if label}


def _of_regions(captioned: dict[int, str], peaks: Sequence[float], said: Sequence[Any]) -> dict[int, str]:
    """The labels that hold where there are regions, as report/gather.py tells their flaws: overkill takes a region's, and what
    people said of it before; any later word on the verdict or the region gives back the caption's.

    Where a review named or dismissed a flaw, the picture takes the label of the strongest that is left.
    """
    spoken: dict[int, str] = {}
    dismissed: set[int] = set()
    for review in said:
        meant = set(range(len(peaks))) if review.region is None else {review.region}
        if review.verdict == "overkill":
            dismissed |= meant
            spoken = {place: label for place, label in spoken.items() if place not in meant}
            continue
        dismissed -= meant
        if review.label:
            spoken[max(meant, key=peaks.__getitem__)] = review.label
    if not spoken and not dismissed:
        return captioned
    left = [place for place in range(len(peaks)) if place not in dismissed]
    holding = {place: label for place in left if (label := spoken.get(place) or captioned.get(place))}
    strongest = max(left, key=peaks.__getitem__, default=None)
    return holding | ({WHOLE_PICTURE: holding[strongest]} if strongest in holding else {})


def _of_picture(captioned: dict[int, str], said: Sequence[Any]) -> dict[int, str]:
    """The label that holds where there is no region. After `escape` the picture is no longer what its caption calls it; after a
    later `right` it has not the label of the flaw any more."""
    verdict = last_verdict([(review.verdict, review.region) for review in said], 0)
    standing = takewhile(lambda review: review.verdict != "overkill", reversed(said))
    given = (review.label for review in standing if review.label and verdict in ("escape", review.verdict))
    if label := next(given, ""):
        return {WHOLE_PICTURE: label}
    return captioned if verdict in (None, "right") else {}


class Inspections:
    """Reads inspections. Any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, inspection_id: str) -> Record:
        """One inspection with descriptors, words and reviews. Raises NoSuchRecord."""
        with self._database.reading() as connection:
            mine = sa.select(inspections).where(inspections.c.id == clean(inspection_id))
            row = connection.execute(mine).mappings().first()
            if row is None:
                raise NoSuchRecord(f"there is no inspection {inspection_id}")
            return _whole(connection, [row])[0]

    def page(self, filters: Filters, *, cursor: str | None = None, limit: int = 50) -> Page:
        """Inspections newest first. Going on by cursor neither repeats nor skips one while others are added in front.

        Raises InvalidParameter for a limit outside 1..500 or a cursor that is not of these filters.
        """
        if not 1 <= limit <= MOST_PER_PAGE:
            raise InvalidParameter(f"limit must be 1 to {MOST_PER_PAGE}, not {limit}")
        behind = None if cursor is None else read_cursor(cursor, filters)
        with self._database.reading() as connection:
            rows = connection.execute(_select(filters, behind).limit(limit + 1)).mappings().all()
            records = _whole(connection, rows[:limit])
        more = len(rows) > limit
        last = Place(records[-1].created_at, records[-1].id) if more else None
        return Page(tuple(records), write_cursor(last, filters) if last else None)

    def over(self, filters: Filters) -> Iterator[Record]:
        """Every inspection of the filters, newest first, without descriptors; holds no transaction between batches."""
        behind: Place | None = None
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(_select(filters, behind).limit(_AT_ONCE)).mappings().all()
                records = _whole(connection, rows)
            yield from records
            if len(records) < _AT_ONCE:
                return
            behind = Place(records[-1].created_at, records[-1].id)


def conditions(filters: Filters) -> list[sa.ColumnElement[bool]]:
    """What an inspection's row must meet to be meant. Raises InvalidParameter for a moment that no database holds."""
    c = inspections.c
    wanted = {
        c.product: filters.product,
        c.lot: filters.lot,
        c.serial: filters.serial,
        c.station: filters.station,
    }
    limits: list[sa.ColumnElement[bool]] = [
        column == clean(text) for column, text in wanted.items() if text is not None
    ]
    if filters.verdicts is not None:
        limits.append(c.verdict.in_([verdict.value for verdict in filters.verdicts]))
    if filters.label is not None:
        limits.append(c.id.in_(sa.select(labels.c.inspection_id).where(labels.c.label == clean(filters.label))))
    if filters.since is not None:
        limits.append(c.created_at >= utc("from", filters.since))
    if filters.until is not None:
        limits.append(c.created_at < utc("to", filters.until))
    if filters.reviewed is not None:
        said = sa.exists().where(reviews.c.inspection_id == c.id)
        limits.append(said if filters.reviewed else ~said)
    return limits


def _select(filters: Filters, behind: Place | None) -> sa.Select[Any]:
    c = inspections.c
    query = sa.select(*_LIGHT).where(*conditions(filters))
    if behind is not None:
        older = sa.or_(c.created_at < behind.created_at, sa.and_(c.created_at == behind.created_at, c.id < behind.id))
        query = query.where(c.created_at <= behind.created_at, older)
    return query.order_by(c.created_at.desc(), c.id.desc())


def _whole(connection: sa.Connection, rows: Sequence[sa.RowMapping]) -> list[Record]:
    """The records of these rows, with their words and reviews read in one go."""
    if not rows:
        return []
    ids = [row["id"] for row in rows]
    worded = sa.select(classifications).where(classifications.c.inspection_id.in_(ids))
    captions = {row["inspection_id"]: row for row in connection.execute(worded).mappings()}
    said = sa.select(reviews).where(reviews.c.inspection_id.in_(ids)).order_by(reviews.c.inspection_id, reviews.c.id)
    found = map(review_from, connection.execute(said).mappings())
    spoken = {key: tuple(group) for key, group in groupby(found, lambda review: review.inspection_id)}
    return [record_from(row, captions.get(row["id"]), spoken.get(row["id"], ())) for row in rows]


def whole_records(connection: sa.Connection, query: sa.Select[Any]) -> list[Record]:
    """The records of a query over columns of `inspections`, with their words and reviews."""
    return _whole(connection, connection.execute(query).mappings().all())
