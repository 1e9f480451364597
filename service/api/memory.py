"""What the memory knows, for those who review: past flaws like this one, and the labels that a product's flaws have."""

from __future__ import annotations

import asyncio
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from service.api import schemas
from service.api.recording import records_of
from service.api.state import ServiceState, require
from service.captions.captioner import Captioner
from service.captions.descriptor import LENGTH, MAKING
from service.captions.memory import Recall
from service.captions.products import UNKNOWN, taxonomy
from service.errors import InvalidParameter, NotReady
from service.records.entities import Record
from service.records.store import Records

router = APIRouter(tags=["records"])
_MOST_SIMILAR = 6


class SimilarQuery(BaseModel):
    """Query parameters; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid")

    region: int | None = Field(None, ge=0, description="Index of the region meant; unset: the strongest.")


class LabelsQuery(BaseModel):
    """Query parameters; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid")

    product: str = Field(max_length=200)


@router.get(
    "/inspections/{inspection_id}/similar",
    summary="Reviewed past flaws that look like this one's",
)
async def show_similar(
    request: Request, inspection_id: str, query: Annotated[SimilarQuery, Query()]
) -> schemas.Similar:
    """Of one of its regions, nearest first, with what people said caused them and was done. Asked of the memory as it is
    now, also where no words were asked for."""
    state = require(request, "review")
    record = await state.read(records_of(state).inspections.get, inspection_id)
    region, recall = await asyncio.to_thread(_recall, _captioner(state), record, query.region)
    if recall is None:
        return schemas.Similar(region=region, label=UNKNOWN, confidence=None, sure=False, cases=[])
    told = zip(recall.similar, recall.cases, strict=True)
    cases = [
        schemas.PastFlaw(
            inspection_id=similar.inspection_id,
            label=similar.label,
            distance=similar.distance,
            cause=case.cause,
            action=case.action,
        )
        for similar, case in told
        if similar.inspection_id != record.id
    ]
    return schemas.Similar(
        region=region, label=recall.label, confidence=recall.confidence, sure=recall.sure, cases=cases
    )


@router.get("/labels", summary="The labels of a product's flaws")
def list_labels(request: Request, query: Annotated[LabelsQuery, Query()]) -> schemas.Labels:
    """Those of its card, then those that reviews have added."""
    state = require(request, "review")
    records: Records = records_of(state)
    product = query.product
    words = taxonomy(_captioner(state).products.card(product), records.accepted(product)).words
    labels = [schemas.Label(label=label, words=text) for label, text in words.items() if label != UNKNOWN]
    return schemas.Labels(product=product, labels=labels)


def _captioner(state: ServiceState) -> Captioner:
    if state.captioner is None:
        raise NotReady("the records are being opened", retry_after=1)
    return state.captioner


def _recall(captioner: Captioner, record: Record, region: int | None) -> tuple[int | None, Recall | None]:
    """The region, else the strongest, and what memory says of it; None where there is none, or it has no descriptor.

    Raises InvalidParameter for a region that the inspection does not have.
    """
    if region is not None and region >= len(record.regions):
        raise InvalidParameter(f"region {region} is not one of the inspection's {len(record.regions)}")
    if not record.regions:
        return None, None
    if region is None:
        region = int(np.argmax([each.peak_score for each in record.regions]))
    if record.descriptors is None or len(record.descriptors) <= region:
        return region, None
    descriptor = record.descriptors[region]
    if descriptor.shape != (LENGTH,) or descriptor[0] != MAKING:  # of an older version: not to be compared
        return region, None
    return region, captioner.memory.recall(record.product, record.teacher_sha256, descriptor, _MOST_SIMILAR)
