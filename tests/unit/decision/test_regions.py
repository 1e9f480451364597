from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from service.decision.regions import (
    MOST_REGIONS,
    find_regions,
    mask_pixels,
    region_cells,
    region_pixels,
    score_pixels,
)
from service.image.prepare import PrepareRecipe, plan_tiles
from service.types import AnomalyMap

EIGHT = np.ones((3, 3), bool)


def map_of(cells: np.ndarray, width: int, height: int, value: float, logical: np.ndarray | None = None) -> AnomalyMap:
    """The first cells of `cells`, as many as a picture of this size has."""
    plan = plan_tiles(width, height, PrepareRecipe(value=value), global_map=logical is not None)
    part = cells[: plan.rows, : plan.columns].astype(np.float32)
    return AnomalyMap(part, part, None if logical is None else logical[: plan.rows, : plan.columns], plan)


@st.composite
def maps(draw: st.DrawFn) -> AnomalyMap:
    """Pictures of any size, shrunk or enlarged, with blobs of any shape."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    noise = ndimage.gaussian_filter(rng.normal(size=(150, 150)), draw(st.sampled_from([0, 1, 3])))
    noise /= noise.std()
    if draw(st.booleans()):
        noise[rng.random(noise.shape) < 0.3] = -np.inf  # outside a region of interest
    return map_of(noise, draw(st.integers(1, 500)), draw(st.integers(1, 500)), draw(st.integers(4, 500)))


@given(mapped=maps(), review=st.floats(-3, 4))
def test_there_is_a_region_exactly_when_the_score_is_above(mapped: AnomalyMap, review: float) -> None:
    regions = find_regions(mapped, review)
    assert bool(regions) == (mapped.score > review) == bool(mask_pixels(mapped, review).any())
    if regions:
        assert regions[0].peak_score == mapped.score
        assert [region.peak_score for region in regions] == sorted((r.peak_score for r in regions), reverse=True)


@given(mapped=maps(), review=st.floats(-3, 4))
def test_the_map_of_pixels_cannot_contradict_score_and_mask(mapped: AnomalyMap, review: float) -> None:
    scores = score_pixels(mapped.cells, mapped.plan)
    assert scores.shape == (mapped.plan.height, mapped.plan.width)
    assert scores.max() == mapped.score
    np.testing.assert_array_equal(scores > np.float64(review), mask_pixels(mapped, review))


@given(mapped=maps(), review=st.floats(-3, 4))
def test_box_area_and_mask_are_of_the_same_pixels(mapped: AnomalyMap, review: float) -> None:
    plan = mapped.plan
    mask = mask_pixels(mapped, review)
    assert mask.shape == (plan.height, plan.width)
    covered = np.zeros_like(mask)
    for region in find_regions(mapped, review):
        x, y, w, h = region.box
        assert 0 <= x < x + w <= plan.width
        assert 0 <= y < y + h <= plan.height
        covered[y : y + h, x : x + w] = True
        inside = mask[y : y + h, x : x + w]
        assert 0 < region.area_px <= inside.sum()
        assert inside.any(axis=0)[[0, -1]].all(), "the box is no wider than its pixels"
        assert inside.any(axis=1)[[0, -1]].all()
        assert region.area_share == region.area_px / (plan.width * plan.height)
        assert x <= region.centroid[0] <= x + w
        assert y <= region.centroid[1] <= y + h
    if len(find_regions(mapped, review)) < MOST_REGIONS:
        assert not (mask & ~covered).any()


@given(mapped=maps(), review=st.floats(-3, 4))
def test_where_a_cell_is_a_pixel_or_more_regions_are_the_mask_s_components(mapped: AnomalyMap, review: float) -> None:
    plan = mapped.plan
    if plan.rows > plan.height or plan.columns > plan.width or min(plan.width, plan.height) < 2:
        return
    if plan.working_width > 4 * plan.width or plan.working_height > 4 * plan.height:
        return
    labels, count = ndimage.label(mask_pixels(mapped, review), EIGHT)
    boxes = sorted(
        (across.start, down.start, across.stop - across.start, down.stop - down.start)
        for down, across in ndimage.find_objects(labels)
    )
    regions = find_regions(mapped, review)
    if count > MOST_REGIONS:
        assert len(regions) == MOST_REGIONS
        return
    assert sorted(region.box for region in regions) == boxes
    areas = ndimage.sum_labels(labels > 0, labels, range(1, count + 1)) if count else []
    assert sorted(region.area_px for region in regions) == sorted(int(area) for area in areas)


def test_a_block_of_cells_is_the_pixels_around_their_centres() -> None:
    cells = np.zeros((56, 56))
    cells[10:13, 20:25] = 1
    (region,) = find_regions(map_of(cells, 448, 448, 224), 0.5)  # two picture pixels a working pixel
    # cell i owns working pixels 4i-1.5 .. 4i+2.5
    assert region.box == (157, 77, 40, 24)
    assert region.area_px == 40 * 24
    assert region.centroid == (177, 89)


def test_cells_that_touch_at_a_corner_are_one_region() -> None:
    cells = np.zeros((56, 56))
    cells[10, 10] = cells[11, 11] = 1
    cells[20, 20] = cells[22, 22] = 2
    regions = find_regions(map_of(cells, 224, 224, 224), 0.5)
    assert len(regions) == 3
    assert regions[2].area_px == 32
    assert regions[0].peak_score == 2


def test_of_very_many_regions_the_highest_are_told_of() -> None:
    cells = np.zeros((56, 56), np.float32)
    cells[::2, ::2] = np.random.default_rng(0).permutation(28 * 28).reshape(28, 28) + 1
    mapped = map_of(cells, 448, 448, 224)
    regions = find_regions(mapped, 0.5)
    assert [region.peak_score for region in regions] == list(range(784, 784 - MOST_REGIONS, -1))
    assert len(list(region_pixels(mapped, 0.5))) == MOST_REGIONS
    assert (mask_pixels(mapped, 0.5) > 0).sum() > sum(region.area_px for region in regions)


def test_at_the_threshold_itself_there_is_no_region() -> None:
    cells = np.full((56, 56), 0.3, np.float32)
    mapped = map_of(cells, 224, 224, 224)
    assert find_regions(mapped, mapped.score) == ()
    assert len(find_regions(mapped, float(np.nextafter(mapped.score, 0)))) == 1


@pytest.mark.parametrize(("logical_peak", "kind"), [(5.0, "logical"), (0.5, "structural")])
def test_the_kind_is_the_louder_map_at_the_peak(logical_peak: float, kind: str) -> None:
    structural, logical = np.zeros((2, 56, 56), np.float32)
    structural[10:14, 10:14] = 1
    logical[11, 11] = logical_peak
    plan = plan_tiles(224, 224, PrepareRecipe(value=224), global_map=True)
    (region,) = find_regions(AnomalyMap((structural + logical) / 2, structural, logical, plan), 0.3)
    assert region.kind == kind


@given(mapped=maps(), review=st.floats(-3, 4))
def test_the_regions_pixels_are_the_masks(mapped: AnomalyMap, review: float) -> None:
    mask = np.zeros((mapped.plan.height, mapped.plan.width), bool)
    regions, parts = find_regions(mapped, review), list(region_pixels(mapped, review))
    assert len(regions) == len(parts)
    for region, part in zip(regions, parts, strict=True):
        x, y, w, h = region.box
        assert part.shape == (h, w)
        assert part.sum() == region.area_px
        mask[y : y + h, x : x + w] |= part
    if len(regions) < MOST_REGIONS:
        np.testing.assert_array_equal(mask, mask_pixels(mapped, review))


@given(mapped=maps(), review=st.floats(-3, 4))
def test_a_region_s_cells_are_those_under_it_and_the_surface_is_what_no_region_is_near_to(
    mapped: AnomalyMap, review: float
) -> None:
    peaks = np.stack([mapped.cells, np.ones_like(mapped.cells)], axis=2)
    peaks[~np.isfinite(peaks)] = -99
    under, beyond = region_cells(mapped, review)
    inside, around = [peaks[tuple(places.T)] for places in under], peaks[tuple(beyond.T)]
    regions = find_regions(mapped, review)
    assert len(inside) == len(regions)
    assert len(around) >= 1
    above = mapped.cells > review
    if not above.all():
        assert (around[:, 0] <= review + 0.01).all()
    for region, cells in zip(regions, inside, strict=True):
        assert (cells[:, 1] == 1).all()
        mean = float(cells[:, 0].mean(dtype=np.float32))
        assert review - 0.01 < mean <= region.peak_score + 0.01
