"""A person's review: the review, the case it makes or withdraws, the label it accepts and the audit, in one transaction."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from service.captions.products import RESERVED
from service.errors import InvalidParameter, NoSuchRecord
from service.records.audit import add_entry
from service.records.cases import insert_case, withdraw_cases
from service.records.changes import REVIEW
from service.records.database import Database, insert_unless_there, one_review_at_a_time
from service.records.entities import Review, StoredCase, StoredReview
from service.records.inspections import relabel
from service.records.rows import clean
from service.records.schema import accepted_labels, inspections, reviews
from service.types import Decision

_MOST_CHARACTERS = {"label": 60, "cause": 400, "action": 400, "comment": 4000, "who": 200}
_SPEAKS_OF = {
    "right": frozenset(Decision),
    "overkill": frozenset({Decision.NOT_OK, Decision.REVIEW, Decision.UNDECIDABLE}),
    "escape": frozenset({Decision.OK, Decision.UNDECIDABLE}),
}


@dataclass(frozen=True, slots=True)
class ReviewOutcome:
    """What a review did: `case` was added to the memory's cases, those of the ids `withdrawn` were taken from them.

    `accepted`: the product whose taxonomy took the review's label, None where it knew the label already or gave none.
    """

    review: StoredReview
    case: StoredCase | None
    withdrawn: tuple[str, ...]
    accepted: str | None


class ReviewWork:
    """Work for the writer: adds one review of an inspection.

    A label makes a case of the region meant, in place of the case it had: the region named, else the one with the
    highest score, which decided the verdict. No case where the region has no descriptor, where the label says that it is
    not known, or for overkill, which withdraws the region's case (without a region named: all of the inspection's).
    Raises NoSuchRecord, and InvalidParameter for a review that cannot be of this inspection.
    """

    def __init__(self, inspection_id: str, review: Review, at: datetime) -> None:
        self._inspection_id = clean(inspection_id)
        self._review = _checked(review)
        self._at = at
        self._case_id = uuid.uuid4().hex

    def __call__(self, connection: sa.Connection) -> ReviewOutcome:
        review = self._review
        one_review_at_a_time(connection)
        query = sa.select(inspections).where(inspections.c.id == self._inspection_id)
        row = connection.execute(query).mappings().first()
        if row is None:
            raise NoSuchRecord(f"there is no inspection {self._inspection_id}")
        if Decision(row["verdict"]) not in _SPEAKS_OF[review.verdict]:
            raise InvalidParameter(f"{review.verdict} cannot be said of the verdict {row['verdict']}")
        if review.verdict == "right" and row["verdict"] == Decision.OK and _names_a_flaw(review):
            raise InvalidParameter(f"a part that is rightly ok has no flaw {review.label}; say escape where it has one")
        region = _region_meant(review, row)
        withdrawn = self._withdraw(connection, region)
        case = self._case(row, region)
        if case is not None and region is not None:
            insert_case(connection, case, region, self._at)
        accepted = self._accept(connection, row["product"])
        stored = self._insert(connection, row, case)
        relabel(connection, self._inspection_id)
        detail = asdict(review) | {"case": stored.case_id, "withdrawn": withdrawn, "decided": row["verdict"]}
        subject = self._inspection_id
        add_entry(connection, at=self._at, who=review.who, kind=REVIEW, subject=subject, detail=detail)
        return ReviewOutcome(stored, case, withdrawn, row["product"] if accepted else None)

    def _withdraw(self, connection: sa.Connection, region: int | None) -> tuple[str, ...]:
        if self._review.verdict == "overkill":
            return withdraw_cases(connection, self._inspection_id, self._review.region)
        if self._review.label and region is not None:
            return withdraw_cases(connection, self._inspection_id, region)
        return ()

    def _case(self, row: sa.RowMapping, region: int | None) -> StoredCase | None:
        review, descriptors = self._review, row["descriptors"]
        if region is None or descriptors is None or not descriptors.size or not _names_a_flaw(review):
            return None
        descriptor: NDArray[np.float32] = descriptors.reshape(len(row["regions"]), -1)[region]
        return StoredCase(
            self._case_id,
            self._inspection_id,
            row["product"],
            row["teacher_sha256"],
            review.label,
            review.cause,
            review.action,
            descriptor,
        )

    def _accept(self, connection: sa.Connection, product: str) -> bool:
        if not _names_a_flaw(self._review):
            return False
        row = {"product": product, "label": self._review.label, "at": self._at, "who": self._review.who}
        return insert_unless_there(connection, accepted_labels, row)

    def _insert(self, connection: sa.Connection, row: sa.RowMapping, case: StoredCase | None) -> StoredReview:
        case_id = None if case is None else case.case_id
        copied = (
            "product",
            "model_name",
            "model_version",
            "precision",
            "score",
            "review_threshold",
            "reject_threshold",
        )
        values: dict[str, Any] = {
            **asdict(self._review),
            **{name: row[name] for name in copied},
            "inspection_id": self._inspection_id,
            "at": self._at,
            "case_id": case_id,
            "decided": row["verdict"],
            "region_count": len(row["regions"]),
        }
        key = connection.execute(sa.insert(reviews).values(**values)).inserted_primary_key
        assert key is not None
        return StoredReview(key[0], self._inspection_id, self._at, self._review, case_id)


def read_accepted(database: Database) -> dict[str, tuple[str, ...]]:
    """The labels that reviews have accepted, by product, oldest first."""
    c = accepted_labels.c
    found: dict[str, tuple[str, ...]] = {}
    with database.reading() as connection:
        for product, label in connection.execute(sa.select(c.product, c.label).order_by(c.at, c.label)):
            found[product] = (*found.get(product, ()), label)
    return found


def _checked(review: Review) -> Review:
    texts = {name: clean(" ".join(getattr(review, name).split())) for name in _MOST_CHARACTERS if name != "comment"}
    texts["comment"] = clean(review.comment.strip())
    for name, most in _MOST_CHARACTERS.items():
        if len(texts[name]) > most:
            raise InvalidParameter(f"{name} has more than {most} characters")
    if not texts["who"]:
        raise InvalidParameter("who reviewed must be said")
    if review.verdict not in _SPEAKS_OF:
        raise InvalidParameter(f"verdict must be right, overkill or escape, not {review.verdict!r}")
    return replace(review, **texts)  # type: ignore[arg-type]


def _names_a_flaw(review: Review) -> bool:
    return bool(review.label) and review.label.casefold() not in RESERVED and review.verdict != "overkill"


def _region_meant(review: Review, row: sa.RowMapping) -> int | None:
    scores = [region["peak_score"] for region in row["regions"]]
    if review.region is None:
        return scores.index(max(scores)) if scores else None
    if not 0 <= review.region < len(scores):
        raise InvalidParameter(f"region {review.region} is not one of the inspection's {len(scores)}")
    return review.region
