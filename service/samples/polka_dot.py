"""Polka-dot fabric, 720x1280: the product of the service's origin."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from service.samples.layers import (
    Opacity,
    Paint,
    blob,
    cloud,
    over,
    photograph,
    polygon,
    shadow,
    stain,
    stroke,
    uneven_light,
    wander,
)
from service.samples.parts import Sample

SHAPE = (720, 1280)
_PITCH, _RADIUS, _THREAD = 104.0, 27.0, 4.2  # px: dots and weave of the product
_CLOTH, _DOT = (0.42, 0.55, 0.60), (0.90, 0.88, 0.83)


def render(rng: np.random.Generator, flaw: str | None) -> Sample:
    """One photograph of the fabric; what varies by nature does not depend on the flaw."""
    nature, fault, camera = rng.spawn(3)
    u, v = _cloth_coordinates(nature)
    scene = _weave(_dots(u, v, nature), u, v, nature)
    opacity = np.zeros(SHAPE, np.float32)
    if flaw is not None:
        scene, opacity = FLAWS[flaw](scene, u, v, fault)
    folds = 1 + 0.22 * (cloud(SHAPE, nature, 16, 2.6) - 0.5)
    light = uneven_light(SHAPE, nature, 0.12) * folds
    picture = photograph(scene * light[..., None], camera, nature.uniform(0.6, 0.9), 0.014)
    return Sample(picture, opacity > 0.2, flaw)


def _cloth_coordinates(rng: np.random.Generator) -> tuple[Opacity, Opacity]:
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
    return u, v


def _dots(u: Opacity, v: Opacity, rng: np.random.Generator) -> Paint:
    """Printed dots on a hexagonal lattice, their rims a little frayed."""
    distance = _to_nearest_dot(u, v)[0]
    fray = 2.2 * (cloud(SHAPE, rng, 3, 0.8) - 0.5)
    ink = np.clip(_RADIUS - distance + fray, 0, 1.5) / 1.5
    ground = np.broadcast_to(np.asarray(_CLOTH, np.float32), (*SHAPE, 3))
    return over(np.array(ground), _DOT, np.asarray(ink * 0.94, np.float32))


def _to_nearest_dot(u: Opacity, v: Opacity) -> tuple[Opacity, Opacity, Opacity]:
    """Distance to the nearest dot's centre, and that centre on the cloth."""
    row_height = _PITCH * np.sqrt(3) / 2
    best = (np.full(SHAPE, np.inf, np.float32), u, v)
    row = np.floor(v / row_height)
    for step in (0, 1):
        r = row + step
        shift = (r % 2) * _PITCH / 2
        cu = np.rint((u - shift) / _PITCH) * _PITCH + shift
        cv = r * row_height
        distance = np.hypot(u - cu, v - cv)
        nearer = distance < best[0]
        best = (
            np.where(nearer, distance, best[0]),
            np.where(nearer, cu, best[1]),
            np.where(nearer, cv, best[2]),
        )
    return best


def _weave(paint: Paint, u: Opacity, v: Opacity, rng: np.random.Generator) -> Paint:
    """Plain weave: warp and weft cross over and under, each thread with its own thickness and shade."""
    warp, weft = u / _THREAD, v / _THREAD
    shade_u = rng.normal(0, 0.05, 1024)[np.floor(warp).astype(int) % 1024]
    shade_v = rng.normal(0, 0.05, 1024)[np.floor(weft).astype(int) % 1024]
    above = (np.floor(warp) + np.floor(weft)) % 2 == 0
    round_u = np.abs(np.sin(np.pi * warp)) ** 0.6
    round_v = np.abs(np.sin(np.pi * weft)) ** 0.6
    relief = np.where(above, round_u + shade_u, round_v + shade_v)
    fuzz = cloud(SHAPE, rng, 2, 0.4) - 0.5
    return np.asarray(paint * (0.76 + 0.28 * relief + 0.16 * fuzz)[..., None], np.float32)


_Flaw = Callable[[Paint, Opacity, Opacity, np.random.Generator], tuple[Paint, Opacity]]


def _anywhere(rng: np.random.Generator, margin: float = 40) -> tuple[float, float]:
    return rng.uniform(margin, SHAPE[1] - margin), rng.uniform(margin, SHAPE[0] - margin)


def _black_thread(scene: Paint, u: Opacity, v: Opacity, rng: np.random.Generator) -> tuple[Paint, Opacity]:
    path = wander(_anywhere(rng, 150), rng.uniform(140, 520), 0.28, rng, steps=60)
    line = stroke(SHAPE, path, rng.uniform(2.2, 4.0))
    scene = shadow(scene, line, (2, 3), 1.8, 0.5)
    return over(scene, (0.07, 0.07, 0.08), line * np.float32(rng.uniform(0.75, 0.97))), line


def _blue_stain(scene: Paint, u: Opacity, v: Opacity, rng: np.random.Generator) -> tuple[Paint, Opacity]:
    distance = _to_nearest_dot(u, v)[0]
    x, y = _anywhere(rng, 80)
    window = np.s_[int(y) - 70 : int(y) + 70, int(x) - 70 : int(x) + 70]
    row, column = np.unravel_index(int(distance[window].argmin()), distance[window].shape)
    centre = (int(x) - 70 + float(column), int(y) - 70 + float(row))
    radius = rng.uniform(12, 30)
    spread = blob(SHAPE, centre, (radius, radius * rng.uniform(0.7, 1)), rng, ragged=0.35, soft=0.25)
    spread = spread * (0.65 + 0.35 * cloud(SHAPE, rng, 6, 1.5)) * np.float32(rng.uniform(0.55, 1))
    return stain(scene, (0.34, 0.5, 0.95), spread), spread


def _red_spot(scene: Paint, u: Opacity, v: Opacity, rng: np.random.Generator) -> tuple[Paint, Opacity]:
    radius = np.exp(rng.uniform(np.log(9), np.log(26)))
    spread = blob(SHAPE, _anywhere(rng), (radius, radius * rng.uniform(0.6, 1)), rng, ragged=0.2, soft=0.3)
    spread = spread * np.float32(rng.uniform(0.6, 0.95))
    return stain(scene, (0.95, 0.22, 0.24), spread), spread


def _needle(scene: Paint, u: Opacity, v: Opacity, rng: np.random.Generator) -> tuple[Paint, Opacity]:
    x, y = _anywhere(rng, 160)
    angle, length, half = rng.uniform(0, 2 * np.pi), rng.uniform(110, 240), rng.uniform(1.8, 2.8)
    along, across = np.array((np.cos(angle), np.sin(angle))), np.array((-np.sin(angle), np.cos(angle)))
    tail, head = np.array((x, y)) - along * length / 2, np.array((x, y)) + along * length / 2
    shoulder = head - along * 16
    outline = [tail + across * half, shoulder + across * half, head, shoulder - across * half, tail - across * half]
    body = polygon(SHAPE, [(float(a), float(b)) for a, b in outline])
    gleam = stroke(SHAPE, [tuple(tail + across * 0.5), tuple(shoulder + across * 0.5)], 1.1)
    scene = shadow(scene, body, (3, 4), 2.0, 0.55)
    return over(over(scene, (0.47, 0.49, 0.52), body), (0.97, 0.98, 1.0), gleam * np.float32(0.85)), body


def _green_mark(scene: Paint, u: Opacity, v: Opacity, rng: np.random.Generator) -> tuple[Paint, Opacity]:
    start = _anywhere(rng, 110)
    spread = stroke(SHAPE, wander(start, rng.uniform(50, 190), 0.2, rng), rng.uniform(6, 13))
    if rng.random() < 0.4:
        second = stroke(SHAPE, wander(start, rng.uniform(40, 110), 0.2, rng), rng.uniform(6, 11))
        spread = np.maximum(spread, second)
    spread = spread * (0.7 + 0.3 * cloud(SHAPE, rng, 4, 0.8)) * np.float32(rng.uniform(0.55, 0.95))
    return stain(scene, (0.25, 0.85, 0.35), spread), spread


FLAWS: dict[str, _Flaw] = {
    "black_thread": _black_thread,
    "blue_stain": _blue_stain,
    "red_spot": _red_spot,
    "needle": _needle,
    "green_mark": _green_mark,
}
