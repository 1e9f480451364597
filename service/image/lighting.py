"""Uneven or changing light taken out of a picture before the network sees it, for products where that helps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.types import Lighting

_AROUND = 29  # px at working resolution: two passes of this width are about a Gaussian of 12 px
_LEVEL = 110  # grey level that the surroundings are brought to
_DARK = 4  # grey levels: noise in the darkest places is not raised without bound


def lit(rgb: NDArray[np.uint8], lighting: Lighting) -> NDArray[np.uint8]:
    """The picture uint8 [H,W,3] as it is, or with `even` light: each pixel in proportion to the mean brightness around it.

    What is left is contrast to the surroundings, the same at every exposure; what is wide is gone: shading, and flaws
    that are a shade of a large part (docs/decisions/0022).
    """
    if lighting == "as_is":
        return rgb
    around = rgb.mean(axis=2, dtype=np.float32)
    for _ in range(2):
        around = ndimage.uniform_filter(around, _AROUND, mode="reflect")
    gain = np.float32(_LEVEL) / (around + np.float32(_DARK))
    return np.asarray(np.minimum(rgb * gain[..., None] + np.float32(0.5), 255), np.uint8)
