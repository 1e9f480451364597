"""manifest.json: what a model folder promises. Written by training, verified before a bundle is loaded."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.image.prepare import CELLS, CONTEXT, STEP, STRIDE, WINDOW, PrepareRecipe
from service.image.quality import QualityGate
from service.types import Border

SCHEMA_VERSION = 1
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
AUTO = "auto"  # in place of a teacher's name: the one that suits the product, chosen by the training itself

# int8-openvino and bf16 are the int8 and float32 networks as OpenVINO computes them: other scores, so thresholds of their own
FormName = Literal["float32", "fp16", "int8", "int8-openvino", "bf16"]
FORM_FILES: dict[FormName, str] = {
    "float32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
    "int8-openvino": "model.int8.onnx",
    "bf16": "model.onnx",
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Network(_Part):
    """EfficientAD's size, the teacher's channels, and whether the autoencoder's logical map is there."""

    size: Literal["small", "medium"]
    channels: int = 384
    global_map: bool


class Geometry(_Part):
    """The window geometry the network was exported for; only this one is served."""

    window: Literal[256] = WINDOW  # type: ignore[assignment]
    context: Literal[16] = CONTEXT  # type: ignore[assignment]
    step: Literal[224] = STEP  # type: ignore[assignment]
    stride: Literal[4] = STRIDE  # type: ignore[assignment]
    cells: Literal[56] = CELLS  # type: ignore[assignment]


class MapQuantiles(_Part):
    """Quantiles of a raw map on held-out normals: q_a (0.9) is scaled to 0, q_b (0.995) to 0.1 (paper section 3.4)."""

    q_a: float
    q_b: float


class Quantiles(_Part):
    """Quantiles of both maps; `logical` is null without the autoencoder."""

    structural: MapQuantiles
    logical: MapQuantiles | None = None


class ThresholdRule(_Part):
    """How one threshold was chosen. `fitted_tail`: extrapolated, fewer held-out parts than the rate needs; `reviews`: by
    people's reviews, of which there were `parts`, and the rate is what the calibration scores say of it."""

    method: Literal["conformal", "fitted_tail", "reviews"]
    false_reject_rate: float = Field(gt=0, lt=1)
    parts: int = Field(ge=1)


class Parity(_Part):
    """How near this form is to the float32 torch network, on real pictures."""

    pictures: int
    batches: tuple[int, ...]
    max_relative_score_error: float
    max_abs_map_error: float


class Form(_Part):
    """One numerical form of the network with its own thresholds and its own calibration through the served path."""

    file: str
    review_threshold: float
    reject_threshold: float
    review_rule: ThresholdRule
    reject_rule: ThresholdRule
    calibration_scores: tuple[float, ...]  # ascending, one a held-out normal part (its highest)
    parity: Parity
    network_ms_per_window: float = Field(gt=0)  # `service.bundle.load.window_ms`, on the CPU of `machine`
    machine: str  # processor and cores

    @model_validator(mode="after")
    def _ordered(self) -> Form:
        if self.review_threshold > self.reject_threshold:
            raise ValueError("review_threshold is above reject_threshold")
        if list(self.calibration_scores) != sorted(self.calibration_scores) or not self.calibration_scores:
            raise ValueError("calibration_scores must be ascending and not empty")
        return self


class Golden(_Part):
    """A picture in golden/ with the score that each form must give it at load."""

    file: str
    scores: dict[FormName, float]


class Teacher(_Part):
    """Which teacher's features the network speaks in."""

    name: str
    sha256: str


class Manifest(_Part):
    """The whole promise. `files` maps every other file of the bundle, by relative path, to its sha256."""

    schema_version: Literal[1] = SCHEMA_VERSION  # type: ignore[assignment]
    name: str = Field(pattern=NAME_PATTERN)
    version: int = Field(ge=1)
    created_at: datetime
    network: Network
    geometry: Geometry = Geometry()
    prepare: PrepareRecipe
    quantiles: Quantiles
    border: Border = Border()  # quantiles of the scaled maps near the picture's border, where they differ from inside
    min_flaw_px: float = Field(gt=0)
    mm_per_pixel: float | None = None
    quality_gate: QualityGate
    forms: dict[FormName, Form]
    references: tuple[
        str, ...
    ] = ()  # typical normal pictures, small and unlike each other, for the LLM to compare with
    golden: tuple[Golden, ...]
    golden_tolerance: float = Field(gt=0)  # largest relative difference of a golden score at load
    teacher: Teacher
    roi: bool = False
    layout: bool = False  # layout.npy says what is normal place by place, in place of `border`
    metrics: dict[str, Any] = {}
    data: dict[str, Any] = {}  # fingerprint, counts by split
    training: dict[str, Any] = {}  # settings
    libraries: dict[str, str] = {}
    files: dict[str, str]

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        if "float32" not in self.forms:
            raise ValueError("the float32 form is missing")
        if any(not low < high for low, high in (*self.border.structural, *self.border.logical)):
            raise ValueError("a border ring's low quantile is not below its high one")
        level = self.border.level
        if level is not None and not (
            0 <= level.exponent <= 1 and 0 < level.lowest <= level.typical <= level.highest and level.low < level.high
        ):
            raise ValueError("the level's figures are not in order")
        for name, form in self.forms.items():
            if form.file != FORM_FILES[name]:
                raise ValueError(f"form {name} must be {FORM_FILES[name]}, not {form.file}")
            if form.file not in self.files:
                raise ValueError(f"{form.file} has no sha256 in files")
        return self
