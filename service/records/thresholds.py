"""Threshold advice: what overkill and escapes would be at other thresholds, from reviewed scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from scipy import stats

from service.records.database import Database
from service.records.schema import reviews
from service.records.truth import is_flawed
from service.types import Decision

MOST_CANDIDATES = 40
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reviewed:
    """One reviewed picture: its score, what was decided, and whether it is truly flawed."""

    score: float
    decided: Decision
    flawed: bool


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` of `total`, with its 95 % Clopper-Pearson interval; value None when total is 0 (then anything may be)."""

    count: int
    total: int
    value: float | None
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a reject threshold would do: a picture is rejected when its score is above it."""

    threshold: float
    overkill: Rate
    escape: Rate


@dataclass(frozen=True, slots=True)
class Advice:
    """Candidates by rising threshold, and what to bear in mind when reading them."""

    good: int
    flawed: int
    candidates: tuple[Candidate, ...]
    cautions: tuple[str, ...]


def read_reviewed(database: Database, model: str, version: int, precision: str) -> tuple[Reviewed, ...]:
    """The reviewed pictures of one form of a model: only its scores are on one scale. A picture counts once, by its last
    review; those whose reviews do not tell, or without a score, are left out."""
    c = reviews.c
    query = (
        sa.select(c.inspection_id, c.decided, c.region_count, c.score, c.verdict, c.region)
        .where(c.model_name == model, c.model_version == version, c.precision == precision, c.score.is_not(None))
        .order_by(c.inspection_id, c.id)
    )
    with database.reading() as connection:
        rows = connection.execute(query).all()
    found = []
    for _, group in groupby(rows, lambda row: row.inspection_id):
        said = list(group)
        decided = Decision(said[0].decided)
        flawed = is_flawed(decided, said[0].region_count, [(row.verdict, row.region) for row in said])
        if flawed is not None:
            found.append(Reviewed(said[0].score, decided, flawed))
    return tuple(found)


def advise(pictures: Sequence[Reviewed], present: Sequence[float] = ()) -> Advice:
    """Overkill (good pictures rejected) and escapes (flawed ones passed) at thresholds between the reviewed scores and at those
    `present`. Of many, 40: those just below the lowest flawed scores, where an escape is about to begin, and some over all."""
    good = np.sort([picture.score for picture in pictures if not picture.flawed])
    flawed = np.sort([picture.score for picture in pictures if picture.flawed])
    candidates = []
    for threshold in sorted({*_between(np.union1d(good, flawed), flawed), *present}):
        rejected = len(good) - int(np.searchsorted(good, threshold, side="right"))
        passed = int(np.searchsorted(flawed, threshold, side="right"))
        candidates.append(Candidate(threshold, rate(rejected, len(good)), rate(passed, len(flawed))))
    return Advice(len(good), len(flawed), tuple(candidates), tuple(_cautions(pictures)))


def rate(count: int, total: int) -> Rate:
    """The rate with its 95 % interval (Clopper and Pearson 1934: it covers at least 95 %, also at 0 of n)."""
    if total == 0:
        return Rate(0, 0, None, 0.0, 1.0)
    low = float(stats.beta.ppf(0.025, count, total - count + 1)) if count else 0.0
    high = float(stats.beta.ppf(0.975, count + 1, total - count)) if count < total else 1.0
    return Rate(count, total, count / total, low, high)


def suggest(advice: Advice, most_escapes: float) -> Candidate | None:
    """The candidate with the least overkill whose escapes stay, with 95 % confidence, at or below `most_escapes` (0..1); None when
    the reviews cannot show that of any."""
    safe = [each for each in advice.candidates if each.escape.high <= most_escapes]
    return max(safe, key=lambda each: each.threshold, default=None)


def _between(scores: Scores, flawed: Scores) -> list[float]:
    middles = (scores[:-1] + scores[1:]) / 2
    if len(middles) > MOST_CANDIDATES:
        half = MOST_CANDIDATES // 2
        telling = middles[np.isin(scores[1:], flawed)][:half]
        spread = middles[np.linspace(0, len(middles) - 1, half).round().astype(int)]
        middles = np.union1d(telling, spread)
    return [float(middle) for middle in middles]


def _cautions(pictures: Sequence[Reviewed]) -> list[str]:
    cautions = []
    if not any(picture.decided is Decision.OK for picture in pictures):
        cautions.append(
            "no picture judged ok was reviewed: overkill is overstated, and escapes are not seen; review a random sample of them"
        )
    for count, word in (
        (sum(not picture.flawed for picture in pictures), "good"),
        (sum(picture.flawed for picture in pictures), "flawed"),
    ):
        if count < 30:
            cautions.append(f"only {count} {word} pictures were reviewed: the intervals are wide")
    return cautions
