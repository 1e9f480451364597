"""In which engine each form is measured, and that one that does not compute what was trained is refused."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from service.engine.session import has_openvino
from service.errors import BundleRefused
from service.image.prepare import PrepareRecipe
from service.training import forms as forms_module
from service.training.forms import Calibrated, Exact, HeldOut, calibrate_form, open_form
from service.training.product import Product
from service.training.select import Separation
from service.types import WindowMaps
from tests.networks import darkness_network, grey_picture
from tests.unit.engine.test_session import FakeRuntime

WINDOWS = np.random.default_rng(0).integers(0, 256, (12, 256, 256, 3), dtype=np.uint8)
PLAN = SimpleNamespace(wanted=("maps",) * len(WINDOWS))


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


SHOTS = (("0", 200), ("1", 201), ("2", 202))  # each of a part, at a level


def calibrated(
    name: Any,
    session: Level,
    monkeypatch: pytest.MonkeyPatch,
    on_cpu: Level | None = None,
    shots: Sequence[tuple[str, int]] = SHOTS,
) -> Calibrated:
    """The form calibrated on three parts, or on these `shots`, torch's maps being those of a Level."""
    monkeypatch.setattr(forms_module, "run_torch", lambda _, windows: Level("cpu").run(windows))

    def opened(network: bytes, *, form: str, provider: str) -> Level:
        assert (network, form, provider) == (b"network", name, "cpu")
        assert on_cpu is not None
        return on_cpu

    monkeypatch.setattr(forms_module, "open_session", opened)
    unused: Any = None
    chooser: Any = SimpleNamespace(examples=[SimpleNamespace(windows=WINDOWS, plan=PLAN)])
    measured: Any = session
    held_out: Any = HeldOut(
        [SimpleNamespace(part=part) for part, _ in shots],
        [grey_picture(level=level) for _, level in shots],
    )
    product = Product(PrepareRecipe(value=224), global_map=False, min_flaw_px=1.0, roi=None)
    return calibrate_form(name, b"network", measured, product, Exact.of(unused, chooser), held_out, 0.1)


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
    assert on_cpu.batches == [4] * 6  # four of its twelve windows together, once more than counts


def test_thresholds_are_set_by_the_highest_shot_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    shots = (("a", 210), ("b", 201), ("a", 205), ("b", 207))
    found = calibrated("float32", Level("cpu"), monkeypatch, shots=shots)
    assert found.by_part == pytest.approx({"b": 207 / 255, "a": 210 / 255})
    assert found.form.calibration_scores == pytest.approx((207 / 255, 210 / 255))
    assert found.form.reject_rule.parts == 2


@pytest.mark.parametrize(
    ("after", "kept"), [((0.9885, 0.9785), True), ((0.9875, 0.99), False), ((0.995, 0.9775), False)]
)
def test_a_faster_form_is_kept_that_tells_painted_flaws_as_well(
    after: tuple[float, float], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms_module, "to_onnx", lambda detector: b"plain")
    monkeypatch.setattr(forms_module, "store_as_half", lambda plain: b"float32")
    monkeypatch.setattr(forms_module, "quantize", lambda plain, windows: b"int8")
    monkeypatch.setattr(forms_module, "has_openvino", lambda: False)
    monkeypatch.setattr(forms_module, "open_form", lambda network, name: SimpleNamespace(run=name))
    bank: Any = SimpleNamespace(
        windows=lambda rng, count: SimpleNamespace(images=torch.from_numpy(WINDOWS)), canvases=[]
    )
    judge: Any = SimpleNamespace(
        separation_of={"float32": Separation(0.99, 0.98), "int8": Separation(*after)}.__getitem__
    )
    unused: Any = None
    said: list[str] = []
    made = forms_module.export_forms(unused, bank, judge, said.append, half=False)
    assert made == {"float32": b"float32"} | ({"int8": b"int8"} if kept else {})
    assert ("is kept" if kept else "is left out") in said[0]


@pytest.mark.parametrize(("autoencoder", "tiles", "shown"), [(None, 2, False), (None, 1, True), ("there", 2, True)])
def test_int8_s_ranges_are_those_of_what_is_run(
    autoencoder: str | None, tiles: int, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of several tiles is never run as a whole by a network without an autoencoder."""
    monkeypatch.setattr(forms_module, "to_onnx", lambda detector: b"plain")
    monkeypatch.setattr(forms_module, "store_as_half", lambda plain: b"float32")
    calibrated_on: list[np.ndarray] = []
    monkeypatch.setattr(forms_module, "quantize", lambda plain, windows: calibrated_on.extend(windows) or b"int8")
    monkeypatch.setattr(forms_module, "has_openvino", lambda: False)
    monkeypatch.setattr(forms_module, "open_form", lambda network, name: SimpleNamespace(run=name))
    whole = np.full((256, 256, 3), 7, np.uint8)
    canvas = SimpleNamespace(canvas=np.zeros((256, 32 + 224 * tiles, 3), np.uint8), whole=whole)
    bank: Any = SimpleNamespace(
        windows=lambda rng, count: SimpleNamespace(images=torch.from_numpy(WINDOWS)), canvases=[canvas]
    )
    judge: Any = SimpleNamespace(separation_of=lambda run: Separation(1.0, 1.0))
    detector: Any = SimpleNamespace(autoencoder=autoencoder)
    forms_module.export_forms(detector, bank, judge, lambda text: None, half=False)
    assert len(calibrated_on) == len(WINDOWS) + shown
    assert (calibrated_on[-1] is whole) == shown
