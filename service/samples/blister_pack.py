"""A blister pack, 480x640: nine scored tablets and six two-coloured capsules in fixed pockets; logical and structural flaws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.samples.layers import (
    Opacity,
    Paint,
    blob,
    cloud,
    over,
    photograph,
    polygon,
    shadow,
    stroke,
    strokes,
    uneven_light,
    wander,
)
from service.samples.parts import Sample

SHAPE = (480, 640)
Shift = NDArray[np.float64]  # x, y in px: where the pack lies
_COLUMNS, _ROWS = (92, 206, 320, 434, 548), (98, 240, 382)
_POCKET = (46.0, 58.0)  # half width, half height
_FOIL, _TABLET, _RED, _CREAM = (0.62, 0.64, 0.66), (0.93, 0.92, 0.89), (0.72, 0.16, 0.14), (0.92, 0.84, 0.62)


@dataclass(frozen=True, slots=True)
class _Item:
    kind: str  # tablet or capsule
    x: float
    y: float
    turn: float  # radians; a tablet's score line and a capsule's red end point up at 0


def render(rng: np.random.Generator, flaw: str | None) -> Sample:
    """One photograph of the pack; what varies by nature does not depend on the flaw."""
    nature, fault, camera = rng.spawn(3)
    shift = nature.normal(0, 2.0, 2)
    items = _filled(nature, shift)
    mask = np.zeros(SHAPE, np.float32)
    if flaw in _LOGICAL:
        items, mask = _LOGICAL[flaw](items, shift, fault)
    scene = _tray(nature, shift)
    for item in items:
        scene = _placed(scene, item)
    if flaw in _STRUCTURAL:
        scene, mask = _STRUCTURAL[flaw](scene, items, fault)
    scene = _domes(scene, shift)
    light = uneven_light(SHAPE, nature, 0.10)
    picture = photograph(scene * light[..., None], camera, nature.uniform(0.6, 0.8), 0.011)
    return Sample(picture, mask > 0.2, flaw)


def _filled(rng: np.random.Generator, shift: Shift) -> list[_Item]:
    """Every pocket with its own kind of item, each a little off centre and a little turned."""
    return [
        _Item(
            "tablet" if column < 3 else "capsule",
            x + shift[0] + rng.normal(0, 1.8),
            y + shift[1] + rng.normal(0, 1.8),
            rng.normal(0, 0.06),
        )
        for y in _ROWS
        for column, x in enumerate(_COLUMNS)
    ]


def _tray(rng: np.random.Generator, shift: Shift) -> Paint:
    """Embossed foil with the pockets' rims."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float32)
    emboss = 0.025 * np.sin((x + y) * 0.9) * np.sin((x - y) * 0.9)
    crinkle = 0.10 * (cloud(SHAPE, rng, 6, 1.8) - 0.5)
    scene = np.asarray(_FOIL, np.float32) * (1 + emboss + crinkle)[..., None]
    inside = _pockets(_COLUMNS, _ROWS, shift)
    scene = shadow(scene, inside, (-2, -2), 3.0, 0.25)
    return np.asarray(scene * (1 - 0.10 * inside)[..., None], np.float32)


def _pockets(columns: Sequence[float], rows: Sequence[float], shift: Shift) -> Opacity:
    """Rounded rectangles at every crossing of the columns and rows."""
    x = np.arange(SHAPE[1], dtype=np.float32) - np.float32(shift[0])
    y = np.arange(SHAPE[0], dtype=np.float32) - np.float32(shift[1])
    corner = 24.0
    dx = np.maximum(np.abs(x[:, None] - np.asarray(columns)).min(axis=1) - (_POCKET[0] - corner), 0)
    dy = np.maximum(np.abs(y[:, None] - np.asarray(rows)).min(axis=1) - (_POCKET[1] - corner), 0)
    return np.asarray(np.clip((corner - np.hypot(dx[None, :], dy[:, None])) / 2 + 0.5, 0, 1), np.float32)


def _placed(scene: Paint, item: _Item) -> Paint:
    """The scene with an item and its shadow; only the neighbourhood is painted."""
    top, left = max(0, int(item.y) - 70), max(0, int(item.x) - 70)
    place = np.s_[top : top + 140, left : left + 140]
    near = scene[place]
    local = replace(item, x=item.x - left, y=item.y - top)
    shape = _outline(local, near.shape[:2])
    near = shadow(near, shape, (3, 4), 3.5, 0.45)
    scene[place] = _tablet(near, local, shape) if item.kind == "tablet" else _capsule(near, local, shape)
    return scene


def _local(item: _Item, shape: tuple[int, ...]) -> tuple[Opacity, Opacity]:
    """Pixel coordinates in the item's own frame: across, along (down when not turned)."""
    yy, xx = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    dx, dy = xx - np.float32(item.x), yy - np.float32(item.y)
    cos, sin = np.float32(np.cos(item.turn)), np.float32(np.sin(item.turn))
    return dx * cos + dy * sin, dy * cos - dx * sin


def _outline(item: _Item, shape: tuple[int, ...] = SHAPE) -> Opacity:
    across, along = _local(item, shape)
    if item.kind == "tablet":
        distance = 31 - np.hypot(across, along)
    else:
        distance = 16 - np.hypot(across, np.maximum(np.abs(along) - 26, 0))
    return np.asarray(np.clip(distance + 0.5, 0, 1), np.float32)


def _tablet(scene: Paint, item: _Item, shape: Opacity) -> Paint:
    """White, domed, with a score line and a bevelled rim."""
    across, along = _local(item, scene.shape)
    radius = np.hypot(across, along)
    dome = 1.0 - 0.10 * (radius / 31) ** 4 - 0.06 * (across + along) / 31
    score = 0.22 * np.exp(-((across / 1.6) ** 2)) * (radius < 27) - 0.10 * np.exp(-(((across - 2.6) / 1.3) ** 2)) * (
        radius < 27
    )
    return over(scene, np.asarray(_TABLET, np.float32) * (dome - score)[..., None], shape)


def _capsule(scene: Paint, item: _Item, shape: Opacity) -> Paint:
    """Red cap, cream body, shiny."""
    across, along = _local(item, scene.shape)
    cap = np.clip(-along + 0.5, 0, 1)[..., None]
    colour = np.asarray(_RED, np.float32) * cap + np.asarray(_CREAM, np.float32) * (1 - cap)
    rounding = np.sqrt(np.clip(1 - (across / 17) ** 2, 0, 1))
    gleam = 0.5 * np.exp(-(((across + 6) / 2.6) ** 2)) * (np.abs(along) < 30)
    lip = 0.15 * np.exp(-((along / 1.2) ** 2))
    lit = colour * (0.55 + 0.5 * rounding - lip)[..., None] + gleam[..., None]
    return over(scene, np.asarray(lit, np.float32), shape)


def _domes(scene: Paint, shift: Shift) -> Paint:
    """The clear plastic: a highlight on each dome's upper left, a faint rim."""
    inside = _pockets(_COLUMNS, _ROWS, shift)
    light = 0.25 * np.clip(inside - ndimage.gaussian_filter(inside, 3), 0, 1)
    corners = [(x + shift[0], y + shift[1]) for y in _ROWS for x in _COLUMNS]
    gleams = strokes(SHAPE, [[(x - 30, y - 12), (x - 22, y - 36)] for x, y in corners], 4)
    light = light + 0.35 * ndimage.gaussian_filter(gleams, 1.6)
    return np.asarray(scene + light[..., None], np.float32)


_Logical = Callable[[list[_Item], Shift, np.random.Generator], tuple[list[_Item], Opacity]]


def _pocket_of(index: int, shift: Shift) -> Opacity:
    row, column = divmod(index, len(_COLUMNS))
    return _pockets(_COLUMNS[column : column + 1], _ROWS[row : row + 1], shift)


def _missing(items: list[_Item], shift: Shift, rng: np.random.Generator) -> tuple[list[_Item], Opacity]:
    index = int(rng.integers(len(items)))
    return [item for place, item in enumerate(items) if place != index], _pocket_of(index, shift)


def _extra(items: list[_Item], shift: Shift, rng: np.random.Generator) -> tuple[list[_Item], Opacity]:
    """One more item, fallen between four pockets or half onto another."""
    row, column = int(rng.integers(2)), int(rng.integers(4))
    x = (_COLUMNS[column] + _COLUMNS[column + 1]) / 2 + shift[0] + rng.normal(0, 8)
    y = (_ROWS[row] + _ROWS[row + 1]) / 2 + shift[1] + rng.normal(0, 6)
    more = _Item("tablet" if rng.random() < 0.5 else "capsule", x, y, rng.uniform(0, 2 * np.pi))
    return [*items, more], _outline(more)


def _swapped(items: list[_Item], shift: Shift, rng: np.random.Generator) -> tuple[list[_Item], Opacity]:
    index = int(rng.integers(len(items)))
    other = "capsule" if items[index].kind == "tablet" else "tablet"
    changed = [replace(item, kind=other) if place == index else item for place, item in enumerate(items)]
    return changed, _pocket_of(index, shift)


def _turned(items: list[_Item], shift: Shift, rng: np.random.Generator) -> tuple[list[_Item], Opacity]:
    """A capsule upside down or across, or a tablet whose score line lies across."""
    index = int(rng.integers(len(items)))
    angle = np.pi / 2 * rng.choice([-1, 1]) if items[index].kind == "tablet" or rng.random() < 0.4 else np.pi
    turned = replace(items[index], turn=items[index].turn + float(angle) + rng.normal(0, 0.1))
    mask = np.maximum(_outline(items[index]), _outline(turned))
    return [turned if place == index else item for place, item in enumerate(items)], mask


_Structural = Callable[[Paint, list[_Item], np.random.Generator], tuple[Paint, Opacity]]


def _crack(scene: Paint, items: list[_Item], rng: np.random.Generator) -> tuple[Paint, Opacity]:
    """A tablet broken across, often with a chip gone."""
    tablets = [item for item in items if item.kind == "tablet"]
    item = tablets[int(rng.integers(len(tablets)))]
    angle = rng.uniform(0, 2 * np.pi)
    along = np.linspace(-30, 30, 12)
    zigzag = ndimage.gaussian_filter1d(rng.normal(0, 7, 12), 0.7)
    points = [
        (item.x + a * np.cos(angle) - z * np.sin(angle), item.y + a * np.sin(angle) + z * np.cos(angle))
        for a, z in zip(along, zigzag, strict=True)
    ]
    inside = _outline(item)
    line = stroke(SHAPE, points, rng.uniform(1.6, 3.0)) * inside
    total = line
    if rng.random() < 0.5:
        centre = (item.x + 29 * np.cos(angle), item.y + 29 * np.sin(angle))
        corners = [(centre[0] + rng.normal(0, 9), centre[1] + rng.normal(0, 9)) for _ in range(6)]
        chip = polygon(SHAPE, corners) * inside
        scene = over(scene, (0.50, 0.51, 0.52), chip)
        total = np.maximum(total, chip)
    return over(scene, (0.30, 0.28, 0.26), line * np.float32(0.85)), total


def _dirt(scene: Paint, items: list[_Item], rng: np.random.Generator) -> tuple[Paint, Opacity]:
    """Crumbs or a fibre on an item or on the foil."""
    item = items[int(rng.integers(len(items)))]
    x, y = item.x + rng.normal(0, 18), item.y + rng.normal(0, 18)
    if rng.random() < 0.35:
        total = stroke(SHAPE, wander((x, y), rng.uniform(30, 70), 0.35, rng), 1.8)
    else:
        total = np.zeros(SHAPE, np.float32)
        for _ in range(int(rng.integers(2, 9))):
            radius = rng.uniform(1.6, 5.5)
            spot = blob(
                SHAPE, (x + rng.normal(0, 9), y + rng.normal(0, 9)), (radius, radius), rng, ragged=0.4, soft=0.4
            )
            total = np.maximum(total, spot)
    return over(scene, (0.20, 0.15, 0.10), total * np.float32(rng.uniform(0.7, 0.95))), total


_LOGICAL: dict[str | None, _Logical] = {"missing": _missing, "extra": _extra, "swapped": _swapped, "turned": _turned}
_STRUCTURAL: dict[str | None, _Structural] = {"crack": _crack, "dirt": _dirt}
FLAWS = tuple(str(name) for name in (*_LOGICAL, *_STRUCTURAL))
