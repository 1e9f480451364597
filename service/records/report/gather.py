"""Database rows -> ReportData."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from service.errors import InvalidParameter
from service.records.database import Database
from service.records.inspections import Filters, conditions
from service.records.report.data import UNLABELLED, Flaw, InspectionRow, ReportData, Review, Scope
from service.records.report.flaws import reviewed
from service.records.report.summary import summarise
from service.records.schema import classifications, inspections, reviews
from service.records.truth import last_verdict
from service.types import Citation, Decision, Severity

MOST_INSPECTIONS = 200_000  # about half a GB as rows, twice that while they become JSON
_FETCHED = 2000
_COLUMNS = (
    inspections.c.id,
    inspections.c.created_at,
    inspections.c.model_name,
    inspections.c.model_version,
    inspections.c.product,
    inspections.c.lot,
    inspections.c.serial,
    inspections.c.station,
    inspections.c.image_sha256,
    inspections.c.picture_stored,
    inspections.c.verdict,
    inspections.c.score,
    inspections.c.review_threshold,
    inspections.c.reject_threshold,
    inspections.c.p_value,
    inspections.c.reasons,
    inspections.c.regions,
    classifications.c.picture.label("picture_words"),
    classifications.c.regions.label("region_words"),
)
_Said = Sequence[Any]  # rows of reviews, in order
_Within = Sequence[sa.ColumnElement[bool]]


def gather(database: Database, scope: Scope, *, most: int = MOST_INSPECTIONS) -> ReportData:
    """The report over the records in `scope`, all read in one transaction. Raises InvalidParameter when there are more
    than `most` inspections."""
    filters = Filters(since=scope.start, until=scope.end, product=scope.product, lot=scope.lot)
    return summarise(gather_rows(database, filters, most=most), scope)


def gather_rows(database: Database, filters: Filters, *, most: int = MOST_INSPECTIONS) -> list[InspectionRow]:
    """The inspections meant, oldest first, with what people said of them. Raises InvalidParameter for more than `most`."""
    within = conditions(filters)
    with database.reading() as connection:
        said = _reviews(connection, within)
        rows = [_row(row, said.get(row.id, ())) for row in _inspections(connection, within, most + 1)]
    if len(rows) > most:
        raise InvalidParameter(f"more than {most:,} inspections are meant: choose a shorter span, a product or a lot")
    return rows


def _inspections(connection: sa.Connection, within: _Within, limit: int) -> sa.CursorResult[Any]:
    query = (
        sa.select(*_COLUMNS)
        .select_from(inspections.outerjoin(classifications, classifications.c.inspection_id == inspections.c.id))
        .where(*within)
        .order_by(inspections.c.created_at, inspections.c.id)
        .limit(limit)
        .execution_options(yield_per=_FETCHED)
    )
    return connection.execute(query)


def _reviews(connection: sa.Connection, within: _Within) -> dict[str, list[Any]]:
    """What people said, in order, by inspection."""
    query = (
        sa.select(
            reviews.c.inspection_id,
            reviews.c.verdict,
            reviews.c.region,
            reviews.c.label,
            reviews.c.cause,
            reviews.c.action,
            reviews.c.case_id,
        )
        .select_from(reviews.join(inspections, inspections.c.id == reviews.c.inspection_id))
        .where(*within)
        .order_by(reviews.c.id)
    )
    said: dict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(query):
        said[row.inspection_id].append(row)
    return said


def _row(row: Any, said: _Said) -> InspectionRow:
    words = row.region_words or []
    flaws = [
        _flaw(region, words[place] if place < len(words) else {}, row.reject_threshold)
        for place, region in enumerate(row.regions)
    ]
    peaks = [region["peak_score"] for region in row.regions]
    strongest = peaks.index(max(peaks)) if peaks else None
    captioned = tuple(flaws)
    for review in said:
        _hear(flaws, captioned, review, strongest)
    return InspectionRow(
        id=row.id,
        created_at=row.created_at,
        decision=Decision(row.verdict),
        score=row.score,
        review_threshold=row.review_threshold,
        reject_threshold=row.reject_threshold,
        p_value=row.p_value,
        product=row.product,
        lot=row.lot,
        serial=row.serial,
        station=row.station,
        model=row.model_name,
        model_version=row.model_version,
        sha256=row.image_sha256,
        picture_stored=row.picture_stored,
        description=(row.picture_words or {}).get("description", ""),
        reasons=tuple(row.reasons),
        flaws=tuple(flaws),
        review=_review(said, strongest, len(flaws)),
    )


def _flaw(region: dict[str, Any], words: dict[str, Any], reject: float) -> Flaw:
    x, y, width, height = region["box"]
    return Flaw(
        box=(x, y, width, height),
        margin=region["peak_score"] / reject if reject > 0 else None,
        label=words.get("label") or UNLABELLED,
        severity=Severity(words.get("severity", Severity.NONE)),
        description=words.get("description", ""),
        causes=tuple(words.get("probable_causes", ())),
        action=words.get("recommended_action", ""),
        source=words.get("source"),
        similar=tuple(case["inspection_id"] for case in words.get("similar", ())),
        cited=tuple(Citation(**each) for each in words.get("cited", ())),
    )


def _hear(flaws: list[Flaw], captioned: Sequence[Flaw], review: Any, strongest: int | None) -> None:
    """Take a review into the flaws, as records/reviews.py means it: without a region named it is of the verdict, and its
    words are of the strongest region. Overkill takes back what people said before: the flaw is as it was `captioned`."""
    overkill = review.verdict == "overkill"
    named = range(len(flaws)) if review.region is None else [review.region]
    for place in named:
        flaws[place] = replace(captioned[place] if overkill else flaws[place], overkill=overkill)
    place = strongest if review.region is None else review.region
    if place is not None and not overkill:
        spoken = reviewed(flaws[place], review.label, review.cause, review.action)
        flaws[place] = replace(spoken, case_id=review.case_id or "") if review.label else spoken


def _review(said: _Said, strongest: int | None, regions: int) -> Review | None:
    """The last word of each kind that no overkill after it took back."""
    if not said:
        return None
    standing: list[Any] = []
    for review in said:
        if review.verdict == "overkill":
            places = ((strongest if each.region is None else each.region, each) for each in standing)
            standing = [each for place, each in places if review.region not in (None, place)]
        standing.append(review)

    def last(name: str) -> str:
        return next((value for review in reversed(standing) if (value := getattr(review, name))), "")

    verdict = last_verdict([(review.verdict, review.region) for review in said], regions)
    return Review(verdict, last("label"), last("cause"), last("action"))
