"""What is exported computes what was trained, with less work."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from service.training.export import Served, round_to_half, store_as_half, to_onnx
from service.training.network import TEACHER_CHANNELS, Autoencoder, Detector, Pdn


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
