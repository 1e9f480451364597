from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.records.report.timeline import control_chart, step_seconds, trend
from service.types import Decision
from tests.unit.records.report.rows import DAY, START, a_day, row


@pytest.mark.parametrize(
    ("extent_s", "judged", "step"),
    [
        (86_400, 5000, 3600),
        (30 * 86_400, 5000, 86_400),
        (7 * 86_400, 5000, 6 * 3600),
        (86_400, 100, 6 * 3600),
        (86_400, 20, 86_400),
        (0, 1, 60),
        (100 * 365 * 86_400, 10**6, 1141 * 86_400),
    ],
)
def test_subgroups_are_round_stretches_of_time(extent_s: float, judged: int, step: int) -> None:
    assert step_seconds(extent_s, judged) == step


@given(st.floats(0, 1e10), st.integers(0, 10**6))
def test_subgroups_are_never_many(extent_s: float, judged: int) -> None:
    assert extent_s / step_seconds(extent_s, judged) <= 32


def test_every_inspection_is_in_one_subgroup() -> None:
    rows = a_day()
    chart = control_chart(rows, DAY)
    assert chart.step_s == 3600
    assert sum(group.judged + group.undecidable for group in chart.subgroups) == len(rows)
    assert sum(group.not_ok for group in chart.subgroups) == sum(row.decision is Decision.NOT_OK for row in rows)
    assert all(before.end <= after.start for before, after in zip(chart.subgroups, chart.subgroups[1:], strict=False))


def test_a_bad_stretch_is_found_at_its_time() -> None:
    chart = control_chart(a_day(), DAY)
    beyond = next(signal for signal in chart.signals if signal.rule == "western-electric-1")
    assert {chart.subgroups[at].start.hour for at in (beyond.first, beyond.last)} <= {14, 15}


def test_signals_point_at_the_right_subgroup_after_a_stretch_that_could_not_be_judged() -> None:
    blind = [row(at, Decision.UNDECIDABLE) for at in range(60)]
    calm = [row(at, Decision.NOT_OK if at % 50 == 0 else Decision.OK) for at in range(60, 1200)]
    bad = [row(at, Decision.NOT_OK if at % 2 else Decision.OK) for at in range(1200, 1260)]
    chart = control_chart([*blind, *calm, *bad], DAY)
    assert chart.subgroups[0].limits is None
    first = next(signal for signal in chart.signals if signal.rule == "western-electric-1")
    assert chart.subgroups[first.first].start == START + timedelta(minutes=1200)


def test_subgroups_do_not_reach_out_of_the_span() -> None:
    scope = replace(DAY, start=START + timedelta(minutes=10), end=START + timedelta(minutes=170))
    chart = control_chart([row(at) for at in range(10, 170)], scope)
    assert chart.subgroups[0].start == scope.start
    assert chart.subgroups[-1].end == scope.end


def test_nothing_judged_has_no_centre() -> None:
    assert control_chart([], DAY).subgroups == ()
    blind = control_chart([row(0, Decision.UNDECIDABLE)], DAY)
    assert (blind.centre, blind.signals, blind.subgroups[0].undecidable) == (None, (), 1)


def test_small_expectations_are_called_rough() -> None:
    few = control_chart([row(at, Decision.NOT_OK if at == 3 else Decision.OK) for at in range(200)], DAY)
    assert few.rough
    many = control_chart([row(at, Decision.NOT_OK if at % 2 else Decision.OK) for at in range(200)], DAY)
    assert not many.rough


@pytest.mark.parametrize(("slope", "word"), [(1e-4, "rising"), (-1e-4, "falling"), (0.0, "steady")])
def test_trend_follows_the_scores(slope: float, word: str) -> None:
    rows = [row(at, score=0.12 + slope * at) for at in range(0, 1000)]
    assert trend(control_chart(rows, DAY)).word == word


def test_noise_is_no_trend_and_few_points_tell_none() -> None:
    noise = [row(at, score=0.1 + 0.01 * ((at * 7919) % 13)) for at in range(1000)]
    assert trend(control_chart(noise, DAY)).word == "steady"
    assert trend(control_chart([row(at) for at in range(60)], DAY)).word == "too few"


def test_margins_ignore_scores_without_a_positive_threshold() -> None:
    chart = control_chart([row(0, score=0.1), row(1, score=0.9, reject_threshold=0.0)], DAY)
    assert chart.subgroups[0].margin_median == pytest.approx(0.5)
