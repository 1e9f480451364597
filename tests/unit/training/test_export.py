from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from service.engine.session import open_session
from service.training.export import Served, round_to_half, store_as_half, to_onnx
from service.training.network import Autoencoder, Detector, Pdn

WINDOWS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8))


def detector_with(*, global_map: bool, directions: bool) -> Detector:
    torch.manual_seed(1)
    detector = Detector(
        Pdn("small"), Pdn("small", 768 if global_map else 384), Autoencoder() if global_map else None
    ).eval()
    detector.requires_grad_(False)
    detector.mean.normal_()
    detector.std.uniform_(0.5, 2)
    if directions:
        detector.directions = torch.randn(32, 384)
    detector.q_a.copy_(torch.tensor([0.2, 0.1]))
    detector.q_b.copy_(torch.tensor([0.9, 0.7]))
    round_to_half(detector, whitened=not directions)
    return detector


@pytest.mark.parametrize("directions", [False, True])
@pytest.mark.parametrize("global_map", [False, True])
@torch.no_grad()
def test_the_exported_graph_is_the_same_function(*, global_map: bool, directions: bool) -> None:
    detector = detector_with(global_map=global_map, directions=directions)
    for mine, theirs in zip(Served(detector)(WINDOWS), detector(WINDOWS), strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("directions", [False, True])
@torch.no_grad()
def test_weights_are_stored_as_float16_only_where_that_changes_nothing(*, directions: bool) -> None:
    detector = detector_with(global_map=False, directions=directions)
    plain = to_onnx(detector)
    halved = store_as_half(plain)
    assert len(halved) < 0.65 * len(plain)
    answers = [open_session(data, form="float32", provider="cpu").run(WINDOWS.numpy()) for data in (plain, halved)]
    np.testing.assert_array_equal(answers[0].structural, answers[1].structural)
    structural = detector(WINDOWS)[0].numpy()
    np.testing.assert_allclose(answers[0].structural, structural, rtol=1e-3, atol=1e-3)
    assert onnx.load_model_from_string(halved).graph.output[0].name == "structural_map"
