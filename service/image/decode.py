"""Bytes -> RGB. The one decoder, for serving and training; its policy is written down in docs/decode-policy.md."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from service.errors import TooLarge, UnreadableImage

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
_ORIENTATION = 0x0112
_TURNED = {5, 6, 7, 8}  # EXIF orientations that swap width and height
# What Pillow raises on broken files, beyond OSError
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError, TypeError)


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """What the header says: size in px as displayed (after EXIF rotation), and format."""

    width: int
    height: int
    format: str


def read_header(data: bytes, max_pixels: int) -> PictureHeader:
    """The header of an encoded picture, without decoding pixels. Raises UnreadableImage, or TooLarge over `max_pixels`."""
    with _opened(data, max_pixels) as image:
        width, height = image.size
        if _orientation(image) in _TURNED:
            width, height = height, width
        return PictureHeader(width, height, str(image.format))


def decode(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """The first frame as uint8 [H,W,3] RGB, upright. Raises UnreadableImage, or TooLarge over `max_pixels`."""
    with _opened(data, max_pixels) as image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image.load()
                upright = ImageOps.exif_transpose(image) if _orientation(image) != 1 else image
                return _to_rgb(upright)
        except _BROKEN as error:
            raise UnreadableImage(f"the {image.format} picture is broken or cut short: {error}") from error


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise UnreadableImage("the picture is empty (zero bytes)")
    try:
        with warnings.catch_warnings():
            # our own cap below replaces Pillow's warning, and damaged metadata is no reason to refuse pixels
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"not a picture of the formats read here ({', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the picture is far over the limit of {max_pixels} pixels") from error
    except _BROKEN as error:
        raise UnreadableImage(f"the picture's header is broken: {error}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise TooLarge(f"the picture has {width}x{height} = {width * height} pixels, the limit is {max_pixels}")
    if width < 1 or height < 1:
        raise UnreadableImage(f"the picture has no pixels ({width}x{height})")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(image.getexif().get(_ORIENTATION, 1))
    except _BROKEN:
        return 1  # damaged metadata: shown as stored


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """By the picture's mode alone, never by its values: an all-black picture is treated as any other."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        grey = np.asarray(image).astype(np.uint32)
        return _three(((grey + 128) // 257).astype(np.uint8))
    if image.mode == "I":  # 32-bit integers: what Pillow makes of 16-bit greys in some files
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableImage("32-bit integer pictures are not read; store 8 or 16 bits")
        return _three(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise UnreadableImage(
            "floating point pictures are not read, since their range is not known; store 8 or 16 bits"
        )
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(ground, rgba).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _three(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[:, :, None], 3, axis=2)
