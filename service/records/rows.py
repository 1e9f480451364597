"""Record <-> rows of the tables, and Inspection -> Record."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from service.errors import InvalidParameter
from service.records.entities import Caption, Record, Review, StoredReview
from service.types import (
    Attributes,
    Citation,
    Classification,
    Decision,
    Inspection,
    ModelIdentity,
    Region,
    Severity,
    SimilarCase,
    Thresholds,
    Timings,
)

_COLUMNS = ("lot", "serial", "station", "view")
_LONGEST = 200  # characters of an indexed field
_NUL = "\x00"


def record_of(
    inspection: Inspection,
    *,
    request_id: str,
    product: str,
    teacher_sha256: str,
    created_at: datetime,
    threshold_method: str = "",
    caption: Caption | None = None,
    picture_stored: bool = False,
) -> Record:
    """What is kept of an inspection. lot, serial, station, view and captured_at are taken from its metadata; other keys
    stay in `metadata`, as does a captured_at that is no ISO 8601 time. Raises InvalidParameter for an overlong field."""
    metadata = {clean(key): clean(value) for key, value in inspection.metadata.items() if key != "product"}
    captured_at = _time(metadata.get("captured_at"))
    if captured_at is not None:
        del metadata["captured_at"]
    fields = {name: metadata.pop(name, "").strip() for name in _COLUMNS}
    for name, value in {**fields, "product": product}.items():
        if len(value) > _LONGEST:
            raise InvalidParameter(f"{name} has more than {_LONGEST} characters")
    verdict = inspection.verdict
    height, width = inspection.size
    return Record(
        id=inspection.id,
        request_id=clean(request_id),
        created_at=created_at,
        model=inspection.model,
        teacher_sha256=teacher_sha256,
        image_sha256=inspection.sha256,
        width=width,
        height=height,
        decision=verdict.decision,
        score=finite(verdict.score),
        thresholds=verdict.thresholds,
        p_value=finite(verdict.p_value),
        reasons=verdict.reasons,
        regions=verdict.regions,
        timings=inspection.timings,
        captured_at=captured_at,
        metadata=metadata,
        picture_stored=picture_stored,
        threshold_method=threshold_method,
        descriptors=inspection.descriptors,
        caption=caption,
        product=clean(product),
        lot=fields["lot"],
        serial=fields["serial"],
        station=fields["station"],
        view=fields["view"],
    )


def clean(text: str) -> str:
    """The text without what a database cannot hold: NUL and lone surrogates become a replacement character."""
    return text.replace(_NUL, "\ufffd").encode("utf-8", "replace").decode()


def utc(name: str, moment: datetime) -> datetime:
    """The aware time in UTC. Raises InvalidParameter naming it when it has no zone or lies beyond the calendar."""
    try:
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except OverflowError as error:
        raise InvalidParameter(f"{name} lies beyond the calendar") from error
    raise InvalidParameter(f"{name} needs a time zone, such as 2026-03-09T06:00:00Z")


def finite(value: float) -> float | None:
    """The number, or None for an infinity or not-a-number."""
    return float(value) if math.isfinite(value) else None


def inspection_row(record: Record) -> dict[str, Any]:
    """The row of `inspections`."""
    model = record.model
    return {
        "id": record.id,
        "request_id": record.request_id,
        "created_at": record.created_at,
        "model_name": model.name,
        "model_version": model.version,
        "precision": model.precision,
        "provider": model.provider,
        "teacher_sha256": record.teacher_sha256,
        "product": record.product,
        "lot": record.lot,
        "serial": record.serial,
        "station": record.station,
        "view": record.view,
        "captured_at": record.captured_at,
        "metadata": record.metadata,
        "image_sha256": record.image_sha256,
        "width": record.width,
        "height": record.height,
        "verdict": record.decision.value,
        "score": record.score,
        "review_threshold": record.thresholds.review,
        "reject_threshold": record.thresholds.reject,
        "threshold_method": record.threshold_method,
        "p_value": record.p_value,
        "reasons": list(record.reasons),
        "regions": [plain(asdict(region)) for region in record.regions],
        "descriptors": record.descriptors,
        "timings": plain(asdict(record.timings)),
        "picture_stored": record.picture_stored,
    }


def record_from(row: sa.RowMapping, caption: sa.RowMapping | None, reviews: Iterable[StoredReview]) -> Record:
    """The record of a row of `inspections`, with its row of `classifications` and its reviews, oldest first."""
    regions = tuple(_region(item) for item in row["regions"])
    descriptors = row.get("descriptors")
    if descriptors is not None:
        descriptors = descriptors.reshape(len(regions), -1) if regions else descriptors.reshape(0, 0)
    return Record(
        id=row["id"],
        request_id=row["request_id"],
        created_at=row["created_at"],
        model=ModelIdentity(row["model_name"], row["model_version"], row["precision"], row["provider"]),
        teacher_sha256=row["teacher_sha256"],
        product=row["product"],
        image_sha256=row["image_sha256"],
        width=row["width"],
        height=row["height"],
        decision=Decision(row["verdict"]),
        score=row["score"],
        thresholds=Thresholds(row["review_threshold"], row["reject_threshold"]),
        p_value=row["p_value"],
        reasons=tuple(row["reasons"]),
        regions=regions,
        timings=Timings(**row["timings"]),
        lot=row["lot"],
        serial=row["serial"],
        station=row["station"],
        view=row["view"],
        captured_at=row["captured_at"],
        metadata=row["metadata"],
        picture_stored=row["picture_stored"],
        threshold_method=row["threshold_method"],
        descriptors=descriptors,
        caption=None if caption is None else caption_from(caption),
        reviews=tuple(reviews),
    )


def caption_row(inspection_id: str, caption: Caption, at: datetime) -> dict[str, Any]:
    """The row of `classifications`."""
    return {
        "inspection_id": inspection_id,
        "created_at": at,
        "picture": plain(asdict(caption.picture)),
        "regions": [plain(asdict(region)) for region in caption.regions],
        "llm": plain(caption.llm),
    }


def caption_from(row: sa.RowMapping) -> Caption:
    """The caption of a row of `classifications`."""
    return Caption(_words(row["picture"]), tuple(_words(item) for item in row["regions"]), row["llm"])


def review_from(row: sa.RowMapping) -> StoredReview:
    """The review of a row of `reviews`."""
    review = Review(
        row["verdict"], row["who"], row["label"], row["cause"], row["action"], row["comment"], row["region"]
    )
    return StoredReview(row["id"], row["inspection_id"], row["at"], review, row["case_id"])


def _time(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _region(item: dict[str, Any]) -> Region:
    return Region(**{**item, "box": tuple(item["box"]), "centroid": tuple(item["centroid"])})


def _words(item: dict[str, Any]) -> Classification:
    suggested = item.get("suggested_severity")
    return Classification(
        **{
            **item,
            "severity": Severity(item["severity"]),
            "probable_causes": tuple(item["probable_causes"]),
            "attributes": Attributes(**item["attributes"]),
            "similar": tuple(SimilarCase(**case) for case in item["similar"]),
            # older records have neither
            "cited": tuple(Citation(**each) for each in item.get("cited", ())),
            "suggested_severity": Severity(suggested) if suggested else None,
        }
    )


def plain(value: Any) -> Any:
    """JSON that both databases take: clean texts, plain numbers, None for those that are not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return {clean(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return clean(value)
    return finite(value) if isinstance(value, float) else value
