"""Drift: whether the p-values of accepted parts still lie as they did when the model was calibrated, or in a window before.

A p-value says how usual a score is among the calibration's normal parts; as long as parts and camera stay as they were, it
is even over its levels. Each window is compared by Kolmogorov and Smirnov's test (is there a difference?) and the population
stability index (is it large?); only both together are drift.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from scipy import stats

from service.records.database import Database
from service.records.schema import inspections
from service.types import Decision

BINS = 10
LEAST = 50  # p-values below which a window says nothing
_SURE = 0.001  # the test's level: windows are looked at day after day
_LARGE, _SOME = 0.25, 0.1  # the index's customary limits (Siddiqi 2006)
Word = Literal["too few", "steady", "shifting", "drifted"]
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Seen:
    """An accepted part's p-value, and when it was inspected."""

    at: datetime
    p_value: float


@dataclass(frozen=True, slots=True)
class Drift:
    """How far a sample lies from its reference. `ks` 0..1 with its p-value; `psi` >= 0, of which `psi_by_chance` is to be
    expected without any drift."""

    word: Word
    count: int
    ks: float | None = None
    ks_p_value: float | None = None
    psi: float | None = None
    psi_by_chance: float | None = None


@dataclass(frozen=True, slots=True)
class WindowDrift:
    """One window [start, end) of time and its drift."""

    start: datetime
    end: datetime
    drift: Drift


def read_accepted_p_values(
    database: Database,
    model: str,
    version: int,
    precision: str,
    *,
    since: datetime,
    until: datetime,
    review_threshold: float | None = None,
) -> tuple[Seen, ...]:
    """The p-values of parts that one form of a model accepted (`ok`), oldest first. `review_threshold`: the model's own, to
    leave out requests that brought another threshold, whose accepted parts are cut off elsewhere."""
    c = inspections.c
    query = (
        sa.select(c.created_at, c.p_value)
        .where(c.model_name == model, c.model_version == version, c.precision == precision)
        .where(c.verdict == Decision.OK.value, c.p_value.is_not(None), c.created_at >= since, c.created_at < until)
        .order_by(c.created_at, c.id)
    )
    if review_threshold is not None:
        query = query.where(c.review_threshold == review_threshold)
    with database.reading() as connection:
        return tuple(Seen(row.created_at, row.p_value) for row in connection.execute(query))


def by_window(
    seen: Iterable[Seen], since: datetime, until: datetime, step: timedelta
) -> Iterator[tuple[datetime, datetime, Values]]:
    """The p-values of each window of `step` from `since` on, empty ones too."""
    ordered = sorted(seen, key=lambda each: each.at)
    values = np.array([each.p_value for each in ordered], float)
    start = since
    while start < until:
        end = min(start + step, until)
        first, last = (bisect_left(ordered, moment, key=lambda each: each.at) for moment in (start, end))
        yield start, end, values[first:last]
        start = end


def watch(
    seen: Sequence[Seen],
    *,
    since: datetime,
    until: datetime,
    step: timedelta,
    calibration_parts: int,
    least_p_value: float,
) -> tuple[WindowDrift, ...]:
    """Each window against the calibration; see against_calibration."""
    return tuple(
        WindowDrift(start, end, against_calibration(values, calibration_parts, least_p_value))
        for start, end, values in by_window(seen, since, until, step)
    )


def against_calibration(values: Values, calibration_parts: int, least_p_value: float) -> Drift:
    """A window against the even spread of a fresh calibration with so many held-out parts.

    Accepted parts have p-values k / (n + 1) from `least_p_value` on, the p-value of the review threshold: they are even over
    these levels. That the n parts are a sample themselves is reckoned with, so few of them make the test timid, not wrong.
    """
    levels = np.arange(1, calibration_parts + 2) / (calibration_parts + 1)
    levels = levels[levels >= least_p_value - 1e-9]
    if len(values) < LEAST or len(levels) < 2:
        return Drift("too few", len(values))
    below = np.searchsorted(np.sort(values), levels + 1e-9, side="left") / len(values)
    even = np.arange(1, len(levels) + 1) / len(levels)
    ks = float(np.abs(below - even).max())
    effective = len(values) * calibration_parts / (len(values) + calibration_parts)
    sure = float(stats.kstwobign.sf(math.sqrt(effective) * ks))
    bins = min(BINS, len(levels))
    edges = np.concatenate([[-np.inf], levels[np.arange(1, bins) * len(levels) // bins] - 1e-9, [np.inf]])
    return _judged(values, levels, edges, ks, sure, calibration_parts)


def against_window(values: Values, reference: Values) -> Drift:
    """A window against another, such as the first after the model was put in service."""
    if len(values) < LEAST or len(reference) < LEAST:
        return Drift("too few", len(values))
    test = stats.ks_2samp(values, reference)
    edges = np.unique(np.quantile(reference, np.arange(1, BINS) / BINS))
    edges = np.concatenate([[-np.inf], edges + 1e-9, [np.inf]])
    return _judged(values, reference, edges, float(test.statistic), float(test.pvalue), len(reference))


def _judged(values: Values, reference: Values, edges: Values, ks: float, sure: float, reference_size: int) -> Drift:
    psi = stability_index(np.histogram(values, edges)[0], np.histogram(reference, edges)[0])
    chance = (len(edges) - 2) * (1 / len(values) + 1 / reference_size)  # its mean without drift (Yurdakul 2018)
    word: Word = "steady"
    if sure < _SURE and psi - chance >= _SOME:
        word = "drifted" if psi - chance >= _LARGE else "shifting"
    return Drift(word, len(values), ks, sure, psi, chance)


def stability_index(counts: NDArray[np.integer], reference: NDArray[np.integer]) -> float:
    """The population stability index of two histograms over the same bins: sum of (a - b) ln(a / b) of their shares, each bin
    filled by half a count so that an empty one stays finite."""
    a = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
    b = (reference + 0.5) / (reference.sum() + 0.5 * len(reference))
    return float(((a - b) * np.log(a / b)).sum())
