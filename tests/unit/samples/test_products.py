"""Sizes, determinism, and that another seed shows another batch of the same product."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from service.samples import KINDS, flaw_types, render

SIZES = {"polka-dot": (720, 1280, 3), "brushed-metal": (512, 512, 3), "blister-pack": (480, 640, 3)}


@cache
def batch(kind: str, seed: int) -> NDArray[np.int32]:
    """Three good parts [3,H,W,3]."""
    return np.stack([render(kind, np.random.default_rng((seed, k))).image for k in range(3)]).astype(np.int32)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_draw_is_the_same_part(kind: str) -> None:
    sample = render(kind, np.random.default_rng((0, 1)))
    assert sample.image.shape == SIZES[kind]
    assert sample.image.dtype == np.uint8
    assert sample.mask.dtype == np.bool_
    assert sample.flaw is None
    assert np.array_equal(sample.image, batch(kind, 0)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_batches_differ_but_are_one_product(kind: str) -> None:
    """Mean colour and contrast of two batches agree to a few grey levels, the pixels of their parts do not."""
    first, second = batch(kind, 0), batch(kind, 1)
    assert np.abs(first.mean(axis=(0, 1, 2)) - second.mean(axis=(0, 1, 2))).max() < 15
    assert first.std() == pytest.approx(second.std(), rel=0.15)
    assert np.abs(first[0] - second[0]).mean() > 3


@pytest.mark.parametrize("kind", KINDS)
def test_exposure_is_right(kind: str) -> None:
    images = batch(kind, 0)
    assert (images == 255).all(axis=3).mean() < 0.03
    assert (images == 0).all(axis=3).mean() < 0.01


def test_a_pack_keeps_its_layout() -> None:
    """Red caps are where the product has them, in every picture."""
    for image in batch("blister-pack", 1):
        red = (image[..., 0] > 110) & (image[..., 1] < 90)
        columns = np.flatnonzero(red.sum(axis=0) > 20)
        assert columns.min() > 400
        assert columns.max() < 580


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(ValueError, match="polka-dot, brushed-metal, blister-pack"):
        flaw_types("teapot")
    with pytest.raises(ValueError, match="no kind 'teapot'"):
        render("teapot", np.random.default_rng(0))
    with pytest.raises(ValueError, match="scratch, dent"):
        render("brushed-metal", np.random.default_rng(0), "needle")
