from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.decision.scale import stitch
from service.image.prepare import (
    CELLS,
    CONTEXT,
    STEP,
    STRIDE,
    WINDOW,
    PrepareRecipe,
    jpeg_scale,
    plan_tiles,
    prepare,
    resize,
    with_context,
    working_size,
)

sizes = st.integers(1, 700)


@given(width=sizes, height=sizes, value=st.floats(32, 900))
def test_aspect_ratio_is_kept(width: int, height: int, value: float) -> None:
    w, h = working_size(width, height, PrepareRecipe(value=value))
    assert abs(max(w, h) - value) <= 0.5 + 1e-9
    assert abs(w / h - width / height) <= width / height * (0.51 / min(w, h) + 0.51 / max(w, h)) * 1.5 or min(w, h) == 1


@given(width=sizes, height=sizes, value=st.floats(32, 900), global_map=st.booleans())
def test_plan_counts_what_prepare_makes(width: int, height: int, value: float, global_map: bool) -> None:
    plan = plan_tiles(width, height, PrepareRecipe(value=value), global_map=global_map)
    assert plan.rows * STRIDE >= plan.working_height > (plan.rows - 1) * STRIDE
    assert plan.columns * STRIDE >= plan.working_width > (plan.columns - 1) * STRIDE
    assert bool(plan.whole_width) == (global_map and len(plan.tiles) > 1)
    windows = prepare(np.zeros((height, width, 3), np.uint8), plan)
    assert windows.shape == (plan.windows, WINDOW, WINDOW, 3)


def receptive_means(canvas: np.ndarray) -> np.ndarray:
    """What a fully convolutional network with a 33 px field and stride 4 sees: the mean of each field."""
    grey = canvas.astype(np.float64).mean(axis=2)
    rows, columns = ((side - 33) // STRIDE + 1 for side in grey.shape)
    return np.array(
        [[grey[4 * r : 4 * r + 33, 4 * c : 4 * c + 33].mean() for c in range(columns)] for r in range(rows)]
    )


@settings(max_examples=15, deadline=None)
@given(width=st.integers(40, 520), height=st.integers(40, 520), seed=st.integers(0, 99))
def test_windows_side_by_side_equal_one_fully_convolutional_pass(width: int, height: int, seed: int) -> None:
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    plan = plan_tiles(width, height, PrepareRecipe(rule="scale", value=1.0), global_map=False)
    answers = np.stack([receptive_means(window)[:CELLS, :CELLS] for window in prepare(rgb, plan)]).astype(np.float32)
    whole = receptive_means(with_context(rgb))[: plan.rows, : plan.columns]
    np.testing.assert_allclose(stitch(answers, plan), whole, rtol=1e-5)


def test_context_is_reflected_at_the_border_and_real_inside() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    plan = plan_tiles(500, 300, PrepareRecipe(rule="scale", value=1.0), global_map=False)
    windows = prepare(rgb, plan)
    np.testing.assert_array_equal(windows[0][CONTEXT:, CONTEXT:], rgb[: WINDOW - CONTEXT, : WINDOW - CONTEXT])
    np.testing.assert_array_equal(windows[0][CONTEXT:, :CONTEXT], rgb[: WINDOW - CONTEXT, CONTEXT:0:-1])
    inner = windows[1][CONTEXT:, :CONTEXT]
    np.testing.assert_array_equal(inner, rgb[: WINDOW - CONTEXT, STEP - CONTEXT : STEP])


def test_the_whole_is_the_picture_shrunk_into_one_window() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (400, 800, 3), dtype=np.uint8)
    plan = plan_tiles(800, 400, PrepareRecipe(value=448), global_map=True)
    whole = prepare(rgb, plan)[-1]
    expected = resize(Image.fromarray(rgb), 224, 112)
    np.testing.assert_array_equal(whole[CONTEXT : CONTEXT + 112, CONTEXT : CONTEXT + 224], expected)


def test_a_picture_of_another_size_than_planned_is_refused() -> None:
    plan = plan_tiles(50, 60, PrepareRecipe(value=224), global_map=False)
    with pytest.raises(ValueError, match="plan is for"):
        prepare(np.zeros((50, 60, 3), np.uint8), plan)


def test_an_empty_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        plan_tiles(0, 10, PrepareRecipe(value=224), global_map=False)


@given(width=st.integers(1, 300), height=st.integers(1, 300), s=st.sampled_from([1, 2, 4, 8]), value=st.floats(32, 900))
def test_a_scaled_jpeg_has_the_windows_of_the_whole_picture(width: int, height: int, s: int, value: float) -> None:
    """At every scale that is chosen, so that cells, regions and masks lie where they would."""
    recipe = PrepareRecipe(value=value, jpeg="scaled")
    scale = jpeg_scale(width * s, height * s, recipe)
    small = width * s // scale, height * s // scale
    assert (small[0] * scale, small[1] * scale) == (width * s, height * s)
    assert working_size(*small, recipe) == working_size(width * s, height * s, recipe)
    assert scale == 1 or max(small) >= max(working_size(*small, recipe))


@pytest.mark.parametrize(
    ("size", "value", "scale"),
    [
        ((1280, 720), 448, 2),
        ((1280, 720), 300, 4),
        ((1280, 720), 1000, 1),
        ((2448, 2048), 448, 4),
        ((4000, 3000), 448, 8),
        ((1281, 720), 448, 1),
        ((448, 448), 448, 1),
    ],
)
def test_the_smallest_decoding_that_the_working_resolution_allows(
    size: tuple[int, int], value: float, scale: int
) -> None:
    assert jpeg_scale(*size, PrepareRecipe(value=value, jpeg="scaled")) == scale
    assert jpeg_scale(*size, PrepareRecipe(value=value)) == 1  # a model from before decodes whole


def test_prepare_takes_a_scaled_decoding_and_nothing_else() -> None:
    plan = plan_tiles(640, 360, PrepareRecipe(value=224, jpeg="scaled"), global_map=False)
    assert prepare(np.full((180, 320, 3), 7, np.uint8), plan).shape == (1, WINDOW, WINDOW, 3)
    for shape in ((120, 213, 3), (181, 320, 3), (360, 320, 3)):
        with pytest.raises(ValueError, match="plan is for 360x640"):
            prepare(np.zeros(shape, np.uint8), plan)
