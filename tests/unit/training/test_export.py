"""What is exported computes what was trained, with less work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from service.bundle.manifest import Parity
from service.errors import BundleRefused
from service.training.export import Served, measure_parity, require_parity, round_to_half, store_as_half, to_onnx
from service.training.network import TEACHER_CHANNELS, Autoencoder, Detector, Pdn
from service.types import WindowMaps


@pytest.fixture(scope="module")
def detector() -> Detector:
    """An untrained detector with statistics as of real features, both maps spread over about 0 to 1."""
    torch.manual_seed(5)
    made = Detector(Pdn("small"), Pdn("small", 2 * TEACHER_CHANNELS), Autoencoder()).eval()
    made.mean.uniform_(-0.5, 0.5)
    made.std.uniform_(0.05, 0.3)
    made.q_a.copy_(torch.tensor([1.0, 0.5]))
    made.q_b.copy_(torch.tensor([20.0, 3.0]))
    round_to_half(made, whitened=True)
    return made


@torch.no_grad()
def test_the_served_network_answers_like_the_detector(detector: Detector) -> None:
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8))
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    for mine, theirs in zip(Served(detector).eval()(image), detector(image), strict=True):
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=1e-3, atol=1e-4)
    for name, value in detector.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, msg=f"{name} was changed")


def test_weights_stored_as_half_are_the_same_numbers(detector: Detector) -> None:
    exported = to_onnx(detector)
    plain, stored = (onnx.load_model_from_string(model) for model in (exported, store_as_half(exported)))
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in stored.graph.initializer}
    halved = 0
    for tensor in plain.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if f"{tensor.name}_half" in kept:
            halved += 1
            np.testing.assert_allclose(kept[f"{tensor.name}_half"].astype(np.float32), values, rtol=3e-7)
    assert halved >= 8


def windows(count: int) -> np.ndarray:
    """Windows that differ in their level."""
    return np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 256, 256, 3), np.uint8)


def level(pictures: np.ndarray) -> WindowMaps:
    """Both maps are 1 more than each window's level."""
    maps = np.float32(1) + pictures[:, :56, :56, 0].astype(np.float32)
    return WindowMaps(maps, maps.copy())


class Imprecise:
    """A session whose maps are `level`, but for what `spoil` does to one of them in every batch."""

    def __init__(self, spoil: Callable[[np.ndarray], None], which: str = "structural") -> None:
        self.batches: list[int] = []
        self.spoil, self.which = spoil, which

    def run(self, pictures: np.ndarray) -> WindowMaps:
        self.batches.append(len(pictures))
        maps = level(pictures)
        self.spoil(getattr(maps, self.which))
        return maps


def parity_of(
    session: Any, monkeypatch: pytest.MonkeyPatch, batches: tuple[int, ...] = (1, 3), count: int = 4
) -> Parity:
    monkeypatch.setattr("service.training.export.run_torch", lambda _, pictures: level(pictures))
    detector: Any = None
    return measure_parity(detector, session, windows(count), batches)


@pytest.mark.parametrize("which", ["structural", "logical"])
def test_scores_that_are_not_torch_s_are_refused(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_last(maps: np.ndarray) -> None:
        maps[-1] *= 1.002

    parity = parity_of(Imprecise(raise_last, which), monkeypatch)
    assert parity.max_relative_score_error == pytest.approx(0.002, rel=0.01)
    with pytest.raises(BundleRefused, match=r"differ from torch's by 0\.002"):
        require_parity(parity)


def test_scores_that_are_no_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def lose_one(maps: np.ndarray) -> None:
        maps[0, 5, 5] = np.nan

    with pytest.raises(BundleRefused, match="not all finite"):
        parity_of(Imprecise(lose_one), monkeypatch)


def test_rounding_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    def round_off(maps: np.ndarray) -> None:
        maps *= 1.0001

    parity = parity_of(Imprecise(round_off), monkeypatch)
    assert 0 < parity.max_relative_score_error < 1e-3
    require_parity(parity)


def test_parity_names_the_batches_that_were_run(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Imprecise(lambda maps: None)
    assert parity_of(session, monkeypatch, (1, 3, 7), 4).batches == (1, 3)
    assert session.batches == [1, 1, 1, 1, 3]
    assert parity_of(session, monkeypatch, (1, 3, 7), 9).batches == (1, 3, 7)
