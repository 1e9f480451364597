"""Records for the tests: inspections of polka-dot fabric, one a second."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from service.records.entities import Caption, Record
from service.types import (
    Attributes,
    Citation,
    Classification,
    Decision,
    ModelIdentity,
    Region,
    Severity,
    SimilarCase,
    Thresholds,
    Timings,
)

START = datetime(2026, 3, 9, 6, 0, tzinfo=UTC)
MODEL = ModelIdentity("polka-dot", 1, "int8", "cpu")


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time


def region(peak: float = 0.4, x: int = 10) -> Region:
    return Region((x, 20, 12, 8), 80, 80 / 30_000, peak, (x + 6.25, 24.5), "structural")


def record(number: int = 0, decision: Decision = Decision.OK, **changes: Any) -> Record:
    """One inspection; `number` gives its id and its second. Other than ok and undecidable, it has one region."""
    flawed = decision in (Decision.REVIEW, Decision.NOT_OK)
    fields: dict[str, Any] = {
        "id": f"{number:032x}",
        "request_id": f"request-{number}",
        "created_at": START + timedelta(seconds=number),
        "model": MODEL,
        "teacher_sha256": "e" * 64,
        "product": "polka-dot",
        "image_sha256": f"{number:064x}",
        "width": 200,
        "height": 150,
        "decision": decision,
        "score": {Decision.OK: 0.1, Decision.REVIEW: 0.25}.get(decision, 0.4),
        "thresholds": Thresholds(0.2, 0.3),
        "p_value": 0.5,
        "reasons": (),
        "regions": (region(),) if flawed else (),
        "timings": Timings(1.0, 2.0, 3.0, 4.0, 5.0),
        "descriptors": np.full((1, 4), number, np.float32) if flawed else None,
    }
    return Record(**(fields | changes))


def words(label: str, **changes: Any) -> Classification:
    fields: dict[str, Any] = {
        "label": label,
        "description": "Dark line across the upper left",
        "severity": Severity.MAJOR,
        "probable_causes": ("loom end",),
        "recommended_action": "brush",
        "confidence": 0.8,
        "source": "memory",
        "attributes": Attributes("upper left", "12 px", "line", "dark", "2.1 x the threshold"),
        "similar": (SimilarCase("a" * 32, label, 0.125),),
        "cited": (Citation("loom end", "c" * 32, "a" * 32),),
        "suggested_severity": Severity.MINOR,
    }
    return Classification(**(fields | changes))


def caption(*labels: str) -> Caption:
    """Words for a picture whose regions have these labels."""
    return Caption(words(labels[0]), tuple(words(label) for label in labels), {"model": "m", "tokens_in": 12})
