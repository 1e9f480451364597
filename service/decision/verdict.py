"""Anomaly map + thresholds -> verdict. Score, regions and verdict come from one map, so they cannot contradict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.decision.regions import find_regions
from service.types import AnomalyMap, Decision, Thresholds, Verdict

_NOTHING_INSIDE = "the region of interest holds no cell of this picture"
_NOT_FINITE = "the network answered with numbers that are not finite"


def judge(
    anomaly_map: AnomalyMap, thresholds: Thresholds, calibration_scores: Sequence[float], reasons: Sequence[str] = ()
) -> Verdict:
    """The verdict on one picture.

    `calibration_scores`: scores of held-out normal parts, ascending. `reasons`: why the picture cannot be judged; when
    there are any the verdict is `undecidable`, without regions. Otherwise `ok` exactly when there is no region.
    """
    score = anomaly_map.score
    p_value = conformal_p_value(score, calibration_scores)
    if not np.isfinite(score) and not reasons:
        empty = score == -np.inf
        reasons = (_NOTHING_INSIDE if empty else _NOT_FINITE,)
    if reasons:
        return Verdict(Decision.UNDECIDABLE, score, thresholds, p_value, (), tuple(reasons))
    regions = find_regions(anomaly_map, thresholds.review)
    if score > thresholds.reject:
        decision = Decision.NOT_OK
    elif regions:
        decision = Decision.REVIEW
    else:
        decision = Decision.OK
    return Verdict(decision, score, thresholds, p_value, regions)


def conformal_p_value(score: float, calibration_scores: Sequence[float]) -> float:
    """(1 + #{calibration >= score}) / (n + 1), in (0, 1]: how usual such a score is among normal parts."""
    n = len(calibration_scores)
    at_least = n - int(np.searchsorted(calibration_scores, score, side="left"))
    return (1 + at_least) / (n + 1)


def limits(review: float, reject: float, override: float | None = None) -> Thresholds:
    """The model's thresholds, or the caller's own reject threshold with the review band never above it."""
    if override is None:
        return Thresholds(review=review, reject=reject)
    return Thresholds(review=min(review, override), reject=override)
