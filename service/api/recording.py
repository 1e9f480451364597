"""Inspections -> records, and Idempotency-Key. An answer that says `stored` is on disk before it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Literal

import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray
from PIL import Image

from service.api.events import inspected
from service.api.schemas import ThresholdMethod
from service.api.state import ServiceState
from service.bundle.store import Bundle
from service.captions.captioner import Captions
from service.errors import FlawscribeError, InvalidParameter, NoSuchRecord, NotReady, RecordsBusy, RecordsFailure
from service.inspector import Picture
from service.records.entities import Caption, Record
from service.records.idempotency import Answer, Claim
from service.records.rows import plain, record_of
from service.records.store import Records
from service.types import Inspection

log = logging.getLogger("flawscribe.records")
_LEAST_SAVE_S = 1.0  # for the records, however little is left of the deadline: they take milliseconds
_MOST_SAVE_S = 5.0  # where nobody asked for a record: a line does not wait for a database that stalls
Storing = Literal["none", "record", "image"]
_OFF = "nothing is recorded here: FLAWSCRIBE_STORE is `off`"
_KEY = "idempotency-key"
_PART_OF_IT = frozenset(  # headers that an answer keeps
    {"location", "preference-applied", "server-timing", "x-verdict"}
)


@dataclass(frozen=True, slots=True)
class Keeping:
    """What is to be kept of a request. `asked`: by the request itself, so that it fails where it cannot be kept."""

    storing: Storing
    asked: bool

    @property
    def wanted(self) -> bool:
        """Whether anything is kept."""
        return self.storing != "none"


@dataclass(frozen=True, slots=True)
class Kept:
    """An inspection that goes into the records, with the picture it is of."""

    inspection: Inspection
    picture: Picture
    captions: Captions | None = None


def keeping(asked: Storing | None, request: Request, state: ServiceState) -> Keeping:
    """What the request, or else the settings, want kept. Raises InvalidParameter when records are off and it asks for them."""
    store = state.settings.store
    if store == "off":
        if asked not in (None, "none") or _KEY in request.headers:
            raise InvalidParameter(_OFF)
        return Keeping("none", False)
    return Keeping(asked or store, asked not in (None, "none"))


def records_of(state: ServiceState) -> Records:
    """The records. Raises NotReady while they are being opened, NoSuchRecord when they are off."""
    if state.settings.store == "off":
        raise NoSuchRecord(_OFF)
    if state.records is None:
        raise NotReady("the records are being opened", retry_after=1)
    return state.records


@contextlib.asynccontextmanager
async def once(
    request: Request, state: ServiceState, body_sha256: Callable[[], str], deadline: float
) -> AsyncIterator[Claim | None]:
    """The request's claim on its Idempotency-Key, or None without one: the body is hashed only where there is a key.

    Raises Conflict for a key of another request.
    """
    key = request.headers.get(_KEY)
    if key is None:
        yield None
        return
    caller = state.caller(request)  # keys of different callers never meet
    sha256 = await asyncio.to_thread(body_sha256)
    scope = f"{caller} {request.url.path}"
    async with records_of(state).keys.claim(key, sha256, deadline=deadline, scope=scope) as claim:
        yield claim


def digest(request: Request, pictures: Sequence[Picture | FlawscribeError], context: str = "") -> str:
    """sha256 of all that decides a request's answer."""
    accepted = ",".join(request.headers.getlist("accept")) or "*/*"  # none is any: RFC 9110, 12.5.1
    told = [request.url.query, accepted, request.headers.get("prefer", ""), context]
    for picture in pictures:
        if isinstance(picture, Picture):
            shape = "" if picture.raw is None else str(picture.raw.shape)
            told += [hashlib.sha256(picture.data).hexdigest(), shape, repr(sorted(picture.metadata.items()))]
        else:
            told.append(picture.detail)
    return hashlib.sha256("\x00".join(told).encode("utf-8", "replace")).hexdigest()


def replayed(answer: Answer) -> Response:
    """The answer that the key's first request got."""
    headers = {**answer.headers, "idempotent-replayed": "true"}
    return Response(answer.body, status_code=answer.status, media_type=answer.media_type, headers=headers)


def later_at(location: str) -> dict[str, str]:
    """The headers of a 202 whose words come at `location` (RFC 7240)."""
    return {"location": location, "preference-applied": "respond-async"}


async def conclude(
    state: ServiceState,
    bundle: Bundle,
    method: ThresholdMethod,
    request_id: str,
    keep: Keeping,
    claim: Claim | None,
    kept: Sequence[Kept],
    render: Callable[[bool], Awaitable[Response]],
    deadline: float,
) -> Response:
    """Record what was judged, offer it to a version in shadow, then answer. `render(stored)` makes the answer.

    Where the records fail or stall, an inspection that nobody asked to have recorded is answered all the same, as not stored; it
    may come to be recorded later. Raises RecordsBusy, RecordsFailure, Conflict where it was asked for.
    """
    if not keep.wanted and claim is None:
        return await render(False)
    response = await render(keep.wanted)
    try:
        records = records_of(state)
        rows = []
        if keep.wanted:  # one is quick; many are made beside the event loop
            make = partial(_records, kept, bundle, method, request_id, keep.storing)
            rows = make() if len(kept) == 1 else await asyncio.to_thread(make)
        headers = {name: value for name, value in response.headers.items() if name in _PART_OF_IT}
        media_type = response.media_type or "application/json"
        answer = Answer(response.status_code, media_type, bytes(response.body), headers)
        insisted = keep.asked or claim is not None
        files = await _files(kept) if keep.storing == "image" else []  # takes no time from the disk's
        left = deadline - time.monotonic()
        try:
            async with asyncio.timeout(max(_LEAST_SAVE_S, left if insisted else min(left, _MOST_SAVE_S))):
                if keep.storing == "image":
                    await _kept_on_disk(state, records, files)
                await asyncio.wrap_future(records.save(rows, claim.storing(answer) if claim is not None else None))
        except TimeoutError as error:
            raise RecordsFailure("the records did not take it in time") from error
    except (RecordsBusy, RecordsFailure, NotReady) as error:
        state.metrics.records_failed.inc(len(kept))
        if keep.asked or claim is not None:
            raise
        log.error("an inspection is answered without being recorded: %s", error.detail)
        return await render(False)
    state.events.publish(*map(inspected, rows))
    if keep.wanted:  # a comparison names its inspection: what is not recorded could not be opened
        for item in kept:
            if item.inspection.verdict.thresholds == bundle.thresholds:  # not by a threshold of the request's own
                state.shadows.offer(item.picture, item.inspection)
    return response


def caption_of(captions: Captions) -> Caption:
    """Captions as the records keep them."""
    llm = captions.llm
    usage = None if llm is None else {name: plain(getattr(llm, name)) for name in llm.__slots__}
    return Caption(captions.picture, captions.regions, usage)


def product_of(inspection: Inspection) -> str:
    """The product: as the metadata says, else the model's name."""
    return inspection.metadata.get("product", "").strip() or inspection.model.name


def _records(
    kept: Sequence[Kept], bundle: Bundle, method: ThresholdMethod, request_id: str, storing: Storing
) -> list[Record]:
    return [_record(item, bundle, method, request_id, storing) for item in kept]


def _record(item: Kept, bundle: Bundle, method: ThresholdMethod, request_id: str, storing: Storing) -> Record:
    return record_of(
        item.inspection,
        request_id=request_id,
        product=product_of(item.inspection),
        teacher_sha256=bundle.manifest.teacher.sha256,
        created_at=datetime.now(UTC),
        threshold_method=method,
        caption=None if item.captions is None else caption_of(item.captions),
        picture_stored=storing == "image",
    )


async def _files(kept: Sequence[Kept]) -> list[tuple[str, bytes]]:
    """What is to be kept of each picture, beside its sha256: bare pixels, which could not be opened again, as PNG."""
    files = []
    for item in kept:
        pixels = item.picture.raw
        data = item.picture.data if pixels is None else await asyncio.to_thread(_png, pixels)
        files.append((item.inspection.sha256, data))
    return files


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


async def _kept_on_disk(state: ServiceState, records: Records, files: Sequence[tuple[str, bytes]]) -> None:
    """Keep the pictures, in a thread. Where the caller stops waiting, the thread's turn is over when its disk answers."""
    loop = asyncio.get_running_loop()

    def turn_over(_: Future[None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(state.keeping.release)

    await state.keeping.acquire()
    work = state.keepers.submit(_keep_pictures, records, files)
    work.add_done_callback(turn_over)
    await asyncio.wrap_future(work)


def _keep_pictures(records: Records, files: Sequence[tuple[str, bytes]]) -> None:
    for sha256, data in files:
        records.pictures.put(sha256, data)
