"""Detection metrics: AUROC, AU-PRO and binomial intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats


def auroc(scores: NDArray[np.floating], flawed: NDArray[np.bool_]) -> float:
    """Area under the ROC curve, ties counted half; scores [n], flawed bool [n] with both kinds. Raises ValueError if not."""
    positives = int(flawed.sum())
    negatives = flawed.size - positives
    if not positives or not negatives:
        raise ValueError("AUROC needs flawed and normal examples")
    ranks = stats.rankdata(scores)
    return float((ranks[flawed].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def au_pro(maps: list[NDArray[np.float32]], masks: list[NDArray[np.bool_]], limit: float = 0.3) -> float:
    """Area under the per-region overlap curve up to false positive rate `limit`, over `limit` (Bergmann et al., 2020).

    `maps` float32 [H,W] and `masks` bool [H,W] by picture, at least one mask with a region. Thresholds are 400
    quantiles of the normal pixels' scores, dense where the curve is read.
    """
    normal = np.concatenate([values[~mask] for values, mask in zip(maps, masks, strict=True)])
    rates = np.concatenate([[0.0], np.geomspace(1e-5, limit, 399)])
    thresholds = np.quantile(normal, 1 - rates)
    overlaps = np.zeros((0, len(rates)))
    for values, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3), bool))
        for label in range(1, count + 1):
            ordered = np.sort(values[labels == label])
            above = 1 - np.searchsorted(ordered, thresholds, side="right") / len(ordered)
            overlaps = np.vstack([overlaps, above])
    if not len(overlaps):
        raise ValueError("AU-PRO needs at least one flawed region")
    return float(np.trapezoid(overlaps.mean(axis=0), rates) / limit)


def interval(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a rate; (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    found = stats.binomtest(hits, trials).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)
