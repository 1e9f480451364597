"""Generated textures: valid pictures of many kinds, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.samples.textures import fractal_noise, random_texture


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(16, 90), width=st.integers(16, 90))
def test_any_size_gives_a_picture_of_that_size(seed: int, height: int, width: int) -> None:
    picture = random_texture(np.random.default_rng(seed), height, width)
    assert picture.shape == (height, width, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 0  # never flat: there is always grain


def test_same_seed_same_picture_and_another_seed_another() -> None:
    first, again, other = (random_texture(np.random.default_rng(seed), 64, 64) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_pictures_are_broad_in_brightness_contrast_colour_and_scale() -> None:
    pictures = [random_texture(np.random.default_rng(seed), 96, 96).astype(float) for seed in range(60)]
    brightness = np.array([picture.mean() for picture in pictures])
    contrast = np.array([picture.mean(axis=2).std() for picture in pictures])
    colour = np.array([np.ptp(picture.mean(axis=(0, 1))) for picture in pictures])
    assert np.ptp(brightness) > 100
    assert contrast.min() < 12
    assert contrast.max() > 35
    assert 0.2 < np.mean(colour < 3) < 0.9  # many are grey, as industrial surfaces are
    assert colour.max() > 60


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_fractal_noise_is_smoother_for_a_steeper_slope_and_within_bounds(slope: float) -> None:
    noise = fractal_noise(np.random.default_rng(0), 64, 48, slope)
    steeper = fractal_noise(np.random.default_rng(0), 64, 48, slope + 0.7)
    assert noise.shape == (64, 48)
    assert noise.min() >= 0
    assert noise.max() <= 1
    assert np.abs(np.diff(steeper, axis=1)).mean() < np.abs(np.diff(noise, axis=1)).mean()
    assert noise.std() > 0.1
