"""Pieces of the border lie several to a window, and every cell is what it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.decision.scale import features_at, logical_cells, stitch
from service.image.packing import pack_tiles, packed, unpacked
from service.image.prepare import CELLS, STRIDE, PrepareRecipe, plan_tiles, prepare, wanted_kinds
from service.types import TilePlan, WindowMaps

RECIPE = PrepareRecipe(rule="scale", value=1.0)
ANYWHERE = np.random.default_rng(0).integers(0, 33, (40, 2))


def network(windows: np.ndarray) -> WindowMaps:
    """Cell i sees window pixels 4i .. 4i+32: sums of forty of them; the logical map tells windows apart by their mean."""
    grey = windows.astype(np.float32).sum(axis=3)
    far = STRIDE * (CELLS - 1) + 1
    seen = np.stack([grey[:, y : y + far : STRIDE, x : x + far : STRIDE] for y, x in ANYWHERE])
    structural = seen.sum(axis=0)
    logical = np.ones_like(structural) * grey.mean(axis=(1, 2), keepdims=True)
    return WindowMaps(structural, logical, np.stack([seen[0], seen[1]], axis=1).astype(np.float16))


def plan_of(width: int, height: int, *, global_map: bool = False) -> TilePlan:
    return plan_tiles(width, height, RECIPE, global_map=global_map)


@settings(deadline=None, max_examples=40)
@given(width=st.integers(1, 1000), height=st.integers(1, 1000), global_map=st.booleans())
@example(width=448, height=252, global_map=False)
@example(width=260, height=700, global_map=True)
@example(width=224, height=224, global_map=True)
def test_a_picture_s_maps_are_those_of_its_own_windows(width: int, height: int, global_map: bool) -> None:
    plan = plan_of(width, height, global_map=global_map)
    packing = pack_tiles(plan)
    windows = prepare(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8), plan)
    few = packed(windows, packing)
    assert len(few) == packing.windows <= plan.windows
    expected, found = network(windows), unpacked(network(few), packing)
    np.testing.assert_array_equal(stitch(found.structural, plan), stitch(expected.structural, plan))
    assert expected.features is not None
    assert found.features is not None
    places = np.argwhere(np.ones((plan.rows, plan.columns), bool))[::7]
    np.testing.assert_array_equal(
        features_at(found.features, plan, places), features_at(expected.features, plan, places)
    )
    if global_map:
        assert expected.logical is not None
        assert found.logical is not None
        np.testing.assert_array_equal(logical_cells(found.logical, plan), logical_cells(expected.logical, plan))


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), global_map=st.booleans())
def test_pieces_lie_inside_their_windows_and_no_context_is_shared(width: int, height: int, global_map: bool) -> None:
    plan = plan_of(width, height, global_map=global_map)
    packing = pack_tiles(plan)
    taken = np.zeros((packing.windows - packing.whole, 64, 64), int)
    for piece in packing.pieces:
        place = np.s_[piece.row : piece.row + piece.rows + 8, piece.column : piece.column + piece.columns + 8]
        assert taken[piece.window][place].shape == (piece.rows + 8, piece.columns + 8)
        taken[piece.window][place] += 1
    assert taken.max() == 1
    assert taken.any(axis=(1, 2)).all()
    assert sum(piece.rows * piece.columns for piece in packing.pieces) == plan.rows * plan.columns


@pytest.mark.parametrize(
    ("width", "height", "tiles", "windows"),
    [(448, 448, 4, 4), (448, 252, 4, 3), (448, 336, 4, 4), (252, 252, 4, 3), (896, 504, 12, 10), (224, 20, 1, 1)],
)
def test_how_many_windows_are_run(width: int, height: int, tiles: int, windows: int) -> None:
    plan = plan_of(width, height)
    assert (len(plan.tiles), pack_tiles(plan).windows) == (tiles, windows)


@given(
    width=st.integers(1, 1000),
    height=st.integers(1, 1000),
    rule=st.sampled_from(["scale", "long_side"]),
    value=st.floats(0.3, 3),
    global_map=st.booleans(),
)
@example(width=224, height=90, rule="long_side", value=1.0, global_map=True)
def test_windows_are_wanted_for_what_their_pictures_read_and_no_kind_is_unforeseen(
    width: int, height: int, rule: Any, value: float, global_map: bool
) -> None:
    recipe = PrepareRecipe(rule=rule, value=value if rule == "scale" else 224 * value)
    plan = plan_tiles(width, height, recipe, global_map=global_map)
    packing = pack_tiles(plan)
    assert (len(plan.wanted), len(packing.wanted)) == (plan.windows, packing.windows)
    of_tiles, of_whole = ("structural", ("logical",)) if plan.whole_width else ("maps", ())
    assert packing.wanted == (of_tiles,) * packing.tiles + of_whole
    assert set(plan.wanted) == set(packing.wanted) <= set(wanted_kinds(recipe, global_map=global_map))


def test_features_of_the_tiles_alone_are_unpacked_too() -> None:
    plan = plan_of(448, 252, global_map=True)
    packing = pack_tiles(plan)
    windows = packed(prepare(np.random.default_rng(3).integers(0, 256, (252, 448, 3), np.uint8), plan), packing)
    all_of_them, tiles = unpacked(network(windows), packing), unpacked(network(windows[: packing.tiles]), packing)
    places = np.argwhere(np.ones((plan.rows, plan.columns), bool))
    assert all_of_them.features is not None
    assert tiles.features is not None
    expected = features_at(all_of_them.features, plan, places)
    np.testing.assert_array_equal(features_at(tiles.features, plan, places), expected)


def test_maps_that_a_network_does_not_give_stay_away() -> None:
    packing = pack_tiles(plan_of(448, 252))
    found = unpacked(WindowMaps(np.ones((3, CELLS, CELLS), np.float32)), packing)
    assert found.structural.shape == (4, CELLS, CELLS)
    assert found.logical is None
    assert found.features is None
