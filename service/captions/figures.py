"""What the pixels say of a region: its shape by second moments and its colour against the ring around it.

The detector's region is coarse (cells of 4 working pixels, smoothed): a thread is thinner than its region. So the pixels that
look foreign there, by colours rarer in the ring than in the region, are measured instead where they are many enough.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.captions.colour import Lab, lab
from service.captions.descriptor import FIGURES, axes, gradient, region_figures
from service.types import Region

__all__ = [
    "FIGURES",
    "Box",
    "Figures",
    "Mask",
    "Rgb",
    "as_measured",
    "describe_region_figures",
    "measure",
    "region_vector",
]

Mask = NDArray[np.bool_]
Rgb = NDArray[np.uint8]
Box = tuple[int, int, int, int]

_MOST_PIXELS = 250_000
_BINS = np.array((4.0, 6.0, 6.0))  # L*a*b* units a bin
_RARER = 0.25  # foreign: less than so often in the ring as in the region
_LEAST_FOREIGN = 0.02  # share of the region
_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True, slots=True)
class Figures:
    """A region in numbers. Lengths in pixels of the picture, along and across the main axis; `elongation` >= 1;
    `fill`: share of the rectangle of those two that it fills, 0..1; `flaw`, `around`: median L*a*b* colours [3];
    `edge`: mean gradient of lightness on its outline; `border`: share of its length that lies on the picture's border."""

    area: float
    length: float
    breadth: float
    elongation: float
    fill: float
    flaw: Lab
    around: Lab
    edge: float
    border: float


def measure(rgb: Rgb, box: Box, mask: Mask, flawed: Mask | None = None) -> Figures:
    """Figures of the region `box` (x, y, w, h) of the picture uint8 [H,W,3].

    `mask`: its pixels, bool [H,W] or [h,w] inside the box. `flawed`: bool [H,W], all regions' pixels, kept out of the ring.
    Raises ValueError for a mask of another shape or without a pixel.
    """
    colours, inside, ring, step = _surroundings(rgb, box, mask, flawed)
    around = np.median(colours[ring if ring.any() else inside], axis=0)
    foreign = _foreign(colours, inside, ring)
    length, breadth, elongation = axes(foreign)
    area = float(foreign.sum())
    height, width = rgb.shape[:2]
    outline = foreign & ~ndimage.binary_erosion(foreign, _EIGHT)
    return Figures(
        area=area * step * step,
        length=length * step,
        breadth=breadth * step,
        elongation=elongation,
        fill=min(1.0, area / (length * breadth)),
        flaw=np.median(colours[foreign], axis=0),
        around=around,
        edge=float(gradient(colours[..., 0])[outline].mean()),
        border=_on_border(box, width, height),
    )


def as_measured(region: Region, found: Figures, size: tuple[int, int]) -> Region:
    """The region of a picture of `size` (height, width) with the area of the pixels that were measured: by this a flaw is called
    a spot and its severity told, as its length is."""
    height, width = size
    return replace(region, area_px=round(found.area), area_share=found.area / (height * width))


def region_vector(rgb: Rgb, box: Box, mask: Mask, flawed: Mask | None = None) -> NDArray[np.float32]:
    """What memory compares of a region's pixels, float32 [FIGURES]: `descriptor.region_figures`. Arguments and errors as those
    of `measure`."""
    colours, inside, ring, step = _surroundings(rgb, box, mask, flawed)
    height, width = rgb.shape[:2]
    return region_figures(colours, inside, ring, _foreign(colours, inside, ring), box, step, width, height)


def describe_region_figures(rgb: Rgb, mask: Mask, flawed: Mask | None = None) -> NDArray[np.float32]:
    """float32 [FIGURES] of the pixels `mask` bool [H,W] of a picture uint8 [H,W,3]; `flawed` as for `measure`.

    Raises ValueError for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise ValueError("the mask has no pixel")
    box = (int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    return region_vector(rgb, box, mask, flawed)


def _surroundings(rgb: Rgb, box: Box, mask: Mask, flawed: Mask | None) -> tuple[Lab, Mask, Mask, int]:
    """The box grown by its ring, thinned to at most _MOST_PIXELS: colours [h,w,3], the region's pixels, the ring's, the step."""
    x, y, w, h = box
    height, width = rgb.shape[:2]
    grow = int(np.clip(max(w, h) / 4, 8, 64))
    top, left = max(0, y - grow), max(0, x - grow)
    place = np.s_[top : min(height, y + h + grow), left : min(width, x + w + grow)]
    inside = np.zeros(rgb[place].shape[:2], bool)
    if mask.shape == (height, width):
        inside |= mask[place]
    elif mask.shape == (h, w):
        inside[y - top : y - top + h, x - left : x - left + w] = mask
    else:
        raise ValueError(f"mask is {mask.shape}, expected {(height, width)} or {(h, w)}")
    if not inside.any():
        raise ValueError("the mask has no pixel")
    step = int(np.ceil(np.sqrt(max(1.0, inside.size / _MOST_PIXELS))))
    if step > 1 and not inside[::step, ::step].any():
        step = 1  # a few pixels in a wide box
    ring = ~inside if flawed is None else ~(inside | flawed[place])
    every = np.s_[::step, ::step]
    return lab(rgb[place][every]), inside[every], ring[every], step


def _foreign(colours: Lab, inside: Mask, ring: Mask) -> Mask:
    """The region's pixels whose colours are rare in the ring, without crumbs; all of it where these are too few."""
    if not ring.any():
        return inside
    low = colours[inside | ring].min(axis=0)
    bins = ((colours - low) / _BINS).astype(np.intp)
    shape = tuple(bins[inside | ring].max(axis=0) + 1)
    place = np.ravel_multi_index(tuple(np.minimum(bins.clip(0), np.array(shape) - 1).transpose(2, 0, 1)), shape)
    usual, here = (_share(place[chosen], shape) for chosen in (ring, inside))
    rare = (usual < _RARER * here)[place] & inside
    rare = _without_crumbs(rare)
    return rare if rare.sum() >= max(4, _LEAST_FOREIGN * inside.sum()) else inside


def _share(place: NDArray[np.intp], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """How often each colour bin occurs, smoothed over neighbouring bins, raveled."""
    counts = np.bincount(place, minlength=int(np.prod(shape))).reshape(shape) / len(place)
    smooth: NDArray[np.float64] = ndimage.gaussian_filter(counts, 1.0, mode="constant", truncate=2.0)
    return smooth.ravel()


def _without_crumbs(mask: Mask) -> Mask:
    """The connected parts of at least a tenth of the largest."""
    labels, count = ndimage.label(mask, structure=_EIGHT)
    if not count:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept: Mask = (sizes >= 0.1 * sizes.max())[labels] & mask
    return kept


def _on_border(box: Box, width: int, height: int) -> float:
    """The longest stretch of the picture's border that the box covers, over the box's longer side."""
    x, y, w, h = box
    beside = [h] * ((x == 0) + (x + w == width)) + [w] * ((y == 0) + (y + h == height))
    return max(beside, default=0) / max(w, h)
