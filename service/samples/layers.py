"""What samples are painted with: soft shapes, blending, light and the camera."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from service.samples.textures import fractal_noise

Opacity = NDArray[np.float32]  # [H,W], 0..1
Paint = NDArray[np.float32]  # [H,W,3], 0..1
Colour = tuple[float, float, float]
Point = tuple[float, float]  # x, y in px

_SUPERSAMPLING = 3


def stroke(shape: tuple[int, int], points: Sequence[Point], width: float) -> Opacity:
    """A smooth-edged line of `width` px through `points`, with round ends."""
    return strokes(shape, [points], width)


def strokes(shape: tuple[int, int], paths: Sequence[Sequence[Point]], width: float) -> Opacity:
    """Several lines of one width."""
    canvas = Image.new("L", (shape[1] * _SUPERSAMPLING, shape[0] * _SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    thick = max(1, round(width * _SUPERSAMPLING))
    for points in paths:
        scaled = [(x * _SUPERSAMPLING, y * _SUPERSAMPLING) for x, y in points]
        draw.line(scaled, fill=255, width=thick, joint="curve")
        for x, y in (scaled[0], scaled[-1]):
            draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=255)
    return _reduced(canvas, shape)


def polygon(shape: tuple[int, int], points: Sequence[Point]) -> Opacity:
    """A filled polygon with smooth edges."""
    canvas = Image.new("L", (shape[1] * _SUPERSAMPLING, shape[0] * _SUPERSAMPLING))
    ImageDraw.Draw(canvas).polygon([(x * _SUPERSAMPLING, y * _SUPERSAMPLING) for x, y in points], fill=255)
    return _reduced(canvas, shape)


def _reduced(canvas: Image.Image, shape: tuple[int, int]) -> Opacity:
    small = np.asarray(canvas.resize((shape[1], shape[0]), Image.Resampling.BOX))
    return small.astype(np.float32) / np.float32(255)


def blob(
    shape: tuple[int, int],
    centre: Point,
    radii: Point,
    rng: np.random.Generator,
    ragged: float = 0.3,
    soft: float = 0.1,
) -> Opacity:
    """A roundish spot with an irregular rim: `ragged` is its unevenness, `soft` the width of its edge, over the radius."""
    height, width = shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    turn = rng.uniform(0, np.pi)
    dx, dy = x - centre[0], y - centre[1]
    u = (dx * np.cos(turn) + dy * np.sin(turn)) / radii[0]
    v = (dy * np.cos(turn) - dx * np.sin(turn)) / radii[1]
    angle = np.arctan2(v, u)
    rim = 1 + ragged * sum(
        rng.normal() / order * np.sin(order * angle + rng.uniform(0, 2 * np.pi)) for order in range(2, 7)
    )
    return np.asarray(np.clip((rim - np.hypot(u, v)) / soft + 0.5, 0, 1), np.float32)


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
    tinted = ground * np.asarray(colour, np.float32)
    return over(ground, tinted, opacity)


def shadow(ground: Paint, caster: Opacity, offset: Point, soft: float, depth: float) -> Paint:
    """The soft shadow of something above the surface."""
    moved = ndimage.gaussian_filter(ndimage.shift(caster, (offset[1], offset[0]), order=1), soft)
    return np.asarray(ground * (1 - depth * moved[..., None]), np.float32)


def uneven_light(shape: tuple[int, int], rng: np.random.Generator, strength: float) -> Opacity:
    """A lighting field around 1: a slope, a soft spot and a vignette."""
    height, width = shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    slope = rng.normal(0, 0.5, 2) * strength
    cy, cx = rng.uniform(-0.6, 0.6, 2)
    spot = strength * rng.uniform(0.3, 1) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 0.8)
    vignette = 1 - 0.4 * strength * (x**2 + y**2) / 2
    level = 1 + rng.normal(0, 0.25 * strength)
    return np.asarray((level + slope[0] * x + slope[1] * y + spot) * vignette, np.float32)


def cloud(shape: tuple[int, int], rng: np.random.Generator, scale: int, slope: float = 2.0) -> Opacity:
    """Smooth noise 0..1, made at 1/scale of the size."""
    height, width = max(8, shape[0] // scale), max(8, shape[1] // scale)
    small = Image.fromarray(fractal_noise(rng, height, width, slope))
    return np.asarray(small.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), np.float32)


def photograph(scene: Paint, rng: np.random.Generator, blur: float, noise: float) -> NDArray[np.uint8]:
    """What the camera makes of a scene: slight blur, shot and read noise, 8 bits. uint8 [H,W,3]."""
    seen = ndimage.gaussian_filter(scene, (blur, blur, 0))
    grain = rng.normal(0, 1, scene.shape).astype(np.float32)
    noisy = seen + grain * noise * np.sqrt(np.clip(seen, 0.02, 1.2))
    return np.asarray(np.rint(np.clip(noisy, 0, 1) * 255), np.uint8)
