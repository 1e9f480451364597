"""Bytes -> RGB. The one decoder, for serving and training; its policy is written down in docs/decode-policy.md."""

from __future__ import annotations

import io
import sys
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from service.errors import FlawscribeError, TooLarge, UnreadableImage

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF orientation -> what turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = {5, 6, 7, 8}  # orientations that swap width and height
_WHITE_IS_ZERO = 0  # TIFF's photometric interpretation
_WHITE = (255, 255, 255)
# Pillow warns of damaged metadata, which is no reason to refuse pixels, and Python would remember every such text for
# ever. Once for the process: warnings.catch_warnings is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """What the header says: size in px as displayed (after EXIF rotation), and format."""

    width: int
    height: int
    format: str


@dataclass(frozen=True, slots=True)
class _Opened:
    image: ImageFile
    orientation: int
    header: PictureHeader


def media_type_of(data: bytes) -> str:
    """The media type of a picture in one of the formats read here. Raises UnreadableImage."""
    return Image.MIME[read_header(data, sys.maxsize).format]


def read_header(data: bytes, max_pixels: int) -> PictureHeader:
    """The header of an encoded picture, without decoding pixels. Raises UnreadableImage, or TooLarge over `max_pixels`."""
    return _open(data, max_pixels).header


def decode(data: bytes, max_pixels: int, *, jpeg_scale: int = 1) -> NDArray[np.uint8]:
    """The first frame as uint8 [H,W,3] RGB, upright; a JPEG as [H/s,W/s,3] with s = `jpeg_scale` (1, 2, 4 or 8), which its
    sides must be multiples of: then only what such a small picture shows is decoded.

    Raises UnreadableImage, TooLarge over `max_pixels`, ValueError for a scale that does not fit.
    """
    return np.asarray(decode_image(data, max_pixels, jpeg_scale=jpeg_scale))


def decode_image(data: bytes, max_pixels: int, *, jpeg_scale: int = 1) -> Image.Image:
    """What `decode` gives as Pillow's image, for resizing: an array would be made only to be copied back."""
    opened = _open(data, max_pixels)
    header = opened.header
    scale = jpeg_scale if header.format == "JPEG" else 1
    if header.width % scale or header.height % scale:
        raise ValueError(f"a JPEG of {header.width}x{header.height} cannot be decoded at 1/{scale}")
    try:
        if scale > 1:
            width, height = opened.image.size
            opened.image.draft(None, (width // scale, height // scale))
        opened.image.load()
        upright: Image.Image = opened.image
        if opened.orientation in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[opened.orientation])
        rgb = _to_rgb(upright, opened.image)
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the picture is far over the limit of {max_pixels} pixels") from error
    except FlawscribeError:
        raise
    except Exception as error:  # Pillow's readers raise anything on broken files
        raise UnreadableImage(f"the {header.format} picture is broken or cut short: {error}") from error
    if rgb.size != (header.width // scale, header.height // scale):
        raise UnreadableImage(f"the {header.format} picture's metadata contradict each other about its size")
    return rgb


def _open(data: bytes, max_pixels: int) -> _Opened:
    if not data:
        raise UnreadableImage("the picture is empty (zero bytes)")
    reader = _reader(data)
    try:
        image = reader(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the picture is far over the limit of {max_pixels} pixels") from error
    except Exception as error:  # Pillow's readers raise anything on broken files
        raise UnreadableImage(f"the picture's header is broken: {error}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise TooLarge(f"the picture has {width}x{height} = {width * height} pixels, the limit is {max_pixels}")
    if width < 1 or height < 1:
        raise UnreadableImage(f"the picture has no pixels ({width}x{height})")
    orientation = _orientation(image)
    if orientation in _TURNED:
        width, height = height, width
    return _Opened(image, orientation, PictureHeader(width, height, str(image.format)))


def _reader(data: bytes) -> type[ImageFile]:
    """The reader of the format that the first bytes announce.

    Not Image.open: that would look for several pictures in a JPEG, and warn at a pixel count of its own.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if data.startswith(b"BM"):
        return BmpImageFile
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return TiffImageFile
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WebPImageFile
    raise UnreadableImage(f"not a picture of the formats read here ({', '.join(FORMATS)})")


def _orientation(image: ImageFile) -> int:
    """The EXIF orientation still to be applied: 1 when there is none in front of the pixels."""
    if isinstance(image, TiffImageFile):
        return 1  # Pillow turns a TIFF while loading it, and says the size as displayed
    try:
        # the base class's: PngImageFile.getexif decodes the whole picture to look behind it for metadata
        return int(Image.Image.getexif(image).get(_ORIENTATION, 1))
    except Exception:
        return 1  # damaged metadata: shown as stored


def _to_rgb(image: Image.Image, source: ImageFile) -> Image.Image:
    """By what the header says alone, never by the pixels' values: an all-black picture is treated as any other."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        return _deep_grey(image, source)
    if image.mode == "I":
        raise UnreadableImage(
            "signed or 32-bit integers are not read, since their range is not known; store 8 or 16 bits"
        )
    if image.mode == "F":
        raise UnreadableImage("floating point is not read, since its range is not known; store 8 or 16 bits")
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        shown = image.convert("RGBA")
        ground = Image.new("RGB", shown.size, _WHITE)
        ground.paste(shown, mask=shown.getchannel("A"))
        return ground
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_grey(image: Image.Image, source: ImageFile) -> Image.Image:
    """Grey of more than 8 bits, scaled by the depth that the header states: 16 bits are divided by 257."""
    full = 65535
    values = np.asarray(image).astype(np.uint32)
    if isinstance(source, TiffImageFile):
        full = (1 << int(source.tag_v2.get(BITSPERSAMPLE, (16,))[0])) - 1
        if source.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:
            values = full - values
    grey = ((values * 255 + full // 2) // full).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
