"""The region of interest: one way of reading masks, for training and serving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.bundle.load import EngineOptions, load_bundle
from service.bundle.roi import read_roi, write_roi
from service.errors import UnreadableImage
from service.image.decode import decode
from tests.networks import png, write_bundle
from tests.unit.bundle.editing import replace_file


def coloured() -> np.ndarray:
    """A mask in white, green, dark grey and black, a quarter each."""
    mask = np.zeros((8, 8, 3), np.uint8)
    mask[:4, :4] = 255
    mask[:4, 4:] = (0, 255, 0)
    mask[4:, :4] = 127
    return mask


def test_any_bright_colour_is_inside() -> None:
    inside = read_roi(png(coloured()))
    assert inside[:4].all()
    assert not inside[4:].any()


def test_what_is_written_is_black_and_white_and_read_alike() -> None:
    inside = read_roi(png(coloured()))
    np.testing.assert_array_equal(read_roi(write_roi(inside)), inside)
    written = decode(write_roi(inside), 64)
    assert (written == np.where(inside, 255, 0)[:, :, None]).all()


def test_a_bundle_with_a_coloured_mask_reads_it_as_training_does(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, roi=np.ones((8, 8), bool))
    replace_file(folder, "roi.png", png(coloured()))
    bundle = load_bundle(folder, EngineOptions(provider="cpu", threads=1))
    assert bundle.roi is not None
    np.testing.assert_array_equal(bundle.roi, read_roi(png(coloured())))


def test_what_is_no_picture_is_said() -> None:
    with pytest.raises(UnreadableImage):
        read_roi(b"junk")
