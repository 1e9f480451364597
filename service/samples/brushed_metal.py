"""A brushed metal plate, 512x512."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from service.samples.layers import Opacity, Paint, Point, blob, over, stain, stroke, visible_change
from service.samples.lighting import Field, cloud, photograph, uneven_light
from service.samples.parts import Sample

SHAPE = (512, 512)
_METAL = (0.60, 0.61, 0.63)
_SWAY = (
    2.2  # how far a slope moves the gleam, in half picture widths per unit of slope: brushed metal mirrors along x only
)


@dataclass(frozen=True, slots=True)
class _Plate:
    paint: Paint
    relief: Field  # px
    polish: Field  # share of the gleam that a place returns


@dataclass(frozen=True, slots=True)
class _Lamps:
    even: Field
    centre: float  # of the gleaming band, in half picture widths
    lean: float
    width: float
    strength: float


def render(rng: np.random.Generator, flaw: str | None) -> Sample:
    """One photograph of the plate; what varies by nature does not depend on the flaw."""
    nature, fault, camera = rng.spawn(3)
    grain = _grain(nature)
    ones = np.ones(SHAPE, np.float32)
    plate = _Plate(np.asarray(_METAL, np.float32) * (1 + grain)[..., None], ones * 0, ones + 2.5 * grain)
    lamps = _lamps(nature)
    blur = nature.uniform(0.45, 0.65)
    scene = _lit(plate, lamps)
    mask = np.zeros(SHAPE, np.bool_)
    if flaw is not None:
        good, scene = scene, _lit(FLAWS[flaw](plate, fault), lamps)
        mask = visible_change(good, scene)
    return Sample(photograph(scene, camera, blur, 0.012), mask, flaw)


def _grain(rng: np.random.Generator) -> Field:
    """Brush marks around 0: fine lines of several lengths, a few of them deep, nearly horizontal."""
    high, wide = 540, 600
    total = np.zeros((high, wide), np.float32)
    for length, across, strength in ((160, 0.0, 0.5), (60, 0.35, 0.55), (24, 0.0, 0.45), (260, 1.3, 0.3)):
        lines = ndimage.uniform_filter1d(rng.standard_normal((high, wide), np.float32), length, axis=1, mode="wrap")
        if across:
            lines = ndimage.gaussian_filter1d(lines, across, axis=0)
        total += np.float32(strength) * lines / lines.std()
    deep = ndimage.uniform_filter1d(rng.standard_normal((high, wide), np.float32), 90, axis=1, mode="wrap")
    total += np.clip(np.abs(deep) / deep.std() - 2.2, 0, None) * np.sign(deep) * np.float32(1.6)
    turned = ndimage.rotate(total, rng.normal(0, 0.6), reshape=False, order=1, mode="reflect")
    broad = cloud(SHAPE, rng, 16, 1.6) - 0.5
    return np.asarray(0.055 * turned[14 : 14 + SHAPE[0], 44 : 44 + SHAPE[1]] + 0.05 * broad, np.float32)


def _lamps(rng: np.random.Generator) -> _Lamps:
    return _Lamps(
        uneven_light(SHAPE, rng, 0.12),
        rng.uniform(-0.5, 0.5),
        rng.normal(0, 0.1),
        rng.uniform(0.3, 0.4),
        rng.uniform(0.2, 0.3),
    )


def _lit(plate: _Plate, lamps: _Lamps) -> Paint:
    """Even light, and the band in which a long lamp gleams: a slope along x moves it, a slope along y hardly does."""
    y, x = np.ogrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    slope_y, slope_x = np.gradient(plate.relief)
    place = x - lamps.centre + lamps.lean * y + _SWAY * slope_x + 0.3 * _SWAY * slope_y
    band = lamps.strength * np.exp(-((place / lamps.width) ** 2)) * np.exp(-((slope_y / 0.8) ** 2))
    facing = np.clip(1 - 0.45 * slope_x - 0.55 * slope_y, 0.35, 1.5)
    light = lamps.even * facing * 0.95 + band * plate.polish
    return np.asarray(plate.paint * light[..., None], np.float32)


_Flaw = Callable[[_Plate, np.random.Generator], _Plate]


def _anywhere(rng: np.random.Generator, margin: float = 30) -> Point:
    return rng.uniform(margin, SHAPE[1] - margin), rng.uniform(margin, SHAPE[0] - margin)


def _scratch(plate: _Plate, rng: np.random.Generator) -> _Plate:
    """A groove with raised sides, thinning out at its ends; sometimes it skips, sometimes a second runs beside it."""
    path = _across_grain(_anywhere(rng, 100), rng.uniform(60, 280), rng)
    width, depth = rng.uniform(0.9, 2.0), rng.uniform(0.55, 1.0)
    paths = [(path, width)]
    if rng.random() < 0.35:
        gap = rng.uniform(4, 9)
        paths.append(([(x + gap, y + gap * 0.3) for x, y in path[5:-8]], width * 0.6))
    for points, thick in paths:
        pressure = np.float32(depth) * (0.55 + 0.45 * cloud(SHAPE, rng, 6, 1.0))
        groove = stroke(SHAPE, points, thick, taper=0.7) * pressure
        bare = stroke(SHAPE, [(x + thick * 0.8, y + thick * 0.6) for x, y in points], thick * 0.9, taper=0.8) * pressure
        relief = plate.relief - 1.4 * ndimage.gaussian_filter(groove, 0.5)
        paint = over(over(plate.paint, (0.92, 0.93, 0.95), bare * np.float32(0.55)), (0.26, 0.26, 0.27), groove)
        plate = replace(plate, paint=paint, relief=relief)
    return plate


def _across_grain(start: Point, length: float, rng: np.random.Generator) -> list[Point]:
    """A nearly straight path that never runs along the brush marks, centred on `start`."""
    angle = rng.choice((-1, 1)) * rng.uniform(0.35, np.pi / 2)
    along = np.linspace(-length / 2, length / 2, 48)
    bow = rng.normal(0, 0.06) * (along**2 / length - length / 12)
    aside = bow + ndimage.gaussian_filter1d(rng.normal(0, 0.8, 48), 2.0)
    x = start[0] + along * np.cos(angle) - aside * np.sin(angle)
    y = start[1] + along * np.sin(angle) + aside * np.cos(angle)
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


def _dent(plate: _Plate, rng: np.random.Generator) -> _Plate:
    """A shallow hollow: it bends the gleam and the brush marks' light, and leaves the marks themselves."""
    radius = rng.uniform(14, 40)
    hollow = blob(SHAPE, _anywhere(rng, 55), (radius, radius * rng.uniform(0.65, 1)), rng, ragged=0.15, soft=1.2)
    hollow = ndimage.gaussian_filter(hollow, radius / 4)
    return replace(plate, relief=np.asarray(plate.relief - hollow * radius * rng.uniform(0.2, 0.42), np.float32))


def _discolouration(plate: _Plate, rng: np.random.Generator) -> _Plate:
    """Heat tint or a dried stain: straw, brown or blue, fading out, often darker at its rim."""
    radius, flat = rng.uniform(26, 80), rng.uniform(0.5, 1)
    spread = blob(SHAPE, _anywhere(rng, 50), (radius, radius * flat), rng, ragged=0.4, soft=0.5)
    patchy = spread * (0.5 + 0.5 * cloud(SHAPE, rng, 6, 1.4)) * np.float32(rng.uniform(0.5, 0.95))
    tint = ((0.95, 0.80, 0.52), (0.74, 0.58, 0.44), (0.66, 0.74, 0.95))[int(rng.integers(3))]
    rim = np.clip(4 * spread * (1 - spread), 0, 1) * np.float32(rng.uniform(0, 0.35))
    paint = stain(stain(plate.paint, tint, patchy), (0.70, 0.62, 0.52), rim)
    return replace(plate, paint=paint, polish=plate.polish * (1 - 0.35 * patchy))


def _pit(plate: _Plate, rng: np.random.Generator) -> _Plate:
    """Corrosion pits: a few small dark holes, dull around."""
    x, y = _anywhere(rng, 60)
    holes: Opacity = np.zeros(SHAPE, np.float32)
    for _ in range(int(rng.integers(2, 9))):
        radius = np.exp(rng.uniform(np.log(1.6), np.log(6.0)))
        centre = (x + rng.normal(0, 20), y + rng.normal(0, 20))
        hole = blob(SHAPE, centre, (radius, radius * rng.uniform(0.6, 1)), rng, ragged=0.35, soft=0.5)
        holes = np.maximum(holes, hole)
    halo = np.clip(ndimage.gaussian_filter(holes, 3) * 1.5, 0, 1) * np.float32(rng.uniform(0.1, 0.4))
    rough = (0.75 + 0.25 * cloud(SHAPE, rng, 2, 0.6)) * holes
    paint = over(stain(plate.paint, (0.72, 0.60, 0.48), halo), (0.20, 0.17, 0.15), rough * np.float32(0.95))
    relief = plate.relief - 1.8 * ndimage.gaussian_filter(holes, 0.9)
    return replace(plate, paint=paint, relief=relief, polish=plate.polish * (1 - 0.8 * holes))


FLAWS: dict[str, _Flaw] = {
    "scratch": _scratch,
    "dent": _dent,
    "discolouration": _discolouration,
    "pit": _pit,
}
