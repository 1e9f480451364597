"""Polka-dot fabric, 720x1280: the product of the service's origin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from service.samples.layers import (
    Opacity,
    Paint,
    Point,
    blob,
    over,
    polygon,
    shadow,
    stain,
    stroke,
    visible_change,
    wander,
)
from service.samples.lighting import Field, cloud, diffuse, enlarged, photograph, uneven_light
from service.samples.parts import Sample
from service.samples.textures import fractal_noise

SHAPE = (720, 1280)
_PITCH, _RADIUS, _THREAD = 104.0, 27.0, 4.2  # px: dots and weave of the product
_CLOTH, _DOT = (0.42, 0.55, 0.60), (0.90, 0.88, 0.83)


@dataclass(frozen=True, slots=True)
class _Cloth:
    u: Field  # px on the cloth, along the weft and the warp, for each pixel of the picture
    v: Field
    relief: Field  # height of the threads, about 0..1
    paint: Paint


def render(rng: np.random.Generator, flaw: str | None) -> Sample:
    """One photograph of the fabric; what varies by nature does not depend on the flaw."""
    nature, fault, camera = rng.spawn(3)
    cloth = _woven(nature)
    light = (uneven_light(SHAPE, nature, 0.12) * _folds(nature))[..., None]
    blur = nature.uniform(0.6, 0.9)
    scene = cloth.paint * light
    mask = np.zeros(SHAPE, np.bool_)
    if flaw is not None:
        good, scene = scene, FLAWS[flaw](cloth, fault) * light
        mask = visible_change(good, scene)
    return Sample(photograph(scene, camera, blur, 0.014), mask, flaw)


def _woven(rng: np.random.Generator) -> _Cloth:
    u, v = _cloth_coordinates(rng)
    relief = _weave(u, v, rng)
    fray = 1.6 * (cloud(SHAPE, rng, 2, 0.7) - 0.5) + 1.1 * (relief - 0.7)
    ink = np.clip(_RADIUS - _from_nearest_dot(u, v) + fray, 0, 1.6) / 1.6
    ground = np.broadcast_to(np.asarray(_CLOTH, np.float32), (*SHAPE, 3))
    printed = over(ground, _DOT, np.asarray(ink * 0.94, np.float32))
    fuzz = cloud(SHAPE, rng, 2, 0.4) - 0.5
    shade = np.asarray(0.76 + 0.28 * relief + 0.16 * fuzz, np.float32)
    return _Cloth(u, v, relief, printed * shade[..., None])


def _cloth_coordinates(rng: np.random.Generator) -> tuple[Field, Field]:
    """Where each pixel lies on the cloth: turned, seen a little from the side, pulled out of true."""
    height, width = SHAPE
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x - width / 2, y - height / 2
    turn, scale = rng.normal(0, 0.02), 1 + rng.normal(0, 0.012)
    depth = 1 + (rng.normal(0, 0.03) * x + rng.normal(0, 0.03) * y) / width
    u = (x * np.cos(turn) + y * np.sin(turn)) * scale / depth
    v = (y * np.cos(turn) - x * np.sin(turn)) * scale / depth
    pull = rng.uniform(4, 10)
    u = u + pull * (cloud(SHAPE, rng, 32, 2.5) - 0.5) + rng.uniform(0, _PITCH)
    v = v + pull * (cloud(SHAPE, rng, 32, 2.5) - 0.5) + rng.uniform(0, _PITCH)
    return np.asarray(u, np.float32), np.asarray(v, np.float32)


def _from_nearest_dot(u: Field, v: Field) -> Field:
    """Distance to the centre of the nearest dot of a hexagonal lattice."""
    row_height = np.float32(_PITCH * np.sqrt(3) / 2)
    row = np.floor(v / row_height)
    distances = []
    for step in (0, 1):
        shift = ((row + step) % 2) * np.float32(_PITCH / 2)
        du = u - shift
        du -= np.rint(du / np.float32(_PITCH)) * np.float32(_PITCH)
        distances.append(np.hypot(du, v - (row + step) * row_height))
    return np.asarray(np.minimum(*distances), np.float32)


def _weave(u: Field, v: Field, rng: np.random.Generator) -> Field:
    """Plain weave: warp and weft cross over and under, each thread with its own thickness and shade."""
    warp, weft = u / np.float32(_THREAD), v / np.float32(_THREAD)
    warp_number, weft_number = np.floor(warp).astype(np.int32), np.floor(weft).astype(np.int32)
    shade_u = rng.normal(0, 0.05, 1024).astype(np.float32)[warp_number % 1024]
    shade_v = rng.normal(0, 0.05, 1024).astype(np.float32)[weft_number % 1024]
    above = (warp_number + weft_number) % 2 == 0
    across = np.where(above, warp - warp_number, weft - weft_number)
    round_thread = (4 * across * (1 - across)) ** np.float32(0.7)
    return np.asarray(round_thread + np.where(above, shade_u, shade_v), np.float32)


def _folds(rng: np.random.Generator) -> Field:
    """Shading of the cloth's gentle waves, lit from a side that differs from picture to picture."""
    coarse = 8
    waves = fractal_noise(rng, SHAPE[0] // coarse, SHAPE[1] // coarse, 2.5) * np.float32(rng.uniform(5, 10))
    side = rng.uniform(0, 2 * np.pi)
    shading = diffuse(waves, (float(np.cos(side)), float(np.sin(side)), 1.6))
    return enlarged(ndimage.gaussian_filter(shading, 1.2), SHAPE)


_Flaw = Callable[[_Cloth, np.random.Generator], Paint]


def _anywhere(rng: np.random.Generator, margin: float = 40) -> Point:
    return rng.uniform(margin, SHAPE[1] - margin), rng.uniform(margin, SHAPE[0] - margin)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """A size: small ones as often as large ones."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _soaked(cloth: _Cloth, colour: tuple[float, float, float], spread: Opacity) -> Paint:
    """Dye in the cloth: it takes more on raised threads and collects between them."""
    uptake = np.clip(0.8 + 0.35 * (cloth.relief - 0.6), 0, 1)
    return stain(cloth.paint, colour, np.asarray(spread * uptake, np.float32))


def _black_thread(cloth: _Cloth, rng: np.random.Generator) -> Paint:
    length = _between(rng, 70, 520)
    path = wander(_anywhere(rng, 150), length, 0.26, rng, steps=12 + int(length / 9))
    width = rng.uniform(1.8, 3.8)
    line = stroke(SHAPE, path, width)
    ply = stroke(SHAPE, [(x - 0.4, y - 0.6) for x, y in path], width * 0.35) * cloud(SHAPE, rng, 4, 0.3)
    scene = shadow(cloth.paint, line, (2, 3), 1.8, 0.5)
    scene = over(scene, (0.07, 0.07, 0.08), line * np.float32(rng.uniform(0.7, 0.97)))
    return over(scene, (0.34, 0.34, 0.36), ply * np.float32(0.5))


def _blue_stain(cloth: _Cloth, rng: np.random.Generator) -> Paint:
    x, y = (int(part) for part in _anywhere(rng, 80))
    near = _from_nearest_dot(cloth.u[y - 70 : y + 70, x - 70 : x + 70], cloth.v[y - 70 : y + 70, x - 70 : x + 70])
    row, column = np.unravel_index(int(near.argmin()), near.shape)
    centre = (x - 70 + float(column) + rng.normal(0, 3), y - 70 + float(row) + rng.normal(0, 3))
    radius = _between(rng, 8, 30)
    spread = blob(SHAPE, centre, (radius, radius * rng.uniform(0.7, 1)), rng, ragged=0.35, soft=0.35)
    spread = spread * (0.6 + 0.4 * cloud(SHAPE, rng, 6, 1.5)) * np.float32(rng.uniform(0.4, 1))
    return _soaked(cloth, (0.30, 0.46, 0.93), spread)


def _red_spot(cloth: _Cloth, rng: np.random.Generator) -> Paint:
    radius = _between(rng, 6, 28)
    spread = blob(SHAPE, _anywhere(rng), (radius, radius * rng.uniform(0.6, 1)), rng, ragged=0.25, soft=0.4)
    spread = spread * (0.75 + 0.25 * cloud(SHAPE, rng, 6, 1.5)) * np.float32(rng.uniform(0.5, 1))
    return _soaked(cloth, (0.95, 0.20, 0.22), spread)


def _needle(cloth: _Cloth, rng: np.random.Generator) -> Paint:
    """A sewing needle lying on the cloth: pointed shank, flattened end with an eye, a highlight along it."""
    x, y = _anywhere(rng, 160)
    angle, length, half = rng.uniform(0, 2 * np.pi), _between(rng, 90, 240), rng.uniform(1.7, 2.8)
    along, across = np.array((np.cos(angle), np.sin(angle))), np.array((-np.sin(angle), np.cos(angle)))
    tail, head = np.array((x, y)) - along * length / 2, np.array((x, y)) + along * length / 2
    outline = [(0, 0.5), (4, 1.25), (16, 1.3), (22, 1.0), (length - 24, 0.95), (length - 8, 0.5), (length, 0.05)]
    edge = [(at, wide * half) for at, wide in outline] + [(at, -wide * half) for at, wide in reversed(outline)]
    body = polygon(SHAPE, [tuple(tail + along * at + across * wide) for at, wide in edge])
    eye = stroke(SHAPE, [tuple(tail + along * 5), tuple(tail + along * 13)], half * 0.8)
    side = across if across[1] < 0 else -across  # the upper edge catches the lamp
    bright = stroke(SHAPE, [tuple(tail + along * 18 + side * 0.6), tuple(head - along * 14 + side * 0.4)], 1.0)
    dark = stroke(SHAPE, [tuple(tail + along * 3 - side * half), tuple(head - along * 9 - side * half * 0.6)], 1.0)
    scene = shadow(cloth.paint, body, (3, 4), 2.0, 0.55)
    steel = over(over(scene, (0.50, 0.51, 0.54), body), (0.20, 0.21, 0.23), dark * body * np.float32(0.8))
    steel = over(steel, (0.97, 0.98, 1.0), bright * np.float32(rng.uniform(0.6, 0.95)))
    return over(steel, (0.14, 0.17, 0.19), eye * np.float32(0.9))


def _green_mark(cloth: _Cloth, rng: np.random.Generator) -> Paint:
    """A stroke or two of a marker: denser where the pen rested, thin where the cloth dips."""
    start, length = _anywhere(rng, 110), _between(rng, 30, 200)
    width = rng.uniform(5, 12)
    path = wander(start, length, 0.10, rng)
    spread = stroke(SHAPE, path, width, taper=0.25)
    if rng.random() < 0.4:
        spread = np.maximum(spread, stroke(SHAPE, wander(start, length * 0.6, 0.10, rng), width * 0.9, taper=0.25))
    rest = 0.3 * blob(SHAPE, path[-1], (width * 0.8, width * 0.7), rng, soft=0.6)
    spread = ndimage.gaussian_filter(np.minimum(spread + rest, 1), 0.9)
    spread = spread * (0.6 + 0.4 * cloud(SHAPE, rng, 4, 0.8)) * np.float32(rng.uniform(0.45, 0.95))
    return _soaked(cloth, (0.25, 0.85, 0.38), spread)


FLAWS: dict[str, _Flaw] = {
    "black_thread": _black_thread,
    "blue_stain": _blue_stain,
    "red_spot": _red_spot,
    "needle": _needle,
    "green_mark": _green_mark,
}
