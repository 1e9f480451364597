"""Synthetic flaws painted on held-out normals: what checkpoints and numerical forms are chosen by, never test images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from service.samples.textures import fractal_noise

Rgb = NDArray[np.float32]
_GREY = 4  # most difference between the channels of a grey picture that has been through JPEG
_TRIES = 100  # for a flaw that touches the region of interest
_SMALLEST_BOX = 64  # px
_FAINTEST = 3  # grey levels that a flaw changes its place by, on average
Mask = NDArray[np.float32]  # [H,W] opacity, 0..1


def paint_flaw(
    picture: NDArray[np.uint8], rng: np.random.Generator, roi: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A copy of `picture` uint8 [H,W,3] with one flaw of a random kind that can be seen, and its mask bool [H,W] (never empty).

    A grey picture stays grey: colour would give every flaw away, and choices made by it would look for colour alone. With a `roi`,
    bool [h,w] of any size, the flaw lies in the box around it, in proportion to that, and if at all possible touches it.
    """
    if roi is None:
        return _painted(picture, rng)
    there = at_size(roi, *picture.shape[:2])
    box = _box_around(there)
    result, mask = picture.copy(), np.zeros(there.shape, bool)
    for _ in range(_TRIES):
        painted, flaw = _painted(picture[box], rng)
        if (flaw & there[box]).any():
            break
    result[box], mask[box] = painted, flaw
    return result, mask


def at_size(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """The mask bool [h,w] at another size: each pixel what the nearest one is."""
    rows, columns = (
        ((np.arange(target) + 0.5) * side / target).astype(int)
        for target, side in zip((height, width), mask.shape, strict=True)
    )
    found: NDArray[np.bool_] = mask[rows][:, columns]
    return found


def _box_around(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The box around what is set, or around all where nothing is, of at least _SMALLEST_BOX px a side where the mask has them."""
    box = []
    for axis, side in ((1, mask.shape[0]), (0, mask.shape[1])):
        found = np.flatnonzero(mask.any(axis=axis))
        first, after = (int(found[0]), int(found[-1]) + 1) if len(found) else (0, side)
        missing = max(0, _SMALLEST_BOX - (after - first))
        first = max(0, min(first - missing // 2, side - (after - first) - missing))
        box.append(slice(first, min(side, max(after, first + _SMALLEST_BOX))))
    return box[0], box[1]


def _painted(picture: NDArray[np.uint8], rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    ground = picture.astype(np.float32)
    is_grey = np.ptp(picture, axis=2).max() <= _GREY
    while True:  # a scratch can miss the picture, and white cannot become brighter
        changed, opacity = _KINDS[int(rng.integers(len(_KINDS)))](ground, rng)
        if opacity.max() <= 0:
            continue
        if is_grey:
            changed = np.repeat(changed.mean(axis=2, keepdims=True), 3, axis=2)
        mixed = np.clip(ground * (1 - opacity[..., None]) + changed * opacity[..., None], 0, 255)
        mask = opacity > 0.25
        if not mask.any():
            mask = opacity >= opacity.max()
        if np.abs(mixed - ground)[mask].mean() >= _FAINTEST:
            return np.asarray(mixed, np.uint8), mask


def _place(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[float, float, float]:
    """Centre (y, x) and size of a flaw in px; sizes from 2 % to 12 % of the longer side."""
    height, width = shape[:2]
    return rng.uniform(0, height), rng.uniform(0, width), max(height, width) * float(np.exp(rng.uniform(-3.9, -2.1)))


def _drawn(shape: tuple[int, ...], draw: Callable[[ImageDraw.ImageDraw], None], soften: float) -> Mask:
    canvas = Image.new("L", (shape[1], shape[0]))
    draw(ImageDraw.Draw(canvas))
    return np.asarray(ndimage.gaussian_filter(np.asarray(canvas, np.float32) / 255, soften), np.float32)


def _shade(ground: Rgb, rng: np.random.Generator) -> Rgb:
    """Darker, brighter or tinted, by an amount that can be subtle."""
    amount = rng.uniform(20, 90) * rng.choice([-1, 1])
    return np.asarray(ground + amount + rng.normal(0, 12, 3), np.float32)


def _spot(ground: Rgb, rng: np.random.Generator) -> tuple[Rgb, Mask]:
    y, x, size = _place(ground.shape, rng)
    ry, rx = size * rng.uniform(0.3, 0.6, 2)
    box = (x - rx, y - ry, x + rx, y + ry)
    return _shade(ground, rng), _drawn(ground.shape, lambda draw: draw.ellipse(box, fill=255), rng.uniform(0.5, 2))


def _scratch(ground: Rgb, rng: np.random.Generator) -> tuple[Rgb, Mask]:
    y, x, size = _place(ground.shape, rng)
    angle = np.cumsum(rng.normal(0, 0.3, 12)) + rng.uniform(0, 2 * np.pi)
    length = size * rng.uniform(1, 3) / 12
    path = np.cumsum(np.stack([length * np.cos(angle), length * np.sin(angle)], axis=1), axis=0) + (x, y)
    width = max(1, round(max(ground.shape) * rng.uniform(0.002, 0.008)))
    points = [(float(px), float(py)) for px, py in path]
    return _shade(ground, rng), _drawn(ground.shape, lambda draw: draw.line(points, fill=255, width=width), 0.6)


def _stain(ground: Rgb, rng: np.random.Generator) -> tuple[Rgb, Mask]:
    height, width = ground.shape[:2]
    y, x, size = _place(ground.shape, rng)
    yy, xx = np.mgrid[:height, :width]
    falloff = np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / (2 * (0.5 * size) ** 2))
    opacity = np.clip(falloff * 1.5 - 0.6 * fractal_noise(rng, height, width, 1.5), 0, 1) * rng.uniform(0.5, 1)
    return _shade(ground, rng), np.asarray(opacity, np.float32)


def _pasted(ground: Rgb, rng: np.random.Generator) -> tuple[Rgb, Mask]:
    """A piece of the same picture, turned and moved to where it does not belong (CutPaste, arXiv 2104.04015)."""
    height, width = ground.shape[:2]
    y, x, size = _place(ground.shape, rng)
    moved = np.roll(ground, (int(rng.integers(height)), int(rng.integers(width))), axis=(0, 1))
    moved = moved[::-1] if rng.random() < 0.5 else moved[:, ::-1]
    angle, half = rng.uniform(0, np.pi), size * rng.uniform(0.3, 0.9, 2)
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    points = [(float(px), float(py)) for px, py in corners @ turn + (x, y)]
    tint = moved + rng.normal(0, 15, 3)
    return np.asarray(tint, np.float32), _drawn(ground.shape, lambda draw: draw.polygon(points, fill=255), 0.7)


_KINDS = (_spot, _scratch, _stain, _pasted)
