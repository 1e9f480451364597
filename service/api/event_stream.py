"""GET /events: what happens, as server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from fastapi import APIRouter, Depends, Request
from fastapi.sse import format_sse_event
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.events import Event, Stream, inspected, model_changed, reviewed
from service.api.query import no_query
from service.api.recording import records_of
from service.api.state import ServiceState, require, state_of
from service.errors import FlawscribeError, InvalidParameter
from service.records.audit import newest_entries
from service.records.inspections import Filters
from service.records.store import Records

router = APIRouter(tags=["records"])
_MOST_RESUMED = 200  # older events than these are not told; `missed` says so
_OVERLAP = timedelta(seconds=10)  # what was written while a later event was told; told twice rather than never
_BEAT_S = 15.0
_RETRY_MS = 2000
_LAST_WORDS_S = 1.0


@router.get(
    "/events",
    summary="What happens, live: inspections, words, reviews, changes of models",
    dependencies=[Depends(no_query)],
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"}},
)
async def events(request: Request) -> Response:
    """Server-sent events `inspection`, `words`, `review` and `model`, with a comment every 15 s. Their ids are their times.

    With Last-Event-ID, what happened since is told first; an event may then come twice. `missed` stands for what is too
    much to be told: read /inspections anew. A client that does not keep up is dropped, and may come back.
    """
    state = require(request, "review")
    records, since = records_of(state), _since(request)
    return _EventStream(state, request, records, since)


def _since(request: Request) -> datetime | None:
    given = request.headers.get("last-event-id")
    if not given:
        return None
    try:
        moment = datetime.fromisoformat(given)
    except ValueError as error:
        raise InvalidParameter(f"Last-Event-ID must be the id of an event, not {given!r}") from error
    if moment.tzinfo is None:
        raise InvalidParameter(f"Last-Event-ID must be the id of an event, not {given!r}")
    return moment


class _EventStream(Response):
    """The open answer. Unlike StreamingResponse it can leave a client that does not read."""

    def __init__(self, state: ServiceState, request: Request, records: Records, since: datetime | None) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"
        self._state, self._request, self._records, self._since = state, request, records, since

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._state.events.listening() as stream:
            sending = asyncio.create_task(self._send(stream, send))
            leaving = [asyncio.create_task(_departure(receive)), asyncio.create_task(stream.ended.wait())]
            try:
                await asyncio.wait({sending, *leaving}, return_when=asyncio.FIRST_COMPLETED)
                if stream.ended.is_set():  # a client that reads gets a proper end; one that does not is left
                    await asyncio.wait({sending}, timeout=_LAST_WORDS_S)
                if sending.done():
                    sending.result()
            finally:
                for task in (sending, *leaving):
                    task.cancel()

    async def _send(self, stream: Stream, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._chunks(stream):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self, stream: Stream) -> AsyncIterator[bytes]:
        yield format_sse_event(comment="flawscribe", retry=_RETRY_MS)
        if self._since is not None:
            for event in await state_of(self._request).read(_missed, self._records, self._since):
                yield event.encoded()
        checked = time.monotonic()
        while True:
            chunk = await _next(stream)
            if chunk is None:
                return
            if not chunk or time.monotonic() - checked >= _BEAT_S:  # on a busy line there is no silence
                try:
                    require(self._request, "review")  # a key that was revoked hears no more
                except FlawscribeError:
                    return
                checked = time.monotonic()
            yield chunk or format_sse_event(comment="")


async def _next(stream: Stream) -> bytes | None:
    """The next event; empty after a while without any; None at the end."""
    if stream.ended.is_set():
        return None
    getting, ending = asyncio.create_task(stream.waiting.get()), asyncio.create_task(stream.ended.wait())
    try:
        await asyncio.wait({getting, ending}, timeout=_BEAT_S, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        return None if ending.done() else b""
    finally:
        getting.cancel()
        ending.cancel()


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _missed(records: Records, since: datetime) -> list[Event]:
    """What happened since, oldest first; `missed` in front when there is more than is told."""
    start = since - _OVERLAP
    page = records.inspections.page(Filters(since=start), limit=_MOST_RESUMED)
    entries = [entry for entry in newest_entries(records.database, _MOST_RESUMED) if entry.at >= start]
    found = [inspected(record) for record in page.records]
    for entry in entries:
        if entry.kind == "review":
            told = entry.detail
            found.append(reviewed(entry.subject, entry.at, entry.who, told["verdict"], told["label"]))
        elif entry.kind == "model":
            found.append(model_changed(entry.subject, entry.at, entry.who, entry.detail))
    found.sort(key=lambda event: event.at)
    if page.cursor is not None or len(entries) >= _MOST_RESUMED:
        found.insert(0, Event("missed", since, {}))
    return found
