"""What memory compares flaws by: a region's teacher features followed by its shape and colour figures, as one vector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]
Box = tuple[int, int, int, int]

FIGURES = 16
_EIGHT = np.ones((3, 3), bool)


def case_descriptor(features: Floats, figures: Floats) -> Floats:
    """float32 [C + FIGURES], what a case keeps and memory is asked with.

    `features` [C]: the teacher's, averaged under the region (`decision.regions.region_descriptors`); `figures`:
    `figures.region_vector` of the same region. Raises ValueError for figures of another length.
    """
    if figures.shape != (FIGURES,):
        raise ValueError(f"expected {FIGURES} figures, got {figures.shape}")
    return np.concatenate((features, figures)).astype(np.float32)


def region_figures(colours: Floats, inside: Mask, ring: Mask, box: Box, step: int, width: int, height: int) -> Floats:
    """float32 [FIGURES]: shape, then colour, each about -2..2 on usual flaws.

    `colours`: L*a*b* [h,w,3] around the region, `inside` and `ring` bool [h,w]: its pixels and those around, all thinned by `step`.
    `box`: (x, y, w, h) of the region in the picture of `width` x `height` pixels.
    """
    return np.array((*_shape(inside, box, step, width, height), *_colour(colours, inside, ring)), np.float32)


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
    """Size in pixels and in shares of the picture, fill of the box, thickness, slenderness, parts, sides of the picture touched."""
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
