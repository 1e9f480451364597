"""From painted pixels to boxes, through a real network whose cells see known pixels: no blind border, no seam, no shift."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import signal

from service.bundle.load import anomaly_map_of
from service.decision.regions import find_regions, mask_pixels
from service.decision.scale import stitch
from service.engine.session import Session, open_session
from service.image.prepare import PrepareRecipe, plan_tiles, prepare, resize, with_context
from service.types import AnomalyMap, Region
from tests.networks import darkness_network, field_network

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)
FIELD = 33
TOLERANCE = 4  # px of working resolution


def session_of(model: bytes) -> Session:
    return open_session(model, form="float32", provider="cpu", threads=1)


@pytest.fixture(scope="module")
def darkness() -> Session:
    return session_of(darkness_network())


@pytest.fixture(scope="module")
def two_maps() -> Session:
    """Structural map: darkness; logical map: redness; both of a cell's centre."""
    kernel = np.zeros((FIELD, FIELD), np.float32)
    kernel[14:19, 14:19] = 1 / 25
    return session_of(field_network(kernel))


@dataclass(frozen=True)
class Scene:
    """A white picture with one rectangle x, y, w, h on it, and the long side it is worked at."""

    width: int
    height: int
    working: int
    box: tuple[int, int, int, int]

    @property
    def factor(self) -> float:
        """Picture pixels in a pixel of working resolution."""
        return max(self.width, self.height) / self.working

    @property
    def rounding(self) -> float:
        """How far off a box may be for being of whole pixels: those that a cell finer than a pixel lies in are whole."""
        return 0.5 if 4 * self.factor >= 1 else 1.0

    def picture(self, colour: tuple[int, int, int] = BLACK) -> np.ndarray:
        rgb = np.full((self.height, self.width, 3), WHITE, np.uint8)
        x, y, w, h = self.box
        rgb[y : y + h, x : x + w] = colour
        return rgb

    def judged_by(self, session: Session, colour: tuple[int, int, int] = BLACK, **options: object) -> AnomalyMap:
        settings = {"recipe": PrepareRecipe(value=self.working), "min_flaw_px": self.factor} | options
        return anomaly_map_of(
            session,
            self.picture(colour),
            **({"global_map": session.has_logical} | settings),  # type: ignore[arg-type]
        )


def place(draw: st.DrawFn, length: int, size: int, factor: float) -> int:
    """Anywhere along a side, and gladly at its ends and at the seams between windows."""
    room = length - size
    seams = [round(seam * factor - size / 2) for seam in range(224, round(length / factor), 224)]
    corners = [0, room, *(seam for seam in seams if 0 <= seam <= room)]
    return draw(st.sampled_from(corners) | st.integers(0, room))


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    width, height = draw(st.integers(20, 900)), draw(st.integers(20, 900))
    working = draw(st.sampled_from([100, 224, 225, 448, 500, 672]))
    factor = max(width, height) / working
    smallest = max(1, int(np.ceil(12 * factor)))  # three cells
    assume(smallest <= min(width, height))
    w = draw(st.integers(smallest, max(smallest, width // 2)))
    h = draw(st.integers(smallest, max(smallest, height // 2)))
    return Scene(width, height, working, (place(draw, width, w, factor), place(draw, height, h, factor), w, h))


def assert_lies_on(region: Region, scene: Scene) -> None:
    """Every edge of the region's box within the tolerance of the painted one."""
    (x, y, w, h), (left, top, wide, high) = region.box, scene.box
    off = np.abs(np.subtract((x, y, x + w, y + h), (left, top, left + wide, top + high)))
    assert off.max() <= TOLERANCE * scene.factor + scene.rounding, f"{region.box} for {scene.box}"


@settings(max_examples=100, deadline=None)
@given(scene=scenes())
@example(Scene(900, 600, 672, (0, 0, 18, 18)))
@example(Scene(900, 600, 672, (882, 582, 18, 18)))
@example(Scene(900, 600, 672, (0, 582, 18, 18)))
@example(Scene(900, 600, 672, (882, 0, 18, 18)))
@example(Scene(672, 672, 672, (216, 216, 16, 16)))  # across the seam of four windows
@example(Scene(225, 225, 225, (213, 100, 12, 12)))  # the last column of cells has a window of its own
@example(Scene(20, 14, 672, (19, 13, 1, 1)))  # a picture far smaller than its working resolution
def test_a_flaw_anywhere_is_one_region_that_lies_on_it(darkness: Session, scene: Scene) -> None:
    mapped = scene.judged_by(darkness)
    (region,) = find_regions(mapped, 0.5)
    assert_lies_on(region, scene)
    mask = mask_pixels(mapped, 0.5)
    x, y, w, h = region.box
    assert region.area_px == mask.sum() == mask[y : y + h, x : x + w].sum()


@settings(max_examples=40, deadline=None)
@given(scene=scenes())
def test_a_spotless_picture_has_no_region_anywhere(darkness: Session, scene: Scene) -> None:
    mapped = scene.judged_by(darkness, WHITE)
    np.testing.assert_allclose(mapped.cells, 0, atol=1e-5)  # borders and corners are not anomalous for being borders


@settings(max_examples=40, deadline=None)
@given(scene=scenes(), times=st.floats(1, 3))
def test_the_size_filter_keeps_a_flaw_of_that_size_where_it_is(darkness: Session, scene: Scene, times: float) -> None:
    """With the smallest flaw as small as the flaw itself its centre still stands out most, at the same place."""
    smallest = min(scene.box[2:]) / times
    mapped = scene.judged_by(darkness, min_flaw_px=smallest)
    (region,) = find_regions(mapped, 0.5 * mapped.score)
    x, y, w, h = scene.box
    reach = TOLERANCE * scene.factor + smallest / 2 + 1
    assert x - reach <= region.centroid[0] <= x + w + reach
    assert y - reach <= region.centroid[1] <= y + h + reach
    assert mapped.score > 0.35


@pytest.fixture(scope="module")
def random_field() -> tuple[NDArray[np.float32], Session]:
    """A random kernel over the whole field, so that any pixel out of place anywhere shows, and its network."""
    kernel = np.random.default_rng(0).normal(0, 1 / FIELD, (FIELD, FIELD)).astype(np.float32)
    return kernel, session_of(field_network(kernel))


@settings(max_examples=15, deadline=None)
@given(width=st.integers(40, 500), height=st.integers(40, 500), seed=st.integers(0, 99))
@example(width=448, height=224, seed=0)
@example(width=449, height=223, seed=0)
def test_windows_equal_one_fully_convolutional_pass(
    random_field: tuple[NDArray[np.float32], Session], width: int, height: int, seed: int
) -> None:
    kernel, session = random_field
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    plan = plan_tiles(width, height, PrepareRecipe(value=max(width, height)), global_map=False)
    windowed = stitch(session.run(prepare(rgb, plan)).structural, plan)
    darkness = 1 - with_context(rgb).astype(np.float64).mean(axis=2) / 255
    whole = signal.fftconvolve(darkness, kernel[::-1, ::-1].astype(np.float64), mode="valid")[::4, ::4]
    np.testing.assert_allclose(windowed, whole[: plan.rows, : plan.columns], atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(scene=scenes())
def test_a_logical_flaw_is_named_and_lies_where_it_is(two_maps: Session, scene: Scene) -> None:
    """Red: the logical map, which a picture of several windows takes from the shrunk whole, speaks louder."""
    shrink = max(1.0, scene.working / 224)  # a cell of the whole is that many cells of the picture
    assume(min(scene.box[2:]) >= 16 * shrink * scene.factor)
    mapped = scene.judged_by(two_maps, RED)
    assert mapped.logical is not None
    (region,) = find_regions(mapped, 0.5)
    assert region.kind == "logical"
    (x, y, w, h), (left, top, wide, high) = region.box, scene.box
    off = np.abs(np.subtract((x, y, x + w, y + h), (left, top, left + wide, top + high)))
    assert off.max() <= TOLERANCE * shrink * scene.factor + scene.rounding
    dark = find_regions(scene.judged_by(two_maps, BLACK), 0.3)
    assert [one.kind for one in dark] == ["structural"]


@settings(max_examples=40, deadline=None)
@given(scene=scenes(), shrunk=st.sampled_from([1.0, 0.5, 0.25]))
def test_only_what_lies_in_the_region_of_interest_counts(darkness: Session, scene: Scene, shrunk: float) -> None:
    x, y, w, h = scene.box
    around = np.zeros((scene.height, scene.width), np.uint8)
    margin = int(8 * scene.factor) + 2
    around[max(0, y - margin) : y + h + margin, max(0, x - margin) : x + w + margin] = 255
    size = max(1, round(scene.width * shrunk)), max(1, round(scene.height * shrunk))
    mask = np.asarray(Image.fromarray(around).resize(size, Image.Resampling.NEAREST)) > 127
    inside = scene.judged_by(darkness, roi=mask)
    (region,) = find_regions(inside, 0.5)
    if shrunk == 1:
        assert_lies_on(region, scene)
        outside = scene.judged_by(darkness, roi=~mask)
        assert find_regions(outside, 0.5) == ()


@settings(max_examples=40, deadline=None)
@given(scene=scenes(), turns=st.integers(1, 3))
def test_a_turned_picture_has_its_flaw_turned(darkness: Session, scene: Scene, turns: int) -> None:
    recipe = PrepareRecipe(value=scene.working)
    turned = np.ascontiguousarray(np.rot90(scene.picture(), turns))
    mapped = anomaly_map_of(darkness, turned, recipe=recipe, global_map=False, min_flaw_px=scene.factor)
    (region,) = find_regions(mapped, 0.5)
    marks = np.argwhere(turned[..., 0] == 0)
    (top, left), (bottom, right) = marks.min(axis=0), marks.max(axis=0) + 1
    box = (int(left), int(top), int(right - left), int(bottom - top))
    assert_lies_on(region, Scene(turned.shape[1], turned.shape[0], scene.working, box))


def test_resizing_keeps_the_channels_and_the_centre() -> None:
    """Red stays red, and a centred square stays centred, shrunk or enlarged."""
    rgb = np.zeros((90, 90, 3), np.uint8)
    rgb[30:60, 30:60] = RED
    for side in (30, 45, 224, 300):
        small = resize(Image.fromarray(rgb), side, side).astype(int)
        assert small[side // 2, side // 2].tolist() == [255, 0, 0]
        np.testing.assert_allclose(small, small[::-1, ::-1], atol=1)
        np.testing.assert_allclose(small, small.swapaxes(0, 1), atol=1)
