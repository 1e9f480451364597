"""Evened light: what is left of a picture does not depend on its exposure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.decision.scale import stitch
from service.image.lighting import lit
from service.image.prepare import CONTEXT, STEP, WINDOW, PrepareRecipe, plan_tiles, prepare

SIDE = 200


def surface(brightness: float = 1.0, *, spot: bool = False, shading: bool = False) -> np.ndarray:
    """A grained surface uint8 [200,200,3]; with a spot of half its brightness, or falling to a third of it across."""
    grain = np.random.default_rng(0).normal(0, 6, (SIDE, SIDE))
    levels = 150 + grain
    if spot:
        levels[90:98, 90:98] *= 0.5
    if shading:
        levels *= np.linspace(1, 1 / 3, SIDE)
    return np.repeat(np.clip(levels * brightness, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_as_is_is_the_picture_itself() -> None:
    picture = surface()
    assert lit(picture, "as_is") is picture


@pytest.mark.parametrize("brightness", [0.3, 0.6, 1.4])
def test_a_surface_looks_the_same_at_every_exposure(brightness: float) -> None:
    expected, found = (lit(surface(b, spot=True), "even").astype(int) for b in (1.0, brightness))
    assert np.abs(found - expected).mean() < 12  # what _DARK and the grain of few grey levels leave
    assert np.abs(surface(brightness).astype(int) - surface()).mean() > 30


def test_shading_goes_and_a_spot_stays() -> None:
    found = lit(surface(spot=True, shading=True), "even").astype(float)[..., 0]
    columns = found[:60].mean(axis=0)
    assert columns.max() - columns.min() < 25  # 100 before
    assert found[92:96, 92:96].mean() < 0.65 * found[60:80, 60:80].mean()


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 255))
def test_any_size_and_any_level_keep_their_shape_and_stay_plain(height: int, width: int, level: int) -> None:
    found = lit(np.full((height, width, 3), level, np.uint8), "even")
    assert (found.shape, found.dtype) == ((height, width, 3), np.uint8)
    assert len(np.unique(found)) == 1


def test_windows_are_cut_from_the_lit_picture_without_a_seam() -> None:
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (300, 500, 3), np.uint8)
    plan = plan_tiles(500, 300, PrepareRecipe(value=500, lighting="even"), global_map=False)
    windows = prepare(picture, plan)
    inner = windows[:, CONTEXT : WINDOW - CONTEXT, CONTEXT : WINDOW - CONTEXT, 0][:, ::4, ::4]
    found = stitch(inner.astype(np.float32), plan)
    np.testing.assert_array_equal(found, lit(picture, "even")[::4, ::4, 0])
    assert inner.shape[1] == STEP // 4
