"""GET /reports: what was recorded, as a page, JSON, CSV or PDF."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service.api import standalone
from service.api.query import liking
from service.api.recording import records_of
from service.api.state import ServiceState, require
from service.captions.answer import LlmUnavailable
from service.errors import InvalidParameter, NotAcceptable
from service.records.report.data import Format, ReportData
from service.records.report.gather import gather
from service.records.report.render import Document, render
from service.records.report.scope import read_scope
from service.records.report.table import facts_json

log = logging.getLogger("flawscribe.reports")
router = APIRouter(tags=["records"])
_PATIENCE_S = 120.0  # for a document: a long one as PDF takes a while
_FORMS: dict[str, Format] = {  # of those liked equally the first
    "application/json": "json",
    "text/html": "html",
    "text/csv": "csv",
    "application/pdf": "pdf",
}


class ReportQuery(BaseModel):
    """The span and what is meant; an unknown parameter is an error."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    since: str | None = Field(None, alias="from", description="ISO 8601, UTC by default; unset: 24 hours before `to`.")
    until: str | None = Field(None, alias="to", description="ISO 8601, not part of the span; unset: now.")
    product: str | None = None
    lot: str | None = None
    summary: bool = Field(
        False, description="Let the LLM sum the figures up (they are sent to it); html, json and pdf."
    )
    format: Format | None = Field(
        None, description="html, json, csv or pdf; unset: the one that Accept likes best, json where it likes several."
    )


@router.get(
    "/reports",
    summary="Yield, flaws by type, control chart, trend, causes and actions",
    response_class=Response,
    responses={200: {"content": {media: {} for media in _FORMS}}},
)
async def report(request: Request, query: Annotated[ReportQuery, Query()]) -> Response:
    """Over a span of time, by default the last 24 hours of all products. The page stands alone: it can be mailed."""
    state = require(request, "review")
    records = records_of(state)
    scope = read_scope(query.since, query.until, now=datetime.now(UTC), product=query.product, lot=query.lot)
    form = query.format or _preferred(request)
    if query.summary and form == "csv":
        raise InvalidParameter("a table holds no summary: leave it out, or ask for html, json or pdf")
    data = await state.read(gather, records.database, scope)
    summary = await _summary(state, data) if query.summary else None

    def work() -> Document:
        return render(data, form, records.pictures.get, summary)

    document = await state.fetched(work, deadline=time.monotonic() + _PATIENCE_S)
    return Response(document.content, media_type=document.media_type, headers=standalone.HEADERS)


def _preferred(request: Request) -> Format:
    """The form that a browser or a program likes best. Raises NotAcceptable where it likes none."""
    best = max(_FORMS, key=lambda media_type: liking(request, media_type))
    if not liking(request, best):
        raise NotAcceptable(f"reports are {', '.join(_FORMS)}")
    return _FORMS[best]


async def _summary(state: ServiceState, data: ReportData) -> str | None:
    """The figures in the LLM's words; None where it does not answer: a report is whole without. Raises InvalidParameter
    without an LLM."""
    if state.llm is None:
        raise InvalidParameter("summary needs an LLM: FLAWSCRIBE_LLM_BASE_URL and FLAWSCRIBE_LLM_MODEL")
    try:
        return (await state.llm.summarise(await state.read(facts_json, data))).text
    except LlmUnavailable as failure:
        log.warning("the report has no summary: %s", failure)
        return None
