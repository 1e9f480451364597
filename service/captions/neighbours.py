"""How alike two flaws are, and what the nearest reviewed ones say: the arithmetic of memory, on arrays.

Differences that occur within a label count less: the space is whitened by the labels' pooled covariance, shrunk towards a
multiple of the identity (Friedman 1989), so that reviews teach what does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]

_SHRINK = 0.5
_MOST_FITTED = 1_000
_VOTERS = 5


@dataclass(frozen=True, slots=True)
class Metric:
    """A linear map float32 [D,D] after which plain squared distances compare flaws."""

    turn: Floats

    def __call__(self, rows: Floats) -> Floats:
        return rows @ self.turn


@dataclass(frozen=True, slots=True)
class Bank:
    """Cases in the metric's space: `rows` float32 [n,D], their squared lengths [n], label indices [n], labels' means [labels,D]
    and how many cases each has."""

    rows: Floats
    squares: Floats
    labels: Indices
    means: Floats
    counts: Indices


@dataclass(frozen=True, slots=True)
class Vote:
    """`shares` [labels] add up to 1; `nearest`: case indices, nearest first, and their squared `distances`; `own`: the squared
    distance of the winner's nearest case."""

    shares: NDArray[np.float64]
    nearest: Indices
    distances: Floats
    own: float

    @property
    def winner(self) -> int:
        return int(self.shares.argmax())

    @property
    def doubt(self) -> float:
        """Grows with the distance and as the vote is less of one mind (docs/decisions/0021)."""
        return float(self.own / self.shares.max() ** 2)


def embed(descriptors: Floats) -> Floats:
    """float32 [n,D] of descriptors [n,1+D] of this making; a view. Their weights are in them."""
    return descriptors[:, 1:]


def fit_metric(rows: Floats, labels: Indices) -> Metric:
    """From embedded cases [n,D] and their label indices [n]; the identity while no label has two cases."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, _MOST_FITTED).astype(np.intp))
    rows, (_, labels) = rows[chosen], np.unique(labels[chosen], return_inverse=True)
    freedom = len(rows) - int(labels.max()) - 1
    size = rows.shape[1]
    if freedom < 1:
        return Metric(np.eye(size, dtype=np.float32))
    means = _sums(rows, labels, int(labels.max()) + 1) / np.bincount(labels)[:, None]
    apart = (rows - means[labels]) / np.sqrt(freedom)
    within = apart.T @ apart
    base = max(np.trace(within) / size, 1e-6)
    lower = np.linalg.cholesky((1 - _SHRINK) * within + _SHRINK * base * np.eye(size))
    turn = np.linalg.inv(lower).T  # its square is the inverse; far cheaper than axes
    return Metric(np.ascontiguousarray(turn, np.float32))


def bank(rows: Floats, labels: Indices, count: int) -> Bank:
    """Cases already in the metric's space, [n,D], with label indices below `count`."""
    counts = np.bincount(labels, minlength=count)
    means = (_sums(rows, labels, count) / np.maximum(counts, 1)[:, None]).astype(np.float32)
    return Bank(rows, np.einsum("nd,nd->n", rows, rows), labels, means, counts)


def extended(cases: Bank, rows: Floats, labels: Indices) -> Bank:
    """The bank with a few more cases; none of its labels is new."""
    count = len(cases.means)
    counts = cases.counts + np.bincount(labels, minlength=count)
    means = (cases.means * cases.counts[:, None] + _sums(rows, labels, count)) / np.maximum(counts, 1)[:, None]
    return Bank(
        np.concatenate((cases.rows, rows)),
        np.concatenate((cases.squares, np.einsum("nd,nd->n", rows, rows))),
        np.concatenate((cases.labels, labels)),
        means.astype(np.float32),
        counts,
    )


def vote(cases: Bank, query: Floats, most: int = _VOTERS) -> Vote:
    """What the nearest cases and the nearest label means say of `query` [D], in the metric's space.

    Half of the votes go to the nearest cases by inverse distance, half to the labels by the distance of their means: with few
    reviews a mean is steadier than a case, with many a case knows more.
    """
    apart = np.maximum(cases.squares - 2 * (cases.rows @ query) + query @ query, 0)
    most = min(most, len(apart))
    nearest = np.argpartition(apart, most - 1)[:most]
    # as differences: the expansion above is not 0 for the very same flaw
    distances = ((cases.rows[nearest] - query) ** 2).sum(axis=1)
    order = np.lexsort((nearest, distances))
    nearest, distances = nearest[order], distances[order]
    voters = nearest[:_VOTERS]
    weights = 1 / (distances[:_VOTERS].astype(np.float64) + 1e-6)
    by_case = np.bincount(cases.labels[voters], weights, minlength=len(cases.means))
    known = cases.counts > 0
    to_means = ((cases.means - query) ** 2).sum(axis=1, dtype=np.float64)
    scaled = np.where(known, to_means / max(to_means[known].min(), 1e-6), np.inf)
    by_mean = np.exp(-4 * (scaled - 1))
    shares = by_case / by_case.sum() + by_mean / by_mean.sum()
    winner = shares.argmax()
    mine = distances[cases.labels[nearest] == winner]
    # won by its mean alone: its own cases are all further than the nearest found
    own = mine[0] if len(mine) else apart[cases.labels == winner].min()
    return Vote(shares / 2, nearest, distances, float(own))


def _sums(rows: Floats, labels: Indices, count: int) -> Floats:
    ones = np.ones(len(rows), np.float32)
    members = sparse.csr_array((ones, (labels, np.arange(len(rows)))), shape=(count, len(rows)))
    sums: Floats = members @ rows
    return sums
