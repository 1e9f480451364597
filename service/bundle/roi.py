"""roi.png of a bundle: where parts are looked at, white on black."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle.verify import MAX_PIXELS
from service.image.decode import decode

ROI_FILE = "roi.png"


def read_roi(data: bytes) -> NDArray[np.bool_]:
    """bool [H,W] of an encoded picture: where any of its colours is bright. Raises UnreadableImage, TooLarge."""
    inside: NDArray[np.bool_] = decode(data, MAX_PIXELS).max(axis=2) > 127
    return inside


def write_roi(inside: NDArray[np.bool_]) -> bytes:
    """The file's content, plain black and white."""
    buffer = io.BytesIO()
    Image.fromarray(inside.astype(np.uint8) * 255).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
