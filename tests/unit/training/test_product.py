"""What is the same for every network and form of a product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.engine.batcher import MOST_WINDOWS
from service.image.packing import pack_tiles
from service.image.prepare import PrepareRecipe, plan_tiles
from service.training.data import NormalImage
from service.training.product import Product


def product(long_side: int) -> Product:
    return Product(PrepareRecipe(rule="long_side", value=long_side), global_map=True, min_flaw_px=8.0, roi=None)


@pytest.mark.parametrize(("long_side", "noted"), [(448, False), (1800, False), (2048, True)])
def test_pictures_of_more_windows_than_a_queue_takes_are_noted(long_side: int, noted: bool) -> None:
    """The service would refuse each with 413."""
    made = product(long_side)
    images = [NormalImage(Path(f"{side}.png"), f"{side}.png", side, side * 3 // 4) for side in (640, 4000)]
    windows = pack_tiles(plan_tiles(4000, 3000, made.recipe, global_map=True)).windows
    assert (windows > MOST_WINDOWS) == noted
    notes = made.notes(images)
    assert len(notes) == noted
    assert all(f"in {windows} windows" in note and "FLAWSCRIBE_QUEUE_WINDOWS" in note for note in notes)


def test_pixels_are_those_of_the_working_resolution() -> None:
    assert product(448).seen_pixels(np.zeros((720, 1280, 3), np.uint8)) == 448 * 252
