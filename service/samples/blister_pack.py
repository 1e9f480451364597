"""A blister pack, 480x640: nine scored tablets and six two-coloured capsules in fixed pockets; logical and structural flaws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
    stroke,
    visible_change,
    wander,
)
from service.samples.lighting import Field, Lamp, cloud, diffuse, gleam, photograph, uneven_light
from service.samples.parts import Sample
from service.samples.pills import Pill, outline, placed

SHAPE = (480, 640)
_COLUMNS, _ROWS = (98, 209, 320, 431, 542), (104, 240, 376)  # px: centres of the pockets
_POCKET, _POCKET_CORNER = (47.0, 56.0), 30.0  # half width and height
_PACK, _PACK_CORNER = (296.0, 216.0), 20.0
_FOIL, _BELT = (0.58, 0.595, 0.61), (0.13, 0.145, 0.16)
_TABLET_COLUMNS = 3  # the others hold capsules


@dataclass(frozen=True, slots=True)
class _Pose:
    """How the pack lies under the camera."""

    shift: Point
    turn: float  # radians

    def seen(self, x: float, y: float) -> Point:
        """Where a place of the pack is in the picture."""
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        dx, dy = x - SHAPE[1] / 2, y - SHAPE[0] / 2
        return (
            float(SHAPE[1] / 2 + self.shift[0] + dx * cos - dy * sin),
            float(SHAPE[0] / 2 + self.shift[1] + dx * sin + dy * cos),
        )

    def places(self) -> tuple[Field, Field]:
        """Which place of the pack every pixel shows, from the pack's middle."""
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
        dx, dy = x - np.float32(SHAPE[1] / 2 + self.shift[0]), y - np.float32(SHAPE[0] / 2 + self.shift[1])
        cos, sin = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        return dx * cos + dy * sin, dy * cos - dx * sin


@dataclass(frozen=True, slots=True)
class _Pack:
    pose: _Pose
    lamp: Lamp
    card: Paint  # belt and foil, empty
    glaze: Paint  # what the clear plastic adds
    pills: tuple[Pill, ...]  # row by row
    loose: tuple[Pill, ...] = ()  # lying on top of the plastic


def render(rng: np.random.Generator, flaw: str | None) -> Sample:
    """One photograph of the pack; what varies by nature does not depend on the flaw."""
    nature, fault, camera = rng.spawn(3)
    pack = _filled(nature)
    light = uneven_light(SHAPE, nature, 0.10)[..., None]
    blur = nature.uniform(0.5, 0.75)
    scene = _seen(pack)
    mask = np.zeros(SHAPE, np.bool_)
    if flaw in _LOGICAL:
        pack, area = _LOGICAL[flaw](pack, fault)
        scene, mask = _seen(pack), area > 0.5
    elif flaw in _STRUCTURAL:
        good, scene = scene, _STRUCTURAL[flaw](scene, pack, fault)
        mask = visible_change(good * light, scene * light)
    return Sample(photograph(scene * light, camera, blur, 0.011), mask, flaw)


def _filled(rng: np.random.Generator) -> _Pack:
    """Every pocket with its own kind of item, each a little off centre and a little turned."""
    pose = _Pose((rng.normal(0, 2.0), rng.normal(0, 2.0)), rng.normal(0, 0.006))
    lamp = (-0.55 + rng.normal(0, 0.05), -0.65 + rng.normal(0, 0.05), 1.2)
    pills = []
    for row in _ROWS:
        for column, x in enumerate(_COLUMNS):
            seen_x, seen_y = pose.seen(x + rng.normal(0, 1.8), row + 3 + rng.normal(0, 1.8))
            kind = "tablet" if column < _TABLET_COLUMNS else "capsule"
            pills.append(Pill(kind, seen_x, seen_y, pose.turn + rng.normal(0, 0.06), int(rng.integers(2**31))))
    card, glaze = _card(rng, pose, lamp)
    return _Pack(pose, lamp, card, glaze, tuple(pills))


def _card(rng: np.random.Generator, pose: _Pose, lamp: Lamp) -> tuple[Paint, Paint]:
    """The empty pack on the belt, and the gleam of its plastic."""
    x, y = pose.places()
    on_pack = _rounded(x, y, _PACK, _PACK_CORNER)
    pocket = _pockets(x, y)
    knurl = 0.33 * np.sin((x + y) * 0.78) * np.sin((x - y) * 0.78)
    crinkle = cloud(SHAPE, rng, 3, 1.7) - 0.5
    flat = np.clip(-pocket / 2, 0, 1)  # the foil is embossed where plastic and foil are sealed
    foil_relief = np.asarray(knurl * (0.25 + 0.75 * flat) + 3.0 * crinkle, np.float32)
    foil = np.asarray(_FOIL, np.float32) * (0.25 + 0.61 * diffuse(foil_relief, lamp))[..., None]
    foil = foil + (0.28 * gleam(foil_relief, lamp, 6.0))[..., None]
    # a pocket is a dome of clear plastic: its walls shade the foil below, its crest shines
    dome = np.asarray(15 * (1 - np.exp(-np.clip(pocket, 0, None) / 9)), np.float32)
    wall = np.clip(pocket + 1, 0, 1) * np.exp(-np.clip(pocket, 0, None) / 8)
    inside = np.clip(pocket + 0.5, 0, 1)
    foil = foil * (1 - 0.30 * inside - 0.22 * wall)[..., None]
    soft = ndimage.gaussian_filter(dome + 2.5 * np.clip(on_pack / 3, 0, 1), 1.2)
    glaze = 0.75 * gleam(soft, lamp, 70.0) * inside + 0.14 * gleam(soft, (-lamp[0], -lamp[1], lamp[2]), 25.0) * inside
    rim = np.exp(-((np.abs(pocket) / 1.4) ** 2)) * (0.10 - 0.12 * np.tanh(np.gradient(soft)[0] * 3))
    belt = np.asarray(_BELT, np.float32) * (0.8 + 0.4 * cloud(SHAPE, rng, 2, 0.6))[..., None]
    cover = np.clip(on_pack + 0.5, 0, 1)
    belt = shadow(belt, cover, (-lamp[0] * 9, -lamp[1] * 9), 6.0, 0.6)
    edge = 0.12 * np.exp(-(((on_pack - 1.5) / 1.2) ** 2))
    card = over(belt, np.asarray(foil + edge[..., None], np.float32), np.asarray(cover, np.float32))
    return card, np.asarray((glaze + rim)[..., None] * np.ones(3), np.float32)


def _rounded(x: Field, y: Field, half: Point, corner: float) -> Field:
    """Distance to the rim of a rounded rectangle around 0, positive inside."""
    dx, dy = np.abs(x) - (half[0] - corner), np.abs(y) - (half[1] - corner)
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return np.asarray(corner - outside - np.minimum(np.maximum(dx, dy), 0), np.float32)


def _pockets(x: Field, y: Field) -> Field:
    """Distance to the nearest pocket's rim, positive inside."""
    pitch_x, pitch_y = _COLUMNS[1] - _COLUMNS[0], _ROWS[1] - _ROWS[0]
    near_x = x - np.clip(np.rint(x / pitch_x), -2, 2) * pitch_x
    near_y = y - np.clip(np.rint(y / pitch_y), -1, 1) * pitch_y
    return _rounded(near_x, near_y, _POCKET, _POCKET_CORNER)


def _seen(pack: _Pack) -> Paint:
    scene = pack.card
    for pill in pack.pills:
        scene = placed(scene, pill, pack.lamp, 5.0)
    scene = np.asarray(scene * (1 - 0.6 * pack.glaze) + pack.glaze, np.float32)
    for pill in pack.loose:
        scene = placed(scene, pill, pack.lamp, 6.0)
    return scene


_Logical = Callable[[_Pack, np.random.Generator], tuple[_Pack, Opacity]]


def _with(pack: _Pack, index: int, *changed: Pill) -> _Pack:
    return replace(pack, pills=(*pack.pills[:index], *changed, *pack.pills[index + 1 :]))


def _missing(pack: _Pack, rng: np.random.Generator) -> tuple[_Pack, Opacity]:
    index = int(rng.integers(len(pack.pills)))
    return _with(pack, index), outline(pack.pills[index], SHAPE)


def _extra(pack: _Pack, rng: np.random.Generator) -> tuple[_Pack, Opacity]:
    """One more item: a second one in a pocket, or one left lying on the pack between the pockets."""
    kind = "tablet" if rng.random() < 0.5 else "capsule"
    turn, speckle = rng.uniform(0, 2 * np.pi), int(rng.integers(2**31))
    index = int(rng.integers(len(pack.pills)))
    row, column = int(rng.integers(2)), int(rng.integers(4))
    if rng.random() < 0.5:
        host = pack.pills[index]
        more = Pill(kind, host.x + rng.normal(0, 7), host.y + rng.choice((-1, 1)) * rng.uniform(8, 20), turn, speckle)
        return _with(pack, index, host, more), outline(more, SHAPE)
    x = (_COLUMNS[column] + _COLUMNS[column + 1]) / 2 + rng.normal(0, 12)
    y = (_ROWS[row] + _ROWS[row + 1]) / 2 + rng.normal(0, 9)
    more = Pill(kind, *pack.pose.seen(x, y), turn, speckle)
    return replace(pack, loose=(more,)), outline(more, SHAPE)


def _swapped(pack: _Pack, rng: np.random.Generator) -> tuple[_Pack, Opacity]:
    index = int(rng.integers(len(pack.pills)))
    right = pack.pills[index]
    wrong = replace(right, kind="capsule" if right.kind == "tablet" else "tablet")
    return _with(pack, index, wrong), np.maximum(outline(right, SHAPE), outline(wrong, SHAPE))


def _turned(pack: _Pack, rng: np.random.Generator) -> tuple[_Pack, Opacity]:
    """A capsule upside down or lying across, or a tablet whose score line lies across."""
    index = int(rng.integers(len(pack.pills)))
    right = pack.pills[index]
    angle = np.pi if right.kind == "capsule" and rng.random() < 0.6 else np.pi / 2 * rng.choice((-1, 1))
    wrong = replace(right, turn=right.turn + float(angle) + rng.normal(0, 0.1))
    return _with(pack, index, wrong), np.maximum(outline(right, SHAPE), outline(wrong, SHAPE))


_Structural = Callable[[Paint, _Pack, np.random.Generator], Paint]


def _crack(scene: Paint, pack: _Pack, rng: np.random.Generator) -> Paint:
    """An item broken across; from a tablet a chip may be gone."""
    pill = pack.pills[int(rng.integers(len(pack.pills)))]
    reach = 36.0 if pill.kind == "tablet" else 24.0
    angle = rng.uniform(0, 2 * np.pi) if pill.kind == "tablet" else pill.turn + rng.normal(0, 0.5)
    along = np.linspace(-reach, reach * rng.uniform(0.2, 1), 26)
    jagged = ndimage.gaussian_filter1d(rng.normal(0, 5, 26), 1.8) * 1.6 + rng.normal(0, 0.7, 26)
    x = pill.x + along * np.cos(angle) - jagged * np.sin(angle)
    y = pill.y + along * np.sin(angle) + jagged * np.cos(angle)
    points = [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
    inside = outline(pill, SHAPE)
    width = rng.uniform(1.2, 2.8)
    if pill.kind == "tablet" and rng.random() < 0.5:
        corners = [(points[0][0] + rng.normal(0, 10), points[0][1] + rng.normal(0, 10)) for _ in range(7)]
        broken = polygon(SHAPE, corners) * inside
        rough = 0.50 + 0.14 * cloud(SHAPE, rng, 2, 0.8)
        scene = over(scene, np.asarray(rough[..., None] * (1.0, 0.97, 0.92), np.float32), broken)
    lip = stroke(SHAPE, [(a + 1.2, b + 1.4) for a, b in points], width * 0.8, taper=0.5) * inside
    gap = stroke(SHAPE, points, width, taper=0.5) * inside
    scene = over(scene, np.asarray(np.minimum(scene * 1.18, 1), np.float32), lip)
    return over(scene, np.asarray(scene * 0.22, np.float32), gap * np.float32(rng.uniform(0.7, 0.95)))


def _dirt(scene: Paint, pack: _Pack, rng: np.random.Generator) -> Paint:
    """Crumbs, a fibre or a smear on an item or on the foil."""
    pill = pack.pills[int(rng.integers(len(pack.pills)))]
    x, y = pill.x + rng.normal(0, 20), pill.y + rng.normal(0, 20)
    form = rng.random()
    if form < 0.3:
        spread = stroke(SHAPE, wander((x, y), rng.uniform(30, 80), 0.35, rng), rng.uniform(1.2, 2.0))
    elif form < 0.5:
        spread = blob(SHAPE, (x, y), (rng.uniform(12, 26), rng.uniform(7, 14)), rng, ragged=0.4, soft=0.9)
        spread = spread * (0.35 + 0.65 * cloud(SHAPE, rng, 2, 1.0)) * np.float32(0.7)
    else:
        spread = np.zeros(SHAPE, np.float32)
        for _ in range(int(rng.integers(2, 10))):
            radius = np.exp(rng.uniform(np.log(1.5), np.log(5.5)))
            centre = (x + rng.normal(0, 9), y + rng.normal(0, 9))
            spread = np.maximum(spread, blob(SHAPE, centre, (radius, radius * 0.8), rng, ragged=0.4, soft=0.4))
        scene = shadow(scene, spread, (1.5, 1.8), 1.0, 0.4)
    tone = (0.17 + 0.14 * cloud(SHAPE, rng, 2, 0.5))[..., None] * np.asarray((1.0, 0.80, 0.58))
    return over(scene, np.asarray(tone, np.float32), spread * np.float32(rng.uniform(0.65, 0.95)))


_LOGICAL: dict[str | None, _Logical] = {"missing": _missing, "extra": _extra, "swapped": _swapped, "turned": _turned}
_STRUCTURAL: dict[str | None, _Structural] = {"crack": _crack, "dirt": _dirt}
FLAWS = tuple(str(name) for name in (*_LOGICAL, *_STRUCTURAL))
