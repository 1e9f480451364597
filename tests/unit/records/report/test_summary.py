from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.records.report.data import InspectionRow, Review
from service.records.report.summary import summarise
from service.types import Decision
from tests.unit.records.report.rows import DAY, a_day, row


def hourly(flawed: tuple[int, ...]) -> list[InspectionRow]:
    """Forty inspections an hour, so many of them not ok."""
    return [
        row(60 * hour + minute, Decision.NOT_OK if minute < count else Decision.OK)
        for hour, count in enumerate(flawed)
        for minute in range(40)
    ]


def test_the_order_of_rows_does_not_matter() -> None:
    rows = a_day()
    shuffled = random.Random(1).sample(rows, len(rows))
    assert summarise(shuffled, DAY) == summarise(rows, DAY)


@given(st.lists(st.sampled_from(list(Decision)), max_size=80))
def test_counts_add_up(decisions: list[Decision]) -> None:
    data = summarise([row(at, decision) for at, decision in enumerate(decisions)], DAY)
    counts = data.counts
    assert counts.ok + counts.review + counts.not_ok + counts.undecidable == counts.total == len(decisions)
    if decisions:
        assert data.yield_.value == pytest.approx(decisions.count(Decision.OK) / len(decisions))
    else:
        assert (data.yield_.value, data.yield_.interval) == (None, None)


def test_headlines_tell_what_stands_out() -> None:
    text = " ".join(summarise(a_day(), DAY).headlines)
    assert "Most frequent flaw: dark thread" in text
    assert "went above its control limits" in text
    assert "could not be judged" in text
    assert summarise([], DAY).headlines == ("Nothing was inspected in this span.",)


def test_a_calm_day_is_called_in_control() -> None:
    hours = (5, 3, 7, 4, 2, 6, 8, 5, 3, 6, 4, 7, 9, 4, 5, 3, 6, 2, 5, 7)
    rows = hourly(hours)
    assert "The share of not ok is in statistical control." in summarise(rows, DAY).headlines


def test_a_pattern_within_the_limits_is_called_a_pattern() -> None:
    told = " ".join(summarise(hourly((3, 4, 5, 6, 7, 8, 5, 3, 6, 4)), DAY).headlines)
    assert "stayed within its control limits" in told
    assert "six points in a row steadily rising" in told


def test_reviews_are_counted() -> None:
    rows = [
        row(0, review=Review("escape")),
        row(1, Decision.NOT_OK, review=Review("overkill")),
        row(2, review=Review("right")),
    ]
    counts = summarise(rows, DAY).counts
    assert (counts.escape, counts.overkill, counts.confirmed) == (1, 1, 1)
