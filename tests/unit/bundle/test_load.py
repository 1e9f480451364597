"""Which form is used, and what a loaded bundle says."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from service.bundle import load as load_module
from service.bundle.load import EngineOptions, expected_budget_s, load_bundle, score_agrees, window_ms
from service.bundle.verify import read_manifest
from service.engine.session import available_cores
from service.errors import BundleRefused, NotReady
from service.settings import load_settings
from service.types import Layout, TilePlan
from tests.networks import POISON, darkness_network, grey_picture, png, write_bundle
from tests.unit.bundle.editing import edit_manifest, edit_network, replace_file

CPU = EngineOptions(provider="cpu", threads=1)


def saved(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def shift_golden(folder: Path, form: str, shift: float) -> None:
    def change(document: dict[str, Any]) -> None:
        document["golden"][0]["scores"][form] += shift

    edit_manifest(folder, change)


def test_a_loaded_bundle_judges_a_picture(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path, "probe", 3, review=0.2, reject=0.4), CPU)
    assert (bundle.identity.name, bundle.identity.version) == ("probe", 3)
    assert (bundle.identity.precision, bundle.identity.provider) == ("float32", "cpu")
    assert (bundle.thresholds.review, bundle.thresholds.reject) == (0.2, 0.4)
    picture = grey_picture(300, 500, level=255)
    picture[100:160, 200:260] = 0
    assert bundle.anomaly_map(picture).score == pytest.approx(1, abs=1e-6)
    assert bundle.plan(500, 300).windows == 1


def test_the_roi_is_read_from_the_bundle(tmp_path: Path) -> None:
    roi = np.zeros((10, 10), bool)
    roi[:, :5] = True
    bundle = load_bundle(write_bundle(tmp_path, roi=roi), CPU)
    assert bundle.roi is not None
    np.testing.assert_array_equal(bundle.roi, roi)
    picture = grey_picture(200, 200, level=255)
    picture[80:120, 150:190] = 0
    assert bundle.anomaly_map(picture).score == pytest.approx(0, abs=1e-6)


def lying_left() -> Layout:
    """Parts whose left half may be as dark as it likes."""
    typical = np.zeros((1, 56, 56), np.float32)
    typical[..., :28] = 2.0
    return Layout(typical, np.ones((1, 56, 56), np.float32))


def test_what_is_normal_place_by_place_is_read_from_the_bundle(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path, layout=lying_left()), CPU)
    for left, expected in ((40, 0.0), (140, 1.0)):
        picture = grey_picture(200, 200, level=255)
        picture[80:120, left : left + 40] = 0
        assert bundle.anomaly_map(picture).score == pytest.approx(expected, abs=1e-6)
        assert bundle.anomaly_map_of_file(png(picture), 10**6).score == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"junk", "no array"),
        (saved(np.zeros((2, 1, 5, 5), np.float32)), "float16"),
        (saved(np.ones((2, 2, 5, 5), np.float16)), "float16"),
        (saved(np.zeros((2, 1, 5, 5), np.float16)), "above 0"),
        (saved(np.full((2, 1, 5, 5), np.nan, np.float16)), "finite"),
        (saved(np.array([{}], object), allow_pickle=True), "no array"),
    ],
)
def test_a_layout_that_is_none_is_refused(tmp_path: Path, content: bytes, word: str) -> None:
    folder = write_bundle(tmp_path, layout=lying_left())
    replace_file(folder, "layout.npy", content)
    with pytest.raises(BundleRefused, match=f"layout.npy.*{word}"):
        load_bundle(folder, CPU)


def test_on_a_cpu_int8_comes_first(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, int8_gain=1.0)
    assert load_bundle(folder, CPU).form_name == "int8"
    assert load_bundle(folder, EngineOptions("float32", "cpu")).form_name == "float32"
    assert load_bundle(folder, EngineOptions("int8", "cpu")).form_name == "int8"


def test_a_form_that_misses_its_golden_pictures_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_bundle(tmp_path, int8_gain=1.0)
    shift_golden(folder, "int8", 0.05)
    assert load_bundle(folder, CPU).form_name == "float32"
    assert "form int8" in caplog.text
    assert "float32 is used instead" in caplog.text
    with pytest.raises(BundleRefused, match=r"precision int8 with provider cpu .* form int8: golden/0\.png scores"):
        load_bundle(folder, EngineOptions("int8", "cpu"))


def test_a_form_without_a_golden_score_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_bundle(tmp_path, int8_gain=1.0)
    edit_manifest(folder, lambda document: document["golden"][0]["scores"].pop("int8"))
    assert load_bundle(folder, CPU).form_name == "float32"
    assert "no golden picture has a score of this form" in caplog.text


def test_a_form_that_does_not_load_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_bundle(tmp_path, int8_gain=1.0)
    whole = (folder / "model.onnx").read_bytes()
    edit_network(folder, lambda model: model.graph.node[0].ClearField("input"))
    replace_file(folder, "model.int8.onnx", (folder / "model.onnx").read_bytes())
    replace_file(folder, "model.onnx", whole)
    assert load_bundle(folder, CPU).form_name == "float32"
    assert "ONNX Runtime cannot load" in caplog.text


def test_when_float32_misses_as_well_the_bundle_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, int8_gain=1.0, golden_shift=0.05)
    with pytest.raises(BundleRefused) as refusal:
        load_bundle(folder, CPU)
    assert "form int8: golden/0.png scores" in refusal.value.detail
    assert "form float32: golden/0.png scores" in refusal.value.detail


def test_a_network_that_fails_on_its_golden_picture_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    poisonous = np.full((224, 224, 3), POISON, np.uint8)
    replace_file(folder, "golden/0.png", png(poisonous))
    with pytest.raises(BundleRefused, match="cannot be judged"):
        load_bundle(folder, CPU)


def test_a_form_that_the_bundle_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match="has no form int8"):
        load_bundle(write_bundle(tmp_path), EngineOptions("int8", "cpu"))


@pytest.mark.parametrize("provider", ["cpu", "auto"])
def test_a_form_that_was_asked_for_and_cannot_run_is_replaced_by_no_other(
    provider: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_module, "has_openvino", lambda: False)
    monkeypatch.setattr("service.engine.session.has_openvino", lambda: False)
    folder = write_bundle(tmp_path)

    def add_bf16(document: dict[str, Any]) -> None:
        document["forms"]["bf16"] = document["forms"]["float32"]
        document["golden"][0]["scores"]["bf16"] = document["golden"][0]["scores"]["float32"]

    edit_manifest(folder, add_bf16)
    assert load_bundle(folder, EngineOptions(provider=provider)).form_name == "float32"
    with pytest.raises(BundleRefused) as refusal:
        load_bundle(folder, EngineOptions("bf16", provider))
    for word in (f"precision bf16 with provider {provider}", "FLAWSCRIBE_PRECISION", "FLAWSCRIBE_PROVIDER", "OpenVINO"):
        assert word in refusal.value.detail


def test_nothing_is_loaded_that_was_not_verified(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    (folder / "model.onnx").write_bytes(darkness_network(gain=2.0))
    with pytest.raises(BundleRefused, match="sha256"):
        load_bundle(folder, CPU)


def test_cuda_that_is_not_there_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.onnx_runtime._load_cuda_libraries", lambda: False)
    with pytest.raises(NotReady, match="gpu"):
        load_bundle(write_bundle(tmp_path), EngineOptions(provider="cuda"))


@pytest.mark.parametrize(
    ("score", "expected", "agrees"),
    [
        (1.0, 1.009, True),
        (1.0, 1.02, False),
        (-0.001, 0.0, True),  # near zero the tolerance is of the scale's unit, 0.1
        (0.002, 0.0, False),
        (float("nan"), 0.5, False),
        (0.5, float("nan"), False),
    ],
)
def test_scores_agree_relative_to_the_scale(score: float, expected: float, agrees: bool) -> None:
    assert score_agrees(score, expected, 0.01) is agrees


def test_the_manifest_on_disk_is_what_is_used(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    edit_manifest(folder, lambda document: document["forms"]["float32"].update(reject_threshold=0.77))
    assert load_bundle(folder, CPU).thresholds.reject == json.loads("0.77")


def test_the_settings_say_how_networks_are_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert EngineOptions.of(load_settings()).gpu_memory is None
    for name, value in (("PRECISION", "float32"), ("PROVIDER", "cpu"), ("THREADS", "1"), ("GPU_MEMORY_MB", "512")):
        monkeypatch.setenv(f"FLAWSCRIBE_{name}", value)
    options = EngineOptions.of(load_settings())
    assert options == EngineOptions("float32", "cpu", 1, 512 * 2**20)
    asked: dict[str, Any] = {}

    def opening(data: bytes, **how: Any) -> Any:
        asked.update(how)
        return opened(data, **how)

    opened = load_module.open_session
    monkeypatch.setattr(load_module, "open_session", opening)
    load_bundle(write_bundle(tmp_path), options)
    expected = {"form": "float32", "provider": "cpu", "threads": 1, "gpu_memory": 512 * 2**20, "kinds": ("maps",)}
    assert asked == expected


def test_a_window_s_budget_is_of_the_form_in_use_on_a_cpu_and_the_same_for_all_on_cuda(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, int8_gain=1.0)
    edit_manifest(folder, lambda document: document["forms"]["int8"].update(network_ms_per_window=2.0))
    assert load_bundle(folder, EngineOptions(provider="cpu")).budget_s == pytest.approx(0.0025)
    plain = load_bundle(folder, EngineOptions("float32", "cpu"))
    assert plain.budget_s == pytest.approx(0.00625)
    on_gpu: Any = SimpleNamespace(provider="cuda")
    assert replace(plain, session=on_gpu).budget_s == 0.002


def test_where_the_manifest_s_time_is_of_another_machine_the_network_is_timed_at_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_bundle(tmp_path)
    timed = []

    def window_ms(session: Any, windows: np.ndarray, plan: TilePlan, runs: int) -> float:
        assert len(windows) == plan.windows  # of a golden picture
        timed.append(session)
        return 40.0

    monkeypatch.setattr(load_module, "window_ms", window_ms)
    here = EngineOptions(provider="cpu")
    assert load_bundle(folder, here).budget_s == pytest.approx(0.00625)
    assert not timed
    other_threads = EngineOptions(provider="cpu", threads=available_cores() + 1)
    assert load_bundle(folder, other_threads).budget_s == pytest.approx(0.05)
    edit_manifest(folder, lambda document: document["forms"]["float32"].update(machine="Another Processor, 64 cores"))
    loaded = load_bundle(folder, here)
    assert loaded.budget_s == pytest.approx(0.05)
    assert timed[-1] is loaded.session
    on_gpu: Any = SimpleNamespace(provider="cuda")
    assert replace(loaded, session=on_gpu).budget_s == 0.002


@pytest.mark.parametrize(("windows", "timed"), [(3, 3), (20, 4)])
def test_a_window_s_time_is_that_of_a_picture_s_windows_together(
    windows: int, timed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    took = iter([0.1, 0.9, 0.6, 5.0])  # seconds: the first run does not count, nor what disturbs the others
    seen = []

    def run(given: np.ndarray, wanted: tuple[str, ...]) -> None:
        seen.append((len(given), len(wanted)))
        now[0] += next(took)

    monkeypatch.setattr(load_module.time, "perf_counter", lambda: now[0])
    session: Any = SimpleNamespace(run=run)
    plan: Any = SimpleNamespace(wanted=("structural",) * windows)
    measured = window_ms(session, np.zeros((windows, 256, 256, 3), np.uint8), plan, runs=3)
    assert measured == pytest.approx(600 / timed)
    assert seen == [(timed, timed)] * 4


def test_before_loading_the_budget_is_of_the_form_that_is_tried_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_bundle(tmp_path, int8_gain=1.0)
    edit_manifest(folder, lambda document: document["forms"]["int8"].update(network_ms_per_window=2.0))
    manifest = read_manifest(folder)
    assert expected_budget_s(manifest, CPU) == pytest.approx(0.0025)
    assert expected_budget_s(manifest, EngineOptions("float32", "cpu")) == pytest.approx(0.00625)
    assert expected_budget_s(manifest, EngineOptions(provider="cuda")) == 0.002
    assert expected_budget_s(None, CPU) == 0.25
    assert expected_budget_s(None, EngineOptions(provider="cuda")) == 0.002
    for there, expected in ((True, 0.002), (False, 0.25)):
        monkeypatch.setattr(load_module, "has_cuda", lambda there=there: there)
        assert expected_budget_s(None, EngineOptions()) == expected
