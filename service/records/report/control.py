"""Statistics of counts: Wilson's interval, the p-chart and the run rules. Pure functions over numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Side = Literal["above", "below", "both"]
BEYOND_LIMITS = "western-electric-1"
_Z95 = 1.959963984540054
_EPSILON = 1e-9  # a point on a limit, up to rounding, is not beyond it


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, 0 <= low <= high <= 1."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Limits:
    """A subgroup's place on the p-chart: `share` observed, control limits in 0..1, and its deviation from the centre in
    standard errors (0 when the standard error is 0)."""

    share: float
    lower: float
    upper: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Rule:
    """A run rule: of `window` consecutive points at least `needed` must hold; `found` tells where on a series."""

    name: str
    words: str
    found: Callable[[Sequence[float]], Iterator[tuple[int, int, Side]]]


@dataclass(frozen=True, slots=True)
class Signal:
    """A rule that fired: over the points `first`..`last` (inclusive), on one side of the centre or on both."""

    rule: str
    words: str
    first: int
    last: int
    side: Side


def wilson(successes: int, total: int) -> Interval | None:
    """The 95 % Wilson score interval of a share (Wilson 1927; Brown, Cai and DasGupta 2001); None when total is 0."""
    if total == 0:
        return None
    share, z2 = successes / total, _Z95**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == total else min(1.0, middle + half)
    return Interval(low, high)


def p_limits(flawed: Sequence[int], sizes: Sequence[int]) -> tuple[float, tuple[Limits, ...]]:
    """The centre line and each subgroup's three-sigma limits for its own size (Montgomery, Introduction to Statistical
    Quality Control, 7.3.2). Every size is at least 1 and there is at least one subgroup."""
    centre = sum(flawed) / sum(sizes)
    limits = []
    for count, size in zip(flawed, sizes, strict=True):
        error = math.sqrt(centre * (1 - centre) / size)
        deviation = (count / size - centre) / error if error > 0 else 0.0
        limits.append(Limits(count / size, max(0.0, centre - 3 * error), min(1.0, centre + 3 * error), deviation))
    return centre, tuple(limits)


def signals(deviations: Sequence[float]) -> tuple[Signal, ...]:
    """Every run rule that fires on a series of standardised deviations, by first point, then by rule.

    With subgroups of varying size the rules are read from the standardised series (Montgomery 7.3.2). Windows of one
    rule and side that share or adjoin points are told as one signal.
    """
    found: list[tuple[int, int, Signal]] = []
    for order, rule in enumerate(RULES):
        open_runs: dict[Side, tuple[int, int]] = {}
        for first, last, side in rule.found(deviations):
            before = open_runs.get(side)
            if before is not None and first <= before[1] + 1:
                open_runs[side] = (before[0], last)
                continue
            if before is not None:
                found.append((before[0], order, Signal(rule.name, rule.words, *before, side)))
            open_runs[side] = (first, last)
        found += [(run[0], order, Signal(rule.name, rule.words, *run, side)) for side, run in open_runs.items()]
    return tuple(signal for _, _, signal in sorted(found, key=lambda item: (item[0], item[1], item[2].side)))


def _beyond(window: int, needed: int, sigmas: float) -> Callable[[Sequence[float]], Iterator[tuple[int, int, Side]]]:
    """At least `needed` of `window` points beyond `sigmas` on one side; the first and last told are such points."""

    def found(series: Sequence[float]) -> Iterator[tuple[int, int, Side]]:
        sides: tuple[tuple[float, Side], ...] = ((1.0, "above"), (-1.0, "below"))
        for last in range(len(series)):
            for sign, side in sides:
                start = max(0, last - window + 1)
                hits = [at for at in range(start, last + 1) if sign * series[at] > sigmas + _EPSILON]
                if len(hits) >= needed and hits[-1] == last:
                    yield hits[0], last, side

    return found


def _windows(
    size: int, holds: Callable[[Sequence[float]], Side | None]
) -> Callable[[Sequence[float]], Iterator[tuple[int, int, Side]]]:
    def found(series: Sequence[float]) -> Iterator[tuple[int, int, Side]]:
        for first in range(len(series) - size + 1):
            side = holds(series[first : first + size])
            if side is not None:
                yield first, first + size - 1, side

    return found


def _steps(points: Sequence[float]) -> list[int]:
    """+1, -1 or 0 for each step between neighbours."""
    pairs = itertools.pairwise(points)
    return [(after > before + _EPSILON) - (after < before - _EPSILON) for before, after in pairs]


def _steady(points: Sequence[float]) -> Side | None:
    steps = _steps(points)
    if all(step > 0 for step in steps):
        return "above"
    return "below" if all(step < 0 for step in steps) else None


def _alternating(points: Sequence[float]) -> Side | None:
    steps = _steps(points)
    turns = all(before * after < 0 for before, after in itertools.pairwise(steps))
    return "both" if turns else None


def _quiet(points: Sequence[float]) -> Side | None:
    # a process without one flaw has no spread to be suspicious of
    calm = all(abs(point) < 1 - _EPSILON for point in points) and any(abs(point) > _EPSILON for point in points)
    return "both" if calm else None


def _split(points: Sequence[float]) -> Side | None:
    far = all(abs(point) > 1 + _EPSILON for point in points)
    return "both" if far and min(points) < 0 < max(points) else None


RULES: tuple[Rule, ...] = (
    Rule(BEYOND_LIMITS, "one point beyond three sigma", _beyond(1, 1, 3.0)),
    Rule("western-electric-2", "two of three points beyond two sigma on one side", _beyond(3, 2, 2.0)),
    Rule("western-electric-3", "four of five points beyond one sigma on one side", _beyond(5, 4, 1.0)),
    Rule("western-electric-4", "eight points in a row on one side of the centre", _beyond(8, 8, 0.0)),
    Rule("nelson-3", "six points in a row steadily rising or falling", _windows(6, _steady)),
    Rule("nelson-4", "fourteen points in a row alternating up and down", _windows(14, _alternating)),
    Rule("nelson-7", "fifteen points in a row within one sigma", _windows(15, _quiet)),
    Rule("nelson-8", "eight points in a row beyond one sigma, on both sides", _windows(8, _split)),
)
"""Western Electric's four rules (Statistical Quality Control Handbook, 1956) and those of Nelson's eight (Journal of
Quality Technology, 1984) that they do not contain; Nelson's second, nine on one side, is contained in the fourth."""
