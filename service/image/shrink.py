"""A picture made small enough to look at in a list or over a slow line."""

from __future__ import annotations

import io

from PIL import Image

from service.image.decode import decode


def shrunk_jpeg(data: bytes, width: int, max_pixels: int) -> bytes:
    """The encoded picture as a JPEG at most `width` px wide and high, upright. Raises UnreadableImage, TooLarge."""
    image = Image.fromarray(decode(data, max_pixels))
    image.thumbnail((width, width))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
