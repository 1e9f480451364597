from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.decision.verdict import conformal_p_value
from service.records.drift import (
    LEAST,
    Values,
    against_calibration,
    against_window,
    by_window,
    read_accepted_p_values,
    stability_index,
    watch,
)
from service.records.store import Records
from service.types import Decision, ModelIdentity
from tests.unit.records.making import START, record


def accepted(shift: float, count: int, parts: int, seed: int, threshold: float = 2.0) -> tuple[Values, float]:
    """p-values of accepted parts whose scores lie `shift` standard deviations off the calibration's, and the least one."""
    chance = np.random.default_rng(seed)
    calibration = np.sort(chance.normal(size=parts))
    scores = chance.normal(shift, 1, count)
    values = np.array([conformal_p_value(score, calibration) for score in scores[scores <= threshold]])
    return values, conformal_p_value(threshold, calibration)


@pytest.mark.parametrize("parts", [20, 100, 400])
def test_parts_like_the_calibration_s_do_not_drift(parts: int) -> None:
    words = [
        against_calibration(values, parts, least).word
        for values, least in (accepted(0.0, 500, parts, seed) for seed in range(40))
    ]
    assert words.count("steady") >= 39


@pytest.mark.parametrize(("parts", "shift"), [(100, 1.0), (400, 0.8), (400, -0.8)])
def test_a_shift_is_found(parts: int, shift: float) -> None:
    words = [
        against_calibration(values, parts, least).word
        for values, least in (accepted(shift, 500, parts, seed) for seed in range(20))
    ]
    assert words.count("steady") <= 1
    assert words.count("drifted") >= 15


def test_windows_are_compared_with_one_another() -> None:
    before, _ = accepted(0.0, 400, 100, 1)
    again, _ = accepted(0.0, 400, 100, 1)
    later, _ = accepted(1.0, 400, 100, 1)
    assert against_window(again, before).word == "steady"
    assert against_window(later, before).word == "drifted"


def test_figures_of_a_plain_case() -> None:
    values = np.full(100, 0.1)
    drift = against_calibration(values, 9, 0.0)
    assert drift.ks == pytest.approx(0.9)  # all at the first of ten even levels
    assert drift.psi is not None
    assert drift.psi > 1


def test_few_parts_say_nothing() -> None:
    values, least = accepted(3.0, LEAST - 1, 100, 1, threshold=9.0)
    assert against_calibration(values, 100, least).word == "too few"
    assert against_window(values, np.linspace(0, 1, 100)).word == "too few"
    assert against_calibration(np.array([]), 0, 1.0).word == "too few"


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=2, max_size=20).filter(any))
def test_the_index_is_zero_for_the_same_and_never_negative(counts: list[int]) -> None:
    one, other = np.array(counts), np.array(counts[::-1])
    assert stability_index(one, one) == pytest.approx(0)
    assert stability_index(one, other) >= -1e-12


def test_accepted_parts_of_one_form_are_read_and_watched_by_window(records: Records) -> None:
    other = ModelIdentity("polka-dot", 2, "int8", "cpu")
    records.save(
        [
            record(1, p_value=0.1),
            record(2, p_value=0.2),
            record(3, Decision.NOT_OK, p_value=0.01),
            record(4, p_value=None),
            record(5, p_value=0.5, model=other),
            record(60, p_value=0.6),
            record(120, p_value=0.9),
        ]
    ).result(20)
    until = START + timedelta(seconds=100)
    seen = read_accepted_p_values(records.database, "polka-dot", 1, "int8", since=START, until=until)
    assert [each.p_value for each in seen] == [0.1, 0.2, 0.6]
    span = {"since": START, "until": until}
    assert read_accepted_p_values(records.database, "polka-dot", 1, "int8", review_threshold=0.9, **span) == ()
    step = timedelta(seconds=30)
    spans = [(start - START, end - START, list(values)) for start, end, values in by_window(seen, START, until, step)]
    assert [values for *_, values in spans] == [[0.1, 0.2], [], [0.6], []]
    assert spans[-1][:2] == (timedelta(seconds=90), timedelta(seconds=100))
    watched = watch(seen, since=START, until=until, step=step, calibration_parts=50, least_p_value=0.02)
    assert [(window.drift.count, window.drift.word) for window in watched] == [
        (2, "too few"),
        (0, "too few"),
        (1, "too few"),
        (0, "too few"),
    ]
