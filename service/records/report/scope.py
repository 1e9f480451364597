"""What a person or a client asks for -> Scope."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from service.errors import InvalidParameter
from service.records.report.data import Scope

_USUAL = timedelta(hours=24)


def read_scope(
    start: str | None, end: str | None, *, now: datetime, product: str | None = None, lot: str | None = None
) -> Scope:
    """The scope from ISO 8601 texts: a date (its midnight) or a date with time; without an offset it is UTC. By default
    the 24 hours before `end`, which is `now` (aware) by default. Raises InvalidParameter."""
    until = moment_of("to", end) if end else now.astimezone(UTC)
    since = moment_of("from", start) if start else _before(until)
    if since >= until:
        raise InvalidParameter(
            f"a report's span must begin before it ends: from {since.isoformat()} to {until.isoformat()}"
        )
    return Scope(since, until, product or None, lot or None)


def moment_of(name: str, text: str) -> datetime:
    """An ISO 8601 date (its midnight) or date with time, in UTC unless it says otherwise. Raises InvalidParameter naming `name`."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidParameter(
            f"{name} must be an ISO 8601 date or time such as 2026-03-09 or 2026-03-09T06:00Z, not {text!r}"
        ) from error


def _before(until: datetime) -> datetime:
    try:
        return until - _USUAL
    except OverflowError as error:
        raise InvalidParameter("to is too early") from error
