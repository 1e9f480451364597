"""layout.npy of a bundle: what is normal place by place, float16 [2,maps,rows,columns]: typical values, then their spread."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from service.errors import BundleRefused
from service.types import Layout

LAYOUT_FILE = "layout.npy"


def write_layout(layout: Layout) -> bytes:
    """The file's content."""
    buffer = io.BytesIO()
    np.save(buffer, np.stack([layout.typical, layout.spread]).astype(np.float16), allow_pickle=False)
    return buffer.getvalue()


def read_layout(data: bytes, maps: int) -> Layout:
    """The layout of a network with so many `maps`. Raises BundleRefused when the file holds none."""
    try:
        found: NDArray[np.float16] = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BundleRefused(f"{LAYOUT_FILE} is no array: {error}") from error
    if found.dtype != np.float16 or found.ndim != 4 or found.shape[:2] != (2, maps) or 0 in found.shape:
        raise BundleRefused(f"{LAYOUT_FILE} must be float16 [2,{maps},rows,columns], not {found.dtype} {found.shape}")
    typical, spread = found.astype(np.float32)
    if not np.isfinite(found).all() or not (spread > 0).all():
        raise BundleRefused(f"{LAYOUT_FILE}: values must be finite, and spreads above 0")
    return Layout(typical, spread)
