from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.decision.heatmap import map_png, overlay_png
from service.decision.regions import find_regions, mask_pixels, score_pixels
from service.decision.scale import picture_map
from service.image.prepare import PrepareRecipe, plan_tiles
from service.types import AnomalyMap, Thresholds, WindowMaps

LIMITS = Thresholds(review=0.3, reject=0.5)


def anomaly_map(roi: NDArray[np.bool_] | None = None) -> AnomalyMap:
    """A map of a 448x224 picture, zero but for a hot block of cells."""
    plan = plan_tiles(448, 224, PrepareRecipe(value=448), global_map=False)
    structural = np.zeros((plan.windows, 56, 56), np.float32)
    structural[0, 20:30, 20:30] = 0.9
    return picture_map(WindowMaps(structural), plan, 1.0, roi)


def pixels(data: bytes) -> NDArray[np.generic]:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_sixteen_bits_give_the_scores_back() -> None:
    mapped = anomaly_map()
    drawn = map_png(mapped)
    scores = drawn.offset + drawn.scale * pixels(drawn.data).astype(np.float64)
    assert scores.shape == (224, 448)
    assert np.abs(scores - score_pixels(mapped.cells, mapped.plan)).max() <= drawn.scale
    assert scores.max() == pytest.approx(mapped.score, rel=1e-6)


def test_a_flat_map_and_an_empty_region_of_interest_stay_finite() -> None:
    for mapped in (anomaly_map(np.zeros((224, 448), bool)), anomaly_map(np.eye(224, 448) < 0)):
        drawn = map_png(mapped)
        assert np.isfinite([drawn.scale, drawn.offset]).all()
        assert drawn.scale > 0


def test_the_overlay_touches_warm_pixels_and_the_outline_only() -> None:
    mapped = anomaly_map()
    rgb = np.full((224, 448, 3), 90, np.uint8)
    drawn = pixels(overlay_png(rgb, mapped, LIMITS))
    (region,) = find_regions(mapped, LIMITS.review)
    x, y, w, h = region.box
    inside = drawn[y : y + h, x : x + w]
    assert (inside[..., 0].astype(int) > 120).all(), "the region is heated"
    assert (drawn[y - 1, x : x + w] == 255).all(), "and outlined"
    assert (drawn[:, x + w + 20 :] == 90).all(), "the rest is the picture"
    assert (rgb == 90).all(), "which is not written to"


def test_nothing_is_outlined_where_nothing_is_to_be() -> None:
    mapped = anomaly_map()
    rgb = np.full((224, 448, 3), 90, np.uint8)
    mask = np.zeros(mask_pixels(mapped, 0.3).shape, bool)
    assert not (pixels(overlay_png(rgb, mapped, LIMITS, outlined=mask)) == 255).all(axis=-1).any()


@pytest.mark.parametrize("reject", [0.3, -1.0, 0.0])
def test_any_thresholds_can_be_drawn(reject: float) -> None:
    rgb = np.full((224, 448, 3), 90, np.uint8)
    limits = Thresholds(review=min(0.3, reject), reject=reject)
    assert pixels(overlay_png(rgb, anomaly_map(), limits)).shape == (224, 448, 3)
