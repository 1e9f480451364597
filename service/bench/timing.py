"""Timing several things against each other: in turns, in one run, summed up by median and 99th percentile."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np


def take_turns(cases: Mapping[str, Callable[[], object]], rounds: int, *, seed: int = 0) -> dict[str, list[float]]:
    """Seconds of every case in each of `rounds` rounds, after one run of each that does not count.

    Each round runs all cases, in an order of its own, so that none always follows the same neighbour.
    """
    rng = np.random.default_rng(seed)
    names = list(cases)
    for name in names:
        cases[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for index in rng.permutation(len(names)):
            started = time.perf_counter()
            cases[names[index]]()
            seconds[names[index]].append(time.perf_counter() - started)
    return seconds


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of `values` do not exceed (nearest rank): a figure that was measured.

    NaN without values.
    """
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def median_ms(seconds: Sequence[float]) -> float:
    """Median in milliseconds; NaN without values."""
    return 1000 * statistics.median(seconds) if seconds else math.nan


def p99_ms(seconds: Sequence[float]) -> float:
    """99th percentile in milliseconds; NaN without values."""
    return 1000 * quantile(seconds, 0.99)


def ratio(seconds: Sequence[float], reference: Sequence[float]) -> float:
    """How many times as long as the `reference` of the same rounds: the median of the rounds' own ratios."""
    return statistics.median(own / other for own, other in zip(seconds, reference, strict=True))
