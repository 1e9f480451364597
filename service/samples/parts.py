"""The record of one generated picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture uint8 [H,W,3], the mask bool [H,W] of where its flaw shows, and the flaw's name (None: a good part)."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    flaw: str | None
