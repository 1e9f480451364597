"""What happens, told to all who listen: published once, by the process that did it; nobody polls the records for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi.sse import format_sse_event

from service.errors import Overloaded
from service.metrics import Metrics
from service.records.entities import Record

_MOST_WAITING = 256  # events that wait for one client; beyond them it is dropped, comes back and resumes
_MOST_STREAMS = 256


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `name`: inspection, words, review, model, or missed: more happened than is told."""

    name: Literal["inspection", "words", "review", "model", "missed"]
    at: datetime
    data: dict[str, Any]

    def encoded(self) -> bytes:
        """As it goes over the wire; its id is its time, from which a client resumes."""
        told = json.dumps(self.data, separators=(",", ":"))
        return format_sse_event(data_str=told, event=self.name, id=self.at.astimezone(UTC).isoformat())


@dataclass(slots=True, eq=False)
class Stream:
    """One client's events. `ended` is set when nothing more comes: the service drains, or the client is too slow."""

    waiting: asyncio.Queue[bytes] = field(default_factory=lambda: asyncio.Queue(_MOST_WAITING))
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Events:
    """Who listens. All methods belong to the event loop's thread."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._streams: set[Stream] = set()
        self._open = True

    def publish(self, *events: Event) -> None:
        """Tell every client; one that has not read what waits for it is dropped."""
        if not self._streams:
            return
        for encoded in [event.encoded() for event in events]:
            for stream in tuple(self._streams):
                try:
                    stream.waiting.put_nowait(encoded)
                except asyncio.QueueFull:
                    self._metrics.event_streams_dropped.inc()
                    self._end(stream)

    @contextlib.contextmanager
    def listening(self) -> Iterator[Stream]:
        """A stream until the block ends. Raises Overloaded when too many listen."""
        if len(self._streams) >= _MOST_STREAMS:
            raise Overloaded(f"{_MOST_STREAMS} clients listen already", retry_after=10)
        stream = Stream()
        self._streams.add(stream)
        self._metrics.event_streams.set(len(self._streams))
        if not self._open:
            self._end(stream)
        try:
            yield stream
        finally:
            self._end(stream)

    def close(self) -> None:
        """End every stream, now and later: the service drains."""
        self._open = False
        for stream in tuple(self._streams):
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        self._streams.discard(stream)
        self._metrics.event_streams.set(len(self._streams))
        stream.ended.set()


def inspected(record: Record) -> Event:
    """A picture was judged and recorded."""
    score, limit = record.score, record.thresholds.reject
    data = {
        "id": record.id,
        "created_at": record.created_at.isoformat(),
        "model": {"name": record.model.name, "version": record.model.version},
        "product": record.product,
        "lot": record.lot,
        "serial": record.serial,
        "station": record.station,
        "verdict": record.decision.value,
        "anomaly_score": score,
        "threshold": limit,
        "label": record.caption.picture.label if record.caption is not None else None,
    }
    return Event("inspection", record.created_at, data)


def worded(inspection_id: str, label: str) -> Event:
    """The words of an inspection have come, later than itself."""
    return Event("words", datetime.now(UTC), {"inspection_id": inspection_id, "label": label})


def reviewed(inspection_id: str, at: datetime, who: str, verdict: str, label: str) -> Event:
    """A person said something of an inspection."""
    data = {"inspection_id": inspection_id, "at": at.isoformat(), "who": who, "verdict": verdict, "label": label}
    return Event("review", at, data)


def model_changed(name: str, at: datetime, who: str, detail: dict[str, Any]) -> Event:
    """A model was activated, or otherwise changed."""
    return Event("model", at, {"name": name, "at": at.isoformat(), "who": who, "detail": detail})
