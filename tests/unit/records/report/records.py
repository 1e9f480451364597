"""Records written as the service writes them, for the report's tests."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np

from service.records.database import Database
from service.records.entities import Caption, Record, Review, ReviewVerdict
from service.records.reviews import ReviewWork
from service.records.rows import caption_row, inspection_row
from service.records.schema import classifications, inspections
from service.types import Classification, Decision, ModelIdentity, Region, Severity, SimilarCase, Thresholds, Timings
from tests.unit.records.report.rows import START

HOLE = Classification(
    "hole",
    "Dark spot near the centre",
    Severity.CRITICAL,
    ("Needle broke",),
    "Change the needle",
    0.9,
    "memory",
    similar=(SimilarCase("e" * 32, "hole", 0.1),),
)
STAIN = Classification("stain", "Bright blotch at the right edge", Severity.MINOR)


def region(x: int, peak: float = 0.4) -> Region:
    return Region((x, 20, 30, 40), 900, 0.01, peak, (x + 15.0, 40.0), "structural")


def record(number: int, decision: Decision = Decision.OK, **changes: Any) -> Record:
    given = Record(
        id=f"{number:032x}",
        request_id="r",
        created_at=START + timedelta(minutes=number),
        model=ModelIdentity("polka-dot", 3, "int8", "cpu"),
        teacher_sha256="t",
        product="polka-dot",
        image_sha256=f"{number:064x}",
        width=640,
        height=480,
        decision=decision,
        score=0.4,
        thresholds=Thresholds(0.1, 0.2),
        p_value=0.01,
        reasons=(),
        regions=(),
        timings=Timings(),
    )
    return replace(given, **changes)


def write(database: Database, *records: Record) -> None:
    with database.writing() as connection:
        for item in records:
            connection.execute(inspections.insert().values(inspection_row(item)))
            if item.caption is not None:
                connection.execute(classifications.insert().values(caption_row(item.id, item.caption, item.created_at)))


def say(database: Database, number: int, verdict: ReviewVerdict, **words: Any) -> str:
    """A review of record `number`; the id of the case it made."""
    work = ReviewWork(f"{number:032x}", Review(verdict, "Ada", **words), START)
    with database.writing() as connection:
        return work(connection).review.case_id or ""


def bad(number: int, **changes: Any) -> Record:
    """A record that is not ok, with a hole at x = 10 and a stain at x = 300."""
    caption = Caption(HOLE, (HOLE, STAIN))
    regions, descriptors = (region(10), region(300, 0.3)), np.eye(2, 4, dtype=np.float32)
    return record(number, Decision.NOT_OK, regions=regions, descriptors=descriptors, caption=caption, **changes)
