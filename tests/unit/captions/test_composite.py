from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.captions.composite import (
    boxed,
    build_pictures,
    composite,
    enlarged,
    grown_box,
    jpeg,
    normal_composite,
    png,
    shrunk,
)
from tests.llm_tasks import region


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, int, int, int], int, int]:
    width, height = draw(st.integers(1, 400)), draw(st.integers(1, 400))
    x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return (x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y))), width, height


@given(boxes())
def test_a_grown_box_holds_fifty_pixels_a_side_as_far_as_there_are(
    case: tuple[tuple[int, int, int, int], int, int],
) -> None:
    (x, y, w, h), width, height = case
    left, top, grown_w, grown_h = grown_box((x, y, w, h), width, height)
    assert 0 <= left <= max(0, x - 50)
    assert 0 <= top <= max(0, y - 50)
    assert min(width, x + w + 50) <= left + grown_w <= width
    assert min(height, y + h + 50) <= top + grown_h <= height


def test_a_box_within_the_picture_grows_by_just_fifty() -> None:
    assert grown_box((100, 120, 40, 30), 500, 400) == (50, 70, 140, 130)


def test_a_long_box_is_widened_with_real_pixels() -> None:
    _, _, w, h = grown_box((60, 500, 1800, 4), 2000, 1000)
    assert w == 1900
    assert h == 475


def test_a_composite_is_the_crop_beside_its_mask() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    mask = np.zeros((200, 300), bool)
    mask[90:100, 120:160] = True
    pair = composite(rgb, mask, (120, 90, 40, 10))
    crop, half = rgb[40:150, 70:210], pair.shape[1] // 2
    assert pair.shape == (110, 280, 3)
    np.testing.assert_array_equal(pair[:, :half], crop)
    white = np.zeros((110, 140), np.uint8)
    white[50:60, 50:90] = 255
    np.testing.assert_array_equal(pair[:, half:], np.repeat(white[..., None], 3, axis=2))


def test_a_normal_composite_has_a_black_mask() -> None:
    pair = normal_composite(np.full((20, 30, 3), 77, np.uint8))
    assert (pair[:, :30] == 77).all()
    assert not pair[:, 30:].any()


@given(st.integers(1, 900), st.integers(1, 900), st.integers(1, 500))
def test_shrinking_keeps_the_aspect_ratio_and_never_enlarges(width: int, height: int, limit: int) -> None:
    small = shrunk(np.zeros((height, width, 3), np.uint8), limit)
    assert max(small.shape[:2]) == min(limit, max(width, height))
    scale = max(small.shape[:2]) / max(width, height)
    assert abs(small.shape[1] - width * scale) <= 1
    assert abs(small.shape[0] - height * scale) <= 1


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 500))
def test_enlarging_is_by_a_whole_factor_and_just_enough(width: int, height: int, least: int) -> None:
    large = enlarged(np.zeros((height, width, 3), np.uint8), least)
    factor = large.shape[1] // width
    assert large.shape[:2] == (height * factor, width * factor)
    assert max(large.shape[:2]) >= least
    assert factor == 1 or (factor - 1) * max(width, height) < least


def test_boxes_are_drawn_around_regions_and_leave_them_and_the_input_alone() -> None:
    rgb = np.full((200, 300, 3), 100, np.uint8)
    drawn = boxed(rgb, [region(100, 80, 40, 30), region(0, 0, 300, 200)])
    red = (drawn == (255, 40, 40)).all(axis=2)
    assert red[78, 100:140].all()
    assert red[80:110, 98].all()
    assert (drawn[82:108, 102:138] == 100).all()
    assert (rgb == 100).all()


def test_a_large_picture_is_boxed_at_the_size_it_is_sent() -> None:
    drawn = boxed(np.full((1000, 2000, 3), 100, np.uint8), [region(1000, 500, 400, 200)], limit=500)
    red = (drawn == (255, 40, 40)).all(axis=2)
    assert drawn.shape == (250, 500, 3)
    ys, xs = np.nonzero(red)
    assert 245 <= xs.min() <= 250
    assert 350 <= xs.max() <= 354
    assert 175 <= ys.max() <= 179


@pytest.mark.parametrize(("encode", "kind"), [(jpeg, "JPEG"), (png, "PNG")])
def test_pictures_are_encoded_as_they_say(encode: object, kind: str) -> None:
    rgb = np.repeat(np.linspace(60, 200, 60, dtype=np.uint8)[None, :, None], 40, axis=0).repeat(3, axis=2)
    rgb[20] = (120, 40, 40)  # a thin coloured flaw
    picture = encode(rgb)  # type: ignore[operator]
    read = Image.open(io.BytesIO(picture.data))
    assert read.format == kind
    assert picture.media_type == f"image/{kind.lower()}"
    assert np.abs(np.asarray(read).astype(int) - rgb)[20].mean() <= 5


def test_all_pictures_of_a_task() -> None:
    rgb = np.full((600, 900, 3), 120, np.uint8)
    masks = [np.zeros((600, 900), bool) for _ in range(2)]
    shown = build_pictures(rgb, [region(10, 10, 5, 5), region(400, 300, 80, 90)], masks, rgb, limit=300)
    assert shown.reference is not None
    assert shown.reference_composite is not None
    sizes = [Image.open(io.BytesIO(picture.data)).size for picture in (shown.boxed, shown.reference, *shown.composites)]
    assert sizes == [(300, 200), (300, 200), (520, 260), (600, 317)]
    assert Image.open(io.BytesIO(shown.reference_composite.data)).size == (600, 200)
    assert build_pictures(rgb, [], [], None).reference is None
    with pytest.raises(ValueError, match="zip"):
        build_pictures(rgb, [region(1, 1, 2, 2)], [], None)


def test_the_first_eight_regions_get_a_composite() -> None:
    rgb = np.full((60, 90, 3), 120, np.uint8)
    shown = build_pictures(
        rgb, [region(number, 1, 2, 2) for number in range(20)], [np.zeros((60, 90), bool)] * 20, None
    )
    assert len(shown.composites) == 8
