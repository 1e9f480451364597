"""A memory of reviewed flaws: the nearest past cases vote on what a flaw is; far from all of them it is `unknown`.

A descriptor is what a region's teacher features have beside those of the untouched part, followed by the region's shape and
colour figures (inspector.describe). Cases are compared only within one product and one teacher, exactly, by cosine distance.
How far is far, and what a vote is worth, is read off the cases themselves by leaving each out in turn.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from service.captions.figures import FIGURES
from service.captions.products import UNKNOWN
from service.captions.prompt import LlmCase
from service.records.entities import StoredCase
from service.types import SimilarCase

Vector = NDArray[np.float32]
_VOTERS = 7
_FIGURE_WEIGHT = 0.5  # of all figures together, against features of length 1
_SURE_FROM = 0.7  # confidence
_FAR_UNTAUGHT = 0.15  # limit of distance while no label has two cases
_FAR_SLACK = 1.25  # the limit over the distance within which 95 % of the cases find another of their label
_LEFT_OUT = 1000  # cases left out in turn, at most
_GROWTH = 1.1  # the calibration is renewed when there are so many times more cases
_TOLD = 5  # similar cases and causes told


@dataclass(frozen=True, slots=True)
class Recall:
    """What the memory says of a flaw. `sure`: near enough to past cases that agree; else `label` is `unknown`.

    `confidence`: share of the cases, left out in turn, that such a vote named rightly, 0..1. `similar`, `cases`: the
    nearest ones, nearest first, whatever their labels. `causes`: of the voters, each with the inspections it cites.
    """

    label: str
    confidence: float
    sure: bool
    causes: tuple[str, ...]
    action: str
    similar: tuple[SimilarCase, ...]
    cases: tuple[LlmCase, ...]


@dataclass(frozen=True, slots=True)
class _Calibration:
    """`limit`: distance beyond which a flaw is unlike all cases; `shares`, `right`: the votes of the cases left out."""

    size: int
    limit: float
    shares: NDArray[np.float64]
    right: NDArray[np.bool_]

    def confidence(self, share: float) -> float:
        """Share of the votes at least as clear that were right, with one more of each so that few cases promise little."""
        clear = self.right[self.shares >= share - 1e-9]
        return float((clear.sum() + 1) / (len(clear) + 2))


@dataclass(frozen=True, slots=True)
class _Group:
    """The cases of one product and teacher; `rows` [>=len(cases),D] has room to grow, whose rows no reader looks at."""

    cases: tuple[StoredCase, ...]
    rows: Vector
    calibration: _Calibration | None = None

    @property
    def matrix(self) -> Vector:
        return self.rows[: len(self.cases)]


@dataclass(slots=True)
class Memory:
    """All cases. Readers keep the snapshot they began with while cases are added or removed."""

    _groups: dict[tuple[str, str], _Group] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return sum(len(group.cases) for group in self._groups.values())

    def add(self, *cases: StoredCase) -> None:
        """Take in cases. One whose descriptor has another length than its group's is left out: it cannot be compared."""
        with self._lock:
            fresh: dict[tuple[str, str], list[StoredCase]] = {}
            for case in cases:
                fresh.setdefault((case.product, case.teacher_sha256), []).append(case)
            for key, those in fresh.items():
                self._groups[key] = _grown(self._groups.get(key), those)

    def remove(self, case_id: str) -> None:
        """Forget a case; nothing happens where there is none of that id."""
        with self._lock:
            for key, group in self._groups.items():
                kept = [case for case in group.cases if case.case_id != case_id]
                if len(kept) < len(group.cases):
                    self._groups[key] = _grown(None, kept)
                    return

    def recall(self, product: str, teacher_sha256: str, descriptor: Vector) -> Recall | None:
        """What past cases say of a region's `descriptor` float32 [D]; None where there is none to compare with."""
        key = (product, teacher_sha256)
        group = self._groups.get(key)
        if group is None or not group.cases or group.rows.shape[1] != len(descriptor):
            return None
        calibration = self._calibrated(key, group)
        distances = 1 - group.matrix @ embed(descriptor[None])[0]
        order = _nearest(distances, max(_VOTERS, _TOLD))
        voters = order[:_VOTERS]
        label, share = _vote([group.cases[index].label for index in voters], distances[voters])
        confidence = calibration.confidence(share)
        sure = bool(distances[order[0]] <= calibration.limit) and confidence >= _SURE_FROM
        agreeing = [group.cases[index] for index in voters if group.cases[index].label == label]
        nearest = [(group.cases[index], max(0.0, float(distances[index]))) for index in order[:_TOLD]]
        return Recall(
            label=label if sure else UNKNOWN,
            confidence=confidence,
            sure=sure,
            causes=_causes(agreeing),
            action=next((case.action for case in agreeing if case.action), ""),
            similar=tuple(SimilarCase(case.inspection_id, case.label, round(far, 4)) for case, far in nearest),
            cases=tuple(
                LlmCase(case.inspection_id, case.label, case.cause, case.action, round(far, 4)) for case, far in nearest
            ),
        )

    def _calibrated(self, key: tuple[str, str], group: _Group) -> _Calibration:
        known = group.calibration
        if known is not None and known.size <= len(group.cases) <= known.size * _GROWTH:
            return known
        calibration = _calibrate(group)
        with self._lock:
            if self._groups.get(key) is group:
                self._groups[key] = replace(group, calibration=calibration)
        return calibration


def embed(descriptors: Vector) -> Vector:
    """Unit vectors float32 [n,D] of descriptors [n,D]: features of length 1, then the figures at their weight."""
    features, figures = descriptors[:, :-FIGURES], descriptors[:, -FIGURES:]
    length = np.linalg.norm(features, axis=1, keepdims=True)
    joined = np.concatenate(
        [features / np.maximum(length, 1e-6), _FIGURE_WEIGHT * figures / np.sqrt(np.float32(FIGURES))], axis=1
    )
    return np.asarray(joined / np.maximum(np.linalg.norm(joined, axis=1, keepdims=True), 1e-6), np.float32)


def _grown(group: _Group | None, cases: Sequence[StoredCase]) -> _Group:
    """The group with more cases; rows are copied only when their room is used up, which then doubles."""
    before = group.cases if group is not None else ()
    width = group.rows.shape[1] if group is not None else len(cases[0].descriptor) if cases else 0
    cases = [case for case in cases if len(case.descriptor) == width]
    size = len(before) + len(cases)
    rows = group.rows if group is not None else np.empty((0, width), np.float32)
    if size > len(rows):
        rows = np.empty((max(64, 2 * size), width), np.float32)
        if group is not None:
            rows[: len(before)] = group.matrix
    if cases:
        rows[len(before) : size] = embed(np.stack([case.descriptor for case in cases]))
    return _Group((*before, *cases), rows, group.calibration if group is not None else None)


def _nearest(distances: Vector, count: int) -> list[int]:
    """Indices of the `count` smallest, ascending; equal ones in the order they came."""
    near = np.argpartition(distances, count)[:count] if len(distances) > count else np.arange(len(distances))
    return [int(index) for index in near[np.lexsort((near, distances[near]))]]


def _vote(labels: Sequence[str], distances: Iterable[float]) -> tuple[str, float]:
    """The label with the most weight and its share of all, 0..1; a near voter weighs more than a far one."""
    weights: Counter[str] = Counter()
    for label, distance in zip(labels, distances, strict=True):
        weights[label] += 1 / (0.02 + max(0.0, float(distance)))  # type: ignore[assignment]
    label, weight = max(weights.items(), key=lambda item: item[1])
    return label, weight / sum(weights.values())


def _calibrate(group: _Group) -> _Calibration:
    """Each case (of a sample, where there are many) judged by all the others."""
    count = len(group.cases)
    sample = np.linspace(0, count - 1, min(count, _LEFT_OUT)).astype(int)
    labels = [case.label for case in group.cases]
    shares, right, mates = [], [], []
    for index in sample:
        distances = 1 - group.matrix @ group.matrix[index]
        distances[index] = np.inf
        voters = [other for other in _nearest(distances, _VOTERS) if other != index]
        if not voters:
            continue
        label, share = _vote([labels[other] for other in voters], distances[voters])
        shares.append(share)
        right.append(label == labels[index])
        same = [float(distances[other]) for other in voters if labels[other] == labels[index]]
        if same:
            mates.append(max(0.0, min(same)))
    limit = float(np.quantile(mates, 0.95)) * _FAR_SLACK + 0.02 if mates else _FAR_UNTAUGHT
    return _Calibration(count, limit, np.array(shares), np.array(right, bool))


def _causes(cases: Sequence[StoredCase]) -> tuple[str, ...]:
    """The cases' causes, the most frequent first, each with the inspections that it was found in."""
    found: dict[str, list[str]] = {}
    for case in cases:
        if case.cause:
            found.setdefault(case.cause, []).append(case.inspection_id)
    ranked = sorted(found.items(), key=lambda item: -len(item[1]))
    return tuple(f"{cause} (cases {', '.join(ids[:3])})" for cause, ids in ranked[:_TOLD])
