"""Where in a picture a point lies, in words: a 3x3 grid."""

from __future__ import annotations

_DOWN = ("upper", "", "lower")
_ACROSS = ("left", "", "right")

PLACES: tuple[str, ...] = (
    "upper left",
    "upper centre",
    "upper right",
    "left",
    "centre",
    "right",
    "lower left",
    "lower centre",
    "lower right",
)


def place_word(point: tuple[float, float], width: int, height: int) -> str:
    """One of PLACES for `point` (x, y) in pixels of a picture of `width` x `height` pixels; outside, the nearest."""
    down, across = _DOWN[_third(point[1], height)], _ACROSS[_third(point[0], width)]
    if not down:
        return across or "centre"
    return f"{down} {across or 'centre'}"


def _third(place: float, side: int) -> int:
    return min(2, max(0, int(3 * place / side)))
