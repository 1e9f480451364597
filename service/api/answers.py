"""Inspections -> answers: JSON with the pictures that were asked for, or the overlay itself. Drawing stays off the loop."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar

from fastapi import Response

from service.api import schemas
from service.api.problems import problem_of
from service.captions.captioner import Captions
from service.decision.heatmap import draw_mask, draw_overlay, map_png
from service.errors import FlawscribeError
from service.types import Inspection, ModelIdentity, Timings

B = TypeVar("B", bound=schemas.Blob)
Include = Literal["regions", "map", "mask", "overlay"]
_MOST_ON_LOOP = 16  # pictures and regions: a third of a millisecond; 32 pictures of 100 regions take 50


@dataclass(frozen=True, slots=True)
class Judged:
    """An inspection on its way out: whether its record is on disk, and its words when they were asked for."""

    inspection: Inspection
    stored: bool = False
    captions: Captions | None = None


Outcome = Judged | FlawscribeError


async def picture_answer(inspection: Inspection, budget_s: float) -> Response:
    """The overlay as image/png; the verdict goes into X-Verdict."""
    drawn = await asyncio.to_thread(draw_overlay, inspection)
    headers = {"x-verdict": inspection.verdict.decision.value, "server-timing": _server_timing([inspection], budget_s)}
    return Response(drawn, media_type="image/png", headers=headers)


async def map_answer(inspection: Inspection) -> Response:
    """The anomaly map alone, and the model that made it."""

    def render() -> str:
        model = schemas.Model(**asdict(inspection.model))
        return schemas.RecordedMap(**dict(_map(inspection)), model=model).model_dump_json()

    return Response(await asyncio.to_thread(render), media_type="application/json")


async def json_answer(
    request_id: str,
    outcomes: Sequence[Outcome],
    identity: ModelIdentity,
    included: frozenset[str],
    method: schemas.ThresholdMethod,
    budget_s: float,
    form: type[schemas.DetectAnswer] | type[schemas.ClassifyAnswer] = schemas.DetectAnswer,
) -> Response:
    """One result per picture, in order; one that could not be judged has its problem in its place. `budget_s`: of a window."""

    def render() -> bytes:
        results = [
            result_of(outcome, included, method)
            if isinstance(outcome, Judged)
            else schemas.FailedResult(error=problem_of(outcome, request_id))
            for outcome in outcomes
        ]
        model = schemas.Model(**asdict(identity))
        answer = form.model_validate({"request_id": request_id, "model": model, "results": results})
        return answer.model_dump_json().encode()

    inspections = [outcome.inspection for outcome in outcomes if isinstance(outcome, Judged)]
    drawing = bool(included - {"regions"})
    length = len(outcomes) + sum(len(inspection.verdict.regions) for inspection in inspections)
    text = await asyncio.to_thread(render) if drawing or length > _MOST_ON_LOOP else render()
    return Response(
        text, media_type="application/json", headers={"server-timing": _server_timing(inspections, budget_s)}
    )


def result_of(judged: Judged, included: frozenset[str], method: schemas.ThresholdMethod) -> schemas.Result:
    """An inspection as answered, with the pictures that were asked for, and in words where it has them."""
    inspection, captions = judged.inspection, judged.captions
    verdict, plan = inspection.verdict, inspection.anomaly_map.plan
    regions: list[Any] = [asdict(region) for region in verdict.regions]
    words: dict[str, Any] = {}
    if captions is not None:
        for region, told in zip(regions, captions.regions, strict=True):
            region["classification"] = asdict(told)
        words = {"classification": asdict(captions.picture), "llm": captions.llm and asdict(captions.llm)}
    form = schemas.Result if captions is None else schemas.ClassifiedResult

    def wanted(name: Include, draw: Callable[[Inspection], B]) -> B | None:
        return draw(inspection) if name in included else None

    return form(
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
        regions=regions if "regions" in included else None,
        anomaly_map=wanted("map", _map),
        mask=wanted("mask", lambda it: _blob(draw_mask(it))),
        overlay=wanted("overlay", lambda it: _blob(draw_overlay(it))),
        metadata=inspection.metadata,
        stored=judged.stored,
        timings_ms=schemas.TimingsMs(**{stage: round(ms, 3) for stage, ms in asdict(inspection.timings).items()}),
        **words,
    )


def _map(inspection: Inspection) -> schemas.MapBlob:
    drawn = map_png(inspection.anomaly_map)
    return schemas.MapBlob(**dict(_blob(drawn.data)), scale=drawn.scale, offset=drawn.offset)


def _blob(data: bytes) -> schemas.Blob:
    return schemas.Blob(media_type="image/png", data=base64.b64encode(data).decode())


def _server_timing(inspections: Sequence[Inspection], budget_s: float) -> str:
    """The stages and the budget in milliseconds, summed over the request's pictures (W3C Server Timing)."""
    totals = {
        stage.name: sum(getattr(inspection.timings, stage.name) for inspection in inspections)
        for stage in fields(Timings)
    }
    totals["budget"] = 1000 * budget_s * sum(inspection.anomaly_map.plan.windows for inspection in inspections)
    return ", ".join(f"{stage};dur={total:.2f}" for stage, total in totals.items())
