"""Colours as people see them: sRGB to CIE L*a*b* (CIE 15, D65) and names for a flaw's colour against its surroundings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Lab = NDArray[np.float32]

_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)
_WHITE = _TO_XYZ.sum(axis=1)
_HUES = (
    (20, "pink"),
    (50, "red"),
    (75, "orange"),
    (110, "yellow"),
    (180, "green"),
    (220, "cyan"),
    (305, "blue"),
    (340, "purple"),
)
_COLOURFUL = 12.0  # chroma from which a hue is seen
_TINGED = 8.0  # chroma from which it is, among surroundings of about the opposite hue
_SAME_HUE = 0.866  # cosine of 30 degrees
_SEEN = 3.0  # difference in lightness that is seen at a glance


def lab(rgb: NDArray[np.uint8]) -> Lab:
    """float32 [...,3] L* 0..100, a*, b* of sRGB uint8 [...,3]."""
    table = np.arange(256) / 255.0
    linear = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4).astype(np.float32)
    xyz = linear[rgb] @ (_TO_XYZ / _WHITE[:, None]).T.astype(np.float32)
    cube = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = cube[..., 0], cube[..., 1], cube[..., 2]
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=-1).astype(np.float32)


def colour_word(flaw: Lab, around: Lab) -> str:
    """One word for the colour `flaw` [3] as it stands out from `around` [3], both L*a*b*; "" when it hardly does.

    A hue is named only when the flaw has it and its surroundings have not: a darker scratch in red paint is dark, not red.
    """
    lighter = float(flaw[0] - around[0])
    hue_apart = float(np.hypot(*(flaw[1:] - around[1:])))
    chroma, chroma_around = float(np.hypot(*flaw[1:])), float(np.hypot(*around[1:]))
    if hue_apart >= max(10.0, 0.35 * abs(lighter)):
        if chroma >= _COLOURFUL and not (chroma_around >= _COLOURFUL and _hue_cosine(flaw, around) > _SAME_HUE):
            return hue_word(flaw)
        if min(chroma, chroma_around) >= _TINGED and _hue_cosine(flaw, around) < 0:
            return hue_word(flaw)
        if chroma < _COLOURFUL <= chroma_around and abs(lighter) < 25:
            return "grey"
    if abs(lighter) < _SEEN:
        return ""
    return "bright" if lighter > 0 else "dark"


def _hue_cosine(one: Lab, other: Lab) -> float:
    """1 for colourful colours of the same hue, -1 for opposite ones."""
    return float(one[1:] @ other[1:]) / float(np.hypot(*one[1:]) * np.hypot(*other[1:]))


def hue_word(colour: Lab) -> str:
    """The name of a colourful L*a*b* colour [3]."""
    angle = float(np.degrees(np.arctan2(colour[2], colour[1]))) % 360
    name = next((name for limit, name in _HUES if angle < limit), "pink")
    if name == "pink" and colour[0] < 60:
        return "red"
    if name == "orange" and colour[0] < 50:
        return "brown"
    return name


def contrast_words(flaw: Lab, around: Lab) -> str:
    """How far the flaw's colour is from its surroundings', such as "strong contrast"; the distance is CIE76."""
    distance = float(np.linalg.norm(flaw - around))
    strength = (
        "strong" if distance >= 25 else "clear" if distance >= 10 else "weak" if distance >= _SEEN else "hardly any"
    )
    return f"{strength} contrast"
