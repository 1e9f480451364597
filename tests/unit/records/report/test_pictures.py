from __future__ import annotations

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.records.report.pictures import flaw_jpeg, window


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, int, int, int], int, int]:
    width, height = draw(st.integers(1, 4000)), draw(st.integers(1, 4000))
    x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return (x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y))), width, height


@given(boxes())
def test_the_window_holds_the_box_and_lies_in_the_picture(case: tuple[tuple[int, int, int, int], int, int]) -> None:
    (x, y, box_width, box_height), width, height = case
    left, top, right, bottom = window(*case)
    assert 0 <= left <= x
    assert x + box_width <= right <= width
    assert 0 <= top <= y
    assert y + box_height <= bottom <= height


def test_the_flaw_is_boxed_in_red() -> None:
    data = flaw_jpeg(png(1600, 1200), (800, 600, 60, 40))
    assert data is not None
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert shown.shape == (360, 480, 3)
    red = (shown[..., 0] - shown[..., 1]) > 60
    rows, columns = np.nonzero(red)
    assert abs((rows.min() + rows.max()) / 2 - 180) < 8
    assert abs((columns.min() + columns.max()) / 2 - 240) < 8
    assert not red[rows.min() + 8 : rows.max() - 8, columns.min() + 8 : columns.max() - 8].any()


def test_without_a_box_the_whole_picture_is_shown_small() -> None:
    data = flaw_jpeg(png(1000, 500), None)
    assert data is not None
    assert Image.open(io.BytesIO(data)).size == (480, 240)


def test_a_flaw_at_the_border_of_a_tiny_picture() -> None:
    assert flaw_jpeg(png(3, 2), (2, 1, 1, 1)) is not None


def test_bytes_that_are_no_picture_show_nothing() -> None:
    assert flaw_jpeg(b"\x00" * 300, (0, 0, 1, 1)) is None
