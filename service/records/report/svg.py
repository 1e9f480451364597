"""The little SVG that charts need: a plot's frame, its axes and shapes, as strings.

Colours stand in attributes, for PDF and PNG converters; the page's style sheet overrides them by class for dark and
light.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

PALETTE = {
    "ink": "#1d2633",
    "muted": "#5d6979",
    "grid": "#e3e7ed",
    "series": "#2461a9",
    "band": "#dbe7f5",
    "limit": "#b4632a",
    "alarm": "#c8283c",
    "bar": "#3b7cc4",
}
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Frame:
    """A plot area in a picture of `width` x `height` units; values of `low`..`high` on its vertical axis."""

    width: float
    height: float
    low: float
    high: float
    left: float = 56
    right: float = 84
    top: float = 16
    bottom: float = 40

    def x(self, share: float) -> float:
        """The place of a share 0..1 of the plot's width."""
        return self.left + share * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """The place of a value on the vertical axis."""
        return self.top + (self.high - value) / (self.high - self.low) * (self.height - self.top - self.bottom)

    def slots(self, count: int) -> list[float]:
        """The middles of `count` equal slots across the plot."""
        return [self.x((place + 0.5) / count) for place in range(count)]


def document(frame: Frame, label: str, parts: Iterable[str]) -> str:
    """The whole picture; `label` is its text for readers that do not see."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {frame.width:g} {frame.height:g}" role="img" '
        f'aria-label="{escape(label)}" font-family="system-ui, sans-serif" font-size="12">{"".join(parts)}</svg>'
    )


def line(start: Point, end: Point, colour: str, *, dashed: str = "", width: float = 1) -> str:
    """A straight line."""
    dashes = f' stroke-dasharray="{dashed}"' if dashed else ""
    return (
        f'<line class="s-{colour}" stroke="{PALETTE[colour]}" stroke-width="{width:g}"{dashes} '
        f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>'
    )


def polyline(points: Iterable[Point], colour: str, *, dashed: str = "", width: float = 2) -> str:
    """A line through points."""
    dashes = f' stroke-dasharray="{dashed}"' if dashed else ""
    return (
        f'<polyline class="s-{colour}" fill="none" stroke="{PALETTE[colour]}" stroke-width="{width:g}"{dashes} '
        f'stroke-linejoin="round" points="{_points(points)}"/>'
    )


def area(points: Iterable[Point], colour: str) -> str:
    """A filled polygon."""
    return f'<polygon class="f-{colour}" fill="{PALETTE[colour]}" points="{_points(points)}"/>'


def bar(corner: Point, size: Point, colour: str, title: str) -> str:
    """A filled rectangle with a tooltip."""
    return (
        f'<rect class="f-{colour}" fill="{PALETTE[colour]}" x="{corner[0]:.1f}" y="{corner[1]:.1f}" '
        f'width="{size[0]:.1f}" height="{size[1]:.1f}" rx="2"><title>{escape(title)}</title></rect>'
    )


def dot(centre: Point, radius: float, colour: str, title: str) -> str:
    """A filled circle with a tooltip."""
    return (
        f'<circle class="f-{colour}" fill="{PALETTE[colour]}" cx="{centre[0]:.1f}" cy="{centre[1]:.1f}" '
        f'r="{radius:g}"><title>{escape(title)}</title></circle>'
    )


def text(place: Point, words: str, colour: str = "muted", *, anchor: str = "middle", bold: bool = False) -> str:
    """A short text; `anchor` is start, middle or end."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text class="f-{colour}" fill="{PALETTE[colour]}" x="{place[0]:.1f}" y="{place[1]:.1f}" '
        f'text-anchor="{anchor}"{weight}>{escape(words)}</text>'
    )


def grid(frame: Frame, ticks: Sequence[float], words: Sequence[str]) -> str:
    """Horizontal grid lines with their values at the left."""
    return "".join(
        line((frame.x(0), frame.y(value)), (frame.x(1), frame.y(value)), "grid")
        + text((frame.x(0) - 8, frame.y(value) + 4), word, anchor="end")
        for value, word in zip(ticks, words, strict=True)
    )


def ticks(high: float, most: int = 5) -> tuple[float, ...]:
    """Round values from 0 up to the first that is not below `high` (> 0), at most `most` steps."""
    rough = high / most
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * (1 - 1e-9))
    return tuple(place * step for place in range(math.ceil(high / step - 1e-9) + 1))


def _points(points: Iterable[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
