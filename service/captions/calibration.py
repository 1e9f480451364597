"""How far is far, and what a vote is worth: read off the reviewed cases by judging each from the others.

Cases are asked about twice. Once as flaws of a known label: those of one inspection are left out together, since regions of one
picture are too alike. Once as flaws of a label never reviewed: all cases of a label are left out together, so that whatever the
others call them is wrong. The confidence of a vote is the share of right answers, of both, among votes about as doubtful; one flaw
in three is taken to be of a label never reviewed. Metric and means are fitted without what is left out: with few inspections (or
labels) each alone, with many a fifth at once; beyond 500 cases a sample stands for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.captions.neighbours import Bank, Floats, Indices, Vote, bank, fit_metric, vote

_MOST_CASES = 500
_ALONE_UP_TO = 20  # inspections, or labels
_FIFTHS = 5
_NEW = 0.5  # flaws of labels never reviewed for one of a known label
_WINDOW = 15  # votes about as doubtful, over which a confidence is counted
_WITHIN = (
    0.8  # of a known label's cases lie within its limit; a false `unknown` costs little, rules and LLM still speak
)
_ENOUGH = 10  # distances for a label to have a limit of its own


@dataclass(frozen=True, slots=True)
class Calibration:
    """`doubts` [m] ascending and the share of right answers about each, `right` [m]; `limits` [labels]: the largest squared
    distance (in the metric's space) at which a nearest case of that label still counts."""

    doubts: NDArray[np.float64]
    right: NDArray[np.float64]
    limits: NDArray[np.float64]

    def confidence(self, told: Vote) -> float:
        """How often votes as doubtful were right, 0..1; one half where nothing is known."""
        if not len(self.doubts):
            return 0.5
        return float(np.interp(told.doubt, self.doubts, self.right))

    def is_far(self, told: Vote) -> bool:
        """Whether a flaw is further from the nearest case of the vote's winner than that label's cases are from each other."""
        return told.own > float(self.limits[told.winner])


def calibrate(rows: Floats, labels: Indices, groups: Indices, count: int) -> Calibration:
    """From embedded cases [n,D], their label indices [n] below `count`, and the inspections [n] that they are of."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, _MOST_CASES).astype(np.intp))
    rows, labels, groups = rows[chosen], labels[chosen], groups[chosen]
    doubts, right, near, whose = [], [], [], []
    for others, query, label in _left_out(rows, labels, groups, count):
        if not others.counts[label]:
            continue  # its only inspection: nothing could have known it
        told = vote(others, query)
        doubts.append(told.doubt)
        right.append(told.winner == label)
        mine = others.rows[others.labels == label]
        near.append(float(((mine - query) ** 2).sum(axis=1).min()))
        whose.append(label)
    strange = [vote(others, query).doubt for others, query, _ in _left_out(rows, labels, labels, count) if doubts]
    weights = np.repeat((1.0, _NEW * len(doubts) / max(1, len(strange))), (len(doubts), len(strange)))
    answers = np.concatenate((np.array(right, np.float64), np.zeros(len(strange))))
    order = np.argsort(-np.array([*doubts, *strange]), kind="stable")
    return Calibration(
        np.array([*doubts, *strange], np.float64)[order][::-1],
        _rising(answers[order], weights[order])[::-1],
        _limits(np.array(near, np.float64), np.array(whose, np.intp), rows, labels, count),
    )


def _left_out(rows: Floats, labels: Indices, groups: Indices, count: int) -> Iterator[tuple[Bank, Floats, int]]:
    """For each case the bank of the others, without its group's, the case in their metric [D], and its label; none where there
    is one group only."""
    names, groups = np.unique(groups, return_inverse=True)
    folds = groups if len(names) <= _ALONE_UP_TO else groups % _FIFTHS
    for fold in np.unique(folds):
        out = folds == fold
        if out.all():
            return
        metric = fit_metric(rows[~out], labels[~out])
        others = bank(metric(rows[~out]), labels[~out], count)
        for query, label in zip(metric(rows[out]), labels[out], strict=True):
            yield others, query, int(label)


def _rising(right: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of right answers over a window (with one right and one wrong added, so that few reviews promise little),
    never falling from the most doubtful, which comes first, to the least."""
    hits, sums = (np.concatenate(([0.0], np.cumsum(each))) for each in (right * weights, weights))
    first = np.clip(np.arange(len(right)) - _WINDOW // 2, 0, max(0, len(right) - _WINDOW))
    after = np.minimum(first + _WINDOW, len(right))
    return np.maximum.accumulate((hits[after] - hits[first] + 1) / (sums[after] - sums[first] + 2))


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
