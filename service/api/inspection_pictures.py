"""Pictures of a recorded inspection: as it was received, its anomaly map, its overlay.

To look at a part is not to inspect it: map and overlay are judged anew from the kept picture, and neither counted nor recorded.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service.api import answers, schemas
from service.api.judging import BINARY, deadline_of, judge_all, judged_of, unless_departed
from service.api.query import no_query
from service.api.recording import records_of
from service.api.state import ServiceState, require
from service.errors import NoSuchRecord
from service.image.decode import media_type_of
from service.image.shrink import shrunk_jpeg
from service.inspector import Picture
from service.records.entities import Record
from service.records.store import Records
from service.types import Inspection

router = APIRouter(prefix="/inspections/{inspection_id}", tags=["records"])
_CACHED = {"cache-control": "private, max-age=3600"}


class PictureQuery(BaseModel):
    """An unknown parameter is an error."""

    model_config = ConfigDict(extra="forbid")

    width: int | None = Field(None, ge=16, le=4096, description="Greatest width and height in px; unset: as received.")


@router.get(
    "/image",
    summary="The picture as it was received",
    response_class=Response,
    responses={200: {"content": {"image/*": {}}}},
)
async def show_picture(request: Request, inspection_id: str, query: Annotated[PictureQuery, Query()]) -> Response:
    """Only of inspections stored with `store=image`; 404 otherwise, and when retention has removed it. With `width` it is a
    small JPEG that every browser shows, upright."""
    state = require(request, "review")
    deadline = deadline_of(request, state)
    _, data = await state.fetched(_kept, records_of(state), inspection_id, deadline=deadline)
    if query.width is not None:
        data = await asyncio.to_thread(shrunk_jpeg, data, query.width, state.limits.max_pixels)
    headers = {"x-content-type-options": "nosniff", **_CACHED}
    return Response(data, media_type=media_type_of(data), headers=headers)


@router.get(
    "/map",
    summary="The inspection's anomaly map",
    response_model=schemas.RecordedMap,
    dependencies=[Depends(no_query)],
)
async def show_map(request: Request, inspection_id: str) -> Response:
    """As the `anomaly_map` of /detect. Records keep no maps: the version that judged the inspection judges its picture anew, in
    the form that the service runs; this counts as no inspection. 404 where the picture is not kept, or the version is gone."""
    state = require(request, "detect", "review")
    inspection, _ = await _judged_anew(request, state, inspection_id)
    response = await answers.map_answer(inspection)
    response.headers.update(_CACHED)
    return response


@router.get(
    "/overlay",
    summary="The picture with its heat, and its flaws outlined",
    response_class=Response,
    responses={200: {"content": {"image/png": BINARY}}},
    dependencies=[Depends(no_query)],
)
async def show_overlay(request: Request, inspection_id: str) -> Response:
    """As /detect draws it for `Accept: image/png`; judged anew as the map is. It shows the picture, and so needs the scope
    that the picture needs."""
    state = require(request, "review")
    response = await answers.picture_answer(*await _judged_anew(request, state, inspection_id))
    response.headers.update(_CACHED)
    return response


def _kept(records: Records, inspection_id: str) -> tuple[Record, bytes]:
    """The inspection and its picture. Raises NoSuchRecord where either is not there."""
    record = records.inspections.get(inspection_id)
    if not record.picture_stored:
        raise NoSuchRecord(f"the picture of inspection {inspection_id} is not stored")
    return record, records.pictures.get(record.image_sha256)


async def _judged_anew(request: Request, state: ServiceState, inspection_id: str) -> tuple[Inspection, float]:
    """What the picture is judged now, and the latency budget of one of its windows in seconds.

    Raises NoSuchRecord, NoSuchModel, BundleRefused, and what judging a picture raises.
    """
    state.require_ready()
    deadline = deadline_of(request, state)
    record, data = await state.fetched(_kept, records_of(state), inspection_id, deadline=deadline)
    async with state.leased(record.model.name, record.model.version, deadline) as bundle:
        # the recorded threshold may be the request's own; of another form it is on another scale
        threshold = record.thresholds.reject if bundle.form_name == record.model.precision else None
        judging = judge_all(state, bundle, (Picture(data),), deadline, threshold, counted=False)
        (inspection,) = judged_of(await unless_departed(request, judging))
        return inspection, state.inspector.budget_of(bundle)
