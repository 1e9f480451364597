"""Inspections by time: subgroups, the p-chart over them and the score's trend. Pure functions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from service.records.report.control import Limits, p_limits, signals
from service.records.report.data import ControlChart, InspectionRow, Scope, Subgroup, Trend
from service.types import Decision

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_STEPS = (
    *(minutes * _MINUTE for minutes in (1, 2, 5, 10, 15, 30)),
    *(hours * _HOUR for hours in (1, 2, 3, 4, 6, 8, 12)),
    *(days * _DAY for days in (1, 2, 7, 14, 28, 91, 364)),
)
_MOST_SUBGROUPS = 32
_FEWEST_IN_SUBGROUP = 25
_FEWEST_FOR_TREND = 8
_TREND_LEVEL = 0.05
_FEWEST_EXPECTED = 5  # in either class, for the normal approximation (Montgomery 7.3.1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def step_seconds(extent_s: float, judged: int) -> int:
    """A subgroup's length in seconds: the shortest round one that cuts an extent of time into at most 32 subgroups which
    hold 25 judged inspections or more on average (smaller ones make the normal approximation worthless)."""
    most = max(1, min(_MOST_SUBGROUPS, judged // _FEWEST_IN_SUBGROUP))
    fitting = (step for step in _STEPS if extent_s / step <= most)
    return next(fitting, math.ceil(extent_s / most / _DAY) * _DAY)


def control_chart(rows: Sequence[InspectionRow], scope: Scope) -> ControlChart:
    """The p-chart of not ok among the judged, per stretch of time; `rows` in order of time.

    Stretches without an inspection are left out; one without a judged inspection has no point. Limits are the span's
    own (a phase I chart)."""
    extent = (rows[-1].created_at - rows[0].created_at).total_seconds() if rows else 0.0
    step = step_seconds(extent, _judged(rows))
    groups: dict[int, list[InspectionRow]] = defaultdict(list)
    for row in rows:
        groups[int((row.created_at - _EPOCH).total_seconds() // step)].append(row)
    keys = sorted(groups)
    points = [place for place, key in enumerate(keys) if _judged(groups[key])]
    if not points:
        return ControlChart(
            step, None, tuple(_subgroup(scope, step, key, groups[key], None) for key in keys), (), False
        )
    sizes = [_judged(groups[keys[place]]) for place in points]
    centre, limits = p_limits([_count(groups[keys[place]], Decision.NOT_OK) for place in points], sizes)
    at = dict(zip(points, limits, strict=True))
    subgroups = tuple(_subgroup(scope, step, key, groups[key], at.get(place)) for place, key in enumerate(keys))
    fired = tuple(
        replace(signal, first=points[signal.first], last=points[signal.last])
        for signal in signals([limit.deviation for limit in limits])
    )
    rough = any(size * min(centre, 1 - centre) < _FEWEST_EXPECTED for size in sizes)
    return ControlChart(step, centre, subgroups, fired, rough)


def trend(chart: ControlChart) -> Trend:
    """Whether the margin rises or falls over the span: Kendall's tau of the subgroups' medians against time (Mann 1945),
    two-sided at 5 %."""
    medians = [subgroup.margin_median for subgroup in chart.subgroups if subgroup.margin_median is not None]
    from scipy import stats  # noqa: PLC0415 - takes a second to load, and only reports need it

    if len(medians) < _FEWEST_FOR_TREND:
        return Trend("too few", None, None)
    if min(medians) == max(medians):
        return Trend("steady", 0.0, 1.0)
    tested = stats.kendalltau(range(len(medians)), medians)
    tau, p_value = float(tested.statistic), float(tested.pvalue)
    if p_value >= _TREND_LEVEL:
        return Trend("steady", tau, p_value)
    return Trend("rising" if tau > 0 else "falling", tau, p_value)


def _subgroup(scope: Scope, step: int, key: int, group: Sequence[InspectionRow], at: Limits | None) -> Subgroup:
    start = _EPOCH + timedelta(seconds=key * step)
    margins = [margin for row in group if (margin := row.margin) is not None and math.isfinite(margin)]
    middle, high = (float(value) for value in np.quantile(margins, (0.5, 0.9))) if margins else (None, None)
    return Subgroup(
        start=max(start, scope.start),
        end=min(start + timedelta(seconds=step), scope.end),
        judged=_judged(group),
        undecidable=_count(group, Decision.UNDECIDABLE),
        not_ok=_count(group, Decision.NOT_OK),
        limits=at,
        margin_median=middle,
        margin_high=high,
    )


def _judged(group: Sequence[InspectionRow]) -> int:
    return len(group) - _count(group, Decision.UNDECIDABLE)


def _count(group: Sequence[InspectionRow], decision: Decision) -> int:
    return sum(row.decision is decision for row in group)
