"""A brushed metal plate, 512x512."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from service.samples.layers import Opacity, Paint, blob, cloud, over, photograph, stroke, uneven_light, wander
from service.samples.parts import Sample

SHAPE = (512, 512)
_METAL = (0.60, 0.61, 0.63)


def render(rng: np.random.Generator, flaw: str | None) -> Sample:
    """One photograph of the plate; what varies by nature does not depend on the flaw."""
    nature, fault, camera = rng.spawn(3)
    grain = _grain(nature)
    scene = np.asarray(_METAL, np.float32) * (1 + grain)[..., None]
    opacity = np.zeros(SHAPE, np.float32)
    if flaw is not None:
        scene, opacity = FLAWS[flaw](scene, fault)
    light = uneven_light(SHAPE, nature, 0.12) + _gleam(nature) * (1 + 2.5 * grain)
    picture = photograph(scene * light[..., None], camera, nature.uniform(0.5, 0.75), 0.012)
    return Sample(picture, opacity > 0.2, flaw)


def _grain(rng: np.random.Generator) -> Opacity:
    """Brush marks: noise drawn out along x at three lengths and widths, around 0; nearly horizontal."""
    total = np.zeros((560, 640), np.float32)
    for length, width, strength in ((120, 0.5, 0.55), (40, 0.6, 0.35), (200, 1.6, 0.25)):
        noise = rng.normal(0, 1, total.shape).astype(np.float32)
        smooth = ndimage.gaussian_filter1d(ndimage.gaussian_filter1d(noise, length / 2.5, axis=1), width, axis=0)
        total += strength * smooth / smooth.std()
    turned = ndimage.rotate(total, rng.normal(0, 0.7), reshape=False, order=1, mode="reflect")
    return np.asarray(0.055 * turned[24 : 24 + SHAPE[0], 64 : 64 + SHAPE[1]], np.float32)


def _gleam(rng: np.random.Generator) -> Opacity:
    """The specular band of a long lamp, across the brush marks."""
    y, x = np.mgrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    place = x + rng.normal(0, 0.1) * y - rng.uniform(-0.5, 0.5)
    return np.asarray(rng.uniform(0.16, 0.26) * np.exp(-((place / rng.uniform(0.3, 0.4)) ** 2)), np.float32)


_Flaw = Callable[[Paint, np.random.Generator], tuple[Paint, Opacity]]


def _anywhere(rng: np.random.Generator, margin: float = 30) -> tuple[float, float]:
    return rng.uniform(margin, SHAPE[1] - margin), rng.uniform(margin, SHAPE[0] - margin)


def _scratch(scene: Paint, rng: np.random.Generator) -> tuple[Paint, Opacity]:
    """A groove: a dark side and a bright side, its depth changing along the way."""
    path = wander(_anywhere(rng, 90), rng.uniform(80, 260), 0.05, rng)
    width = rng.uniform(1.2, 2.6)
    depth = np.float32(rng.uniform(0.5, 0.95)) * (0.6 + 0.4 * cloud(SHAPE, rng, 8, 1.0))
    groove = stroke(SHAPE, path, width) * depth
    ridge = stroke(SHAPE, [(x + width * 0.7, y + width * 0.7) for x, y in path], width * 0.8) * depth
    scene = over(scene, (0.88, 0.89, 0.9), ridge * np.float32(0.7))
    return over(scene, (0.22, 0.22, 0.23), groove), np.maximum(groove, ridge * np.float32(0.7))


def _dent(scene: Paint, rng: np.random.Generator) -> tuple[Paint, Opacity]:
    """A shallow hollow: the slope towards the lamp is bright, the one away from it dark; brush marks stay."""
    radius = rng.uniform(16, 42)
    hollow = ndimage.gaussian_filter(
        blob(SHAPE, _anywhere(rng, 50), (radius, radius * rng.uniform(0.7, 1)), rng, ragged=0.12, soft=0.5), radius / 5
    )
    slope_y, slope_x = np.gradient(hollow * radius)
    angle = rng.uniform(0, 2 * np.pi)
    slope = slope_x * np.cos(angle) + slope_y * np.sin(angle)
    lit = np.clip(slope * rng.uniform(0.35, 0.6), -0.6, 0.6)
    return np.asarray(scene * (1 + lit)[..., None], np.float32), np.asarray(np.clip(np.abs(lit) * 5, 0, 1), np.float32)


def _discolouration(scene: Paint, rng: np.random.Generator) -> tuple[Paint, Opacity]:
    """Heat tint or an oil stain: straw, brown or blue, fading out."""
    radius = rng.uniform(28, 80)
    spread = blob(SHAPE, _anywhere(rng, 50), (radius, radius * rng.uniform(0.5, 1)), rng, ragged=0.35, soft=0.5)
    spread = spread * (0.55 + 0.45 * cloud(SHAPE, rng, 8, 1.6)) * np.float32(rng.uniform(0.5, 0.95))
    tint = ((0.95, 0.80, 0.52), (0.74, 0.58, 0.44), (0.66, 0.74, 0.95))[int(rng.integers(3))]
    return over(scene, np.asarray(scene * np.asarray(tint, np.float32), np.float32), spread), spread


def _pit(scene: Paint, rng: np.random.Generator) -> tuple[Paint, Opacity]:
    """Corrosion pits: a few small dark holes with a bright lower rim."""
    x, y = _anywhere(rng, 60)
    total = np.zeros(SHAPE, np.float32)
    for _ in range(int(rng.integers(2, 8))):
        radius = rng.uniform(2.0, 6.0)
        centre = (x + rng.normal(0, 22), y + rng.normal(0, 22))
        hole = blob(SHAPE, centre, (radius, radius * rng.uniform(0.7, 1)), rng, ragged=0.25, soft=0.35)
        rim = blob(SHAPE, (centre[0] + 0.9, centre[1] + 1.1), (radius, radius), rng, ragged=0.1, soft=0.3)
        scene = over(scene, (0.85, 0.85, 0.86), np.clip(rim - hole, 0, 1) * np.float32(0.6))
        scene = over(scene, (0.17, 0.15, 0.14), hole * np.float32(0.9))
        total = np.maximum(total, np.maximum(hole, np.clip(rim - hole, 0, 1) * np.float32(0.6)))
    return scene, total


FLAWS: dict[str, _Flaw] = {
    "scratch": _scratch,
    "dent": _dent,
    "discolouration": _discolouration,
    "pit": _pit,
}
