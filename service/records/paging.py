"""Opaque cursors: the place of the last record seen, bound to the filters of the listing."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from service.errors import InvalidParameter

_BAD = "cursor is not one that this listing gave; begin again without it"


@dataclass(frozen=True, slots=True)
class Place:
    """A record's place in the listing, newest first."""

    created_at: datetime
    id: str


def write_cursor(place: Place, filters: Any) -> str:
    """The cursor that goes on behind `place`. `filters`: anything whose repr tells one listing from another."""
    parts = [place.created_at.astimezone(UTC).isoformat(), place.id, _print(filters)]
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def read_cursor(cursor: str, filters: Any) -> Place:
    """The place behind which to go on. Raises InvalidParameter for a damaged cursor or one of another listing."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        created_at, last, shape = json.loads(raw)
        moment = datetime.fromisoformat(created_at)
        place = Place(moment.astimezone(UTC), str(last))
    except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidParameter(_BAD) from error
    if shape != _print(filters) or moment.tzinfo is None or not (place.id.isascii() and place.id.isalnum()):
        raise InvalidParameter(_BAD)
    return place


def _print(filters: Any) -> str:
    return hashlib.sha256(repr(filters).encode()).hexdigest()[:12]
