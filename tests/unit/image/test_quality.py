"""The gate learned from normals: it lets flaws through, and stops what cannot be judged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from service.image.quality import QualityGate, learn_gate, measure


def part(seed: int, width: int = 320, height: int = 240) -> np.ndarray:
    """A textured part with a bright disc, on a dark ground, slightly different each time."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:height, :width]
    disc = np.hypot(across - width / 2 - rng.normal(0, 3), down - height / 2 - rng.normal(0, 3)) < height / 3
    grey = np.where(disc, 170, 60) + rng.normal(0, 12, (height, width)) + rng.normal(0, 3)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def gate() -> QualityGate:
    return learn_gate([part(seed) for seed in range(12)])


def test_other_normals_pass(gate: QualityGate) -> None:
    for seed in range(100, 110):
        assert gate.reasons(part(seed)) == ()


def test_flaws_pass(gate: QualityGate) -> None:
    """A gate that stops the flawed would hide them."""
    for colour in ((0, 0, 0), (255, 255, 255), (200, 0, 0)):
        flawed = part(50)
        flawed[100:130, 120:200] = colour
        assert gate.reasons(flawed) == ()


def blurred(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(4)))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (blurred, "too blurred"),
        (lambda rgb: (rgb * 0.2).astype(np.uint8), "too dark"),
        (lambda rgb: (255 - (255 - rgb.astype(float)) * 0.1).astype(np.uint8), "too bright"),
        (lambda rgb: np.where(rgb > 90, 255, 0).astype(np.uint8), "badly exposed"),
        (lambda rgb: np.full_like(rgb, 90), "part absent: contrast"),
        (lambda rgb: rgb[::8, ::8], "too small"),
        (lambda rgb: rgb[:, :100], "too narrow"),
        (lambda rgb: rgb[:100], "too wide"),
    ],
)
def test_what_cannot_be_judged_is_named(gate: QualityGate, spoil: object, reason: str) -> None:
    reasons = gate.reasons(spoil(part(60)))  # type: ignore[operator]
    assert any(reason in text for text in reasons), reasons
    assert all("limit" in text for text in reasons)


def test_sizes_are_those_of_the_pictures_however_they_are_decoded() -> None:
    pictures = [part(seed) for seed in range(3)]
    assert learn_gate(pictures, 2).min_pixels == 4 * learn_gate(pictures).min_pixels


def test_what_the_network_sees_whole_is_not_too_small() -> None:
    """Pictures of a bundle are kept at its working resolution, however large the camera's are."""
    large, seen = [part(seed, 2560, 1920) for seed in range(3)], part(5, 448, 336)
    assert any("too small" in reason for reason in learn_gate(large).reasons(seen))
    gate = learn_gate(large, working_pixels=448 * 336)
    assert not any("too small" in reason for reason in gate.reasons(seen))
    assert any("too small" in reason for reason in gate.reasons(seen[::2, ::2]))


def test_a_picture_without_the_part_is_told_by_its_histogram(gate: QualityGate) -> None:
    ground = np.random.default_rng(0).normal(230, 8, (240, 320, 1))
    absent = np.repeat(np.clip(ground, 0, 255).astype(np.uint8), 3, axis=2)
    assert any("histogram overlap" in text for text in gate.reasons(absent))


def test_a_picture_of_another_resolution_is_measured_alike() -> None:
    """Sharpness is measured at one size, so that a larger picture of the same thing passes the same gate."""
    small = part(1, 512, 384)
    large = np.asarray(Image.fromarray(small).resize((2048, 1536), Image.Resampling.BICUBIC))
    assert measure(large).sharpness == pytest.approx(measure(small).sharpness, rel=0.15)
    assert measure(large).brightness == pytest.approx(measure(small).brightness, abs=1)


@settings(deadline=None)
@given(width=st.integers(1, 400), height=st.integers(1, 400), level=st.integers(0, 255))
def test_any_size_and_level_can_be_measured(width: int, height: int, level: int) -> None:
    figures = measure(np.full((height, width, 3), level, np.uint8))
    assert figures.pixels == width * height
    assert figures.aspect == width / height
    assert figures.sharpness == pytest.approx(0, abs=1e-3)
    assert figures.contrast == pytest.approx(0, abs=1e-3)
    assert figures.brightness == pytest.approx(level, abs=1)
    assert sum(figures.histogram) == pytest.approx(1)
    assert figures.clipped == (level in (0, 255))


def test_the_gate_is_read_back_from_json_the_same(gate: QualityGate) -> None:
    assert QualityGate.model_validate_json(gate.model_dump_json()) == gate


def test_one_normal_is_enough() -> None:
    only = part(3)
    assert learn_gate([only]).reasons(only) == ()


@settings(deadline=None)
@given(width=st.integers(1, 900), height=st.integers(1, 900))
@example(width=5000, height=3)
@example(width=3, height=5000)
def test_a_picture_is_shrunk_for_it_as_pillow_does_and_stays_as_it_is(width: int, height: int) -> None:
    picture = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(picture)
    found, thumbnail = measure(image), Image.fromarray(picture)
    thumbnail.thumbnail((256, 256), Image.Resampling.BILINEAR, reducing_gap=2.0)
    grey = np.asarray(thumbnail.convert("L"), np.float32)
    assert found.brightness == float(grey.mean())
    assert found.contrast == float(grey.std())
    counts = np.histogram(grey, bins=16, range=(0, 256))[0]
    assert found.histogram == tuple(counts / grey.size)
    assert (found.pixels, found.aspect) == (width * height, width / height)
    assert image.size == (width, height)
