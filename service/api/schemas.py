"""Answers over HTTP, as in the published contract; openapi.json is made from these."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Verdict = Literal["ok", "review", "not_ok", "undecidable"]
ThresholdMethod = Literal["conformal", "fitted_tail", "reviews", "request"]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(_Answer):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str


class Model(_Answer):
    """The model that answered."""

    name: str
    version: int
    precision: str
    provider: str


class ImageFacts(_Answer):
    """The picture as displayed (after EXIF rotation); sha256 of the bytes received."""

    width: int
    height: int
    sha256: str


class Region(_Answer):
    """A flaw's place: box [x,y,w,h] and centroid [x,y] in pixels of the picture as displayed."""

    box: tuple[int, int, int, int]
    area_px: int
    area_share: float
    peak_score: float
    centroid: tuple[float, float]
    kind: Literal["structural", "logical"]


class Blob(_Answer):
    """A picture inside the answer, base64."""

    media_type: str
    data: str


class MapBlob(Blob):
    """The anomaly map as a 16-bit picture: a pixel p stands for the score offset + scale * p."""

    scale: float
    offset: float


class TimingsMs(_Answer):
    """Milliseconds by stage."""

    decode: float
    prepare: float
    queue: float
    network: float
    decide: float


class Result(_Answer):
    """One picture's answer. is_anomalous is true exactly when verdict is not_ok. There is no region exactly when it is `ok`
    or `undecidable`."""

    id: str
    image: ImageFacts
    anomaly_score: float | None  # null when the region of interest holds no cell of the picture
    threshold: float
    threshold_method: (
        ThresholdMethod  # `fitted_tail`: extrapolated, too few held-out parts; `request`: the caller's own
    )
    review_threshold: float
    verdict: Verdict
    reasons: list[str]
    is_anomalous: bool
    p_value: float
    regions: list[Region] | None  # highest peak first, at most 100; the mask shows all
    anomaly_map: MapBlob | None
    mask: Blob | None
    overlay: Blob | None
    metadata: dict[str, str]
    stored: bool  # true: its record is on disk and survives a crash
    timings_ms: TimingsMs


class FailedResult(_Answer):
    """In the place of a picture that could not be judged, among others that were."""

    error: Problem


class DetectAnswer(_Answer):
    """POST /detect: one result per picture, in order."""

    request_id: str
    model: Model
    results: list[Result | FailedResult]


class Attributes(_Answer):
    """What the map and the pixels say of a flaw, in short phrases; empty for a normal picture."""

    location: str
    size: str
    shape: str
    colour: str
    margin: str


class SimilarCase(_Answer):
    """A reviewed past flaw that looks alike; distance 0..2."""

    inspection_id: str
    label: str
    distance: float


class Citation(_Answer):
    """A reviewed past flaw that a cause rests on. `cause`: one of `probable_causes`; `inspection_id`: where it was reviewed."""

    cause: str
    case_id: str
    inspection_id: str


class Classification(_Answer):
    """A flaw, or the whole picture, in words. `degraded`: the LLM was wanted and did not answer; `fallback_reason` says why.

    `cited`: past flaws that `probable_causes` rest on. `suggested_severity`: the LLM's word, null without one; the product's
    policy decides `severity`.
    """

    label: str
    description: str
    severity: Literal["none", "minor", "major", "critical"]
    probable_causes: list[str]
    recommended_action: str
    confidence: float | None
    source: Literal["llm", "memory", "rules"]
    degraded: bool
    fallback_reason: str | None
    is_new_type: bool
    attributes: Attributes
    prompt_version: str | None
    similar: list[SimilarCase]
    cited: list[Citation]
    suggested_severity: Literal["minor", "major", "critical"] | None


class LlmUse(_Answer):
    """What the LLM was asked and what it cost; `flags`: what was put right in its answer."""

    model: str
    tokens_in: int
    tokens_out: int
    calls: int
    flags: list[str]


class ClassifiedRegion(Region):
    """A flaw's place, and the flaw in words."""

    classification: Classification


class ClassifiedResult(Result):
    """One picture's answer in words; "This is normal" exactly when there is no flaw."""

    regions: list[ClassifiedRegion] | None  # type: ignore[assignment]
    classification: Classification
    llm: LlmUse | None


class ClassifyAnswer(_Answer):
    """POST /classify: one result per picture, in order."""

    request_id: str
    model: Model
    results: list[ClassifiedResult | FailedResult]


class RecordedRegion(Region):
    """A flaw's place as recorded, and its words where they were asked for."""

    classification: Classification | None


class RecordedReview(_Answer):
    """A person's word on an inspection; `case_id`: the case of the memory that was made of it."""

    id: int
    inspection_id: str
    at: datetime
    verdict: Literal["right", "overkill", "escape"]
    who: str
    label: str
    cause: str
    action: str
    comment: str
    region: int | None
    case_id: str | None


class RecordedInspection(_Answer):
    """GET /inspections/{id}. `pending`: its words are still to come."""

    id: str
    status: Literal["done", "pending"]
    request_id: str
    created_at: datetime
    model: Model
    product: str
    lot: str
    serial: str
    station: str
    view: str
    captured_at: datetime | None
    metadata: dict[str, str]
    image: ImageFacts
    image_stored: bool
    verdict: Verdict
    is_anomalous: bool
    anomaly_score: float | None
    threshold: float
    threshold_method: ThresholdMethod | None  # null: recorded by a version that did not keep it
    review_threshold: float
    p_value: float | None
    reasons: list[str]
    regions: list[RecordedRegion]
    classification: Classification | None
    llm: dict[str, Any] | None
    reviews: list[RecordedReview]
    timings_ms: TimingsMs


class RecordedMap(MapBlob):
    """GET /inspections/{id}/map. `model`: what has judged the picture anew, in the form that the service runs now."""

    model: Model


class InspectionPage(_Answer):
    """GET /inspections: newest first; `next_cursor` goes on behind them, null on the last page."""

    inspections: list[RecordedInspection]
    next_cursor: str | None


class ReviewAnswer(_Answer):
    """POST /inspections/{id}/review: what the review did to the memory and to the product's labels."""

    review: RecordedReview
    case_id: str | None
    withdrawn_cases: list[str]
    label_accepted: bool


class PastFlaw(_Answer):
    """A reviewed past flaw: what people called it, said caused it and did; distance 0..2."""

    inspection_id: str
    label: str
    distance: float
    cause: str
    action: str


class Similar(_Answer):
    """GET /inspections/{id}/similar: past flaws like the `region`; `label`, `confidence`, `sure`: the memory's own word."""

    region: int | None
    label: str
    confidence: float | None
    sure: bool
    cases: list[PastFlaw]


class Label(_Answer):
    """A label, and what such a flaw looks like where the product's card says it."""

    label: str
    words: str


class Labels(_Answer):
    """GET /labels."""

    product: str
    labels: list[Label]


class Part(_Answer):
    """GET /parts/{serial}: the verdict on a part; `latest`: the shots that it is made of."""

    serial: str
    product: str
    verdict: Verdict
    after_review: Verdict
    shots: int
    latest: list[RecordedInspection]


class ModelVersion(_Answer):
    """One version of a model."""

    version: int
    active: bool
    loaded: bool
    created_at: str
    network: str
    global_map: bool
    forms: list[str]
    working_resolution: str
    thresholds: dict[str, dict[str, Any]]
    teacher: str
    training: dict[str, Any]  # its settings, and `steps_done`
    metrics: dict[str, Any]
    data: dict[str, Any]
    report: str | None  # where its report.html is; null: it was written without one


class ModelSummary(_Answer):
    """A model of the models folder."""

    name: str
    default: bool
    active_version: int | None  # null: none of its versions was put in service yet
    versions: list[int]


class ModelList(_Answer):
    """GET /models."""

    models: list[ModelSummary]


class ModelDetail(_Answer):
    """GET /models/{name}."""

    name: str
    active_version: int | None
    previous_version: int | None  # what POST /models/{name}/rollback puts back in service
    versions: list[ModelVersion]
    refused: dict[str, str]


class Activation(_Answer):
    """POST /models/{name}/activate: which version to put in service."""

    version: int = Field(strict=True)


class Health(_Answer):
    """GET /healthz and /readyz."""

    status: str
    detail: str | None = None
