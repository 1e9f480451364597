"""In which engine each form is measured, and that one that does not compute what was trained is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from service.engine.session import has_openvino
from service.errors import BundleRefused
from service.image.prepare import PrepareRecipe
from service.training import forms as forms_module
from service.training.forms import Calibrated, HeldOut, Product, calibrate_form, open_form
from service.types import WindowMaps
from tests.networks import darkness_network, grey_picture
from tests.unit.engine.test_session import FakeRuntime

WINDOWS = np.random.default_rng(0).integers(0, 256, (12, 256, 256, 3), dtype=np.uint8)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """A machine with a GPU."""
    runtime = FakeRuntime("CUDAExecutionProvider")
    monkeypatch.setattr("service.engine.onnx_runtime.onnxruntime", runtime)
    monkeypatch.setattr("service.engine.onnx_runtime._load_cuda_libraries", lambda: True)
    monkeypatch.setattr("service.engine.session.has_cuda", lambda: True)
    return runtime


@pytest.mark.parametrize(("name", "provider"), [("float32", "cuda"), ("fp16", "cuda"), ("int8", "cpu")])
def test_float_forms_are_opened_on_a_gpu_that_is_there(gpu: FakeRuntime, name: Any, provider: str) -> None:
    assert open_form(darkness_network(), name).provider == provider


@pytest.mark.parametrize("name", ["float32", "fp16", "int8"])
def test_without_a_gpu_they_are_opened_on_the_cpu(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.session.has_cuda", lambda: False)
    assert open_form(darkness_network(), name).provider == "cpu"


@pytest.mark.skipif(not has_openvino(), reason="needs the extra `openvino`")
def test_openvino_s_forms_are_opened_in_it_beside_a_gpu(gpu: FakeRuntime) -> None:
    assert open_form(darkness_network(), "int8-openvino").provider == "openvino"


class Level:
    """A session whose map is each window's mean level, times `gain`."""

    has_logical = False

    def __init__(self, provider: str, gain: float = 1.0) -> None:
        self.provider, self.gain = provider, gain
        self.batches: list[int] = []

    def run(self, windows: np.ndarray, wanted: object = "maps") -> WindowMaps:
        self.batches.append(len(windows))
        levels = self.gain * windows.mean(axis=(1, 2, 3)) / 255
        return WindowMaps(np.repeat(levels, 56 * 56).reshape(-1, 56, 56).astype(np.float32))


def calibrated(name: Any, session: Level, monkeypatch: pytest.MonkeyPatch, on_cpu: Level | None = None) -> Calibrated:
    """The form calibrated on three parts, torch's maps being those of a Level."""
    monkeypatch.setattr("service.training.export.run_torch", lambda _, windows: Level("cpu").run(windows))

    def opened(network: bytes, *, form: str, provider: str) -> Level:
        assert (network, form, provider) == (b"network", name, "cpu")
        assert on_cpu is not None
        return on_cpu

    monkeypatch.setattr(forms_module, "open_session", opened)
    unused: Any = None
    chooser: Any = SimpleNamespace(examples=[SimpleNamespace(windows=WINDOWS)])
    measured: Any = session
    held_out: Any = HeldOut(
        [SimpleNamespace(part=str(number)) for number in range(3)],
        [grey_picture(level=200 + number) for number in range(3)],
    )
    product = Product(PrepareRecipe(value=224), global_map=False, min_flaw_px=1.0, roi=None)
    return calibrate_form(name, b"network", measured, product, unused, chooser, held_out, 0.1)


def test_a_float32_form_that_does_not_give_torch_s_scores_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calibrated("float32", Level("cpu"), monkeypatch).form.parity.max_relative_score_error < 1e-3
    with pytest.raises(BundleRefused, match="differ from torch"):
        calibrated("float32", Level("cpu", gain=1.01), monkeypatch)
    coarse = calibrated("int8", Level("cpu", gain=1.01), monkeypatch)  # which has thresholds of its own
    assert coarse.form.parity.max_relative_score_error == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(("provider", "batches"), [("cpu", (1, 3)), ("openvino", (1, 3)), ("cuda", (1, 3, 7))])
def test_parity_is_measured_at_seven_too_where_a_gpu_is(
    provider: str, batches: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Level(provider)
    assert calibrated("float32", session, monkeypatch, Level("cpu")).form.parity.batches == batches
    assert (7 in session.batches) == (7 in batches)


def test_a_gpu_s_form_is_timed_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = Level("cpu")
    calibrated("fp16", Level("cuda"), monkeypatch, on_cpu)
    assert on_cpu.batches == [1] * 7
