"""The daily check: pictures of master parts whose verdict is known, judged as any other picture, their scores watched."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict

from service.api.query import no_query
from service.api.recording import records_of
from service.api.schemas import Verdict
from service.api.state import ServiceState, require
from service.api.wire import read_pictures
from service.bundle.store import Bundle
from service.errors import (
    BadRequest,
    Conflict,
    DeadlineExceeded,
    FlawscribeError,
    InvalidParameter,
    NotReady,
    Overloaded,
    RecordsFailure,
)
from service.image.decode import media_type_of, read_header
from service.inspector import Picture
from service.records.masters import Check, Master, MasterResult
from service.types import Decision, Inspection, ModelIdentity

router = APIRouter(prefix="/models/{name}", tags=["models"], dependencies=[Depends(no_query)])
_PATIENCE_S = 60.0  # for one picture, behind whatever else waits


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MasterAnswer(_Answer):
    """A master part: its picture and the verdict that it must get."""

    id: str
    name: str
    expected: Verdict
    added_at: datetime
    who: str
    picture: str


class MasterResultAnswer(_Answer):
    """What a master part got. `change`: of its score since the first check of this version and form, in shares of the reject
    threshold."""

    master_id: str
    name: str
    expected: Verdict
    verdict: Verdict | None
    passed: bool
    score: float | None
    first_score: float | None
    change: float | None
    error: str | None


class CheckAnswer(_Answer):
    """A check: every master part of the model, judged by the version in service."""

    id: int
    at: datetime
    who: str
    version: int
    precision: str
    passed: bool
    results: list[MasterResultAnswer]


class MasterList(_Answer):
    """GET /models/{name}/masters. `checked_today`: by the version in service, on the server's calendar day."""

    masters: list[MasterAnswer]
    checked_today: bool
    passed_today: bool | None
    last_check: CheckAnswer | None


class CheckList(_Answer):
    """GET /models/{name}/checks, newest first."""

    checks: list[CheckAnswer]


@router.get("/masters", summary="The master parts of a model, and whether they were checked today")
def list_masters(request: Request, name: str) -> MasterList:
    """At most 50."""
    state = require(request, "review")
    active = state.store.active_version(name)
    kept = records_of(state).masters
    last = next(iter(kept.checks(name, 1)), None)
    today = last is not None and _is_today(last.at) and last.model.version == active
    return MasterList(
        masters=[_master(each) for each in kept.all(name)],
        checked_today=today,
        passed_today=last.passed if today and last is not None else None,
        last_check=None if last is None else _check(state, last),
    )


_PICTURES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "expected"],
                    "properties": {
                        "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "expected": {"type": "string", "enum": [each.value for each in Decision]},
                        "name": {"type": "string"},
                    },
                }
            }
        },
    }
}


@router.post("/masters", status_code=201, summary="Add pictures of master parts", openapi_extra=_PICTURES)
async def add_masters(request: Request, name: str) -> list[MasterAnswer]:
    """A form with one or more parts `image`, and the verdict `expected` of them: ok, review, not_ok or undecidable."""
    state = require(request, "admin")
    records = records_of(state)
    state.store.versions(name)  # raises NoSuchModel
    with state.room_for_body(request.headers):
        incoming = await read_pictures(request, state.limits)
        pictures = [_readable(state, each) for each in incoming.pictures]
    fields = pictures[0].metadata
    if unknown := set(fields) - {"expected", "name"}:
        raise InvalidParameter(f"unknown field {', '.join(sorted(unknown))}; known are expected, name")
    try:
        expected = Decision(fields.get("expected", ""))
    except ValueError as error:
        raise InvalidParameter(f"expected must be one of {', '.join(each.value for each in Decision)}") from error
    said = fields.get("name", "")[:200] or expected.value.replace("_", " ")
    named = [(f"{said} {n}" if len(pictures) > 1 else said, each.data) for n, each in enumerate(pictures, 1)]
    writing = await asyncio.to_thread(records.masters.add, name, named, expected, state.caller(request))
    added = await asyncio.wrap_future(writing)
    await asyncio.to_thread(_show, state, name)
    await state.note_model_change(request, name, {"masters_added": [each.id for each in added]})
    return [_master(each) for each in added]


@router.get(
    "/masters/{master_id}/picture",
    summary="A master part's picture",
    response_class=Response,
    responses={200: {"content": {"image/*": {}}}},
)
async def show_picture(request: Request, name: str, master_id: str) -> Response:
    """As it was sent."""
    state = require(request, "review")
    masters = records_of(state).masters
    data = await state.fetched(masters.picture, name, master_id, deadline=time.monotonic() + _PATIENCE_S)
    headers = {"cache-control": "private, max-age=86400", "x-content-type-options": "nosniff"}
    return Response(data, media_type=media_type_of(data), headers=headers)


@router.delete("/masters/{master_id}", status_code=204, summary="Take a master part away", response_class=Response)
async def remove_master(request: Request, name: str, master_id: str) -> Response:
    """Past checks keep what it got."""
    state = require(request, "admin")
    await asyncio.wrap_future(records_of(state).masters.remove(name, master_id))
    await asyncio.to_thread(_show, state, name)
    await state.note_model_change(request, name, {"masters_removed": [master_id]})
    return Response(status_code=204)


@router.post("/checks", status_code=201, summary="Check the version in service with its master parts")
async def run_check(request: Request, name: str) -> CheckAnswer:
    """Each picture takes the way of any other, in the queue too, but is not counted. To be run every day, before the shift."""
    state = require(request, "review")
    state.require_ready()
    kept = records_of(state).masters
    masters = await asyncio.to_thread(kept.all, name)
    if not masters:
        raise Conflict(f"{name} has no master parts; add some: POST /models/{name}/masters")
    model, results = await _judged(state, name, masters)
    if not results:
        raise Conflict(f"all master parts of {name} were taken away meanwhile")
    check = await asyncio.wrap_future(kept.save_check(model, results, state.caller(request)))
    await asyncio.to_thread(_show, state, name)
    return _check(state, check)


@router.get("/checks", summary="The last checks of a model")
def list_checks(request: Request, name: str) -> CheckList:
    """The last 30, newest first."""
    state = require(request, "review")
    state.store.versions(name)
    return CheckList(checks=[_check(state, each) for each in records_of(state).masters.checks(name)])


def show_checks(state: ServiceState) -> None:
    """Set the series of every model's last check from the records: at start, and after what other services have checked."""
    for name in state.store.names():
        _show(state, name)


def _readable(state: ServiceState, picture: Picture | FlawscribeError) -> Picture:
    if isinstance(picture, FlawscribeError):
        raise picture
    if picture.raw is not None:
        raise BadRequest("a master part is an encoded picture (JPEG, PNG, …), not raw pixels")
    read_header(picture.data, state.limits.max_pixels)
    return picture


async def _judged(
    state: ServiceState, name: str, masters: Sequence[Master]
) -> tuple[ModelIdentity, list[MasterResult]]:
    """One after the other, so that a check takes no more than one place of the queue. No part is inspected, so none counts.

    Raises Overloaded, NotReady or DeadlineExceeded where the service had no time for a part, RecordsFailure where its picture
    cannot be read: nothing was found out about the model, so that this is no failed check.
    """
    async with state.leased(name) as bundle:
        judged = [await _result(state, bundle, master) for master in masters]
        return bundle.identity, [each for each in judged if each is not None]


async def _result(state: ServiceState, bundle: Bundle, master: Master) -> MasterResult | None:
    """None for a part that was taken away meanwhile."""
    verdict, score, failure = None, None, None
    try:
        judged = (await _inspected(state, bundle, master)).verdict
        verdict = judged.decision
        score = judged.score if math.isfinite(judged.score) else None
    except (NotReady, RecordsFailure):
        raise
    except (Overloaded, DeadlineExceeded) as error:
        state.metrics.rejected.labels("overload" if isinstance(error, Overloaded) else "deadline").inc()
        raise
    except FlawscribeError as error:
        there = await state.read(records_of(state).masters.all, master.model_name)
        if master.id not in {each.id for each in there}:
            return None
        failure = error.detail
    return MasterResult(master.id, master.name, master.expected, verdict, score, error=failure)


async def _inspected(state: ServiceState, bundle: Bundle, master: Master) -> Inspection:
    """Where the queue is full, as on a busy line, it is asked again for as long as the part has patience."""
    deadline = time.monotonic() + _PATIENCE_S
    data = await state.fetched(records_of(state).masters.picture, master.model_name, master.id, deadline=deadline)
    while True:
        try:
            return await state.inspector.inspect(Picture(data), bundle, deadline=deadline, counted=False)
        except Overloaded as error:
            wait = error.retry_after or 0.1
            if time.monotonic() + wait >= deadline:
                raise
            await asyncio.sleep(wait)


def _show(state: ServiceState, name: str) -> None:
    """A model without master parts has no series; one that was never checked counts from when its parts were added."""
    kept, metrics = records_of(state).masters, state.metrics
    masters, last = kept.all(name), next(iter(kept.checks(name, 1)), None)
    if not masters:
        for series in (metrics.check_passed, metrics.check_time):
            with contextlib.suppress(KeyError):
                series.remove(name)
        return
    since = masters[0].added_at if last is None else max(last.at, masters[0].added_at)
    metrics.check_time.labels(name).set(since.timestamp())
    if last is not None:
        metrics.check_passed.labels(name).set(last.passed)


def _is_today(moment: datetime) -> bool:
    return moment.astimezone().date() == datetime.now(UTC).astimezone().date()


def _master(master: Master) -> MasterAnswer:
    return MasterAnswer(
        id=master.id,
        name=master.name,
        expected=master.expected.value,
        added_at=master.added_at,
        who=master.who,
        picture=f"/models/{master.model_name}/masters/{master.id}/picture",
    )


def _check(state: ServiceState, check: Check) -> CheckAnswer:
    reject = _reject_threshold(state, check.model)
    results = [
        MasterResultAnswer(
            master_id=each.master_id,
            name=each.name,
            expected=each.expected.value,
            verdict=None if each.verdict is None else each.verdict.value,
            passed=each.passed,
            score=each.score,
            first_score=each.first_score,
            change=None if each.change is None or reject is None else round(each.change / reject, 4),
            error=each.error,
        )
        for each in check.results
    ]
    return CheckAnswer(
        id=check.id,
        at=check.at,
        who=check.who,
        version=check.model.version,
        precision=check.model.precision,
        passed=check.passed,
        results=results,
    )


def _reject_threshold(state: ServiceState, model: ModelIdentity) -> float | None:
    """What a change of score is measured by; None when the version is gone."""
    try:
        forms = state.store.manifest(model.name, model.version).forms
    except FlawscribeError:
        return None
    form = next((form for name, form in forms.items() if name == model.precision), None)
    return form.reject_threshold if form is not None and form.reject_threshold > 0 else None
