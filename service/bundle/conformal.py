"""Thresholds from scores of normal parts that the network did not learn from, given by the served path (conformal prediction)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import ThresholdRule

_REVIEW_TIMES = 5  # the review band opens at this multiple of the false reject rate


@dataclass(frozen=True, slots=True)
class Limits:
    """Both thresholds of a form and how they were found; review <= reject."""

    review: float
    reject: float
    review_rule: ThresholdRule
    reject_rule: ThresholdRule


def part_scores(parts: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    """One score a part, its highest over all its shots; ascending."""
    highest: dict[str, float] = {}
    for part, score in zip(parts, scores, strict=True):
        highest[part] = max(score, highest.get(part, -math.inf))
    return dict(sorted(highest.items(), key=lambda item: item[1]))


def limits(scores: Sequence[float], false_reject_rate: float) -> Limits:
    """The thresholds by the `scores` of normal parts, ascending: rejected is `false_reject_rate` of them, shown to a person five
    times as many."""
    reject, reject_rule = threshold(scores, false_reject_rate)
    review, review_rule = threshold(scores, min(0.5, _REVIEW_TIMES * false_reject_rate))
    return Limits(min(review, reject), reject, review_rule, reject_rule)


def without_highest(scores: Sequence[float], false_reject_rate: float) -> float | None:
    """The reject threshold if the highest of n held-out `scores`, ascending, were not among them, when that would bring it to
    less than half its distance from their median: then it is this one part that sets it. None when it is not, or n < 3."""
    if len(scores) < 3:
        return None
    median = float(np.median(scores))
    (found, _), (other, _) = threshold(scores, false_reject_rate), threshold(scores[:-1], false_reject_rate)
    return other if other - median < (found - median) / 2 else None


def rate_above(scores: Sequence[float], found: float) -> float:
    """The share of normal parts above a threshold that was `found` otherwise, as n held-out `scores` bound it: (1 + how many of
    them are above) / (n + 1), below 1."""
    n = len(scores)
    return min(1 + sum(score > found for score in scores), n) / (n + 1)


def threshold(scores: Sequence[float], false_reject_rate: float) -> tuple[float, ThresholdRule]:
    """The score above which a normal part is flagged with at most `false_reject_rate`, and how it was found.

    `scores`: of n held-out normal parts, ascending. The k-th smallest with k = ceil((n+1)(1-rate)) is the conformal
    threshold. With k > n (1 % needs 99 parts) it is extrapolated from an exponential tail fitted above the median.
    """
    n = len(scores)
    rank = math.ceil((n + 1) * (1 - false_reject_rate) - 1e-9)
    if rank <= n:
        return float(scores[rank - 1]), ThresholdRule(method="conformal", false_reject_rate=false_reject_rate, parts=n)
    values: NDArray[np.float64] = np.asarray(scores, np.float64)
    median = float(np.median(values))
    above = values[values > median] - median
    mean_excess = float(above.mean()) if len(above) else 0.0
    found = median + mean_excess * math.log(0.5 / false_reject_rate)
    rule = ThresholdRule(method="fitted_tail", false_reject_rate=false_reject_rate, parts=n)
    return max(found, float(values[-1])), rule
