"""Answers over HTTP, as in the published contract; openapi.json is made from these."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["ok", "review", "not_ok", "undecidable"]
ThresholdMethod = Literal["conformal", "fitted_tail", "request"]


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
    """A picture inside the answer, base64. For the anomaly map a pixel p stands for the score offset + scale * p."""

    media_type: str
    data: str
    scale: float | None = None
    offset: float | None = None


class TimingsMs(_Answer):
    """Milliseconds by stage."""

    decode: float
    prepare: float
    queue: float
    network: float
    decide: float


class Result(_Answer):
    """One picture's answer. is_anomalous is true exactly when verdict is not_ok; `ok` exactly when there is no region."""

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
    regions: list[Region] | None
    anomaly_map: Blob | None
    mask: Blob | None
    overlay: Blob | None
    metadata: dict[str, str]
    timings_ms: TimingsMs


class FailedResult(_Answer):
    """In the place of a picture that could not be judged, among others that were."""

    error: Problem


class DetectAnswer(_Answer):
    """POST /detect: one result per picture, in order."""

    request_id: str
    model: Model
    results: list[Result | FailedResult]


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
    metrics: dict[str, Any]
    data: dict[str, Any]


class ModelSummary(_Answer):
    """A model of the models folder."""

    name: str
    default: bool
    active_version: int
    versions: list[int]


class ModelList(_Answer):
    """GET /models."""

    models: list[ModelSummary]


class ModelDetail(_Answer):
    """GET /models/{name}."""

    name: str
    active_version: int
    versions: list[ModelVersion]
    refused: dict[str, str]


class Activation(_Answer):
    """POST /models/{name}/activate: which version to put in service."""

    version: int


class Health(_Answer):
    """GET /healthz and /readyz."""

    status: str
    detail: str | None = None
