"""The frozen records of the database, as the rest of the service sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.types import Classification, Decision, ModelIdentity, Region, Thresholds, Timings

ReviewVerdict = Literal["right", "overkill", "escape"]


@dataclass(frozen=True, slots=True)
class Caption:
    """An inspection in words: the picture, each of its regions in order, and the LLM's usage where one was asked."""

    picture: Classification
    regions: tuple[Classification, ...] = ()
    llm: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """A person's word on an inspection. `verdict`: of the detector's verdict; `region`: index of the region meant."""

    verdict: ReviewVerdict
    who: str
    label: str = ""
    cause: str = ""
    action: str = ""
    comment: str = ""
    region: int | None = None


@dataclass(frozen=True, slots=True)
class StoredReview:
    """A review as it stands in the records; `case_id`: the case that was made of it."""

    id: int
    inspection_id: str
    at: datetime
    review: Review
    case_id: str | None


@dataclass(frozen=True, slots=True)
class Record:
    """One inspection. `score`, `p_value`: None where they are not finite numbers; times are aware. `threshold_method`: how the
    reject threshold was chosen, empty where it was not kept.

    `descriptors` float32 [regions, C]: written, and read back only where they are asked for.
    """

    id: str
    request_id: str
    created_at: datetime
    model: ModelIdentity
    teacher_sha256: str
    product: str
    image_sha256: str
    width: int
    height: int
    decision: Decision
    score: float | None
    thresholds: Thresholds
    p_value: float | None
    reasons: tuple[str, ...]
    regions: tuple[Region, ...]
    timings: Timings
    lot: str = ""
    serial: str = ""
    station: str = ""
    view: str = ""
    captured_at: datetime | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    picture_stored: bool = False
    threshold_method: str = ""
    descriptors: NDArray[np.float32] | None = None
    caption: Caption | None = None
    reviews: tuple[StoredReview, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredCase:
    """A reviewed flaw, with the descriptor float32 [C] of its region, for the memory."""

    case_id: str
    inspection_id: str
    product: str
    teacher_sha256: str
    label: str
    cause: str
    action: str
    descriptor: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DailySpend:
    """What the LLM was asked and cost on a UTC day."""

    day: date
    calls: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what to what, and when."""

    id: int
    at: datetime
    who: str
    kind: str
    subject: str
    detail: dict[str, Any]
