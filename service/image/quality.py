"""The quality gate: can this picture be judged at all? Learned from the normals, wide enough to let flaws through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from service.image.prepare import as_image

_SIDE = 256  # px: long side at which a picture's quality is measured, whatever its size
_BINS = 16


@dataclass(frozen=True, slots=True)
class QualityFigures:
    """What is measured on one picture.

    sharpness: mean absolute Laplacian, grey levels. brightness, contrast: mean and standard deviation of the
    luminance, 0..255. clipped: share of pixels at 0 or 255. aspect: width over height. histogram: shares of luminance.
    """

    sharpness: float
    brightness: float
    contrast: float
    clipped: float
    pixels: int
    aspect: float
    histogram: tuple[float, ...]


class QualityGate(BaseModel):
    """The limits of what can be judged; `histogram` is the normals' mean, `min_overlap` the least shared with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_sharpness: float
    min_brightness: float
    max_brightness: float
    min_contrast: float
    max_clipped: float
    min_pixels: float
    min_aspect: float
    max_aspect: float
    histogram: tuple[float, ...]
    min_overlap: float

    def reasons(self, picture: NDArray[np.uint8] | Image.Image, jpeg_scale: int = 1) -> tuple[str, ...]:
        """Why a picture, uint8 [H,W,3] or Pillow's RGB, decoded at 1/`jpeg_scale` of its size, cannot be judged; empty when
        it can."""
        seen = measure(picture, jpeg_scale)
        overlap = float(np.minimum(seen.histogram, self.histogram).sum())
        checks = (
            (seen.sharpness < self.min_sharpness, f"too blurred: sharpness {seen.sharpness:.2f}", self.min_sharpness),
            (seen.brightness < self.min_brightness, f"too dark: brightness {seen.brightness:.0f}", self.min_brightness),
            (
                seen.brightness > self.max_brightness,
                f"too bright: brightness {seen.brightness:.0f}",
                self.max_brightness,
            ),
            (seen.clipped > self.max_clipped, f"badly exposed: share clipped {seen.clipped:.2f}", self.max_clipped),
            (seen.contrast < self.min_contrast, f"part absent: contrast {seen.contrast:.1f}", self.min_contrast),
            (overlap < self.min_overlap, f"part absent: histogram overlap {overlap:.2f}", self.min_overlap),
            (seen.pixels < self.min_pixels, f"too small: {seen.pixels} pixels", self.min_pixels),
            (seen.aspect < self.min_aspect, f"too narrow: width/height {seen.aspect:.2f}", self.min_aspect),
            (seen.aspect > self.max_aspect, f"too wide: width/height {seen.aspect:.2f}", self.max_aspect),
        )
        return tuple(f"{text}, limit {limit:.4g}" for fails, text, limit in checks if fails)


def learn_gate(
    pictures: Sequence[NDArray[np.uint8]], jpeg_scale: int = 1, working_pixels: int | None = None
) -> QualityGate:
    """The gate of normal pictures, uint8 [H,W,3] each, at least one, decoded at 1/`jpeg_scale` of their size. Limits lie
    well outside what was seen. `working_pixels`: how many the network sees of a picture; one with half as many is not too
    small, however large the training pictures were."""
    seen = [measure(rgb, jpeg_scale) for rgb in pictures]
    histograms = np.array([figures.histogram for figures in seen])
    mean = histograms.mean(axis=0)
    brightest = max(figures.brightness for figures in seen)
    return QualityGate(
        min_sharpness=0.4 * min(figures.sharpness for figures in seen),
        min_brightness=0.5 * min(figures.brightness for figures in seen),
        max_brightness=255 - 0.5 * (255 - brightest),
        min_contrast=0.35 * min(figures.contrast for figures in seen),
        max_clipped=min(1.0, 0.2 + 1.5 * max(figures.clipped for figures in seen)),
        min_pixels=min(0.2 * min(figures.pixels for figures in seen), 0.5 * (working_pixels or math.inf)),
        min_aspect=min(figures.aspect for figures in seen) / 1.15,
        max_aspect=max(figures.aspect for figures in seen) * 1.15,
        histogram=tuple(float(share) for share in mean),
        min_overlap=0.3 * float(np.minimum(histograms, mean).sum(axis=1).min()),
    )


def measure(picture: NDArray[np.uint8] | Image.Image, jpeg_scale: int = 1) -> QualityFigures:
    """Figures of a picture, uint8 [H,W,3] or Pillow's RGB, decoded at 1/`jpeg_scale` of its size."""
    image = as_image(picture)
    width, height = image.size
    levels = np.asarray(_small(image).convert("L"))
    grey = levels.astype(np.float32)
    inner = grey[1:-1, 1:-1]
    laplacian = 4 * inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    counts = np.bincount(levels.ravel() // (256 // _BINS), minlength=_BINS)
    return QualityFigures(
        sharpness=float(np.abs(laplacian).mean()) if laplacian.size else 0.0,
        brightness=float(grey.mean()),
        contrast=float(grey.std()),
        clipped=float(((grey <= 0.5) | (grey >= 254.5)).mean()),
        pixels=height * width * jpeg_scale**2,
        aspect=width / height,
        histogram=tuple(float(count) / grey.size for count in counts),
    )


def _small(image: Image.Image) -> Image.Image:
    """The image shrunk to at most _SIDE px a side as Pillow's own `thumbnail` does, which would change the image itself."""
    width, height = image.size
    if max(width, height) <= _SIDE:
        return image
    aspect = width / height
    if aspect <= 1:
        exact = _SIDE * aspect
        size = (min(math.floor(exact), math.ceil(exact), key=lambda side: abs(aspect - side / _SIDE)), _SIDE)
    else:
        exact = _SIDE / aspect
        size = (
            _SIDE,
            min(math.floor(exact), math.ceil(exact), key=lambda side: abs(aspect - _SIDE / side) if side else 0),
        )
    return image.resize((max(1, size[0]), max(1, size[1])), Image.Resampling.BILINEAR, reducing_gap=2.0)
