"""What is normal place by place: learned only of parts that lie alike, and worth what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from service.decision.scale import picture_map
from service.image.prepare import PrepareRecipe, prepare
from service.training.layout import FEWEST, _agreement, _looked_at, _maps, choose_layout, have_one_grid
from service.training.network import Detector, Pdn
from service.training.select import Q_A, Q_B, Selection, Separation, run_torch
from service.types import Layout

RECIPE = PrepareRecipe(value=96)


def parts(count: int, *, alike: bool, seed: int = 0) -> list[np.ndarray]:
    """Plain parts with a patch of print that no two have alike: in one place, or anywhere."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        picture = rng.normal(120, 2, (96, 96, 1))
        y, x = (20, 60) if alike else rng.integers(0, 76, 2)
        picture[y : y + 20, x : x + 20] += rng.normal(0, 60, (20, 20, 1))
        pictures.append(np.repeat(np.clip(picture, 0, 255), 3, axis=2).astype(np.uint8))
    return pictures


@pytest.fixture(scope="module")
def detector() -> Detector:
    """A network that has learned nothing: its map is bright where the picture is rough."""
    torch.manual_seed(0)
    return Detector(Pdn("small"), Pdn("small"), None).eval().requires_grad_(False)


def chosen(detector: Detector, pictures: list[np.ndarray], choice: str = "auto") -> tuple[object, Selection, list[str]]:
    chooser = Selection(pictures[-4:], RECIPE, global_map=False, min_flaw_px=4, flaws_each=1)
    chooser.score(detector)
    said: list[str] = []
    return choose_layout(choice, detector, pictures[:-4], RECIPE, chooser, said.append), chooser, said  # type: ignore[arg-type]


def test_print_that_varies_in_one_place_no_longer_outshines_the_rest(detector: Detector) -> None:
    pictures = parts(FEWEST + 4, alike=True)
    layout, chooser, _ = chosen(detector, pictures, "fixed")
    assert layout is not None
    scratched = pictures[-1].copy()
    scratched[60:70, 20:50:2] = 60
    ranks = []
    for local in (chooser.local, layout):
        plan = chooser.examples[0].plan
        maps = [
            picture_map(run_torch(detector, prepare(each, plan)), plan, 4, None, local)  # type: ignore[arg-type]
            for each in (pictures[-1], scratched)
        ]
        ranks.append(maps[1].score - maps[0].score)
    assert ranks[0] == pytest.approx(0, abs=1e-6)  # hidden below what the print shows on every part
    assert ranks[1] > 0.05


def test_parts_are_alike_where_they_are_looked_at(detector: Detector) -> None:
    """A fixture beside them always is."""
    pictures = parts(FEWEST + 4, alike=False)
    for picture in pictures:
        picture[:, 72:] = np.random.default_rng(1).integers(0, 256, (96, 24, 3))  # the same on every one
    roi = np.zeros((96, 96), bool)
    roi[:, :64] = True
    recipe_maps = _maps(detector, pictures, RECIPE, 4)
    looked, whole = (
        Selection(pictures[-4:], RECIPE, global_map=False, min_flaw_px=4, flaws_each=1, roi=where)
        for where in (roi, None)
    )
    cells = recipe_maps.shape[2:]
    assert _agreement(recipe_maps, _looked_at(whole, cells)) > 0.8
    assert _agreement(recipe_maps, _looked_at(looked, cells)) < 0.5


def test_quantiles_of_held_out_normals_stay_where_the_paper_has_them(detector: Detector) -> None:
    layout, chooser, _ = chosen(detector, parts(FEWEST + 4, alike=True), "fixed")
    clean = [each for each in chooser.examples if each.mask is None]
    cells = np.concatenate(
        [picture_map(run_torch(detector, each.windows), each.plan, 4, None, layout).cells.ravel() for each in clean]  # type: ignore[arg-type]
    )
    np.testing.assert_allclose(np.quantile(cells, (Q_A, Q_B)), (0, 0.1), atol=2e-3)


def test_parts_that_lie_anywhere_have_no_layout(detector: Detector) -> None:
    assert chosen(detector, parts(FEWEST + 4, alike=False))[0] is None
    assert chosen(detector, parts(FEWEST + 4, alike=True), "free")[0] is None


def test_few_pictures_or_several_sizes_have_no_layout(detector: Detector) -> None:
    assert chosen(detector, parts(FEWEST + 3, alike=True))[0] is None
    assert not have_one_grid([(96, 96)] * FEWEST + [(96, 120)], RECIPE)
    assert not have_one_grid([(96, 96)] * (FEWEST - 1), RECIPE)
    assert have_one_grid([(96, 96)] * (FEWEST - 1) + [(960, 960)], RECIPE)  # the same cells at working resolution


@pytest.mark.parametrize(("with_layout", "kept"), [(0.8, True), (0.795, True), (0.78, False)])
def test_a_layout_that_hides_painted_flaws_is_not_taken(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, with_layout: float, kept: bool
) -> None:
    told = iter([0.8, with_layout])
    monkeypatch.setattr(Selection, "separation_of", lambda *_: Separation(*[next(told)] * 2))
    layout, chooser, said = chosen(detector, parts(FEWEST + 4, alike=True))
    assert (layout is not None) == kept
    assert not isinstance(chooser.local, Layout)  # which the caller sets
    assert ("place by place;" in said[0]) == kept
