"""The cases of one product and one teacher, ready to be asked. Never changed once made: adding makes the next shelf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.captions.calibration import Calibration, calibrate
from service.captions.descriptor import FIGURES
from service.captions.neighbours import Bank, Floats, Indices, Metric, bank, embed, extended, fit_metric, vote

if TYPE_CHECKING:
    from service.captions.memory import Case

_REFIT_BELOW = 50  # cases: up to here metric and calibration follow every case
_REFIT_GROWTH = 1.1
_LIKELY = 0.5  # below this confidence an answer is more often wrong than right


@dataclass(frozen=True, slots=True)
class Found:
    """The vote's winner by label index, whether the flaw is rather something else, how often such votes were right, and the
    nearest cases with the cosine distances of their features, 0..2."""

    winner: int
    unknown: bool
    confidence: float
    nearest: Indices
    cosines: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shelf:
    """`labels`: the names of label indices; `embedded` float32 [n,D]: the cases' descriptors as `embed` gives them; `fitted`: how
    many cases there were when metric and calibration were last fitted."""

    cases: tuple[Case, ...]
    labels: tuple[str, ...]
    embedded: Floats
    metric: Metric
    bank: Bank
    calibration: Calibration
    fitted: int

    @classmethod
    def of(cls, cases: Sequence[Case]) -> Shelf:
        """A shelf of at least one case. Raises ValueError for descriptors of different lengths."""
        lengths = {len(case.descriptor) for case in cases}
        if len(lengths) > 1:
            raise ValueError(f"descriptors of one teacher have different lengths: {sorted(lengths)}")
        return cls._fitted(tuple(cases), embed(np.stack([case.descriptor for case in cases]).astype(np.float32)))

    def with_cases(self, cases: Sequence[Case]) -> Shelf:
        """This shelf and more cases on it. Raises ValueError for descriptors of another length."""
        for case in cases:
            self._check(case.descriptor)
        together = (*self.cases, *cases)
        added = embed(np.stack([case.descriptor for case in cases]).astype(np.float32))
        embedded = np.concatenate((self.embedded, added))
        names = {*self.labels}
        grown = len(together) < _REFIT_BELOW or len(together) > _REFIT_GROWTH * self.fitted
        if grown or any(case.label not in names for case in cases):
            return self._fitted(together, embedded)
        banked = extended(self.bank, self.metric(added), _indices(cases, self.labels))
        return Shelf(together, self.labels, embedded, self.metric, banked, self.calibration, self.fitted)

    def ask(self, descriptor: Floats, most: int) -> Found:
        """What the cases say of a flaw. Raises ValueError for a descriptor of another length."""
        self._check(descriptor)
        embedded = embed(np.asarray(descriptor, np.float32)[None])
        told = vote(self.bank, self.metric(embedded)[0], max(1, most))
        confidence = self.calibration.confidence(told)
        features = slice(None, -FIGURES)
        return Found(
            winner=told.winner,
            unknown=confidence < _LIKELY or self.calibration.is_far(told),
            confidence=confidence,
            nearest=told.nearest,
            cosines=_cosine_distances(self.embedded[told.nearest, features], embedded[0, features]),
        )

    @classmethod
    def _fitted(cls, cases: tuple[Case, ...], embedded: Floats) -> Shelf:
        labels = tuple(sorted({case.label for case in cases}))
        indices = _indices(cases, labels)
        _, groups = np.unique([case.inspection_id for case in cases], return_inverse=True)
        metric = fit_metric(embedded, indices)
        return cls(
            cases=cases,
            labels=labels,
            embedded=embedded,
            metric=metric,
            bank=bank(metric(embedded), indices, len(labels)),
            calibration=calibrate(embedded, indices, groups, len(labels)),
            fitted=len(cases),
        )

    def _check(self, descriptor: Floats) -> None:
        expected = (1 + self.embedded.shape[1],)
        if np.shape(descriptor) != expected:
            raise ValueError(f"descriptor is {np.shape(descriptor)}, this teacher's are {expected}")


def _indices(cases: Sequence[Case], labels: Sequence[str]) -> Indices:
    place = {label: index for index, label in enumerate(labels)}
    return np.fromiter((place[case.label] for case in cases), np.intp, len(cases))


def _cosine_distances(rows: Floats, query: Floats) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    distances: NDArray[np.float32] = np.clip(1 - rows @ query / np.maximum(lengths, np.float32(1e-12)), 0, 2)
    return distances
