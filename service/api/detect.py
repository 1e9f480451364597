"""POST /detect: pictures in, verdicts out."""

from __future__ import annotations

import asyncio
import base64
import math
import time
from collections.abc import Awaitable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.api import schemas
from service.api.problems import problem_of
from service.api.state import ServiceState, require
from service.api.wire import IMAGE_TYPES, read_pictures
from service.bundle.store import Bundle
from service.decision.heatmap import map_png, mask_png, overlay_png
from service.errors import BadRequest, FlawscribeError, InvalidParameter, NoSuchModel, NotAcceptable, Overloaded
from service.inspector import Picture
from service.types import Inspection, ModelIdentity

T = TypeVar("T")
Include = Literal["regions", "map", "mask", "overlay"]
_AT_ONCE = 4  # pictures of one request judged together, so that a long request does not fill the queue
router = APIRouter(tags=["inspect"])


class DetectQuery(BaseModel):
    """Query parameters; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="Name of the model; the default one when not given.")
    version: int | None = Field(None, ge=1, description="Version of the model; the active one when not given.")
    include: str = Field("regions", description="Comma-separated: regions, map, mask, overlay.")
    threshold: float | None = Field(None, description="Reject threshold in place of the model's own.")

    @field_validator("include")
    @classmethod
    def _known(cls, value: str) -> str:
        known = ("regions", "map", "mask", "overlay")
        if unknown := [part for part in value.split(",") if part and part not in known]:
            raise ValueError(f"unknown {', '.join(unknown)}; known are {', '.join(known)}")
        return value

    @field_validator("threshold")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise ValueError("must be a finite number")
        return value

    @property
    def included(self) -> frozenset[str]:
        """The parts asked for."""
        return frozenset(part for part in self.include.split(",") if part)


_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                    "additionalProperties": {"type": "string"},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {
                        "images": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["data"],
                                "properties": {"data": {"type": "string", "format": "byte"}},
                            },
                        },
                        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                    },
                }
            },
            "application/octet-stream": _BINARY,
            **dict.fromkeys(IMAGE_TYPES, _BINARY),
        },
    }
}


@router.post(
    "/detect",
    response_model=schemas.DetectAnswer,
    responses={
        200: {"content": {"image/png": _BINARY}, "description": "Verdicts, or the overlay for Accept: image/png"}
    },
    openapi_extra=_BODY,
    summary="Is each picture anomalous, and where?",
)
async def detect(request: Request, query: Annotated[DetectQuery, Query()]) -> Response:
    """Judge one or more pictures of parts: verdict, anomaly score against its thresholds, and the regions of the flaws.

    Send multipart parts named `image`, a raw JPEG, PNG, BMP, TIFF or WebP body, JSON with base64 data, or raw RGB with
    X-Image-Shape: H,W,3. X-Deadline-Ms bounds the wait; X-Meta-* headers and form fields come back as metadata.
    """
    state = require(request, "detect")
    state.require_ready()
    deadline = time.monotonic() + _deadline_ms(request, state) / 1000
    picture_only = _wants_picture(request)
    incoming = await read_pictures(request, state.limits)
    if picture_only and len(incoming.pictures) != 1:
        raise NotAcceptable("Accept: image/png answers one picture; several need application/json")
    name = query.model or state.default_model
    if name is None:
        raise NoSuchModel(f"name one with ?model=; there are: {', '.join(state.store.names()) or 'none'}")
    bundle = await asyncio.to_thread(state.store.load, name, query.version)
    with state.store.lease(name, bundle.manifest.version) as leased:
        judging = _judge_all(state, leased, incoming.pictures, deadline, query.threshold)
        outcomes = await _unless_departed(request, judging)
        _require_one(outcomes)
        if picture_only:
            return await _picture_answer(outcomes[0])
        return await _json_answer(request, outcomes, leased, query)


async def _judge_all(
    state: ServiceState,
    bundle: Bundle,
    pictures: tuple[Picture | FlawscribeError, ...],
    deadline: float,
    threshold: float | None,
) -> list[Inspection | FlawscribeError]:
    """Each picture's inspection or its error, in order. Overload turns the whole request away only at its first picture."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def judge(index: int, picture: Picture | FlawscribeError) -> Inspection | FlawscribeError:
        if isinstance(picture, FlawscribeError):
            return picture
        async with places:
            while True:
                try:
                    return await state.inspector.inspect(picture, bundle, deadline=deadline, threshold=threshold)
                except Overloaded as error:
                    if index == 0:
                        raise
                    await asyncio.sleep(min(error.retry_after or 0.1, max(0.0, deadline - time.monotonic())))
                except FlawscribeError as error:
                    return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(judge(index, picture)) for index, picture in enumerate(pictures)]
    return [task.result() for task in tasks]


async def _unless_departed(request: Request, work: Awaitable[T]) -> T:
    """The work's result; the work is cancelled when the client leaves first, so that its pictures leave the queue."""
    task = asyncio.ensure_future(work)
    departure = asyncio.ensure_future(_departure(request))
    try:
        await asyncio.wait({task, departure}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise BadRequest("the client left")
        return task.result()
    except* FlawscribeError as group:
        raise _first(group) from None
    finally:
        task.cancel()
        departure.cancel()


def _first(group: BaseExceptionGroup[FlawscribeError]) -> FlawscribeError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, FlawscribeError)
    return error


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _require_one(outcomes: list[Inspection | FlawscribeError]) -> None:
    """Raises the first error when no picture was judged."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, FlawscribeError)]
    if len(errors) == len(outcomes):
        raise errors[0]


def _deadline_ms(request: Request, state: ServiceState) -> float:
    stated = request.headers.get("x-deadline-ms")
    if stated is None:
        return state.settings.deadline_ms
    if not stated.isdigit() or not 0 < int(stated) < 10**9:
        raise InvalidParameter(f"X-Deadline-Ms must be a positive whole number of milliseconds, not {stated!r}")
    return int(stated)


def _wants_picture(request: Request) -> bool:
    """Whether the answer is the overlay itself. Raises NotAcceptable for what cannot be given."""
    accepted = [part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "*/*").split(",")]
    if any(kind in ("*/*", "application/json", "application/*", "") for kind in accepted):
        return False
    if "image/png" in accepted or "image/*" in accepted:
        return True
    raise NotAcceptable("answers are application/json or image/png")


async def _picture_answer(outcome: Inspection | FlawscribeError) -> Response:
    assert isinstance(outcome, Inspection)
    overlay = await asyncio.to_thread(_overlay, outcome)
    headers = {"x-verdict": outcome.verdict.decision.value, "server-timing": _server_timing([outcome])}
    return Response(overlay, media_type="image/png", headers=headers)


async def _json_answer(
    request: Request, outcomes: list[Inspection | FlawscribeError], bundle: Bundle, query: DetectQuery
) -> Response:
    request_id: str = request.state.request_id
    included = query.included
    method: Any = "request" if query.threshold is not None else bundle.form.reject_rule.method

    def results() -> list[schemas.Result | schemas.FailedResult]:
        return [
            result_of(outcome, included, method)
            if isinstance(outcome, Inspection)
            else schemas.FailedResult(error=problem_of(outcome, request_id))
            for outcome in outcomes
        ]

    drawn = bool(included - {"regions"})
    answer = schemas.DetectAnswer(
        request_id=request_id,
        model=model_of(bundle.identity),
        results=await asyncio.to_thread(results) if drawn else results(),
    )
    inspections = [outcome for outcome in outcomes if isinstance(outcome, Inspection)]
    return Response(
        answer.model_dump_json(exclude_none=False),
        media_type="application/json",
        headers={"server-timing": _server_timing(inspections)},
    )


def model_of(identity: ModelIdentity) -> schemas.Model:
    """A model's identity as answered."""
    return schemas.Model(
        name=identity.name, version=identity.version, precision=identity.precision, provider=identity.provider
    )


def result_of(inspection: Inspection, included: frozenset[str], method: Any) -> schemas.Result:
    """An inspection as answered, with the pictures that were asked for."""
    verdict, plan, timings = inspection.verdict, inspection.anomaly_map.plan, inspection.timings
    regions = None
    if "regions" in included:
        regions = [
            schemas.Region(
                box=region.box,
                area_px=region.area_px,
                area_share=region.area_share,
                peak_score=region.peak_score,
                centroid=region.centroid,
                kind=region.kind,
            )
            for region in verdict.regions
        ]
    return schemas.Result(
        id=inspection.id,
        image=schemas.ImageFacts(width=plan.width, height=plan.height, sha256=inspection.sha256),
        anomaly_score=verdict.score if math.isfinite(verdict.score) else None,
        threshold=verdict.thresholds.reject,
        threshold_method=method,
        review_threshold=verdict.thresholds.review,
        verdict=verdict.decision.value,
        reasons=list(verdict.reasons),
        is_anomalous=verdict.is_anomalous,
        p_value=verdict.p_value,
        regions=regions,
        anomaly_map=_map(inspection) if "map" in included else None,
        mask=_blob(mask_png(inspection.anomaly_map, _shown_review(inspection))) if "mask" in included else None,
        overlay=_blob(_overlay(inspection)) if "overlay" in included else None,
        metadata=inspection.metadata,
        timings_ms=schemas.TimingsMs(
            decode=round(timings.decode, 3),
            prepare=round(timings.prepare, 3),
            queue=round(timings.queue, 3),
            network=round(timings.network, 3),
            decide=round(timings.decide, 3),
        ),
    )


def _shown_review(inspection: Inspection) -> float:
    """The threshold that pictures are drawn at; none of an undecidable picture is marked, as it has no region."""
    return inspection.verdict.thresholds.review if inspection.verdict.regions else math.inf


def _overlay(inspection: Inspection) -> bytes:
    return overlay_png(inspection.rgb, inspection.anomaly_map, inspection.verdict.thresholds)


def _map(inspection: Inspection) -> schemas.Blob:
    drawn = map_png(inspection.anomaly_map)
    return _blob(drawn.data).model_copy(update={"scale": drawn.scale, "offset": drawn.offset})


def _blob(data: bytes) -> schemas.Blob:
    return schemas.Blob(media_type="image/png", data=base64.b64encode(data).decode())


def _server_timing(inspections: list[Inspection]) -> str:
    stages = ("decode", "prepare", "queue", "network", "decide")
    totals = {stage: sum(getattr(inspection.timings, stage) for inspection in inspections) for stage in stages}
    return ", ".join(f"{stage};dur={total:.2f}" for stage, total in totals.items())
