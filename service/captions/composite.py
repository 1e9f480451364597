"""Pictures for a vision LLM: crop beside mask, regions boxed, a normal reference. Pure functions on arrays.

The composite is that of the origin (MathWorks, "zero-shot anomaly classification with EfficientAD and LLM"): the region's box
grown by 50 px a side, the crop on the left, the region white on black on the right.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from service.types import Region

Rgb = NDArray[np.uint8]
Box = tuple[int, int, int, int]

MOST_COMPOSITES = 8  # more would cost more than they tell
GROWN_BY = 50  # pixels a side
_MOST_ASPECT = 4.0  # a crop longer than this is mostly lost when it is shrunk, so it is widened with real pixels
_RED, _LIGHT = (255, 40, 40), (255, 255, 255)
_REDUCE_FROM = 3.0
_LEAST_COMPOSITE = 512  # pixels of the longest side


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture as it is sent."""

    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Pictures:
    """What the LLM is shown. `composites`: one for each of the first regions, in order; `reference`: a normal picture, if there
    is one, and `reference_composite`: the same beside an all-black mask."""

    boxed: Picture
    composites: tuple[Picture, ...]
    reference: Picture | None = None
    reference_composite: Picture | None = None


def build_pictures(
    rgb: Rgb, regions: Sequence[Region], masks: Sequence[NDArray[np.bool_]], reference: Rgb | None, *, limit: int = 768
) -> Pictures:
    """Everything the LLM is shown of one inspected picture: all regions boxed, a composite for each of the first eight.

    `rgb`: uint8 [H,W,3]; `masks`: bool [H,W], one a region; `reference`: uint8 [h,w,3] or None. `limit`: longest side of every
    picture sent, in pixels (a composite's halves have `limit` each); small composites are enlarged, since vision models see
    patches of 14 pixels and more. Tens of milliseconds: keep it off the event loop.
    """
    composites = (
        composite(rgb, mask, region.box) for region, mask in islice(zip(regions, masks, strict=True), MOST_COMPOSITES)
    )
    return Pictures(
        boxed=jpeg(boxed(rgb, regions, limit=limit)),
        composites=tuple(jpeg(shrunk(enlarged(pair, _LEAST_COMPOSITE), 2 * limit)) for pair in composites),
        reference=None if reference is None else jpeg(shrunk(reference, limit)),
        reference_composite=None if reference is None else jpeg(shrunk(normal_composite(reference), 2 * limit)),
    )


def grown_box(box: Box, width: int, height: int, by: int = GROWN_BY) -> Box:
    """`box` (x, y, w, h) grown by `by` pixels a side, cut at the picture of `width` x `height`; never longer than four times
    its other side where the picture has the pixels."""
    x, y, w, h = box
    left, right = _spread(x - by, x + w + by, (h + 2 * by) / _MOST_ASPECT, width)
    top, bottom = _spread(y - by, y + h + by, (w + 2 * by) / _MOST_ASPECT, height)
    return left, top, right - left, bottom - top


def composite(rgb: Rgb, mask: NDArray[np.bool_], box: Box, grown_by: int = GROWN_BY) -> Rgb:
    """uint8 [h,2w,3]: the grown box cut from `rgb` (uint8 [H,W,3]) beside the same cut of `mask` (bool [H,W]), white on black."""
    x, y, w, h = grown_box(box, rgb.shape[1], rgb.shape[0], grown_by)
    place = np.s_[y : y + h, x : x + w]
    return _beside(rgb[place], mask[place])


def normal_composite(rgb: Rgb) -> Rgb:
    """uint8 [H,2W,3]: a normal picture beside the black mask that says so."""
    return _beside(rgb, np.zeros(rgb.shape[:2], bool))


def boxed(rgb: Rgb, regions: Sequence[Region], *, limit: int = 768) -> Rgb:
    """`rgb` (uint8 [H,W,3]) shrunk to `limit` with every region's box drawn and numbered from 1, as uint8 [h,w,3]."""
    small = shrunk(rgb, limit)
    scale_x, scale_y = small.shape[1] / rgb.shape[1], small.shape[0] / rgb.shape[0]
    image = Image.fromarray(small)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(12, round(max(image.size) / 36)))
    for number, region in enumerate(regions, start=1):
        x, y, w, h = region.box
        corners = (x * scale_x - 3, y * scale_y - 3, (x + w) * scale_x + 2, (y + h) * scale_y + 2)
        draw.rectangle(corners, outline=_LIGHT, width=3)  # a light rim below, so that the box shows on red parts too
        draw.rectangle(corners, outline=_RED, width=2)
        _number(draw, str(number), corners, font)
    return np.asarray(image)


def shrunk(rgb: Rgb, limit: int) -> Rgb:
    """`rgb` (uint8 [H,W,3]) with its longest side at most `limit` pixels, never enlarged, its aspect ratio kept."""
    longest = max(rgb.shape[:2])
    if longest <= limit:
        return rgb
    size = tuple(max(1, round(side * limit / longest)) for side in (rgb.shape[1], rgb.shape[0]))
    resized = Image.fromarray(rgb).resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=_REDUCE_FROM)
    return np.asarray(resized)


def enlarged(rgb: Rgb, least: int) -> Rgb:
    """`rgb` (uint8 [H,W,3]) by the whole factor that brings its longest side to `least` pixels, or as it is."""
    factor = -(-least // max(rgb.shape[:2]))
    if factor <= 1:
        return rgb
    return np.asarray(
        Image.fromarray(rgb).resize((rgb.shape[1] * factor, rgb.shape[0] * factor), Image.Resampling.BICUBIC)
    )


def jpeg(rgb: Rgb, quality: int = 88) -> Picture:
    """`rgb` (uint8 [H,W,3]) as a JPEG without chroma subsampling: thin coloured flaws must survive."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling=0)
    return Picture("image/jpeg", buffer.getvalue())


def png(rgb: Rgb) -> Picture:
    """`rgb` (uint8 [H,W,3]) as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG", compress_level=1)
    return Picture("image/png", buffer.getvalue())


def _spread(first: int, after: int, least: float, side: int) -> tuple[int, int]:
    """A span made at least `least` long about its middle, cut at 0..side."""
    missing = max(0, round(least) - (after - first))
    return max(0, first - missing // 2), min(side, after + (missing + 1) // 2)


def _beside(crop: Rgb, mask: NDArray[np.bool_]) -> Rgb:
    white_on_black = np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * np.uint8(255)
    return np.concatenate((crop, white_on_black), axis=1)


def _number(
    draw: ImageDraw.ImageDraw,
    text: str,
    corners: tuple[float, float, float, float],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """The region's number on a red plate above its box, or inside it where there is no room above."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 6
    x = min(max(0.0, corners[0]), draw.im.size[0] - width)
    y = corners[1] - height if corners[1] >= height else max(0.0, corners[1])
    draw.rectangle((x, y, x + width, y + height), fill=_RED)
    draw.text((x + 3 - left, y + 3 - top), text, fill=_LIGHT, font=font)
