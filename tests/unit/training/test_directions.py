from __future__ import annotations

import numpy as np
import pytest
import torch

from service.image.prepare import PrepareRecipe
from service.samples.textures import random_texture
from service.training.directions import discriminant, look_along
from service.training.network import Detector, Pdn
from service.training.select import Selection

RECIPE = PrepareRecipe(value=224)


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return Detector(Pdn("small"), Pdn("small", 384), None).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def selection() -> Selection:
    pictures = [random_texture(np.random.default_rng(seed), 224, 224) for seed in (3, 3, 4)]
    return Selection(pictures, RECIPE, global_map=False, min_flaw_px=8)


def mean_square(detector: Detector, selection: Selection, *, flawed: bool) -> float:
    """The structural map's mean over untouched pictures, or over the flaws of painted ones."""
    values = []
    for example in selection.examples:
        structural = detector(torch.from_numpy(example.windows))[0][0]
        if (example.mask is not None) == flawed:
            seen = torch.ones(56, 56, dtype=torch.bool)
            if example.mask is not None:
                seen = torch.from_numpy(example.mask[::4, ::4][:56, :56])
            values.append(structural[seen].flatten())
    return float(torch.cat(values).mean())


def test_flaws_stand_out_more_along_them(detector: Detector, selection: Selection) -> None:
    plain = mean_square(detector, selection, flawed=True) / mean_square(detector, selection, flawed=False)
    detector.directions = discriminant(detector, selection.examples, 32)
    turned = mean_square(detector, selection, flawed=True) / mean_square(detector, selection, flawed=False)
    detector.directions = None
    assert turned > 1.2 * plain


def test_on_untouched_pictures_each_has_at_most_unit_spread(detector: Detector, selection: Selection) -> None:
    directions = discriminant(detector, selection.examples, 16)
    assert directions.shape == (16, 384)
    windows = torch.from_numpy(np.concatenate([e.windows for e in selection.examples if e.mask is None]))
    inner = detector.difference(windows)[:, :, 4:-4, 4:-4].movedim(1, 0).flatten(1)
    spread = (directions @ inner).square().mean(dim=1)
    assert (spread <= 1.01).all()
    assert spread.mean() > 0.1  # the rest is the share that is shrunk


def test_a_painted_and_an_untouched_picture_are_needed(detector: Detector, selection: Selection) -> None:
    untouched = [example for example in selection.examples if example.mask is None]
    with pytest.raises(ValueError, match="no painted"):
        discriminant(detector, untouched, 32)


def test_where_no_painted_flaw_covers_a_cell_all_channels_stay(detector: Detector) -> None:
    picture = random_texture(np.random.default_rng(3), 224, 224)
    seek = Selection([picture], RECIPE, global_map=False, min_flaw_px=8)
    for example in seek.examples:
        if example.mask is not None:
            example.mask[:] = False
            example.mask[112, 112] = True
    judge = Selection([picture], RECIPE, global_map=False, min_flaw_px=8)
    assert look_along(detector, 32, seek, judge).startswith("all 384 features are used: no painted cells")
    assert detector.directions is None
