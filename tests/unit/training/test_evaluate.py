"""Labelled test sets: what cannot be read is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.bundle.load import Bundle
from service.errors import UnreadableImage
from service.training.evaluate import find_test_images, score_all
from tests.networks import grey_picture, png


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """One good and one flawed part, with a mask."""
    for place in ("test/good/0.png", "test/hole/1.png", "ground_truth/hole/1_mask.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(png(grey_picture()))
    return tmp_path


@pytest.mark.parametrize("content", [b"no picture", png(grey_picture())[:60]], ids=["other", "torn"])
def test_a_picture_that_cannot_be_read_is_named(content: bytes, probe: Bundle, dataset: Path) -> None:
    (dataset / "test/hole/1.png").write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"test/hole/1\.png: "):
        score_all(probe, find_test_images(dataset))


@pytest.mark.parametrize("content", [b"no picture", png(grey_picture())[:60]], ids=["other", "torn"])
def test_a_mask_that_cannot_be_read_is_named(content: bytes, probe: Bundle, dataset: Path) -> None:
    (dataset / "ground_truth/hole/1_mask.png").write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"hole/1_mask\.png: no mask"):
        score_all(probe, find_test_images(dataset))
