"""What samples are painted with: smooth-edged shapes, and ways to lay them over a scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

Opacity = NDArray[np.float32]  # [H,W], 0..1
Paint = NDArray[np.float32]  # [H,W,3], 0..1
Colour = tuple[float, float, float]
Point = tuple[float, float]  # x, y in px
Shape = tuple[int, int]  # height, width

_SUPERSAMPLING = 3
_VISIBLE = 0.025  # of full scale: about six grey levels, three times the sensor's noise


def stroke(shape: Shape, points: Sequence[Point], width: float, taper: float = 0.0) -> Opacity:
    """A smooth-edged line through `points`, `width` px wide in the middle, narrower by the share `taper` at its ends."""
    canvas = Image.new("L", (shape[1] * _SUPERSAMPLING, shape[0] * _SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    scaled = [(x * _SUPERSAMPLING, y * _SUPERSAMPLING) for x, y in points]
    count = len(scaled) - 1
    for index in range(count):
        share = abs(2 * (index + 0.5) / count - 1) ** 2
        thick = max(1, round(width * (1 - taper * share) * _SUPERSAMPLING))
        draw.line(scaled[index : index + 2], fill=255, width=thick)
        for x, y in scaled[index : index + 2]:
            draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=255)
    return _reduced(canvas, shape)


def polygon(shape: Shape, points: Sequence[Point]) -> Opacity:
    """A filled polygon with smooth edges."""
    canvas = Image.new("L", (shape[1] * _SUPERSAMPLING, shape[0] * _SUPERSAMPLING))
    ImageDraw.Draw(canvas).polygon([(x * _SUPERSAMPLING, y * _SUPERSAMPLING) for x, y in points], fill=255)
    return _reduced(canvas, shape)


def _reduced(canvas: Image.Image, shape: Shape) -> Opacity:
    small = np.asarray(canvas.resize((shape[1], shape[0]), Image.Resampling.BOX))
    return small.astype(np.float32) / np.float32(255)


def blob(
    shape: Shape,
    centre: Point,
    radii: Point,
    rng: np.random.Generator,
    ragged: float = 0.3,
    soft: float = 0.1,
) -> Opacity:
    """A roundish spot with an irregular rim: `ragged` is its unevenness, `soft` the width of its edge, over the radius."""
    reach = int((2.2 + soft) * max(radii)) + 3
    top, left = max(0, int(centre[1]) - reach), max(0, int(centre[0]) - reach)
    bottom, right = min(shape[0], int(centre[1]) + reach), min(shape[1], int(centre[0]) + reach)
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
    turn = rng.uniform(0, np.pi)
    dx, dy = x - centre[0], y - centre[1]
    u = (dx * np.cos(turn) + dy * np.sin(turn)) / radii[0]
    v = (dy * np.cos(turn) - dx * np.sin(turn)) / radii[1]
    angle = np.arctan2(v, u)
    rim = 1 + ragged * sum(
        rng.normal() / order * np.sin(order * angle + rng.uniform(0, 2 * np.pi)) for order in range(2, 7)
    )
    spot = np.zeros(shape, np.float32)
    spot[top:bottom, left:right] = np.clip((rim - np.hypot(u, v)) / soft + 0.5, 0, 1)
    return spot


def wander(start: Point, length: float, bend: float, rng: np.random.Generator, steps: int = 40) -> list[Point]:
    """A smooth random path of `length` px; `bend` is the turn in radians per step."""
    turns = ndimage.gaussian_filter1d(rng.normal(0, 1, steps), 3) * bend * 3
    angle = np.cumsum(turns) + rng.uniform(0, 2 * np.pi)
    x = start[0] + np.cumsum(np.cos(angle)) * length / steps
    y = start[1] + np.cumsum(np.sin(angle)) * length / steps
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


def over(ground: Paint, colour: Colour | Paint, opacity: Opacity) -> Paint:
    """`colour` laid over `ground`."""
    part = opacity[..., None]
    return np.asarray(ground * (1 - part) + np.asarray(colour, np.float32) * part, np.float32)


def stain(ground: Paint, colour: Colour, opacity: Opacity) -> Paint:
    """Ink or dye: it multiplies what lies below, so that the surface's texture stays."""
    return over(ground, np.asarray(ground * np.asarray(colour, np.float32), np.float32), opacity)


def shadow(ground: Paint, caster: Opacity, offset: Point, soft: float, depth: float) -> Paint:
    """The soft shadow of something above the surface."""
    moved = ndimage.gaussian_filter(ndimage.shift(caster, (offset[1], offset[0]), order=1), soft)
    return np.asarray(ground * (1 - depth * moved[..., None]), np.float32)


def visible_change(before: Paint, after: Paint) -> NDArray[np.bool_]:
    """Where two noiseless pictures of one part differ so that a person sees it, small gaps closed. bool [H,W]."""
    difference = np.abs(after - before).max(axis=2)
    mask = np.zeros(difference.shape, np.bool_)
    rows, columns = (np.flatnonzero((difference > _VISIBLE).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return mask
    margin = 8
    top, left = max(0, rows[0] - margin), max(0, columns[0] - margin)
    near = np.s_[top : rows[-1] + margin, left : columns[-1] + margin]
    seen = np.pad(ndimage.gaussian_filter(difference[near], 0.8) > _VISIBLE, margin)
    closed = ndimage.binary_fill_holes(ndimage.binary_closing(seen, iterations=2))
    mask[near] = closed[margin:-margin, margin:-margin]
    return mask
