"""What /detect and /classify share: pictures in, each judged within the deadline, for as long as the client waits."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable
from typing import Any, TypeVar, get_args

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.api.answers import Include
from service.api.recording import Storing
from service.api.schemas import ThresholdMethod
from service.api.state import ServiceState
from service.api.wire import IMAGE_TYPES
from service.bundle.store import Bundle
from service.errors import (
    BadRequest,
    DeadlineExceeded,
    FlawscribeError,
    InvalidParameter,
    NoSuchModel,
    Overloaded,
)
from service.inspector import Picture
from service.types import Inspection

T = TypeVar("T")
Outcome = Inspection | FlawscribeError
_PASSING = frozenset({429, 503, 504})  # asked again, the same request may be answered
_AT_ONCE = 4  # pictures of one request judged together, so that a long request does not fill the queue


class JudgeQuery(BaseModel):
    """Query parameters of both; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, min_length=1, description="Name of the model; the default one when not given.")
    version: int | None = Field(None, ge=1, description="Version of the model; the active one when not given.")
    include: str = Field("regions", description="Comma-separated: regions, map, mask, overlay.")
    threshold: float | None = Field(None, description="Reject threshold in place of the model's own.")
    store: Storing | None = Field(None, description="What is kept: none, record or image; as the service is set up.")

    @field_validator("include")
    @classmethod
    def _known(cls, value: str) -> str:
        known = get_args(Include)
        if unknown := sorted(_parts(value) - set(known)):
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
        return _parts(self.include)


def _parts(include: str) -> frozenset[str]:
    return frozenset(filter(None, map(str.strip, include.split(","))))


BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
BODY: dict[str, Any] = {
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
            "application/octet-stream": BINARY,
            **dict.fromkeys(IMAGE_TYPES, BINARY),
        },
    }
}


async def judge_all(
    state: ServiceState,
    bundle: Bundle,
    pictures: tuple[Picture | FlawscribeError, ...],
    deadline: float,
    threshold: float | None,
    *,
    descriptors: bool = False,
    counted: bool = True,
) -> list[Outcome]:
    """Each picture's inspection or its error, in order. Overload turns the whole request away only at its first picture.

    `counted`: whether parts are inspected, and not looked at again.
    """
    places = asyncio.Semaphore(_AT_ONCE)

    async def judge(index: int, picture: Picture | FlawscribeError) -> Outcome:
        if isinstance(picture, FlawscribeError):
            return picture
        async with places:
            while True:
                try:
                    return await state.inspector.inspect(
                        picture,
                        bundle,
                        deadline=deadline,
                        threshold=threshold,
                        descriptors=descriptors,
                        counted=counted,
                    )
                except Overloaded as error:
                    if index == 0:
                        state.metrics.rejected.labels("overload").inc()
                        raise
                    await asyncio.sleep(min(error.retry_after or 0.1, max(0.0, deadline - time.monotonic())))
                except FlawscribeError as error:
                    return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(judge(index, picture)) for index, picture in enumerate(pictures)]
    outcomes = [task.result() for task in tasks]
    if isinstance(_reason(outcomes), DeadlineExceeded):
        state.metrics.rejected.labels("deadline").inc()
    return outcomes


async def unless_departed(request: Request, work: Awaitable[T]) -> T:
    """The work's result; the work is cancelled when the client leaves first, so that its pictures leave the queue."""
    task = asyncio.ensure_future(work)
    departure = asyncio.ensure_future(_departure(request))
    try:
        await asyncio.wait({task, departure}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise BadRequest("the client left")
        return task.result()
    except BaseExceptionGroup as group:  # `except*` wraps what is raised in it again before Python 3.11.4
        known = group.subgroup(FlawscribeError)
        if known is None:
            raise
        raise _first(known) from None
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


def judged_of(outcomes: list[Outcome]) -> list[Inspection]:
    """The pictures that were judged. Raises the reason when there is none."""
    if (reason := _reason(outcomes)) is not None:
        raise reason
    return [outcome for outcome in outcomes if isinstance(outcome, Inspection)]


def _reason(outcomes: list[Outcome]) -> FlawscribeError | None:
    """Why no picture was judged, None where one was: a problem that may pass, and with it the whole request, else any; of several
    that with the lowest status, whatever their order."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, FlawscribeError)]
    if len(errors) < len(outcomes):
        return None
    return min(errors, key=lambda error: (error.status not in _PASSING, error.status))


def deadline_of(request: Request, state: ServiceState) -> float:
    """time.monotonic() by which the answer must be there, from X-Deadline-Ms. Raises InvalidParameter."""
    stated = request.headers.get("x-deadline-ms")
    if stated is None:
        return time.monotonic() + state.settings.deadline_ms / 1000
    if not (stated.isdecimal() and len(stated) <= 9 and int(stated) > 0):
        raise InvalidParameter(f"X-Deadline-Ms must be a positive whole number of milliseconds, not {stated!r}")
    return time.monotonic() + int(stated) / 1000


def method_of(query: JudgeQuery, bundle: Bundle) -> ThresholdMethod:
    """How the reject threshold came about: by the request itself, or as the bundle says."""
    return "request" if query.threshold is not None else bundle.form.reject_rule.method


def model_named(query: JudgeQuery, state: ServiceState) -> str:
    """The model asked for, or the default one. Raises NoSuchModel."""
    name = query.model or state.default_model
    if name is None:
        raise NoSuchModel(f"name one with ?model=; there are: {', '.join(state.store.names()) or 'none'}")
    return name
