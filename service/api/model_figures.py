"""What a person weighs before changing a model: scores and thresholds, drift, latency; and a version with another threshold."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api.query import no_query
from service.api.recording import records_of
from service.api.state import ServiceState, require
from service.api.wire import read_body, validated
from service.bundle.manifest import FormName, Manifest
from service.bundle.recalibrate import with_threshold
from service.decision.verdict import conformal_p_value
from service.errors import InvalidParameter, NoSuchModel
from service.image.prepare import plan_tiles
from service.records.drift import read_accepted_p_values, watch
from service.records.latency import read_latency
from service.records.thresholds import Advice, Reviewed, advise, rate, read_reviewed, suggest

router = APIRouter(prefix="/models/{name}", tags=["models"])
_MOST_SCORES = 2000  # reviewed scores in an answer, the latest


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: int | None = Field(None, ge=1, description="Its version; unset: the active one.")
    form: FormName | None = Field(
        None, description="Numerical form; unset: the one in use, or int8 where there is one."
    )


class ThresholdQuery(_Query):
    """Which form, and which thresholds to judge."""

    most_escapes: float = Field(0.01, gt=0, lt=1, description="Share of flawed parts that may pass.")
    at: float | None = Field(None, allow_inf_nan=False, description="A threshold to judge beside the candidates.")


class DriftQuery(_Query):
    """Over how many days, one window a day."""

    days: int = Field(14, ge=1, le=366)


class VersionQuery(BaseModel):
    """Which version."""

    model_config = ConfigDict(extra="forbid")

    version: int | None = Field(None, ge=1, description="Its version; unset: the active one.")


class RateAnswer(_Answer):
    """`count` of `total` with its 95 % Clopper-Pearson interval; value null when there is nothing to tell from."""

    count: int
    total: int
    value: float | None
    low: float
    high: float


class CandidateAnswer(_Answer):
    """What a reject threshold would do. `overkill`, `escape`: among reviewed pictures; `calibration_overkill`: among the
    held-out good parts that the model was calibrated with."""

    threshold: float
    overkill: RateAnswer
    escape: RateAnswer
    calibration_overkill: RateAnswer


class ThresholdAnswer(_Answer):
    """GET /models/{name}/thresholds."""

    version: int
    form: FormName
    forms: list[FormName]
    review: float
    reject: float
    method: str
    false_reject_rate: float
    calibration_scores: list[float] = Field(description="Ascending, one a held-out good part.")
    good_scores: list[float] = Field(description="Of reviewed pictures that are good.")
    flawed_scores: list[float] = Field(description="Of reviewed pictures that are flawed.")
    candidates: list[CandidateAnswer]
    present: CandidateAnswer
    at: CandidateAnswer | None
    suggested: CandidateAnswer | None = Field(description="Null: the reviews cannot show it of any.")
    cautions: list[str]


class ThresholdOrder(BaseModel):
    """POST /models/{name}/thresholds: the version to start from, its form, and the new reject threshold."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    version: int = Field(ge=1, strict=True)
    form: FormName
    reject: float


class NewVersion(_Answer):
    """The version that was written; it is not active until it is activated."""

    name: str
    version: int


class DriftWindow(_Answer):
    """A window of time. `psi` less `psi_by_chance` from 0.1 is a shift, from 0.25 drift, if the test is sure too."""

    start: datetime
    end: datetime
    word: Literal["too few", "steady", "shifting", "drifted"]
    count: int
    ks: float | None
    ks_p_value: float | None
    psi: float | None
    psi_by_chance: float | None


class DriftAnswer(_Answer):
    """GET /models/{name}/drift: accepted parts' p-values against the calibration, a day a window, and over the last day."""

    version: int
    form: FormName
    last_day: DriftWindow
    days: list[DriftWindow]


class LatencyAnswer(_Answer):
    """GET /models/{name}/latency: of the latest 500 recorded pictures, from decoding to verdict."""

    version: int
    pictures: int
    p50_ms: float | None
    p99_ms: float | None
    p50_ms_per_window: float | None
    budget_ms_per_window: float
    over_budget: float | None = Field(description="Share of pictures over their windows' budget.")


@router.get("/thresholds", summary="Scores, and what overkill and escapes would be at other thresholds")
def show_thresholds(request: Request, name: str, query: Annotated[ThresholdQuery, Query()]) -> ThresholdAnswer:
    """By people's reviews and by the calibration, with 95 % intervals. Without records: by the calibration alone."""
    state = require(request, "review")
    manifest = _manifest(state, name, query.version)
    form_name = _form_name(state, manifest, query.form)
    form = manifest.forms[form_name]
    reviewed: tuple[Reviewed, ...] = ()
    if state.settings.store != "off":
        reviewed = read_reviewed(records_of(state).database, name, manifest.version, form_name)
    present = (form.reject_threshold,) if query.at is None else (form.reject_threshold, query.at)
    advice = advise(reviewed, present)
    candidates = {each.threshold: each for each in _candidates(advice, form.calibration_scores)}
    best = suggest(advice, query.most_escapes)
    return ThresholdAnswer(
        version=manifest.version,
        form=form_name,
        forms=list(manifest.forms),
        review=form.review_threshold,
        reject=form.reject_threshold,
        method=form.reject_rule.method,
        false_reject_rate=form.reject_rule.false_reject_rate,
        calibration_scores=list(form.calibration_scores),
        good_scores=[each.score for each in reviewed if not each.flawed][-_MOST_SCORES:],
        flawed_scores=[each.score for each in reviewed if each.flawed][-_MOST_SCORES:],
        candidates=list(candidates.values()),
        present=candidates[form.reject_threshold],
        at=None if query.at is None else candidates[query.at],
        suggested=None if best is None else candidates[best.threshold],
        cautions=list(advice.cautions),
    )


_BODY = {"required": True, "content": {"application/json": {"schema": ThresholdOrder.model_json_schema()}}}


@router.post(
    "/thresholds",
    status_code=201,
    summary="Write a version with another reject threshold",
    openapi_extra={"requestBody": _BODY},
    dependencies=[Depends(no_query)],
)
async def change_threshold(request: Request, name: str) -> NewVersion:
    """As the model's next version: nothing is trained, and it is not active until it is activated."""
    state = require(request, "admin")
    body = await read_body(request, state.small_body)
    try:
        order = validated(ThresholdOrder, body)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidParameter(f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from error
    version = await asyncio.to_thread(_write_version, state, name, order)
    detail = {"added": version, "from": order.version, "form": order.form, "reject": order.reject}
    await state.note_model_change(request, name, detail)
    return NewVersion(name=name, version=version)


@router.get("/drift", summary="Whether accepted parts still look as they did at calibration")
def show_drift(request: Request, name: str, query: Annotated[DriftQuery, Query()]) -> DriftAnswer:
    """Kolmogorov-Smirnov and the population stability index; a window of fewer than 50 parts says `too few`."""
    state = require(request, "review")
    database = records_of(state).database
    manifest = _manifest(state, name, query.version)
    form_name = _form_name(state, manifest, query.form)
    form = manifest.forms[form_name]
    until = datetime.now(UTC)
    since = until - timedelta(days=query.days)
    seen = read_accepted_p_values(
        database,
        name,
        manifest.version,
        form_name,
        since=since,
        until=until,
        review_threshold=form.review_threshold,
    )
    least = conformal_p_value(form.review_threshold, form.calibration_scores)
    days = watch(
        seen,
        since=since,
        until=until,
        step=timedelta(days=1),
        calibration_parts=len(form.calibration_scores),
        least_p_value=least,
    )
    windows = [DriftWindow(start=each.start, end=each.end, **asdict(each.drift)) for each in days]
    return DriftAnswer(version=manifest.version, form=form_name, last_day=windows[-1], days=windows)


@router.get("/latency", summary="How long the latest pictures took, against the budget")
def show_latency(request: Request, name: str, query: Annotated[VersionQuery, Query()]) -> LatencyAnswer:
    """From their records; waiting in the queue is included."""
    state = require(request, "review")
    manifest = _manifest(state, name, query.version)

    def windows(width: int, height: int) -> int:
        return plan_tiles(width, height, manifest.prepare, global_map=manifest.network.global_map).windows

    budget_ms = 1000 * state.budget_s(manifest)
    latency = read_latency(records_of(state).database, name, manifest.version, windows, budget_ms)
    return LatencyAnswer(version=manifest.version, budget_ms_per_window=budget_ms, **asdict(latency))


def _manifest(state: ServiceState, name: str, version: int | None) -> Manifest:
    """Raises NoSuchModel, also when no version is named and none is in service."""
    wanted = version if version is not None else state.store.active_version(name)
    if wanted is None:
        raise NoSuchModel(f"no version of {name} is in service; name one with ?version=")
    return state.store.manifest(name, wanted)


def _form_name(state: ServiceState, manifest: Manifest, asked: FormName | None) -> FormName:
    """The form asked for, else the one in use, else the one that a CPU would use. Raises InvalidParameter."""
    if asked is not None:
        if asked not in manifest.forms:
            raise InvalidParameter(
                f"version {manifest.version} of {manifest.name} has no form {asked}; it has {', '.join(manifest.forms)}"
            )
        return asked
    for bundle in state.store.in_service():
        if (bundle.manifest.name, bundle.manifest.version) == (manifest.name, manifest.version):
            return bundle.form_name
    return "int8" if "int8" in manifest.forms else "float32"


def _candidates(advice: Advice, calibration: Sequence[float]) -> list[CandidateAnswer]:
    """With what the calibration says of each. `calibration`: ascending."""
    return [
        CandidateAnswer(
            threshold=each.threshold,
            overkill=RateAnswer(**asdict(each.overkill)),
            escape=RateAnswer(**asdict(each.escape)),
            calibration_overkill=RateAnswer(
                **asdict(rate(len(calibration) - bisect_right(calibration, each.threshold), len(calibration)))
            ),
        )
        for each in advice.candidates
    ]


def _write_version(state: ServiceState, name: str, order: ThresholdOrder) -> int:
    manifest = state.store.manifest(name, order.version)
    form = manifest.forms.get(order.form)
    reviews = 0
    if form is not None and state.records is not None:
        reviews = len(read_reviewed(state.records.database, name, order.version, order.form))
    state.store.keep_choice(name)
    return int(
        with_threshold(state.settings.models_dir / name / str(order.version), order.form, order.reject, reviews).name
    )
