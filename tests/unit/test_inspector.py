"""Bytes -> Inspection, without HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import io
import math
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service import inspector as inspector_module
from service.bundle.load import Bundle, EngineOptions, load_bundle
from service.captions.descriptor import FIGURES, LENGTH, MAKING, PLANES
from service.decision.scale import picture_map
from service.engine.session import Session
from service.errors import DeadlineExceeded, NetworkFailure, NotReady, Overloaded, TooLarge, UnreadableImage
from service.image import decode as decode_module
from service.image.prepare import prepare
from service.inspector import Inspector, Picture, anomaly_map_of
from service.metrics import Metrics
from service.types import Decision, Inspection, Wanted, WindowMaps
from tests.networks import OPEN_GATE, POISON, grey_picture, png, write_bundle
from tests.unit.bundle.editing import edit_manifest

CPU = EngineOptions(provider="cpu", threads=1)
STAGES = ("decode", "prepare", "queue", "network", "decide")
Made = Callable[..., Inspector]


@pytest.fixture
def make() -> Iterator[Made]:
    """Makes inspectors, and closes them."""
    made: list[Inspector] = []

    def build(**options: Any) -> Inspector:
        options = {"queue_windows": 32, "max_pixels": 1_000_000, "decode_threads": 2} | options
        made.append(Inspector(Metrics(1.0), **options))
        return made[-1]

    yield build
    for inspector in made:
        inspector.close()


def inspect(inspector: Inspector, bundle: Bundle, picture: Picture | np.ndarray, **options: Any) -> Inspection:
    return asyncio.run(task(inspector, bundle, picture, **options))


def task(
    inspector: Inspector, bundle: Bundle, picture: Picture | np.ndarray, **options: Any
) -> Coroutine[Any, Any, Inspection]:
    sent = picture if isinstance(picture, Picture) else Picture(png(picture))
    return inspector.inspect(sent, bundle, **({"deadline": time.monotonic() + 60} | options))


def flawed(level: int) -> np.ndarray:
    """White, with a grey square of 40 px; the probe's score is its darkness."""
    picture = grey_picture(level=255)
    picture[60:100, 120:160] = level
    return picture


def jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def value(inspector: Inspector, name: str, **labels: str) -> float | None:
    return inspector.metrics.registry.get_sample_value(f"flawscribe_{name}", labels)


@pytest.mark.parametrize(("level", "decision"), [(255, Decision.OK), (150, Decision.REVIEW), (20, Decision.NOT_OK)])
def test_a_picture_is_judged_by_the_model_s_thresholds(
    make: Made, probe: Bundle, level: int, decision: Decision
) -> None:
    picture = Picture(png(flawed(level)), metadata={"serial": "A1"})
    inspection = inspect(make(), probe, picture)
    verdict = inspection.verdict
    assert verdict.decision is decision
    assert verdict.score == pytest.approx(1 - level / 255, abs=1e-5)
    assert len(verdict.regions) == (decision is not Decision.OK)
    assert inspection.model == probe.identity
    assert inspection.sha256 == hashlib.sha256(picture.data).hexdigest()
    assert inspection.metadata == {"serial": "A1"}
    assert all(getattr(inspection.timings, stage) >= 0 for stage in STAGES)
    assert inspection.timings.network > 0
    np.testing.assert_array_equal(inspection.rgb, flawed(level))


def test_every_inspection_has_its_own_id(make: Made, probe: Bundle) -> None:
    inspector, picture = make(), Picture(png(flawed(0)))
    assert inspect(inspector, probe, picture).id != inspect(inspector, probe, picture).id


def test_raw_pixels_are_judged_as_the_encoded_picture(make: Made, probe: Bundle) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (150, 220, 3), dtype=np.uint8)
    inspector = make()
    raw = inspect(inspector, probe, Picture(pixels.tobytes(), raw=pixels))
    encoded = inspect(inspector, probe, pixels)
    np.testing.assert_array_equal(raw.anomaly_map.cells, encoded.anomaly_map.cells)
    assert raw.verdict.score == encoded.verdict.score


def test_the_path_without_a_queue_gives_the_same_map(make: Made, probe: Bundle) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (300, 170, 3), dtype=np.uint8)
    manifest = probe.manifest
    direct = anomaly_map_of(
        probe.session, pixels, recipe=manifest.prepare, global_map=False, min_flaw_px=manifest.min_flaw_px
    )
    np.testing.assert_array_equal(inspect(make(), probe, pixels).anomaly_map.cells, direct.cells)


def test_a_large_picture_is_many_windows_and_one_answer(make: Made, tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path, working_size=1000, global_map=True), CPU)
    picture = grey_picture(600, 1000, level=255)
    picture[400:460, 700:760] = 0
    inspector = make()
    inspection = inspect(inspector, bundle, picture)
    assert inspection.anomaly_map.plan.windows == 16
    assert value(inspector, "network_seconds_per_window_count", model="probe") == 16 / bundle.session.ladder[-1]
    (region,) = inspection.verdict.regions
    x, y, w, h = region.box
    assert abs(x - 700) <= 4
    assert abs(y - 400) <= 4
    assert abs(x + w - 760) <= 4
    assert abs(y + h - 460) <= 4


def test_what_the_gate_refuses_is_undecidable(make: Made, probe: Bundle) -> None:
    gate = OPEN_GATE.model_copy(update={"min_brightness": 100})
    bundle = replace(probe, manifest=probe.manifest.model_copy(update={"quality_gate": gate}))
    verdict = inspect(make(), bundle, grey_picture(level=20)).verdict
    assert verdict.decision is Decision.UNDECIDABLE
    assert verdict.regions == ()
    assert not verdict.is_anomalous
    assert "too dark" in verdict.reasons[0]
    assert inspect(make(), bundle, grey_picture(level=250)).verdict.decision is Decision.OK


def test_outside_the_roi_nothing_counts(make: Made, probe: Bundle) -> None:
    roi = np.zeros((2, 2), bool)
    roi[:, 0] = True
    verdict = inspect(make(), replace(probe, roi=roi), flawed(0)).verdict
    assert verdict.decision is Decision.OK
    nothing = inspect(make(), replace(probe, roi=np.zeros((2, 2), bool)), flawed(0)).verdict
    assert nothing.decision is Decision.UNDECIDABLE
    assert "region of interest" in nothing.reasons[0]


def test_the_caller_s_threshold_takes_the_place_of_the_model_s(make: Made, probe: Bundle) -> None:
    inspector = make()
    assert inspect(inspector, probe, flawed(150), threshold=0.4).verdict.decision is Decision.NOT_OK
    lenient = inspect(inspector, probe, flawed(20), threshold=0.99).verdict
    assert lenient.decision is Decision.REVIEW
    assert lenient.thresholds.reject == 0.99
    strict = inspect(inspector, probe, flawed(240), threshold=0.01).verdict
    assert strict.decision is Decision.NOT_OK
    assert strict.regions


def test_room_is_taken_before_decoding(make: Made, probe: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    inspector = make(queue_windows=2)

    def decode(*_: object, **__: object) -> None:
        raise AssertionError("decoded without room in the queue")

    monkeypatch.setattr("service.inspector.decode_image", decode)
    with inspector.batcher.reserve(2, probe.session), pytest.raises(Overloaded) as refused:
        inspect(inspector, probe, flawed(0))
    assert refused.value.retry_after


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"", UnreadableImage), (b"GIF89a", UnreadableImage), (png(grey_picture())[:200], UnreadableImage)],
)
def test_what_cannot_be_read_leaves_no_trace_in_the_queue(
    make: Made, probe: Bundle, data: bytes, error: type[Exception]
) -> None:
    inspector = make()
    with pytest.raises(error):
        inspect(inspector, probe, Picture(data))
    assert inspector.batcher.reserved_windows == 0
    assert inspect(inspector, probe, flawed(255)).verdict.decision is Decision.OK


def test_more_pixels_or_windows_than_the_limits_are_too_large(make: Made, probe: Bundle, tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match="pixels"):
        inspect(make(max_pixels=100), probe, flawed(0))
    fine = load_bundle(write_bundle(tmp_path, working_size=1000), CPU)
    with pytest.raises(TooLarge, match="25 windows"):
        inspect(make(queue_windows=20), fine, flawed(0))


def test_the_expired_are_never_run(make: Made, probe: Bundle) -> None:
    inspector = make()
    with pytest.raises(DeadlineExceeded):
        inspect(inspector, probe, flawed(0), deadline=time.monotonic() - 1)
    assert value(inspector, "network_seconds_per_window_count", model="probe") is None
    assert inspector.batcher.reserved_windows == 0


class Held:
    """A session whose runs wait."""

    def __init__(self, session: Any) -> None:
        self.entered, self.gate = threading.Event(), threading.Event()
        self.ladder, self._session = session.ladder, session
        self.form, self.provider = session.form, session.provider
        self.runs = 0

    def run(self, windows: np.ndarray, wanted: Wanted = "maps") -> WindowMaps:
        self.runs += 1
        self.entered.set()
        assert self.gate.wait(30)
        maps: WindowMaps = self._session.run(windows, wanted)
        return maps


def test_a_deadline_that_passes_in_the_queue_frees_the_place(make: Made, probe: Bundle) -> None:
    inspector, held = make(), Held(probe.session)
    bundle = replace(probe, session=held)

    async def scenario() -> Inspection:
        first = asyncio.create_task(task(inspector, bundle, flawed(0)))
        assert await asyncio.to_thread(held.entered.wait, 30)
        assert value(inspector, "queue_images") == 1
        with pytest.raises(DeadlineExceeded):
            await task(inspector, bundle, flawed(0), deadline=time.monotonic() + 0.05)
        assert inspector.batcher.pictures == 1
        held.gate.set()
        return await first

    assert asyncio.run(scenario()).verdict.decision is Decision.NOT_OK
    assert held.runs == 1
    assert value(inspector, "queue_images") == 0


def test_a_departed_caller_frees_the_place_and_is_not_run(make: Made, probe: Bundle) -> None:
    inspector, held = make(), Held(probe.session)
    bundle = replace(probe, session=held)

    async def scenario() -> None:
        first = asyncio.create_task(task(inspector, bundle, flawed(0)))
        assert await asyncio.to_thread(held.entered.wait, 30)
        departing = asyncio.create_task(task(inspector, bundle, flawed(0)))
        while inspector.batcher.pictures < 2:
            await asyncio.sleep(0.001)
        departing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await departing
        assert inspector.batcher.pictures == 1
        held.gate.set()
        await first

    asyncio.run(scenario())
    assert held.runs == 1


def test_only_the_poisonous_picture_of_a_batch_fails(make: Made, probe: Bundle) -> None:
    inspector, held = make(), Held(probe.session)
    bundle = replace(probe, session=held)
    poison = np.full((224, 224, 3), POISON, np.uint8)

    async def scenario() -> list[Any]:
        first = asyncio.create_task(task(inspector, bundle, flawed(0)))
        assert await asyncio.to_thread(held.entered.wait, 30)
        rest = [asyncio.create_task(task(inspector, bundle, picture)) for picture in (flawed(255), poison, flawed(20))]
        while inspector.batcher.pictures < 4:
            await asyncio.sleep(0.001)
        held.gate.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    outcomes = asyncio.run(scenario())
    assert isinstance(outcomes[2], NetworkFailure)
    decisions = [outcomes[index].verdict.decision for index in (0, 1, 3)]
    assert decisions == [Decision.NOT_OK, Decision.OK, Decision.NOT_OK]


def test_what_is_judged_is_counted(make: Made, probe: Bundle) -> None:
    inspector = make(budget_s=3600)
    for level in (255, 20, 150):
        inspect(inspector, probe, flawed(level))
    for verdict in ("ok", "not_ok", "review"):
        assert value(inspector, "images_total", model="probe", verdict=verdict) == 1
    for stage in STAGES:
        assert value(inspector, "stage_seconds_count", stage=stage) == 3
    assert value(inspector, "image_seconds_count", model="probe") == 3
    assert value(inspector, "batch_images_sum") == 3
    stages = sum(value(inspector, "stage_seconds_sum", stage=stage) or math.nan for stage in STAGES)
    assert (value(inspector, "image_seconds_sum", model="probe") or 0) >= 0.99 * stages
    # scores over the reject threshold: 0, 1.84 and 0.82
    for limit, below in (("0.75", 1), ("0.9", 2), ("1.5", 2), ("2.0", 3)):
        assert value(inspector, "anomaly_score_bucket", model="probe", le=limit) == below
    assert value(inspector, "budget_exceeded_total", model="probe") == 0
    assert value(inspector, "image_budget_share_bucket", model="probe", le="1.0") == 3


def test_a_look_is_not_counted(make: Made, probe: Bundle) -> None:
    inspector = make()
    looked = inspect(inspector, probe, flawed(20), counted=False)
    assert looked.verdict == inspect(make(), probe, flawed(20)).verdict
    assert value(inspector, "images_total", model="probe", verdict="not_ok") is None
    for series in ("anomaly_score", "image_seconds", "image_budget_share"):
        assert value(inspector, f"{series}_count", model="probe") is None
    assert value(inspector, "stage_seconds_count", stage="network") is None
    assert value(inspector, "batch_images_sum") == 1  # the network worked all the same


def test_what_misses_its_budget_is_counted(make: Made, probe: Bundle) -> None:
    inspector = make(budget_s=1e-9)
    inspect(inspector, probe, flawed(255))
    assert value(inspector, "budget_exceeded_total", model="probe") == 1


def test_the_budget_grows_with_the_windows(make: Made, tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path, working_size=448), CPU)

    inspector = make(budget_s=1.0)
    for total, exceeded in ((3.5, 0), (4.5, 1)):  # four windows
        inspector._count(bundle, bundle.plan(448, 448), inspect(make(), bundle, flawed(255)).verdict, {}, total)
        assert value(inspector, "budget_exceeded_total", model="probe") == exceeded


def test_every_model_is_measured_by_its_own_budget_unless_one_is_set(make: Made, tmp_path: Path) -> None:
    bundles = []
    for name, milliseconds in (("quick", 4.0), ("slow", 40.0)):
        folder = write_bundle(tmp_path, name)
        edit_manifest(
            folder, lambda document, ms=milliseconds: document["forms"]["float32"].update(network_ms_per_window=ms)
        )
        bundles.append(load_bundle(folder, EngineOptions(provider="cpu")))
    verdict = inspect(make(), bundles[0], flawed(255)).verdict
    for set_budget, budgets, exceeded in ((None, (0.005, 0.05), (1, 0)), (0.01, (0.01, 0.01), (1, 1))):
        inspector = make(budget_s=set_budget)
        for bundle, budget, over in zip(bundles, budgets, exceeded, strict=True):
            inspector._count(bundle, bundle.plan(224, 224), verdict, {}, 0.02)
            assert inspector.budget_of(bundle) == pytest.approx(budget)
            name = bundle.manifest.name
            assert value(inspector, "budget_seconds", model=name) == pytest.approx(budget)
            assert value(inspector, "budget_exceeded_total", model=name) == over


def test_a_closed_inspector_is_not_ready(make: Made, probe: Bundle) -> 0:
    inspector = make()
    inspector.batcher.close()
    with pytest.raises(NotReady):
        inspect(inspector, probe, flawed(0))


def test_descriptors_come_when_asked_for_one_a_region(make: Made, probe: Bundle) -> None:
    picture = grey_picture(224, 224, level=255)
    picture[40:80, 40:80] = 0
    picture[140:180, 140:180] = 90
    inspector = make()
    assert inspect(inspector, probe, picture).descriptors is None
    inspection = inspect(inspector, probe, picture, descriptors=True)
    assert inspection.descriptors is not None
    assert inspection.descriptors.shape == (2, LENGTH)
    assert (inspection.descriptors[:, 0] == MAKING).all()
    assert np.abs(inspection.descriptors[:, 1 : 1 + PLANES]).max() > 0.1
    first, second = inspection.descriptors[:, -FIGURES:]
    assert np.abs(first - second).max() > 0.1  # one is darker
    untouched = inspect(inspector, probe, grey_picture(level=255), descriptors=True)
    assert untouched.descriptors is not None
    assert untouched.descriptors.shape == (0, LENGTH)


def test_where_features_cost_time_of_their_own_only_a_flawed_picture_pays(
    make: Made, probe: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[Wanted]] = []
    inspector = make()
    expected = inspect(inspector, probe, flawed(20), descriptors=True)
    run = type(probe.session).run

    def noted(session: Session, windows: np.ndarray, wanted: Sequence[Wanted]) -> WindowMaps:
        asked.append(wanted)
        return run(session, windows, wanted)

    monkeypatch.setattr(type(probe.session), "run", noted)
    monkeypatch.setattr(type(probe.session), "features_apart", True)
    good = inspect(inspector, probe, grey_picture(level=255), descriptors=True)
    assert good.descriptors is not None
    assert (asked, len(good.descriptors)) == ([["maps"]], 0)
    asked.clear()
    assert value(inspector, "stage_seconds_count", stage="features") is None
    found = inspect(inspector, probe, flawed(20), descriptors=True)
    assert asked == [["maps"], ["features"]]
    assert value(inspector, "stage_seconds_count", stage="features") == 1
    assert found.verdict == expected.verdict
    assert found.descriptors is not None
    assert expected.descriptors is not None
    np.testing.assert_array_equal(found.descriptors, expected.descriptors)

    def slow(session: Session, windows: np.ndarray, wanted: Sequence[Wanted]) -> WindowMaps:
        time.sleep(0.5 * ("features" in wanted))
        return run(session, windows, wanted)

    monkeypatch.setattr(type(probe.session), "run", slow)
    before = value(inspector, "image_seconds_sum", model="probe") or 0
    timings = inspect(inspector, probe, flawed(20), descriptors=True).timings
    until_the_verdict = (value(inspector, "image_seconds_sum", model="probe") or 0) - before
    # what follows the verdict is no part of the times that are held against the budget
    assert sum(asdict(timings).values()) <= 1000 * until_the_verdict + 1

    def broken(session: Session, windows: np.ndarray, wanted: Sequence[Wanted]) -> WindowMaps:
        if "features" in wanted:
            raise RuntimeError("no features")
        return run(session, windows, wanted)

    monkeypatch.setattr(type(probe.session), "run", broken)
    told = inspect(inspector, probe, flawed(20), descriptors=True)
    assert told.verdict == expected.verdict  # not lost for want of its descriptors
    assert told.descriptors is None

    over = threading.Event()

    def late(session: Session, windows: np.ndarray, wanted: Sequence[Wanted]) -> WindowMaps:
        if "features" in wanted:
            assert over.wait(60)
        return run(session, windows, wanted)

    monkeypatch.setattr(type(probe.session), "run", late)
    try:
        told = inspect(inspector, probe, flawed(20), descriptors=True, deadline=time.monotonic() + 4)
    finally:
        over.set()
    assert told.verdict == expected.verdict  # nor because they are late
    assert told.descriptors is None


@pytest.mark.parametrize("apart", [True, False])
def test_a_picture_of_several_windows_asks_of_each_only_what_is_read(
    make: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    bundle = load_bundle(write_bundle(tmp_path, global_map=True, working_size=448), CPU)
    picture = grey_picture(252, 448, level=255)
    picture[60:100, 120:160] = 20
    asked: list[Sequence[Wanted]] = []
    run = type(bundle.session).run

    def noted(session: Session, windows: np.ndarray, wanted: Sequence[Wanted]) -> WindowMaps:
        asked.append(wanted)
        return run(session, windows, wanted)

    full = bundle.session.run(prepare(picture, plan := bundle.plan(448, 252)))
    expected = picture_map(full, plan, bundle.manifest.min_flaw_px)
    monkeypatch.setattr(type(bundle.session), "run", noted)
    monkeypatch.setattr(type(bundle.session), "features_apart", apart)
    inspection = inspect(make(), bundle, picture, descriptors=True)
    np.testing.assert_array_equal(inspection.anomaly_map.cells, expected.cells)
    of_tiles: Wanted = "structural" if apart else "structural and features"
    assert [one for each in asked for one in each] == [*[of_tiles] * 3, "logical", *["features"] * 3 * apart]
    assert inspection.descriptors is not None
    assert len(inspection.descriptors) == len(inspection.verdict.regions) > 0


def scaled(bundle: Bundle) -> Bundle:
    """The same model, had it been trained on JPEGs that are decoded at a smaller scale."""
    recipe = bundle.manifest.prepare.model_copy(update={"jpeg": "scaled"})
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"prepare": recipe}))


def test_a_model_that_evens_the_light_says_the_same_of_a_part_at_every_exposure(make: Made, probe: Bundle) -> None:
    inspector = make()
    recipe = probe.manifest.prepare.model_copy(update={"lighting": "even"})
    even = replace(probe, manifest=probe.manifest.model_copy(update={"prepare": recipe}))
    bright, dark = flawed(100), (flawed(100) * 0.4).astype(np.uint8)
    scores = [inspect(inspector, even, picture).verdict.score for picture in (bright, dark)]
    assert scores[0] == pytest.approx(scores[1], rel=0.1)
    plain = [inspect(inspector, probe, picture).verdict.score for picture in (bright, dark)]
    assert plain[0] != pytest.approx(plain[1], rel=0.1)


def test_a_jpeg_is_decoded_no_finer_than_needed_and_whole_only_when_asked_for(
    make: Made, probe: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.repeat(np.repeat(flawed(20), 4, axis=0), 4, axis=1)
    data = jpeg(picture)
    scales: list[int] = []
    original = decode_module.decode_image

    def decode_image(*arguments: Any, jpeg_scale: int = 1) -> Image.Image:
        scales.append(jpeg_scale)
        return original(*arguments, jpeg_scale=jpeg_scale)

    for module in (inspector_module, decode_module):
        monkeypatch.setattr(module, "decode_image", decode_image)
    inspector = make()
    small = inspect(inspector, scaled(probe), Picture(data))
    assert scales == [4]
    whole = inspect(inspector, probe, Picture(data))
    assert small.verdict.score == pytest.approx(whole.verdict.score, abs=0.02)
    assert small.verdict.regions[0].box == whole.verdict.regions[0].box  # in px of the picture as displayed
    assert small.size == (896, 896)
    scales.clear()
    np.testing.assert_array_equal(small.rgb, whole.rgb)
    assert small.rgb is small.rgb  # decoded once
    assert scales == [1]
    raw = inspect(inspector, scaled(probe), Picture(picture.tobytes(), raw=picture))
    assert raw.rgb is picture
    assert inspect(inspector, scaled(probe), picture).rgb.shape == picture.shape  # a PNG is decoded whole


def test_descriptors_of_a_scaled_jpeg_are_of_the_whole_picture(make: Made, probe: Bundle) -> None:
    data = jpeg(np.repeat(np.repeat(flawed(20), 4, axis=0), 4, axis=1))
    inspector = make()
    small, whole = (inspect(inspector, bundle, Picture(data), descriptors=True) for bundle in (scaled(probe), probe))
    assert small.descriptors is not None
    assert whole.descriptors is not None
    np.testing.assert_allclose(small.descriptors[:, -FIGURES:], whole.descriptors[:, -FIGURES:], atol=0.05)
