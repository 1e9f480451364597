"""What memory compares flaws by, as one vector: how the teacher's features under a region differ from those of the rest of its
picture and how they vary there, then the region's figures of shape and colour. Plain distances compare it; weights are in it.

The picture's own normal surface is the yardstick, so that exposure and texture, which differ from picture to picture more
than flaws do, count little (docs/decisions/0014).
"""

from __future__ import annotations

import hashlib
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]
Cells = NDArray[np.float16] | NDArray[np.float32]
Box = tuple[int, int, int, int]
Number = TypeVar("Number", bound=np.generic)

MAKING = 3  # a descriptor's first number: those of another making are never compared
FIGURES = 28
PLANES = 128  # numbers that each third of the features is condensed to
LENGTH = 1 + 3 * PLANES + FIGURES
_FEATURE_WEIGHT = 1.6  # of each third, a vector of unit length
_FIGURE_WEIGHT = 0.7
_MOST_CELLS = 2_000
_EIGHT = np.ones((3, 3), bool)


class Surface:
    """The teacher's features on the flawless rest of a picture: their means and spreads."""

    def __init__(self, around: Cells) -> None:
        """`around` [m,C], m >= 1."""
        cells = thinned(around).astype(np.float32)
        self.mean = cells.mean(axis=0)
        spread = cells.std(axis=0, mean=self.mean[None])
        self.spread = spread + 1e-3 * np.abs(cells).mean() + 1e-6

    def features(self, inside: Cells) -> Floats:
        """float32 [3 * PLANES] of the features under a region, [n,C], n >= 1: how they differ in the mean, how much whichever way,
        and how they vary."""
        cells = thinned(inside).astype(np.float32)
        mean = cells.mean(axis=0)
        apart = (mean - self.mean) / self.spread
        spread = cells.std(axis=0, mean=mean[None])
        varied = np.log(spread + 0.05 * self.spread.mean())
        foreign = np.abs((cells - self.mean) / self.spread).mean(axis=0)
        thirds = (apart, foreign, varied - varied.mean())
        return np.concatenate([_FEATURE_WEIGHT * _condensed(_unit(third), place) for place, third in enumerate(thirds)])


def case_descriptor(features: Floats, figures: Floats) -> Floats:
    """float32 [1 + F + FIGURES], what a case keeps and memory is asked with: the making, `features` [F] (`Surface.features`) and
    `figures`, `figures.region_vector` of the same region. Raises ValueError for figures of another length.
    """
    if figures.shape != (FIGURES,):
        raise ValueError(f"expected {FIGURES} figures, got {figures.shape}")
    return np.concatenate(([MAKING], features, _FIGURE_WEIGHT * figures)).astype(np.float32)


def thinned(cells: NDArray[Number]) -> NDArray[Number]:
    """Those of `cells` [n,…] that features are read from: evenly few enough of them."""
    return cells[:: max(1, len(cells) // _MOST_CELLS)]


def _unit(values: Floats) -> Floats:
    unit: Floats = values / np.maximum(np.linalg.norm(values), np.float32(1e-9))
    return unit


def _condensed(values: Floats, third: int) -> Floats:
    """float32 [PLANES]: sums under random signs, which keep distances to about a tenth (Achlioptas 2003). The signs are those of a
    hash, the same on every machine and release."""
    count = len(values) * PLANES
    digest = hashlib.shake_256(b"flawscribe %d %d" % (MAKING, third)).digest(-(-count // 8))
    signs = np.unpackbits(np.frombuffer(digest, np.uint8), count=count).reshape(len(values), PLANES)
    condensed: Floats = values @ ((2 * signs.astype(np.float32) - 1) / np.float32(np.sqrt(PLANES)))
    return condensed


def region_figures(
    colours: Floats, inside: Mask, ring: Mask, foreign: Mask, box: Box, step: int, width: int, height: int
) -> Floats:
    """float32 [FIGURES]: shape and place, then colour, then those of the foreign pixels, each about -2..2 on usual flaws.

    `colours`: L*a*b* [h,w,3] around the region, `inside`, `ring` and `foreign` bool [h,w]: its pixels, those around, and those of
    its pixels that look foreign there, all thinned by `step`. `box`: (x, y, w, h) of the region in the picture of `width` x
    `height` pixels.
    """
    region = (*_shape(inside, box, step, width, height), *_colour(colours, inside, ring))
    return np.array((*region, *_foreign(colours, foreign, ring, step)), np.float32)


def axes(mask: Mask) -> tuple[float, float, float]:
    """Length and breadth along and across the main axis, in pixels, and the ratio of the second moments' roots (>= 1)."""
    points = np.argwhere(mask).astype(np.float64)
    centred = points - points.mean(axis=0)
    moments = centred.T @ centred / len(points) + np.eye(2) / 12  # a pixel is a square, not a point
    values, vectors = np.linalg.eigh(moments)
    spans = np.ptp(centred @ vectors, axis=0) + 1
    return float(spans[1]), float(spans[0]), float(np.sqrt(values[1] / values[0]))


def gradient(lightness: Floats) -> Floats:
    if min(lightness.shape) < 2:
        return np.zeros_like(lightness)
    down, across = np.gradient(lightness)
    steepness: Floats = np.hypot(down, across)
    return steepness


def _shape(inside: Mask, box: Box, step: int, width: int, height: int) -> tuple[float, ...]:
    """Size in pixels and in shares of the picture, fill of the box, thickness, slenderness, parts, sides of the picture
    touched, and how far the nearest side lies across and down."""
    x, y, w, h = box
    area = float(inside.sum()) * step * step
    thickness = 2 * step * float(ndimage.distance_transform_edt(np.pad(inside, 1)).max())
    sides = (x == 0) + (y == 0) + (x + w >= width) + (y + h >= height)
    return (
        np.log10(area) - 3,
        np.log10(area / (width * height)) + 2,
        2 * np.log10(np.hypot(w / width, h / height)) + 1,
        2 * area / (w * h) - 1,
        2 * np.log10(thickness) - 2,
        2 * np.log10(area / thickness**2) - 1,
        2 * np.log10(axes(inside)[2]) - 1,
        2 * np.log10(ndimage.label(inside, structure=_EIGHT)[1]),
        sides / 2 - 0.5,
        1 - 4 * abs((x + w / 2) / width - 0.5),
        1 - 4 * abs((y + h / 2) / height - 0.5),
    )


def _colour(colours: Floats, inside: Mask, ring: Mask) -> tuple[float, ...]:
    """Against the ring: median L*, a*, b*, darkest and brightest tenth of L*, how much it varies, how steep it is."""
    if not ring.any():
        ring = inside
    lightness = colours[..., 0]
    flaw, around = np.median(colours[inside], axis=0), np.median(colours[ring], axis=0)
    dark, bright = np.percentile(lightness[inside], (10, 90)) - around[0]
    steep = gradient(ndimage.gaussian_filter(lightness, 1.0))
    return (
        *((flaw - around) / (10, 15, 15)).tolist(),
        float(dark) / 15,
        float(bright) / 12,
        4 * float(np.log10((lightness[inside].std() + 0.5) / (lightness[ring].std() + 0.5))),
        4 * float(np.log10((steep[inside].mean() + 0.1) / (steep[ring].mean() + 0.1))),
    )


def _foreign(colours: Floats, foreign: Mask, ring: Mask, step: int) -> tuple[float, ...]:
    """Colour against the ring, and shape, of the flaw itself: a region is often ten times as wide (docs/decisions/0014)."""
    around = np.median(colours[ring if ring.any() else foreign], axis=0)
    dark, bright = np.percentile(colours[foreign, 0], (10, 90)) - around[0]
    length, breadth, elongation = axes(foreign)
    area = float(foreign.sum())
    return (
        *((np.median(colours[foreign], axis=0) - around) / (10, 15, 15)).tolist(),
        float(dark) / 15,
        float(bright) / 12,
        2 * np.log10(elongation) - 1,
        2 * min(1.0, area / (length * breadth)) - 1,
        2 * np.log10(length * step) - 4,
        2 * np.log10(breadth * step) - 3,
        np.log10(area * step * step) - 3,
    )
