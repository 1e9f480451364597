"""POST /detect: pictures in, verdicts out."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable
from typing import Annotated, Any, TypeVar, get_args

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.api import answers, schemas
from service.api.answers import Include, Outcome
from service.api.state import ServiceState, require
from service.api.wire import IMAGE_TYPES, read_pictures
from service.bundle.store import Bundle
from service.errors import (
    BadRequest,
    DeadlineExceeded,
    FlawscribeError,
    InvalidParameter,
    NoSuchModel,
    NotAcceptable,
    Overloaded,
)
from service.inspector import Picture
from service.types import Inspection

T = TypeVar("T")
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
        known = get_args(Include)
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
    with state.room_for_body(request.headers):
        return await _answer(request, query, state, deadline, picture_only)


async def _answer(
    request: Request, query: DetectQuery, state: ServiceState, deadline: float, picture_only: bool
) -> Response:
    incoming = await read_pictures(request, state.limits)
    if picture_only and len(incoming.pictures) != 1:
        raise NotAcceptable("Accept: image/png answers one picture; several need application/json")
    name = query.model or state.default_model
    if name is None:
        raise NoSuchModel(f"name one with ?model=; there are: {', '.join(state.store.names()) or 'none'}")
    async with state.leased(name, query.version) as bundle:
        judging = _judge_all(state, bundle, incoming.pictures, deadline, query.threshold)
        outcomes = await _unless_departed(request, judging)
    judged = _judged(outcomes)
    if picture_only:
        return await answers.picture_answer(judged[0])
    method = "request" if query.threshold is not None else bundle.form.reject_rule.method
    return await answers.json_answer(request.state.request_id, outcomes, bundle.identity, query.included, method)


async def _judge_all(
    state: ServiceState,
    bundle: Bundle,
    pictures: tuple[Picture | FlawscribeError, ...],
    deadline: float,
    threshold: float | None,
) -> list[Outcome]:
    """Each picture's inspection or its error, in order. Overload turns the whole request away only at its first picture."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def judge(index: int, picture: Picture | FlawscribeError) -> Outcome:
        if isinstance(picture, FlawscribeError):
            return picture
        async with places:
            while True:
                try:
                    return await state.inspector.inspect(picture, bundle, deadline=deadline, threshold=threshold)
                except Overloaded as error:
                    if index == 0:
                        state.metrics.rejected.labels("overload").inc()
                        raise
                    await asyncio.sleep(min(error.retry_after or 0.1, max(0.0, deadline - time.monotonic())))
                except FlawscribeError as error:
                    if isinstance(error, DeadlineExceeded):
                        state.metrics.rejected.labels("deadline").inc()
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


def _judged(outcomes: list[Outcome]) -> list[Inspection]:
    """The pictures that were judged. Raises the first error when there is none."""
    judged = [outcome for outcome in outcomes if isinstance(outcome, Inspection)]
    if not judged:
        raise next(outcome for outcome in outcomes if isinstance(outcome, FlawscribeError))
    return judged


def _deadline_ms(request: Request, state: ServiceState) -> float:
    stated = request.headers.get("x-deadline-ms")
    if stated is None:
        return state.settings.deadline_ms
    if not stated.isdecimal() or not 0 < int(stated) < 10**9:
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
