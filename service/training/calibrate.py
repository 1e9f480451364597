"""Thresholds from held-out normal parts, through the served path (conformal prediction; facts on rates in docs)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import ThresholdRule
from service.training.data import NormalImage


def part_scores(images: Sequence[NormalImage], scores: Sequence[float]) -> tuple[float, ...]:
    """One score a part, its highest over all its shots, ascending."""
    highest: dict[str, float] = {}
    for image, score in zip(images, scores, strict=True):
        highest[image.part] = max(score, highest.get(image.part, -math.inf))
    return tuple(sorted(highest.values()))


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
