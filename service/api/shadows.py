"""Shadow runs over HTTP: a candidate version beside the active one, and where the two disagree."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api.query import no_query
from service.api.recording import records_of
from service.api.schemas import Verdict
from service.api.state import ServiceState, require
from service.api.wire import read_body, validated
from service.errors import Conflict, InvalidParameter
from service.records.shadows import Comparison, ShadowRun

router = APIRouter(prefix="/models/{name}/shadow", tags=["models"], dependencies=[Depends(no_query)])


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ShadowOrder(BaseModel):
    """POST /models/{name}/shadow: the candidate version."""

    model_config = ConfigDict(extra="forbid")

    version: int = Field(ge=1, strict=True)


class JudgedAnswer(_Answer):
    """A verdict, and the score over the reject threshold (scores of two versions are on two scales)."""

    verdict: Verdict
    score: float | None
    score_over_reject: float | None


class ComparisonAnswer(_Answer):
    """What both said of one picture."""

    inspection_id: str
    at: datetime
    active: JudgedAnswer
    candidate: JudgedAnswer


class PairCount(_Answer):
    """Pictures with this pair of verdicts."""

    active: Verdict
    candidate: Verdict
    count: int


class ShadowAnswer(_Answer):
    """A model's latest shadow run. `offered` since the service started: compared, dropped while the candidate was busy,
    failed. `pairs`: of the results that are kept, the latest 10,000."""

    state: Literal["none", "loading", "running", "stopped"]
    active_version: int | None = None
    candidate_version: int | None = None
    precision: str | None = Field(None, description="Form of the candidate; it always runs on the CPU.")
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    reason: str = ""
    who: str = ""
    dropped: int = 0
    failed: int = 0
    compared: int = 0
    agreed: int = 0
    pairs: list[PairCount] = []
    differing: list[ComparisonAnswer] = []
    latest: list[ComparisonAnswer] = []


_BODY = {"required": True, "content": {"application/json": {"schema": ShadowOrder.model_json_schema()}}}


@router.post("", status_code=201, summary="Run a candidate version in shadow", openapi_extra={"requestBody": _BODY})
async def start_shadow(request: Request, name: str) -> ShadowAnswer:
    """It judges the pictures that the active version has answered and that were recorded (`store=record|image`), in a process
    of lowest priority, as far as it keeps up: an answer never waits for it. One run at a time (409). It goes on after a restart
    until it is stopped."""
    state = require(request, "admin")
    records = records_of(state)
    try:
        order = validated(ShadowOrder, await read_body(request, state.small_body))
    except ValidationError as error:
        raise InvalidParameter(f'the body must be {{"version": N}}: {error.errors()[0]["msg"]}') from error
    await asyncio.to_thread(state.store.manifest, name, order.version)  # raises NoSuchModel, BundleRefused
    active = state.store.active_version(name)
    if active is None or active == order.version:
        what = "is the active version" if active else "cannot be compared: no version is in service"
        raise Conflict(f"version {order.version} of {name} {what}")
    who = state.caller(request)
    await asyncio.to_thread(state.shadows.start, records, name, active, order.version, who)
    await state.note_model_change(request, name, {"shadow_started": order.version, "beside": active})
    return await asyncio.to_thread(_answer, state, name)


@router.get("", summary="The latest shadow run of a model: who agrees, and where not")
def show_shadow(request: Request, name: str) -> ShadowAnswer:
    """The latest 100 disagreements and the latest 20 results, with the ids of their inspections."""
    state = require(request, "review")
    state.store.versions(name)
    return _answer(state, name)


@router.delete("", summary="Stop a shadow run")
async def stop_shadow(request: Request, name: str) -> ShadowAnswer:
    """What it found stays."""
    state = require(request, "admin")
    await asyncio.to_thread(state.shadows.stop, records_of(state), name, "stopped by a person")
    await state.note_model_change(request, name, {"shadow_stopped": True})
    return await asyncio.to_thread(_answer, state, name)


def _answer(state: ServiceState, name: str) -> ShadowAnswer:
    kept = records_of(state).shadows
    run = kept.last(name)
    if run is None:
        return ShadowAnswer(state="none")
    standing = state.shadows.standing(name)
    now = standing if standing is not None and standing.run.id == run.id else None
    agreement = kept.agreement(run.id)
    return ShadowAnswer(
        state=_state(run, now.state if now is not None else "stopped"),
        active_version=run.active_version,
        candidate_version=run.candidate_version,
        precision=now.precision if now is not None else None,
        started_at=run.started_at,
        stopped_at=run.stopped_at,
        reason=run.reason,
        who=run.who,
        dropped=now.dropped if now is not None else 0,
        failed=now.failed if now is not None else 0,
        compared=agreement.compared,
        agreed=agreement.agreed,
        pairs=[
            PairCount(active=active.value, candidate=candidate.value, count=count)
            for (active, candidate), count in sorted(agreement.counts.items())
        ],
        differing=[_comparison(each) for each in kept.comparisons(run.id, differing=True)],
        latest=[_comparison(each) for each in kept.comparisons(run.id, differing=False, limit=20)],
    )


def _state(run: ShadowRun, now: str) -> Literal["loading", "running", "stopped"]:
    if run.stopped_at is None and now == "loading":
        return "loading"
    return "running" if run.stopped_at is None and now == "running" else "stopped"


def _comparison(comparison: Comparison) -> ComparisonAnswer:
    active, candidate = (
        JudgedAnswer(
            verdict=each.verdict.value,
            score=each.score,
            score_over_reject=None if each.score is None or each.reject <= 0 else round(each.score / each.reject, 4),
        )
        for each in (comparison.active, comparison.candidate)
    )
    return ComparisonAnswer(
        inspection_id=comparison.inspection_id, at=comparison.at, active=active, candidate=candidate
    )
