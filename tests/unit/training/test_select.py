from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from service.decision.scale import picture_map
from service.image.prepare import PrepareRecipe, plan_tiles, prepare
from service.training.flaws import _box_around, at_size
from service.training.select import Example, Seen, Selection, Separation, border_of, level_of, quantiles
from service.types import WindowMaps

RECIPE = PrepareRecipe(rule="long_side", value=448)


def examples_of(width: int, height: int, count: int, *, global_map: bool = False) -> list[Example]:
    plan = plan_tiles(width, height, PrepareRecipe(rule="scale", value=1.0), global_map=global_map)
    windows = prepare(np.zeros((height, width, 3), np.uint8), plan)
    return [Example(plan, windows, None) for _ in range(count)]


def noise(examples: list[Example], seed: int = 0, *, border_times: float = 1.0) -> list[WindowMaps]:
    """Maps of one window whose outermost two cells are `border_times` as bright."""
    rng = np.random.default_rng(seed)
    maps = []
    for _ in examples:
        cells = rng.exponential(1.0, (1, 56, 56)).astype(np.float32)
        bright = np.ones((56, 56), np.float32)
        bright[:2] = bright[-2:] = border_times
        bright[:, :2] = bright[:, -2:] = border_times
        maps.append(WindowMaps(cells * bright))
    return maps


def test_quantiles_are_those_of_the_cells_that_see_the_part_alone() -> None:
    examples = examples_of(224, 224, 6)
    plain, bright = (quantiles(noise(examples, border_times=times), examples) for times in (1.0, 40.0))
    np.testing.assert_array_equal(plain, bright)
    assert plain[0][0] == pytest.approx(np.log(10), rel=0.05)  # 0.9 quantile of an exponential


def test_a_bright_border_is_levelled_to_the_inside() -> None:
    examples = examples_of(224, 224, 12)
    maps = noise(examples, border_times=30.0)
    low, high = quantiles(maps, examples)
    scaled = [WindowMaps(0.1 * (answer.structural - low[0]) / (high[0] - low[0])) for answer in maps]
    border = border_of(scaled, examples)
    assert [ring[1] - ring[0] > 1 for ring in border.structural] == [True, True, False, False]
    cells = np.stack([picture_map(answer, examples[0].plan, 1, local=border).cells for answer in scaled])
    for ring in range(2):
        outer = np.concatenate(
            [cells[:, ring, ring : -ring or None].ravel(), cells[:, -1 - ring, ring : -ring or None].ravel()]
        )
        assert np.quantile(outer, 0.995) == pytest.approx(0.1, abs=0.04)


def test_a_calm_border_is_not_raised() -> None:
    examples = examples_of(224, 224, 6)
    border = border_of(noise(examples, border_times=0.01), examples)
    assert border.structural[0] == (pytest.approx(0.0, abs=0.03), pytest.approx(0.1, abs=0.06))
    assert all(high - low >= 0.1 - 1e-9 for low, high in border.structural)


def test_a_part_that_is_all_border_still_has_quantiles() -> None:
    examples = examples_of(224, 20, 3)
    low, high = quantiles(noise(examples), examples)
    assert high[0] > low[0] > 0
    assert len(border_of(noise(examples), examples).structural) == 3  # five rows: three rings


def by_exposure(examples: list[Example], *, follows: bool, seed: int = 0) -> list[WindowMaps]:
    """Distances of pictures under very different light, which raises all of a picture's, or none but its background's."""
    rng = np.random.default_rng(seed)
    maps = []
    for _ in examples:
        light = np.exp(rng.normal(0, 0.4))
        cells = rng.gamma(3, 0.1, (1, 56, 56))
        high = cells > np.quantile(cells, 0.8)
        maps.append(WindowMaps(np.where(high & (not follows), cells, light * cells).astype(np.float32)))
    return maps


def test_where_distances_follow_the_level_the_map_is_relative_to_it() -> None:
    examples = examples_of(224, 224, 30)
    maps = by_exposure(examples, follows=True)
    plain, border = border_of(maps, examples), border_of(maps, examples, 0.0)
    assert plain.level is None
    assert border.level is not None
    assert border.level.exponent == pytest.approx(1, abs=0.05)
    others = by_exposure(examples, follows=True, seed=1)
    light = np.array([each.structural.mean() for each in others])
    seen = [
        np.corrcoef(light, [picture_map(each, examples[0].plan, 1, local=local).score for each in others])[0, 1]
        for local in (plain, border)
    ]
    assert seen[0] > 0.9
    assert abs(seen[1]) < 0.5


@pytest.mark.parametrize(("count", "follows"), [(30, False), (9, True)])
def test_where_they_do_not_or_nobody_knows_it_is_not(count: int, follows: bool) -> None:
    examples = examples_of(224, 224, count)
    maps = by_exposure(examples, follows=follows)
    assert border_of(maps, examples, 0.0).level is None
    assert level_of([Seen(each.structural[0]) for each in maps], 0.0) is None


def test_pictures_of_one_level_are_taken_as_they_are() -> None:
    examples = examples_of(224, 224, 30)
    assert level_of([Seen(each.structural[0]) for each in noise(examples)], 0.0) is None


def test_with_a_region_of_interest_only_what_is_looked_at_sets_scales() -> None:
    """The part varies with the light, the conveyor around it does not."""
    roi = np.zeros((28, 28), bool)
    roi[8:20, 8:20] = True
    examples = [replace(each, roi=roi) for each in examples_of(224, 224, 30)]
    looked_at = examples[0].looked_at
    assert looked_at is not None

    def with_conveyor(maps: list[WindowMaps]) -> list[WindowMaps]:
        steady = np.random.default_rng(9).gamma(3, 0.02, (1, 56, 56))
        return [WindowMaps(np.where(looked_at, each.structural, steady).astype(np.float32)) for each in maps]

    maps = with_conveyor(by_exposure(examples, follows=True))
    low, high = quantiles(maps, examples)
    there = np.concatenate([each.structural[0][looked_at] for each in maps])
    assert (low[0], high[0]) == pytest.approx(np.quantile(there, (0.9, 0.995)), rel=0.05)
    border = border_of(maps, examples, 0.0)
    assert border.level is not None
    assert border.level.exponent == pytest.approx(1, abs=0.05)
    assert border.structural == ((0.0, 0.1),) * len(border.structural)  # nothing of the border is looked at
    others = with_conveyor(by_exposure(examples, follows=True, seed=1))
    light = np.array([each.structural[0][looked_at].mean() for each in others])
    scores = [picture_map(each, examples[0].plan, 1, roi, border).score for each in others]
    assert abs(np.corrcoef(light, scores)[0, 1]) < 0.5


@pytest.mark.parametrize(
    "box", [(slice(10, 60), slice(20, 50)), (slice(0, 3), slice(0, 90)), (slice(100, 120), slice(140, 160))]
)
def test_flaws_are_painted_where_the_picture_is_looked_at(box: tuple[slice, slice]) -> None:
    roi = np.zeros((120, 160), bool)
    roi[box] = True
    picture = np.random.default_rng(0).integers(90, 160, (240, 320, 3), np.uint8)
    selection = Selection([picture] * 2, RECIPE, global_map=True, min_flaw_px=4, flaws_each=6, roi=roi)
    there = at_size(roi, 240, 320)
    flaws = [each.mask for each in selection.examples if each.mask is not None]
    assert len(flaws) == 12
    assert all((flaw & there).any() for flaw in flaws)
    rng = np.random.default_rng(0)

    def maps(*, outside: float) -> list[WindowMaps]:
        found = []
        for each in selection.examples:
            cells = np.zeros((len(each.windows), 56, 56), np.float32)
            cells += np.float32(outside) * rng.random(cells.shape, np.float32)
            found.append(WindowMaps(cells, cells.copy()))
        return found

    before = [picture_map(each, selection.examples[0].plan, 4, roi).score for each in maps(outside=0.0)]
    assert set(before) == {0.0}
    assert selection.separation(maps(outside=0.0)) == Separation(0.5, 0.5)


def test_the_box_that_flaws_are_painted_in_holds_what_is_looked_at() -> None:
    for first, after in ((0, 3), (5, 80), (116, 119), (0, 120)):
        mask = np.zeros((120, 40), bool)
        mask[first:after, 7] = True
        down, across = _box_around(mask)
        assert down.start <= first < after <= down.stop <= 120
        assert down.stop - down.start >= 64
        assert (across.start, across.stop) == (0, 40)
