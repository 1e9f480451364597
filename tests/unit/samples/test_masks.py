"""A mask lies exactly where its flaw changes the picture: the same draw with and without the flaw is compared."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from service.samples import KINDS, flaw_types, render

SEEDS = (0, 1)
LOGICAL = ("missing", "extra", "swapped", "turned")


@cache
def good_part(kind: str, seed: int) -> NDArray[np.uint8]:
    sample = render(kind, np.random.default_rng(seed))
    assert not sample.mask.any()
    return sample.image


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("kind", "flaw"), [(kind, flaw) for kind in KINDS for flaw in flaw_types(kind)])
def test_the_mask_is_where_the_picture_changes(kind: str, flaw: str, seed: int) -> None:
    sample = render(kind, np.random.default_rng(seed), flaw)
    assert sample.flaw == flaw
    assert sample.mask.shape == sample.image.shape[:2]
    assert 20 < sample.mask.sum() < 0.2 * sample.mask.size

    change = np.abs(sample.image.astype(np.float32) - good_part(kind, seed)).max(axis=2)
    change = ndimage.gaussian_filter(change, 0.8)  # grey levels
    reach = 14 if flaw in LOGICAL else 3  # px; an item's shadow comes and goes with it
    assert change[~ndimage.binary_dilation(sample.mask, iterations=reach)].max() < 10

    filled = (change[sample.mask] > 3).mean()
    # a turned tablet looks different along its score lines only
    assert filled > (0.15 if flaw == "turned" else 0.8)
