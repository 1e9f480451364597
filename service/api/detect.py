"""POST /detect: pictures in, verdicts out."""

from __future__ import annotations

from typing import Annotated, Self

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, model_validator

from service.api import answers, schemas
from service.api.answers import Judged
from service.api.judging import (
    BINARY,
    BODY,
    JudgeQuery,
    deadline_of,
    judge_all,
    judged_of,
    method_of,
    model_named,
    unless_departed,
)
from service.api.query import liking
from service.api.recording import Kept, Storing, conclude, digest, keeping, once, replayed
from service.api.state import require
from service.api.wire import read_pictures
from service.errors import NotAcceptable
from service.inspector import Picture
from service.types import Inspection

router = APIRouter(tags=["inspect"])


class DetectQuery(JudgeQuery):
    """Query parameters; an unknown one is an error."""

    counted: bool = Field(
        True,
        description="false: a picture is looked at again; nothing is recorded, and it is not counted as an inspection.",
    )

    @model_validator(mode="after")
    def _looked_at(self) -> Self:
        if not self.counted and self.store not in (None, "none"):
            raise ValueError(f"store={self.store} records an inspection, which counts: leave out counted=false")
        return self

    @property
    def storing(self) -> Storing | None:
        """What the request wants kept."""
        return self.store if self.counted else "none"


@router.post(
    "/detect",
    response_model=schemas.DetectAnswer,
    responses={
        200: {"content": {"image/png": BINARY}, "description": "Verdicts, or the overlay for Accept: image/png"}
    },
    openapi_extra=BODY,
    summary="Is each picture anomalous, and where?",
)
async def detect(request: Request, query: Annotated[DetectQuery, Query()]) -> Response:
    """Judge one or more pictures of parts: verdict, anomaly score against its thresholds, and the regions of the flaws.

    Send multipart parts named `image`, a raw JPEG, PNG, BMP, TIFF or WebP body, JSON with base64 data, or raw RGB with
    X-Image-Shape: H,W,3. X-Deadline-Ms bounds the wait; Idempotency-Key makes a repeated request the same one; X-Meta-*
    headers and form fields come back as metadata.
    """
    state = require(request, "detect")
    state.require_ready()
    deadline = deadline_of(request, state)
    picture_only = _wants_picture(request)
    keep = keeping(query.storing, request, state)
    with state.room_for_body(request.headers):
        incoming = await read_pictures(request, state.limits, query=DetectQuery.model_fields)
        if picture_only and len(incoming.pictures) != 1:
            if not liking(request, "application/json"):
                raise NotAcceptable("Accept: image/png answers one picture; several need application/json")
            picture_only = False
        async with once(request, state, lambda: digest(request, incoming.pictures), deadline) as claim:
            if claim is not None and claim.answer is not None:
                return replayed(claim.answer)
            async with state.leased(model_named(query, state), query.version, deadline) as bundle:
                judging = judge_all(
                    state,
                    bundle,
                    incoming.pictures,
                    deadline,
                    query.threshold,
                    descriptors=keep.wanted,
                    counted=query.counted,
                )
                outcomes = await unless_departed(request, judging)
            judged, method = judged_of(outcomes), method_of(query, bundle)

            async def render(stored: bool) -> Response:
                if picture_only:
                    return await answers.picture_answer(judged[0], state.inspector.budget_of(bundle))
                told = [Judged(each, stored) if isinstance(each, Inspection) else each for each in outcomes]
                return await answers.json_answer(
                    request.state.request_id,
                    told,
                    bundle.identity,
                    query.included,
                    method,
                    state.inspector.budget_of(bundle),
                )

            pairs = zip(outcomes, incoming.pictures, strict=True)
            kept = [Kept(o, p) for o, p in pairs if isinstance(o, Inspection) and isinstance(p, Picture)]
            return await conclude(state, bundle, method, request.state.request_id, keep, claim, kept, render, deadline)


def _wants_picture(request: Request) -> bool:
    """Whether the answer is the overlay itself, which the caller must like better than JSON.

    Raises NotAcceptable for what cannot be given.
    """
    json, picture = liking(request, "application/json"), liking(request, "image/png")
    if not json and not picture:
        raise NotAcceptable("answers are application/json or image/png")
    return picture > json
