"""What was recorded: inspections, reviews of them, the verdict on a part."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api import schemas
from service.api.events import reviewed
from service.api.judging import deadline_of
from service.api.query import no_query
from service.api.recording import once, records_of, replayed
from service.api.state import ServiceState, require
from service.api.wire import read_body, validated
from service.errors import InvalidParameter, RecordsFailure
from service.records.entities import Record, Review, StoredReview
from service.records.idempotency import Answer
from service.records.inspections import MOST_PER_PAGE, Filters
from service.records.report.gather import gather_rows
from service.records.report.scope import moment_of
from service.records.report.table import rows_csv
from service.records.reviews import ReviewOutcome
from service.types import Decision

log = logging.getLogger("flawscribe.records")
_LEARN_S = 2.0  # the memory's others follow in as much
router = APIRouter(tags=["records"])


class FilterQuery(BaseModel):
    """Filters; an unknown parameter is an error."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    product: str | None = None
    lot: str | None = None
    serial: str | None = None
    station: str | None = None
    verdict: list[Decision] = Field([], description="One, or several in several parameters.")
    reviewed: bool | None = Field(None, description="Whether a person has said something of it.")
    label: str | None = Field(None, description="The label that holds now: a person's, else the caption's.")
    since: str | None = Field(None, alias="from", description="ISO 8601 date or time, UTC by default; not before.")
    until: str | None = Field(None, alias="to", description="ISO 8601 date or time, UTC by default; before.")

    @property
    def filters(self) -> Filters:
        """As the records take them. Raises InvalidParameter for what is no time."""
        same = {name: getattr(self, name) for name in ("product", "lot", "serial", "station", "label", "reviewed")}
        verdicts = tuple(self.verdict) or None
        since = None if self.since is None else moment_of("from", self.since)
        until = None if self.until is None else moment_of("to", self.until)
        return Filters(**same, verdicts=verdicts, since=since, until=until)


class ListQuery(FilterQuery):
    """Filters and paging."""

    cursor: str | None = Field(None, description="`next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=MOST_PER_PAGE)


class ReviewBody(BaseModel):
    """A person's word on an inspection."""

    model_config = ConfigDict(extra="forbid")

    verdict: Literal["right", "overkill", "escape"] = Field(description="Was the detector's verdict right?")
    label: str = ""
    cause: str = ""
    action: str = ""
    comment: str = ""
    who: str = ""
    region: int | None = Field(None, ge=0, strict=True, description="Index of the region meant; unset: the strongest.")


class PartQuery(BaseModel):
    """An unknown parameter is an error."""

    model_config = ConfigDict(extra="forbid")

    product: str | None = Field(None, description="Needed where several products have the serial.")


@router.get("/inspections", summary="Recorded inspections, newest first", response_model=schemas.InspectionPage)
async def list_inspections(request: Request, query: Annotated[ListQuery, Query()]) -> Response:
    """Filtered by product, lot, serial, station, verdict, label and time; go on with `cursor`."""
    state = require(request, "review")
    inspections = records_of(state).inspections
    waiting = set(state.pending)

    def read() -> schemas.InspectionPage:
        page = inspections.page(query.filters, cursor=query.cursor, limit=query.limit)
        found = [_told(record, waiting) for record in page.records]
        return schemas.InspectionPage(inspections=found, next_cursor=page.cursor)

    return await _answered(state, read)


@router.get(
    "/inspections.csv",
    summary="The same as a table for a spreadsheet",
    response_class=Response,
    responses={200: {"content": {"text/csv": {}}}},
)
async def list_as_table(request: Request, query: Annotated[FilterQuery, Query()]) -> Response:
    """Oldest first, with the columns of the report's CSV. Refused where there are more than 200,000."""
    state = require(request, "review")
    records = records_of(state)
    text = await state.read(lambda: rows_csv(gather_rows(records.database, query.filters)))
    headers = {"content-disposition": 'attachment; filename="inspections.csv"', "x-content-type-options": "nosniff"}
    return Response(text, media_type="text/csv; charset=utf-8", headers=headers)


@router.get(
    "/inspections/{inspection_id}",
    summary="One inspection, with its words and reviews",
    response_model=schemas.RecordedInspection,
    dependencies=[Depends(no_query)],
)
async def show_inspection(request: Request, inspection_id: str) -> Response:
    """`status` is `pending` while words asked for by `Prefer: respond-async` are still to come."""
    state = require(request, "detect", "review")
    waiting, inspections = set(state.pending), records_of(state).inspections
    return await _answered(state, lambda: _told(inspections.get(inspection_id), waiting))


async def _answered(state: ServiceState, read: Callable[[], BaseModel]) -> Response:
    """What was read, as JSON: of many records that takes long enough to hold up the event loop."""
    return Response(await state.read(lambda: read().model_dump_json()), media_type="application/json")


_REVIEW_BODY = {"required": True, "content": {"application/json": {"schema": ReviewBody.model_json_schema()}}}


@router.post(
    "/inspections/{inspection_id}/review",
    summary="Say whether a verdict was right, and what the flaw is",
    status_code=201,
    response_model=schemas.ReviewAnswer,
    dependencies=[Depends(no_query)],
    openapi_extra={"requestBody": _REVIEW_BODY},
)
async def review(request: Request, inspection_id: str) -> Response:
    """A label given becomes a case of the memory and a label of the product. Reviews are never changed, only added."""
    state = require(request, "review")
    deadline = deadline_of(request, state)
    body = await read_body(request, state.small_body)
    try:
        given = validated(ReviewBody, body)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidParameter(f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}") from error
    records = records_of(state)
    async with once(request, state, lambda: hashlib.sha256(body).hexdigest(), deadline) as claim:
        if claim is not None and claim.answer is not None:
            return replayed(claim.answer)
        caller = state.caller(request)
        who = given.who if caller == "anybody" else f"{given.who} (key {caller})".strip()
        said = Review(**{**given.model_dump(), "who": who or "anybody"})

        def answered(outcome: ReviewOutcome) -> bytes:
            told = schemas.ReviewAnswer(
                review=_review(outcome.review),
                case_id=outcome.review.case_id,
                withdrawn_cases=list(outcome.withdrawn),
                label_accepted=outcome.accepted is not None,
            )
            return told.model_dump_json().encode()

        also = None
        if claim is not None:
            also = lambda outcome: claim.storing(Answer(201, "application/json", answered(outcome)))  # noqa: E731
        outcome = await asyncio.wrap_future(records.review(inspection_id, said, also))
        told = outcome.review.review
        state.events.publish(reviewed(inspection_id, outcome.review.at, told.who, told.verdict, told.label))
    await _learn(state)
    return Response(answered(outcome), status_code=201, media_type="application/json")


async def _learn(state: ServiceState) -> None:
    """Let the memory know before the answer leaves; where that fails or takes long, it follows in seconds."""
    try:
        if state.follower is not None:
            async with asyncio.timeout(_LEARN_S):
                await state.read(state.follower.catch_up)
    except TimeoutError:
        log.warning("a review is stored and not learned yet: others read the records")
    except RecordsFailure as error:
        log.error("a review is stored and not learned yet: %s", error.detail)


@router.get(
    "/parts/{serial:path}",
    summary="One verdict for a part seen in several views or shots",
    response_model=schemas.Part,
)
async def show_part(request: Request, serial: str, query: Annotated[PartQuery, Query()]) -> Response:
    """The worst of the latest shot of every view at every station; `after_review` is what people say of them."""
    state = require(request, "detect", "review")
    waiting, records = set(state.pending), records_of(state)

    def read() -> schemas.Part:
        part = records.part(serial, query.product)
        return schemas.Part(
            serial=part.serial,
            product=part.product,
            verdict=part.verdict.value,
            after_review=part.after_review.value,
            shots=part.shots,
            latest=[_told(record, waiting) for record in part.latest],
        )

    return await _answered(state, read)


def _told(record: Record, waiting: set[str]) -> schemas.RecordedInspection:
    """`waiting`: whose words were to come before the record was read; asked afterwards, a record read without them could
    be told to be done."""
    caption = record.caption
    regions: list[dict[str, Any]] = [asdict(region) for region in record.regions]
    for index, region in enumerate(regions):
        region["classification"] = asdict(caption.regions[index]) if caption and index < len(caption.regions) else None
    return schemas.RecordedInspection.model_validate(
        {
            "id": record.id,
            "status": "pending" if record.id in waiting and caption is None else "done",
            "request_id": record.request_id,
            "created_at": record.created_at,
            "model": asdict(record.model),
            "product": record.product,
            "lot": record.lot,
            "serial": record.serial,
            "station": record.station,
            "view": record.view,
            "captured_at": record.captured_at,
            "metadata": record.metadata,
            "image": {"width": record.width, "height": record.height, "sha256": record.image_sha256},
            "image_stored": record.picture_stored,
            "verdict": record.decision.value,
            "is_anomalous": record.decision is Decision.NOT_OK,
            "anomaly_score": record.score,
            "threshold": record.thresholds.reject,
            "threshold_method": record.threshold_method or None,
            "review_threshold": record.thresholds.review,
            "p_value": record.p_value,
            "reasons": record.reasons,
            "regions": regions,
            "classification": asdict(caption.picture) if caption else None,
            "llm": caption.llm if caption else None,
            "reviews": [_review(each) for each in record.reviews],
            "timings_ms": asdict(record.timings),
        }
    )


def _review(stored: StoredReview) -> schemas.RecordedReview:
    return schemas.RecordedReview(
        id=stored.id, inspection_id=stored.inspection_id, at=stored.at, case_id=stored.case_id, **asdict(stored.review)
    )
