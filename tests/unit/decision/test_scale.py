from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from service.decision.scale import (
    border_distance,
    cell_pixels,
    features_at,
    full_size,
    interpolation,
    local_mean,
    picture_map,
    relative,
    roi_cells,
    stitch,
    stitch_features,
)
from service.image.prepare import CELLS, STRIDE, PrepareRecipe, plan_tiles
from service.types import Border, Layout, Level, TilePlan, WindowMaps

SAME_SIZE = PrepareRecipe(rule="scale", value=1.0)


def plan_of(width: int, height: int, *, global_map: bool = False, recipe: PrepareRecipe = SAME_SIZE) -> TilePlan:
    return plan_tiles(width, height, recipe, global_map=global_map)


def random_maps(windows: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, (windows, CELLS, CELLS)).astype(np.float32)


@given(width=st.integers(1, 700), height=st.integers(1, 700))
def test_windows_are_laid_side_by_side_unchanged(width: int, height: int) -> None:
    plan = plan_of(width, height)
    maps = random_maps(plan.windows)
    stitched = stitch(maps, plan)
    assert stitched.shape == (plan.rows, plan.columns)
    for place, tile in enumerate(plan.tiles):
        top, left = tile.row * CELLS, tile.column * CELLS
        part = stitched[top : top + CELLS, left : left + CELLS]
        np.testing.assert_array_equal(part, maps[place][: part.shape[0], : part.shape[1]])


def test_scores_are_never_clamped() -> None:
    plan = plan_of(224, 224)
    maps = np.full((1, CELLS, CELLS), -7.5, np.float32)
    assert picture_map(WindowMaps(maps), plan, 1).score == -7.5
    maps[0, 5, 5] = 1234.5
    assert picture_map(WindowMaps(maps), plan, 1).score == 1234.5


def distances(size: int = 40, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).gamma(4, 0.05, (size, size)).astype(np.float32)


def test_the_structural_map_is_relative_to_the_level_of_the_picture() -> None:
    """Twice as far from normal everywhere, under more light say, is the same map; beyond what good pictures show it is not."""
    level = Level(exponent=1, offset=0.3, typical=0.2, lowest=0.05, highest=1, low=0.1, high=0.6)
    cells = distances()
    once, twice, far = (relative(k * cells - np.float32(0.3), level) for k in (1, 2, 20))
    np.testing.assert_allclose(twice, once, atol=1e-5)
    assert far.min() > once.min()
    assert np.median(far) > 2 * np.median(np.abs(once))
    halfway = replace(level, exponent=0.5)
    one, four = (5 * relative(k * cells - np.float32(0.3), halfway) + 0.1 for k in (1, 4))
    np.testing.assert_allclose(four, 2 * one, rtol=1e-4)


def test_the_level_is_that_of_the_cells_that_are_looked_at() -> None:
    plan = plan_of(224, 224)
    cells = distances(CELLS)
    beside = cells.copy()
    beside[:, CELLS // 2 :] *= 8
    level = Level(1, 0.0, 0.2, 0.01, 10, 0.1, 0.6)
    roi = np.zeros((224, 224), bool)
    roi[:, :112] = True
    maps = [
        picture_map(WindowMaps(each[None]), plan, 1, roi, Border(level=level)).cells[:, : CELLS // 2]
        for each in (cells, beside)
    ]
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-5)


def test_both_maps_are_averaged() -> None:
    plan = plan_of(224, 224, global_map=True)
    structural, logical = random_maps(1, 1), random_maps(1, 2)
    mapped = picture_map(WindowMaps(structural, logical), plan, 1)
    np.testing.assert_allclose(mapped.cells, (structural[0] + logical[0]) / 2)
    np.testing.assert_array_equal(mapped.structural, structural[0])
    np.testing.assert_array_equal(mapped.logical, logical[0])


def test_the_logical_map_comes_from_the_shrunk_whole_at_its_place() -> None:
    """A ramp along the whole lies along the picture: cell c of the picture is place c * whole / working of the whole."""
    plan = plan_of(672, 448, global_map=True)
    assert (plan.windows, plan.whole_width, plan.whole_height) == (7, 224, 149)
    structural, logical = np.zeros((2, 7, CELLS, CELLS), np.float32)
    logical[-1] = np.arange(CELLS)
    logical[:-1] = 1e6  # the tiles' own logical maps do not count
    across = picture_map(WindowMaps(structural, logical), plan, 1).logical
    assert across is not None
    expected = np.minimum(np.arange(plan.columns) / 3, CELLS - 1)
    np.testing.assert_allclose(across, np.broadcast_to(expected, across.shape), atol=1e-4)
    logical[-1] = np.arange(CELLS)[:, None]
    down = picture_map(WindowMaps(structural, logical), plan, 1).logical
    assert down is not None
    expected = np.minimum(np.arange(plan.rows) * 149 / 448, 37)  # 149 px of the whole are 38 cells
    np.testing.assert_allclose(down, np.broadcast_to(expected[:, None], down.shape), atol=1e-4)


@pytest.mark.parametrize("answered", [1, 3])
def test_another_number_of_windows_is_refused(answered: int) -> None:
    with pytest.raises(ValueError, match="plan has 2 windows"):
        picture_map(WindowMaps(random_maps(answered)), plan_of(448, 100), 1)


@given(width=st.floats(0, 30), level=st.floats(-50, 50))
def test_a_flat_map_stays_flat(width: float, level: float) -> None:
    flat = np.full((9, 14), level, np.float32)
    np.testing.assert_allclose(local_mean(flat, width), flat, rtol=1e-5, atol=1e-5)


@given(width=st.floats(0, 20), seed=st.integers(0, 50))
def test_the_filter_only_ever_lowers_a_peak(width: float, seed: int) -> None:
    cells = random_maps(1, seed)[0]
    assert local_mean(cells, width).max() <= cells.max() + 1e-4


def test_up_to_one_cell_nothing_is_filtered() -> None:
    cells = random_maps(1)[0]
    np.testing.assert_array_equal(local_mean(cells, 1.0), cells)


@pytest.mark.parametrize("width", [3, 5, 9])
def test_odd_widths_are_the_plain_mean(width: int) -> None:
    cells = random_maps(1)[0]
    expected = ndimage.uniform_filter(cells, width, mode="nearest")
    np.testing.assert_allclose(local_mean(cells, width), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [1.5, 2.0, 4.4, 7.9])
def test_a_flaw_of_the_filter_s_size_keeps_the_mean_over_its_own_area(width: float) -> None:
    """An impulse of 1 is spread over width x width cells."""
    cells = np.zeros((31, 31), np.float32)
    cells[15, 15] = 1
    filtered = local_mean(cells, width)
    assert filtered[15, 15] == pytest.approx(1 / width**2)
    assert filtered.sum() == pytest.approx(1)
    np.testing.assert_allclose(filtered, filtered[::-1, ::-1], atol=1e-7)
    np.testing.assert_allclose(filtered, filtered.T, atol=1e-7)


def test_a_flaw_at_a_corner_scores_as_one_in_the_middle() -> None:
    corner, middle = np.zeros((2, 40, 40), np.float32)
    corner[:5, :5] = 1
    middle[18:23, 18:23] = 1
    assert local_mean(corner, 5).max() == pytest.approx(local_mean(middle, 5).max())


def test_the_smallest_flaw_is_given_in_pixels_of_the_picture() -> None:
    plan = plan_tiles(
        896, 448, PrepareRecipe(value=224), global_map=False
    )  # a quarter: 16 px of the picture are a cell
    maps = np.zeros((1, CELLS, CELLS), np.float32)
    maps[0, 10, 10] = 1
    assert picture_map(WindowMaps(maps), plan, 16).score == pytest.approx(1)
    assert picture_map(WindowMaps(maps), plan, 48).score == pytest.approx(1 / 9)


def test_outside_the_region_of_interest_cells_are_minus_infinity() -> None:
    plan = plan_of(448, 224)
    maps = random_maps(2)
    mask = np.zeros((224, 448), bool)
    mask[100:140, 300:400] = True
    cells = picture_map(WindowMaps(maps), plan, 1, mask).cells
    inside = roi_cells(mask, plan)
    rows, columns = np.nonzero(inside)
    assert rows.min() == 25  # the first cell whose centre, working pixel 100, is inside
    assert rows.max() == 34
    assert columns.min() == 75
    assert columns.max() == 99
    assert np.isneginf(cells[~inside]).all()
    np.testing.assert_array_equal(cells[inside], stitch(maps, plan)[inside])


@given(
    width=st.integers(1, 500), height=st.integers(1, 500), mask_width=st.integers(1, 90), mask_height=st.integers(1, 90)
)
def test_a_mask_of_any_size_covers_the_picture(width: int, height: int, mask_width: int, mask_height: int) -> None:
    plan = plan_tiles(width, height, PrepareRecipe(value=300), global_map=False)
    assert roi_cells(np.ones((mask_height, mask_width), bool), plan).all()
    assert not roi_cells(np.zeros((mask_height, mask_width), bool), plan).any()
    left = np.zeros((mask_height, mask_width), bool)
    left[:, : mask_width // 2] = True
    share = roi_cells(left, plan).mean()
    assert abs(share - (mask_width // 2) / mask_width) <= 1 / plan.columns + 1e-9


@given(places=st.lists(st.floats(-5, 60), min_size=1, max_size=20), sources=st.integers(1, 50))
def test_interpolation_is_linear_between_and_constant_beyond(places: list[float], sources: int) -> None:
    weights = interpolation(np.array(places), sources)
    assert (weights >= -1e-6).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights @ np.arange(sources), np.clip(places, 0, sources - 1), atol=1e-4)


@given(width=st.integers(2, 400), height=st.integers(2, 400), value=st.integers(30, 500))
def test_full_size_puts_cell_centres_where_the_network_saw_them(width: int, height: int, value: int) -> None:
    plan = plan_tiles(width, height, PrepareRecipe(value=value), global_map=False)
    ramp = np.broadcast_to(np.arange(plan.columns, dtype=np.float32), (plan.rows, plan.columns))
    seen = full_size(ramp, plan)
    assert seen.shape == (height, width)
    working = (np.arange(width) + 0.5) * plan.working_width / width - 0.5
    expected = np.clip(working / STRIDE, 0, plan.columns - 1)
    np.testing.assert_allclose(seen, np.broadcast_to(expected, seen.shape), atol=1e-3)


@given(pixels=st.integers(1, 900), working=st.integers(1, 900))
def test_cells_share_out_the_pixels(pixels: int, working: int) -> None:
    cells = -(-working // STRIDE)
    first, after = cell_pixels(cells, working, pixels)
    assert first[0] == 0
    assert after[-1] == pixels
    assert (after > first).all(), "every cell owns a pixel"
    assert (np.diff(first) >= 0).all()
    owners = np.zeros(pixels, int)
    for start, stop in set(zip(first.tolist(), after.tolist(), strict=True)):
        owners[start:stop] += 1
    assert (owners == 1).all(), "every pixel has one owner, or several that share it alone"
    centres = (np.arange(cells) * STRIDE + 0.5) * pixels / working
    assert (first <= centres + 0.5).all()
    assert (after >= centres - 0.5).all()


def test_border_distance_counts_cells_from_the_nearest_side() -> None:
    assert border_distance(4, 5).tolist() == [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]


@given(width=st.integers(30, 500), height=st.integers(30, 500), ring=st.integers(0, 3))
def test_a_rings_own_quantiles_become_0_and_0_1_and_nothing_else_changes(width: int, height: int, ring: int) -> None:
    plan = plan_of(width, height)
    maps = random_maps(plan.windows)
    rings = tuple((1.0, 3.0) if place == ring else (0.0, 0.1) for place in range(4))
    plain = picture_map(WindowMaps(maps), plan, 1).cells
    levelled = picture_map(WindowMaps(maps), plan, 1, local=Border(structural=rings)).cells
    there = border_distance(plan.rows, plan.columns) == ring
    np.testing.assert_allclose(levelled[there], 0.05 * (plain[there] - 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(levelled[~there], plain[~there], rtol=1e-5, atol=1e-6)


def test_the_logical_border_is_that_of_the_shrunk_whole() -> None:
    plan = plan_of(672, 448, global_map=True)
    structural, logical = np.zeros((2, 7, CELLS, CELLS), np.float32)
    logical[-1] = 1.0
    mapped = picture_map(WindowMaps(structural, logical), plan, 1, local=Border(logical=((0.0, 0.4),)))
    assert mapped.logical is not None
    assert mapped.logical[0, 0] == pytest.approx(0.25)
    assert mapped.logical[plan.rows // 2, plan.columns // 2] == pytest.approx(1)


def layout_of(*shape: int, seed: int = 0) -> Layout:
    rng = np.random.default_rng(seed)
    return Layout(rng.normal(size=shape).astype(np.float32), rng.uniform(0.5, 3, shape).astype(np.float32))


@given(width=st.integers(30, 500), height=st.integers(30, 500), global_map=st.booleans(), wide=st.sampled_from([1, 9]))
def test_each_place_is_measured_by_what_is_normal_there(width: int, height: int, global_map: bool, wide: int) -> None:
    plan = plan_of(width, height, global_map=global_map)
    maps = WindowMaps(random_maps(plan.windows), random_maps(plan.windows) if global_map else None)
    layout = layout_of(1 + global_map, plan.rows, plan.columns)
    free, placed = picture_map(maps, plan, wide), picture_map(maps, plan, wide, None, layout)
    expected = [(free.structural - layout.typical[0]) / layout.spread[0]]
    if free.logical is not None:
        expected.append((free.logical - layout.typical[1]) / layout.spread[1])
    np.testing.assert_allclose(placed.cells, np.mean(expected, axis=0), rtol=1e-4, atol=1e-5)
    inside = np.zeros((plan.rows, plan.columns), bool)
    inside[0, 0] = True
    alone = picture_map(maps, plan, wide, inside, layout)
    assert alone.score == pytest.approx(placed.cells[0, 0])


def test_a_layout_lies_on_pictures_of_a_little_another_size() -> None:
    plan = plan_of(448, 336)
    typical = np.tile(np.linspace(0, 1, 50, dtype=np.float32)[None, None], (1, 40, 1))
    maps = WindowMaps(np.zeros((plan.windows, CELLS, CELLS), np.float32))
    cells = picture_map(maps, plan, 1, None, Layout(typical, np.ones_like(typical))).cells
    np.testing.assert_allclose(cells[0], -np.linspace(0, 1, plan.columns), atol=1e-6)
    np.testing.assert_allclose(cells[:, 3], cells[0, 3], atol=1e-6)


@given(width=st.integers(1, 700), height=st.integers(1, 700))
def test_features_are_stitched_like_the_map(width: int, height: int) -> None:
    plan = plan_of(width, height, global_map=True)
    maps = random_maps(plan.windows).astype(np.float16)
    features = np.stack([maps, 2 * maps], axis=1)
    stitched = stitch_features(features, plan)
    np.testing.assert_array_equal(stitched[..., 0], stitch(maps.astype(np.float32), plan))
    np.testing.assert_array_equal(stitched[..., 1], 2 * stitched[..., 0])
    places = np.random.default_rng(0).permutation(np.argwhere(np.ones(stitched.shape[:2], bool)))
    np.testing.assert_array_equal(features_at(features, plan, places), stitched[tuple(places.T)])
