"""Which parts people and the detector take for good, with their scores: what a model is recalibrated by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from service.records.database import Database
from service.records.entities import ReviewVerdict
from service.records.schema import inspections, reviews
from service.records.truth import is_flawed
from service.types import Decision

_Said = list[tuple[ReviewVerdict, int | None]]


@dataclass(frozen=True, slots=True)
class GoodPicture:
    """A picture of a good part. `by_person`: a person called it good; the others were accepted."""

    part: str
    score: float
    sha256: str
    inspected_at: datetime
    by_person: bool


@dataclass(frozen=True, slots=True)
class GoodParts:
    """The good parts of one form of a model in a span of time: their pictures, oldest first.

    `open`: how many flagged pictures nobody has judged. `rescored`: the scores are not those on record.
    """

    pictures: tuple[GoodPicture, ...]
    open: int
    rescored: bool = False

    @property
    def count(self) -> int:
        """How many parts."""
        return len({picture.part for picture in self.pictures})

    @property
    def reviewed(self) -> int:
        """How many of the pictures a person called good."""
        return sum(picture.by_person for picture in self.pictures)


def read_good_parts(
    database: Database,
    model: str,
    version: int,
    precision: str,
    *,
    review_threshold: float,
    since: datetime | None = None,
    until: datetime | None = None,
) -> GoodParts:
    """The pictures of `since` <= time < `until` that were accepted, or that a person called good, by part.

    Pictures of one serial are one part, and so are copies of one picture. Left out are whole parts of which a person called any
    picture flawed or has not judged a flagged one, undecidable pictures, and those judged by another `review_threshold` than
    the form's own, whose verdicts mean something else.
    """
    c = inspections.c
    mine = [c.model_name == model, c.model_version == version, c.precision == precision, c.score.is_not(None)]
    mine += [c.review_threshold == review_threshold, c.verdict != Decision.UNDECIDABLE.value]
    mine += [] if since is None else [c.created_at >= since]
    mine += [] if until is None else [c.created_at < until]
    columns = (c.id, c.created_at, c.product, c.serial, c.image_sha256, c.verdict, c.score)
    with database.reading() as connection:
        said = _said(connection, model, version, precision)
        rows = connection.execute(sa.select(*columns).where(*mine).order_by(c.created_at, c.id)).all()
    doubtful: set[str] = set()
    good: list[GoodPicture] = []
    unknown = 0
    for row in rows:
        part = f"{row.product}\x00{row.serial}" if row.serial else row.image_sha256
        decided = Decision(row.verdict)
        regions, words = said.get(row.id, (0, []))
        told = is_flawed(decided, regions, words)
        if told is False or (told is None and decided is Decision.OK):
            good.append(GoodPicture(part, row.score, row.image_sha256, row.created_at, told is False))
        else:
            unknown += told is None
            doubtful.add(part)
    return GoodParts(tuple(picture for picture in good if picture.part not in doubtful), unknown)


def _said(connection: sa.Connection, model: str, version: int, precision: str) -> dict[str, tuple[int, _Said]]:
    """By inspection: how many regions it has, and what was said of it, oldest first."""
    c = reviews.c
    query = (
        sa.select(c.inspection_id, c.region_count, c.verdict, c.region)
        .where(c.model_name == model, c.model_version == version, c.precision == precision)
        .order_by(c.id)
    )
    found: dict[str, tuple[int, _Said]] = defaultdict(lambda: (0, []))
    for row in connection.execute(query):
        _, words = found[row.inspection_id]
        found[row.inspection_id] = (row.region_count, [*words, (row.verdict, row.region)])
    return found


def forms_recorded(database: Database, model: str, version: int) -> Sequence[str]:
    """The forms of a model's version that judged recorded pictures, the busiest first."""
    c = inspections.c
    query = (
        sa.select(c.precision)
        .where(c.model_name == model, c.model_version == version)
        .group_by(c.precision)
        .order_by(sa.func.count().desc(), c.precision)
    )
    with database.reading() as connection:
        return list(connection.execute(query).scalars())
