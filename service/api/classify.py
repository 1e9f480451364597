"""POST /classify: pictures in, verdicts and words out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.api import answers, schemas
from service.api.answers import Judged
from service.api.events import worded
from service.api.judging import (
    BODY,
    JudgeQuery,
    Outcome,
    deadline_of,
    judge_all,
    judged_of,
    method_of,
    model_named,
    unless_departed,
)
from service.api.query import liking
from service.api.recording import (
    Kept,
    caption_of,
    conclude,
    digest,
    keeping,
    later_at,
    once,
    product_of,
    records_of,
    replayed,
)
from service.api.state import ServiceState, require
from service.api.wire import Incoming, read_pictures
from service.bundle.store import Bundle
from service.captions.captioner import Captions, Site
from service.errors import FlawscribeError, NotAcceptable, NotReady
from service.inspector import Picture
from service.types import Inspection

log = logging.getLogger("flawscribe.captions")
router = APIRouter(tags=["inspect"])
_MOST_PENDING = 32  # inspections that wait for words, each with its picture; beyond it the wish for 202 is passed over


class ClassifyQuery(JudgeQuery):
    """Query parameters; an unknown one is an error."""

    context: str = Field("", max_length=8000, description="Free text about the part; a field `context` goes before it.")


@router.post(
    "/classify",
    response_model=schemas.ClassifyAnswer,
    responses={202: {"model": schemas.DetectAnswer, "description": "Prefer: respond-async; words come at Location"}},
    openapi_extra=BODY,
    summary="What is the flaw, how bad, why, and what to do?",
)
async def classify(request: Request, query: Annotated[ClassifyQuery, Query()]) -> Response:
    """As /detect, and each flaw in words: label, description, severity, probable causes, recommended action.

    Words come from the memory of reviewed flaws where it is sure, else from the LLM where one is set up and the product's
    card lets its pictures leave, else from rules. `Prefer: respond-async` answers 202 at once and writes the words to
    /inspections/{id}.
    """
    state = require(request, "detect")
    state.require_ready()
    if not liking(request, "application/json"):
        raise NotAcceptable("answers are application/json")
    deadline = deadline_of(request, state)
    keep = keeping(query.store, request, state)
    with state.room_for_body(request.headers), contextlib.ExitStack() as promises:
        incoming = await read_pictures(request, state.limits, with_context=True, query=ClassifyQuery.model_fields)
        wished = keep.wanted and _prefers_async(request)
        later = wished and promises.enter_context(_promised(state, len(incoming.pictures)))
        context = incoming.context or query.context
        async with once(request, state, lambda: digest(request, incoming.pictures, context), deadline) as claim:
            if claim is not None and claim.answer is not None:
                return replayed(claim.answer)
            async with state.leased(model_named(query, state), query.version, deadline) as bundle:
                work = _work(state, bundle, incoming, query, context, deadline, worded=not later)
                outcomes, captions = await unless_departed(request, work)
            judged, method = judged_of(outcomes), method_of(query, bundle)

            async def render(stored: bool) -> Response:
                told = [
                    Judged(each, stored, captions.get(each.id)) if isinstance(each, Inspection) else each
                    for each in outcomes
                ]
                form = schemas.DetectAnswer if later else schemas.ClassifyAnswer
                response = await answers.json_answer(
                    request.state.request_id,
                    told,
                    bundle.identity,
                    query.included,
                    method,
                    state.inspector.budget_of(bundle),
                    form,
                )
                if later:
                    response.status_code = 202
                    response.headers.update(later_at(f"/inspections/{judged[0].id}"))
                return response

            pairs = zip(outcomes, incoming.pictures, strict=True)
            kept = [
                Kept(o, p, captions.get(o.id)) for o, p in pairs if isinstance(o, Inspection) and isinstance(p, Picture)
            ]
            # asked for: words that come later need a record to come to
            keep = replace(keep, asked=keep.asked or later)
            with _to_come(state, bundle, kept if later else (), context):
                return await conclude(
                    state, bundle, method, request.state.request_id, keep, claim, kept, render, deadline
                )


async def _work(
    state: ServiceState,
    bundle: Bundle,
    incoming: Incoming,
    query: ClassifyQuery,
    context: str,
    deadline: float,
    *,
    worded: bool,
) -> tuple[list[Outcome], dict[str, Captions]]:
    """The pictures' verdicts and, by inspection id, their words."""
    outcomes = await judge_all(state, bundle, incoming.pictures, deadline, query.threshold, descriptors=True)
    inspections = [each for each in outcomes if isinstance(each, Inspection) and worded]
    told = await asyncio.gather(*(_words(state, bundle, each, context, deadline) for each in inspections))
    return outcomes, {each.id: words for each, words in zip(inspections, told, strict=True)}


async def _words(
    state: ServiceState, bundle: Bundle, inspection: Inspection, context: str, deadline: float
) -> Captions:
    if state.captioner is None:
        raise NotReady("the records are being opened", retry_after=1)
    # whoever asks vouches for the picture sent, by its product, and not for those that the model carries
    own = state.captioner.products.cards.get(bundle.manifest.name)
    references = () if own is not None and not own.may_leave else bundle.references
    site = Site(bundle.manifest.mm_per_pixel, bundle.manifest.teacher.sha256, references)
    product = product_of(inspection)
    captions = await state.captioner.classify(inspection, site, product=product, context=context, deadline=deadline)
    for each in captions.regions:
        state.metrics.captions.labels(each.source).inc()
    return captions


@contextlib.contextmanager
def _to_come(state: ServiceState, bundle: Bundle, kept: Sequence[Kept], context: str) -> Iterator[None]:
    """Those inspections' words are found in the background once the block, which records them, has ended well. They wait from
    before it, so that no record is read as done without its words."""
    recorded = asyncio.Event()
    tasks = [_word_later(state, bundle, item.inspection, context, recorded) for item in kept]
    try:
        yield
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
    recorded.set()


def _word_later(
    state: ServiceState, bundle: Bundle, inspection: Inspection, context: str, recorded: asyncio.Event
) -> asyncio.Task[None]:
    """Find the words of an inspection in the background when it is recorded, and add them to its record."""

    async def work() -> None:
        await recorded.wait()
        try:
            deadline = time.monotonic() + state.settings.llm_deadline_s + 5
            captions = await _words(state, bundle, inspection, context, deadline)
            await asyncio.wrap_future(records_of(state).caption(inspection.id, caption_of(captions)))
            state.events.publish(worded(inspection.id, captions.picture.label))
        except FlawscribeError as error:
            log.error("inspection %s stays without words: %s", inspection.id, error.detail)

    task = asyncio.create_task(work())
    state.pending[inspection.id] = task
    task.add_done_callback(lambda _: state.pending.pop(inspection.id, None))  # also of one that never ran
    return task


@contextlib.contextmanager
def _promised(state: ServiceState, pictures: int) -> Iterator[bool]:
    """Whether so many may wait for words that come later; they are counted until the block ends, when those who wait count for
    themselves."""
    if len(state.pending) + state.promised + pictures > _MOST_PENDING:
        yield False
        return
    state.promised += pictures
    try:
        yield True
    finally:
        state.promised -= pictures


def _prefers_async(request: Request) -> bool:
    """RFC 7240: Prefer: respond-async."""
    wishes = ",".join(request.headers.getlist("prefer")).split(",")
    return any(wish.partition(";")[0].strip().lower() == "respond-async" for wish in wishes)
