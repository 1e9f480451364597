"""Light on samples: uneven lamps, shading of relief, soft noise fields, and the camera that sees it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from service.samples.layers import Opacity, Paint, Shape
from service.samples.textures import fractal_noise

Field = NDArray[np.float32]  # [H,W]
Lamp = tuple[float, float, float]  # direction towards the lamp: x right, y down, z towards the camera


def uneven_light(shape: Shape, rng: np.random.Generator, strength: float) -> Field:
    """A lighting field around 1: exposure, a slope, a soft spot and a vignette."""
    height, width = shape
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    slope = rng.normal(0, 0.5, 2) * strength
    cy, cx = rng.uniform(-0.6, 0.6, 2)
    spot = strength * rng.uniform(0.3, 1) * np.exp(-((y - cy) ** 2) / 0.8) * np.exp(-((x - cx) ** 2) / 0.8)
    vignette = 1 - 0.4 * strength * (x**2 + y**2) / 2
    level = 1 + rng.normal(0, 0.25 * strength)
    return np.asarray((level + slope[0] * x + slope[1] * y + spot) * vignette, np.float32)


def diffuse(height: Field, lamp: Lamp) -> Field:
    """Matt shading of a relief (height in px): 1 on flat ground, more where it faces the lamp."""
    slope_y, slope_x = np.gradient(height)
    facing = lamp[2] - lamp[0] * slope_x - lamp[1] * slope_y
    return np.asarray(np.clip(facing / np.sqrt(1 + slope_x**2 + slope_y**2) / lamp[2], 0, 2), np.float32)


def gleam(height: Field, lamp: Lamp, gloss: float) -> Field:
    """Highlight 0..1 of a relief seen from above (Blinn); a larger `gloss` makes it smaller and sharper."""
    slope_y, slope_x = np.gradient(height)
    half = np.asarray(lamp) / np.linalg.norm(lamp) + (0, 0, 1)
    half /= np.linalg.norm(half)
    facing = (half[2] - half[0] * slope_x - half[1] * slope_y) / np.sqrt(1 + slope_x**2 + slope_y**2)
    return np.asarray(np.clip(facing, 0, 1) ** gloss, np.float32)


def cloud(shape: Shape, rng: np.random.Generator, scale: int, slope: float = 2.0) -> Opacity:
    """Smooth noise 0..1, made at 1/scale of the size."""
    small = fractal_noise(rng, max(8, shape[0] // scale), max(8, shape[1] // scale), slope)
    return enlarged(small, shape)


def enlarged(field: Field, shape: Shape) -> Field:
    """A field brought smoothly to a larger size."""
    large = Image.fromarray(field).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(large, np.float32)


def photograph(scene: Paint, rng: np.random.Generator, blur: float, noise: float) -> NDArray[np.uint8]:
    """What the camera makes of a scene: slight blur, shot and read noise, 8 bits. uint8 [H,W,3]."""
    seen = ndimage.gaussian_filter(scene, (blur, blur, 0), truncate=3)
    grain = rng.standard_normal(scene.shape, np.float32)
    grain *= np.float32(noise) * np.sqrt(np.clip(seen, 0.02, 1.2))
    seen += grain
    return np.asarray(np.rint(np.clip(seen, 0, 1) * 255), np.uint8)
