"""A memory of reviewed flaws: exact nearest neighbours over descriptors, the reviewed labels of the nearest vote.

A descriptor is a vector of a region's features, shape and colour (descriptor.py). Cases are compared only within one product,
one teacher and one making of descriptors. What is far from every case is `unknown`, not a guess. How far is far, and what a
vote is worth, is read off the cases themselves by leaving each inspection out in turn, and each label (calibration.py).

Readers take no lock: they work on the shelf that was there when they began; a writer makes the next one beside it.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.captions.descriptor import FIGURES, MAKING
from service.captions.products import UNKNOWN
from service.captions.prompt import LlmCase
from service.captions.shelf import Shelf
from service.types import Citation, SimilarCase

_SURE_FROM = 0.8
_MOST_CAUSES = 3


class Case(Protocol):
    """A reviewed flaw; what the records keep fits. `descriptor`: float32 [1 + D]; `cause` and `action` may be empty."""

    @property
    def case_id(self) -> str: ...
    @property
    def inspection_id(self) -> str: ...
    @property
    def product(self) -> str: ...
    @property
    def teacher_sha256(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def cause(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def descriptor(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Recall:
    """What memory says of a flaw.

    `guess`: the label that won the vote; `label`: the same, or `unknown` when the flaw is far from its cases or the vote rather
    wrong; `confidence`: how often such votes were right, 0..1; `sure`: memory may answer alone. `causes` and `action`: those of
    the nearest cases of that label; `cited`: which of them say so; `similar` and `cases`: the nearest cases, nearest first.
    """

    label: str
    guess: str
    confidence: float
    sure: bool
    causes: tuple[str, ...]
    cited: tuple[Citation, ...]
    action: str
    similar: tuple[SimilarCase, ...]
    cases: tuple[LlmCase, ...]


class Memory:
    """Reviewed cases by product and teacher. Safe to read from many threads while another adds.

    `sure_from`: confidence from which memory answers alone.
    """

    def __init__(self, cases: Iterable[Case] = (), *, sure_from: float = _SURE_FROM) -> None:
        self._sure_from = sure_from
        self._writing = threading.Lock()
        self._shelves: dict[tuple[str, str], Shelf] = {}
        self._places: dict[str, tuple[str, str]] = {}
        self.add(*cases)

    def __len__(self) -> int:
        return sum(len(shelf.cases) for shelf in self._shelves.values())

    def knows(self, case_id: str) -> bool:
        """Whether it has that case."""
        return case_id in self._places

    def add(self, *cases: Case) -> None:
        """Take in cases. One of a known id takes the earlier one's place; one labelled `unknown` teaches nothing and is left out.

        Raises ValueError for a descriptor that is not finite, or not as long as the others of its product and teacher.
        """
        taken: dict[tuple[str, str], dict[str, Case]] = defaultdict(dict)
        for case in cases:
            require_comparable(case)
            if case.label != UNKNOWN:
                taken[case.product, case.teacher_sha256][case.case_id] = case
        with self._writing:
            ready = {key: self._next(key, new) for key, new in taken.items()}
            for moved in {case_id for new in taken.values() for case_id in new}:
                self._forget(moved, keep=ready)
            self._shelves = {**self._shelves, **ready}
            for key, new in taken.items():
                self._places.update(dict.fromkeys(new, key))

    def remove(self, case_id: str) -> bool:
        """Forget a case; whether there was one."""
        with self._writing:
            return self._forget(case_id, keep={})

    def recall(
        self, product: str, teacher_sha256: str, descriptor: NDArray[np.float32], most: int = 5
    ) -> Recall | None:
        """What the cases of that product and teacher say of a flaw `descriptor` float32 [1 + D]; None when there are none.

        `most`: how many similar cases to name. Raises ValueError for a descriptor of another length.
        """
        shelf = self._shelves.get((product, teacher_sha256))
        if shelf is None:
            return None
        found = shelf.ask(descriptor, most)
        guess = shelf.labels[found.winner]
        label = UNKNOWN if found.unknown else guess
        near = [shelf.cases[index] for index in found.nearest]
        mine = [case for case in near if case.label == label]
        causes = tuple(dict.fromkeys(case.cause for case in mine if case.cause))[:_MOST_CAUSES]
        distances = [round(float(value), 6) for value in found.cosines]
        return Recall(
            label=label,
            guess=guess,
            confidence=found.confidence,
            sure=not found.unknown and found.confidence >= self._sure_from,
            causes=causes,
            cited=tuple(Citation(c.cause, c.case_id, c.inspection_id) for c in mine if c.cause in causes),
            action=next((case.action for case in mine if case.action), ""),
            similar=tuple(SimilarCase(c.inspection_id, c.label, d) for c, d in zip(near, distances, strict=True)),
            cases=tuple(
                LlmCase(c.case_id, c.label, c.cause, c.action, d) for c, d in zip(near, distances, strict=True)
            ),
        )

    def _next(self, key: tuple[str, str], new: dict[str, Case]) -> Shelf:
        """The shelf with the new cases on it; those whose id it has already are replaced."""
        shelf = self._shelves.get(key)
        if shelf is None:
            return Shelf.of(list(new.values()))
        if any(self._places.get(case_id) == key for case_id in new):
            return Shelf.of([case for case in shelf.cases if case.case_id not in new] + list(new.values()))
        return shelf.with_cases(list(new.values()))

    def _forget(self, case_id: str, keep: dict[tuple[str, str], Shelf]) -> bool:
        """Take a case from its shelf, unless a shelf in `keep` takes that one's place anyway."""
        key = self._places.get(case_id)
        if key is None or key in keep:
            return False
        left = [case for case in self._shelves[key].cases if case.case_id != case_id]
        shelves = {other: shelf for other, shelf in self._shelves.items() if other != key}
        self._shelves = {**shelves, key: Shelf.of(left)} if left else shelves
        del self._places[case_id]
        return True


def require_comparable(case: Case) -> None:
    """Raises ValueError for a descriptor that is not finite, or of another making."""
    shape = np.shape(case.descriptor)
    if len(shape) != 1 or shape[0] <= FIGURES + 1 or not np.isfinite(case.descriptor).all():
        raise ValueError(
            f"case {case.case_id}: descriptor {shape} is not a finite vector of more than {FIGURES + 1} numbers"
        )
    if case.descriptor[0] != MAKING:
        raise ValueError(f"case {case.case_id}: its descriptor is of another release's making; review a like flaw anew")
