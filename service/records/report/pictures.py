"""A flaw's picture for a report: the part around it, its box drawn, as a small JPEG."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw

from service.errors import FlawscribeError
from service.image.decode import decode

Box = tuple[int, int, int, int]
_WIDTH, _HEIGHT = 480, 360
_MAX_PIXELS = 64_000_000
_LEAST_SHARE = 0.25  # of the picture's width and height, so that a speck is seen in its place
_AROUND = 2.5  # the window over the box


def flaw_jpeg(data: bytes, box: Box | None) -> bytes | None:
    """JPEG bytes, at most 480 x 360 px, of the window around `box` (x, y, width, height in px) of an encoded picture, or
    of the whole picture without one. None when the bytes are not a picture this service reads (raw RGB, damaged)."""
    try:
        image = Image.fromarray(decode(data, _MAX_PIXELS))
    except FlawscribeError:
        return None
    if box is None:
        image.thumbnail((_WIDTH, _HEIGHT))
        return _jpeg(image)
    left, top, right, bottom = window(box, image.width, image.height)
    scale = min(_WIDTH / (right - left), _HEIGHT / (bottom - top))
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    shown = image.resize(size, Image.Resampling.BICUBIC, box=(left, top, right, bottom))
    x, y, width, height = box
    outline = [(x - left) * scale, (y - top) * scale, (x + width - left) * scale - 1, (y + height - top) * scale - 1]
    _draw_box(shown, outline)
    return _jpeg(shown)


def window(box: Box, width: int, height: int) -> Box:
    """(left, top, right, bottom) in px: 4 by 3 around `box` where the picture has room, inside the picture, holding the
    part of the box that lies in it."""
    x, y, box_width, box_height = box
    wide = max(box_width * _AROUND, width * _LEAST_SHARE)
    high = max(box_height * _AROUND, height * _LEAST_SHARE)
    wide, high = max(wide, high * _WIDTH / _HEIGHT), max(high, wide * _HEIGHT / _WIDTH)
    left, right = _span(x + box_width / 2, wide, width)
    top, bottom = _span(y + box_height / 2, high, height)
    return left, top, right, bottom


def _span(middle: float, length: float, limit: int) -> tuple[int, int]:
    taken = max(1, min(round(length), limit))
    start = min(max(round(middle - taken / 2), 0), limit - taken)
    return start, start + taken


def _draw_box(image: Image.Image, outline: list[float]) -> None:
    left, top, right, bottom = outline
    pen = ImageDraw.Draw(image)
    for grow, colour in ((3, "white"), (2, "#d1243a"), (1, "#d1243a"), (0, "#d1243a")):
        corners = [left - grow, top - grow, max(right, left) + grow, max(bottom, top) + grow]
        pen.rectangle(corners, outline=colour)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()
