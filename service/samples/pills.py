"""Tablets and capsules: their outlines, and how they look where they lie."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from service.samples.layers import Opacity, Paint, over, shadow
from service.samples.lighting import Field, Lamp, diffuse, gleam

_TABLET_RADIUS, _CAPSULE_RADIUS, _CAPSULE_REACH = 34.0, 17.5, 27.0  # px; reach: from the middle to an end's centre
_WHITE, _RED, _CREAM = (0.85, 0.836, 0.80), (0.66, 0.13, 0.12), (0.90, 0.81, 0.58)
_WINDOW = 72  # px around an item's middle that it and its shadow can touch


@dataclass(frozen=True, slots=True)
class Pill:
    """An item at x, y (px of the picture)."""

    kind: str  # tablet or capsule
    x: float
    y: float
    turn: float  # radians; at 0 a tablet's score line is upright and a capsule's red end points up
    speckle: int  # which of the endless surfaces it has


def outline(pill: Pill, shape: tuple[int, ...]) -> Opacity:
    """The area an item covers."""
    return np.asarray(np.clip(_inside(pill, shape) + 0.5, 0, 1), np.float32)


def placed(scene: Paint, pill: Pill, lamp: Lamp, lift: float) -> Paint:
    """The scene with an item lying in it, `lift` px above the ground, and its shadow."""
    top, left = max(0, int(pill.y) - _WINDOW), max(0, int(pill.x) - _WINDOW)
    place = np.s_[top : int(pill.y) + _WINDOW, left : int(pill.x) + _WINDOW]
    result = scene.copy()
    near = result[place]
    local = replace(pill, x=pill.x - left, y=pill.y - top)
    covered = outline(local, near.shape[:2])
    near = shadow(near, covered, (-lamp[0] * lift, -lamp[1] * lift), 0.6 * lift + 1, 0.38)
    near = shadow(near, covered, (-lamp[0] * 1.5, -lamp[1] * 1.5), 1.6, 0.35)
    relief, colour, gloss = _tablet(local, near.shape[:2]) if pill.kind == "tablet" else _capsule(local, near.shape[:2])
    mirrored = gloss * gleam(relief, lamp, 90.0) + 0.25 * gloss * gleam(relief, lamp, 12.0)
    shade = 0.30 + 0.70 * diffuse(relief, lamp)
    result[place] = over(near, np.asarray(colour * shade[..., None] + mirrored[..., None], np.float32), covered)
    return result


def _axes(pill: Pill, shape: tuple[int, ...]) -> tuple[Field, Field]:
    """Pixel coordinates in the item's own frame: across, along (down when not turned)."""
    yy, xx = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    dx, dy = xx - np.float32(pill.x), yy - np.float32(pill.y)
    cos, sin = np.float32(np.cos(pill.turn)), np.float32(np.sin(pill.turn))
    return dx * cos + dy * sin, dy * cos - dx * sin


def _inside(pill: Pill, shape: tuple[int, ...]) -> Field:
    """Distance to the item's rim, positive inside."""
    across, along = _axes(pill, shape)
    if pill.kind == "tablet":
        return np.asarray(_TABLET_RADIUS - np.hypot(across, along), np.float32)
    beyond = np.maximum(np.abs(along) - _CAPSULE_REACH, 0)
    return np.asarray(_CAPSULE_RADIUS - np.hypot(across, beyond), np.float32)


def _tablet(pill: Pill, shape: tuple[int, ...]) -> tuple[Field, Paint, float]:
    """Pressed powder: a bevelled rim, a slight dome, a score line."""
    across, along = _axes(pill, shape)
    inside = np.clip(_inside(pill, shape), 0, None)
    bevel = 3.2 * (1 - np.exp(-inside / 2.2))
    dome = 3.0 * np.clip(1 - np.hypot(across, along) ** 2 / _TABLET_RADIUS**2, 0, 1)
    score = 2.3 * np.exp(-((across / 2.0) ** 2)) * np.clip((inside - 3) / 3, 0, 1)
    powder = np.random.default_rng(pill.speckle).normal(0, 1, shape).astype(np.float32)
    relief = bevel + dome - score + 0.045 * powder
    colour = np.asarray(_WHITE, np.float32) * (1 - 0.10 * score / 2.3 + 0.008 * powder)[..., None]
    return np.asarray(relief, np.float32), np.asarray(colour, np.float32), 0.10


def _capsule(pill: Pill, shape: tuple[int, ...]) -> tuple[Field, Paint, float]:
    """Glossy gelatine: a red cap pushed over a cream body."""
    inside = np.clip(_inside(pill, shape), 0.0, _CAPSULE_RADIUS)
    from_axis = _CAPSULE_RADIUS - inside
    relief = 0.82 * np.sqrt(np.clip(_CAPSULE_RADIUS**2 - from_axis**2, 0.6, None))
    along = _axes(pill, shape)[1]
    cap = np.clip(0.5 - (along - 2), 0, 1)
    colour = np.asarray(_RED, np.float32) * cap[..., None] + np.asarray(_CREAM, np.float32) * (1 - cap)[..., None]
    return np.asarray(relief + 0.7 * cap * np.clip(inside, 0, 1), np.float32), colour, 0.62
