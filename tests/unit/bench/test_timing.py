"""Turns, quantiles and ratios."""

from __future__ import annotations

import math

import pytest

from service.bench.timing import median_ms, p99_ms, quantile, ratio, take_turns


def test_every_case_runs_once_a_round_after_one_that_does_not_count() -> None:
    ran: list[str] = []
    seconds = take_turns({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, 20)
    assert {name: len(found) for name, found in seconds.items()} == {"a": 20, "b": 20}
    rounds = [tuple(ran[start : start + 2]) for start in range(2, len(ran), 2)]
    assert set(rounds) == {("a", "b"), ("b", "a")}  # in changing order, never the same one twice


def test_quantiles_are_values_that_were_measured() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [quantile(values, share) for share in (0.0, 0.2, 0.21, 0.99, 1.0)] == [1.0, 1.0, 2.0, 5.0, 5.0]
    assert quantile(list(range(1, 201)), 0.99) == 198
    assert math.isnan(quantile([], 0.5))
    assert math.isnan(median_ms([]))


def test_milliseconds() -> None:
    assert median_ms([0.001, 0.003, 0.002]) == pytest.approx(2)
    assert p99_ms([0.001, 0.003, 0.002]) == pytest.approx(3)


def test_a_ratio_is_of_the_same_round() -> None:
    assert ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]) == 2.0  # a machine that slows down tenfold changes nothing
