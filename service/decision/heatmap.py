"""Pictures of a verdict: overlay, mask and 16-bit anomaly map, as PNG bytes. Slow enough to be kept off the event loop."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from service.decision.regions import mask_pixels, score_pixels
from service.decision.scale import full_size
from service.types import AnomalyMap, Inspection, Thresholds

_COOL, _HOT = np.array((255, 210, 0), np.float32), np.array((230, 0, 40), np.float32)
_OUTLINE = np.array((255, 255, 255), np.uint8)
_PNG_LEVEL = 1  # higher levels cost up to twice the time for a tenth of the size (docs/performance.md)


@dataclass(frozen=True, slots=True)
class ScaledPng:
    """A 16-bit PNG whose pixel p stands for the score offset + scale * p."""

    data: bytes
    scale: float
    offset: float


def draw_overlay(inspection: Inspection) -> bytes:
    """The picture of an inspection with the map's heat and its regions outlined, as PNG bytes."""
    return overlay_png(
        inspection.rgb, inspection.anomaly_map, inspection.verdict.thresholds, outlined=_regions_of(inspection)
    )


def draw_mask(inspection: Inspection) -> bytes:
    """The regions of an inspection as a PNG of 0 and 255, the picture's size."""
    return _png(_regions_of(inspection).astype(np.uint8) * 255)


def _regions_of(inspection: Inspection) -> NDArray[np.bool_]:
    """bool [H,W]. An undecidable picture has no region, however high its map."""
    verdict = inspection.verdict
    return mask_pixels(inspection.anomaly_map, verdict.thresholds.review if verdict.regions else np.inf)


def overlay_png(
    rgb: NDArray[np.uint8],
    anomaly_map: AnomalyMap,
    thresholds: Thresholds,
    *,
    outlined: NDArray[np.bool_] | None = None,
) -> bytes:
    """The picture uint8 [H,W,3] with the map's heat from half the review threshold on.

    `outlined`: bool [H,W], by default what lies above the review threshold.
    """
    mask = mask_pixels(anomaly_map, thresholds.review) if outlined is None else outlined
    scores = full_size(finite_cells(anomaly_map), anomaly_map.plan)
    low = 0.5 * thresholds.review
    span = max(1.5 * thresholds.reject - low, 1e-6)
    warm = scores > low  # mostly few pixels: only they are mixed, which saves time and memory
    heat = np.minimum((scores[warm] - low) / span, 1)[:, None]
    opacity = 0.65 * np.sqrt(heat)
    drawn = rgb.copy()
    drawn[warm] = rgb[warm] * (1 - opacity) + (_COOL + (_HOT - _COOL) * heat) * opacity
    width = max(1, round(max(mask.shape) / 500))
    drawn[ndimage.binary_dilation(mask, iterations=width) & ~mask] = _OUTLINE
    return _png(drawn)


def map_png(anomaly_map: AnomalyMap) -> ScaledPng:
    """The anomaly map as a 16-bit PNG of the picture's size, with what turns pixels back into scores.

    Not interpolated, unlike the overlay's heat: its maximum is the picture's score, and it lies above the review threshold
    where the mask does.
    """
    scores = score_pixels(finite_cells(anomaly_map), anomaly_map.plan)
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
