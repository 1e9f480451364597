from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from service.errors import InvalidParameter
from service.records.report.data import Scope
from service.records.report.scope import read_scope

NOW = datetime(2026, 3, 10, 12, 30, tzinfo=UTC)


def test_the_usual_span_is_the_last_24_hours_of_everything() -> None:
    assert read_scope(None, None, now=NOW) == Scope(NOW - timedelta(hours=24), NOW)
    assert read_scope("", "", now=NOW, product="", lot="") == Scope(NOW - timedelta(hours=24), NOW)


@pytest.mark.parametrize(
    ("text", "hour"),
    [("2026-03-09", 0), ("2026-03-09T06:00", 6), ("2026-03-09T06:00Z", 6), ("2026-03-09T06:00+02:00", 4)],
)
def test_times_are_read_as_utc_unless_they_say_otherwise(text: str, hour: int) -> None:
    moment = datetime(2026, 3, 9, hour, tzinfo=UTC)
    assert read_scope(text, None, now=NOW) == Scope(moment, NOW)
    assert read_scope(None, text, now=NOW) == Scope(moment - timedelta(hours=24), moment)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("yesterday", None),
        (None, "2026-13-01"),
        ("2026-03-11", None),
        ("2026-03-09", "2026-03-09"),
        (None, "0001-01-01"),
        ("0001-01-01T00:00+14:00", None),
    ],
)
def test_spans_that_make_no_sense_are_refused(start: str | None, end: str | None) -> None:
    with pytest.raises(InvalidParameter):
        read_scope(start, end, now=NOW)
