"""How far is far, and what a vote is worth: read off the reviewed cases by judging each from the others.

Cases of one inspection are left out together, since regions of one picture are too alike; metric and means are fitted without
them. With few inspections each is left out alone, with many a fifth at once; beyond 500 cases a sample stands for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.captions.neighbours import Floats, Indices, bank, fit_metric, vote

_MOST_CASES = 500
_ALONE_UP_TO = 20  # inspections
_FIFTHS = 5
_WINDOW = 20  # votes of about the same share, over which a confidence is counted
_WITHIN = (
    0.8  # of a known label's cases lie within its limit; a false `unknown` costs little, rules and LLM still speak
)
_ENOUGH = 10  # distances for a label to have a limit of its own


@dataclass(frozen=True, slots=True)
class Calibration:
    """`shares` [m] ascending and the share of right answers about each, `right` [m]; `limits` [labels]: the largest squared
    distance (in the metric's space) at which a nearest case of that label still counts, `pooled`: over all labels."""

    shares: NDArray[np.float64]
    right: NDArray[np.float64]
    limits: NDArray[np.float64]

    def confidence(self, share: float) -> float:
        """How often votes of such a share were right, 0..1; one half where nothing is known."""
        if not len(self.shares):
            return 0.5
        return float(np.interp(share, self.shares, self.right))

    def is_far(self, label: int, distance: float) -> bool:
        """Whether a flaw at that squared distance from the nearest case of `label` is something else."""
        return distance > float(self.limits[label])


def calibrate(rows: Floats, labels: Indices, groups: Indices, count: int) -> Calibration:
    """From embedded cases [n,D], their label indices [n] below `count`, and the inspections [n] that they are of."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, _MOST_CASES).astype(np.intp))
    rows, labels, (names, groups) = rows[chosen], labels[chosen], np.unique(groups[chosen], return_inverse=True)
    folds = groups if len(names) <= _ALONE_UP_TO else groups % _FIFTHS
    shares, right, near, whose = [], [], [], []
    for fold in np.unique(folds):
        out = folds == fold
        if out.all():
            break
        metric = fit_metric(rows[~out], labels[~out])
        others = bank(metric(rows[~out]), labels[~out], count)
        for query, label in zip(metric(rows[out]), labels[out], strict=True):
            if not others.counts[label]:
                continue  # its only inspection: nothing could have known it
            told = vote(others, query)
            shares.append(told.shares.max())
            right.append(told.winner == label)
            mine = others.rows[others.labels == label]
            near.append(float(((mine - query) ** 2).sum(axis=1).min()))
            whose.append(label)
    order = np.argsort(shares, kind="stable")
    return Calibration(
        np.array(shares, np.float64)[order],
        _rising(np.array(right, np.float64)[order]),
        _limits(np.array(near, np.float64), np.array(whose, np.intp), rows, labels, count),
    )


def _rising(right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of right answers over a window (with one right and one wrong added, so that few reviews promise little),
    never falling as the vote's share rises."""
    sums = np.concatenate(([0.0], np.cumsum(right)))
    first = np.clip(np.arange(len(right)) - _WINDOW // 2, 0, max(0, len(right) - _WINDOW))
    after = np.minimum(first + _WINDOW, len(right))
    return np.maximum.accumulate((sums[after] - sums[first] + 1) / (after - first + 2))


def _limits(
    near: NDArray[np.float64], whose: Indices, rows: Floats, labels: Indices, count: int
) -> NDArray[np.float64]:
    """Of each label the distance within which its own cases lie; where they are few, that of all labels' cases."""
    pooled = _quantile(near) if len(near) else _between(rows, labels)
    limits = np.full(count, pooled)
    for label in np.unique(whose):
        own = near[whose == label]
        if len(own) >= _ENOUGH:
            limits[label] = _quantile(own)
    return limits


def _quantile(values: NDArray[np.float64]) -> float:
    """The conformal quantile: a further value of the kind lies within it at the promised rate (at most the largest seen)."""
    rank = min(len(values), int(np.ceil(_WITHIN * (len(values) + 1))))
    return float(np.sort(values)[rank - 1])


def _between(rows: Floats, labels: Indices) -> float:
    """No label was seen twice: near is what lies nearer than half of the way to another label. 0 for a single label."""
    metric = fit_metric(rows, labels)
    turned = metric(rows)
    apart = [
        float(((turned[labels != label] - row) ** 2).sum(axis=1).min())
        for row, label in zip(turned, labels, strict=True)
        if (labels != label).any()
    ]
    return min(apart, default=0.0) / 4  # distances are squared
