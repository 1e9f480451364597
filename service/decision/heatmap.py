"""Pictures of a verdict: overlay, mask and 16-bit anomaly map, as PNG bytes. Slow enough to be kept off the event loop."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from service.decision.regions import mask_pixels
from service.decision.scale import full_size
from service.types import AnomalyMap, Thresholds

_COOL, _HOT = np.array((255, 210, 0), np.float32), np.array((230, 0, 40), np.float32)
_OUTLINE = np.array((255, 255, 255), np.float32)
_PNG_LEVEL = 1  # higher levels cost several times the time for a few percent


@dataclass(frozen=True, slots=True)
class ScaledPng:
    """A 16-bit PNG whose pixel p stands for the score offset + scale * p."""

    data: bytes
    scale: float
    offset: float


def overlay_png(rgb: NDArray[np.uint8], anomaly_map: AnomalyMap, thresholds: Thresholds) -> bytes:
    """The picture uint8 [H,W,3] with the map's heat from half the review threshold on, and the regions outlined."""
    heat = full_size(finite_cells(anomaly_map), anomaly_map.plan)
    low = 0.5 * thresholds.review
    span = max(1.5 * thresholds.reject - low, 1e-6)
    heat = np.clip((heat - low) / span, 0, 1)[..., None]
    colour = _COOL + (_HOT - _COOL) * heat
    opacity = 0.65 * np.sqrt(heat)
    mixed = rgb * (1 - opacity) + colour * opacity
    mask = mask_pixels(anomaly_map, thresholds.review)
    width = max(1, round(max(mask.shape) / 500))
    outline = ndimage.binary_dilation(mask, iterations=width) & ~mask
    mixed[outline] = _OUTLINE
    return _png(np.asarray(np.clip(mixed, 0, 255), np.uint8))


def mask_png(anomaly_map: AnomalyMap, review: float) -> bytes:
    """The regions as a PNG of 0 and 255, the picture's size."""
    return _png(mask_pixels(anomaly_map, review).astype(np.uint8) * 255)


def map_png(anomaly_map: AnomalyMap) -> ScaledPng:
    """The anomaly map as a 16-bit PNG of the picture's size, with what turns pixels back into scores."""
    scores = full_size(finite_cells(anomaly_map), anomaly_map.plan)
    offset = float(scores.min())
    scale = max(float(scores.max()) - offset, 1e-9) / 65535
    return ScaledPng(_png(np.rint((scores - offset) / scale).astype(np.uint16)), scale, offset)


def finite_cells(anomaly_map: AnomalyMap) -> NDArray[np.float32]:
    """The map's cells with those outside the region of interest at the lowest score."""
    cells = anomaly_map.cells
    inside = np.isfinite(cells)
    lowest = cells[inside].min() if inside.any() else np.float32(0)
    return np.where(inside, cells, lowest)


def _png(pixels: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()
