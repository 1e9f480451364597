from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from service.bundle.verify import MAX_PIXELS, verify
from service.engine.session import open_session
from service.image.decode import decode
from service.image.prepare import plan_tiles, prepare
from service.training.export import store_as_half, to_onnx
from service.training.network import TEACHER_CHANNELS, Autoencoder, Detector, Pdn
from service.training.quantize import halve
from service.types import WindowMaps
from tests.networks import field_network

WINDOWS = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)


def test_the_fp16_form_answers_like_the_float32_form() -> None:
    network = field_network(np.random.default_rng(1).normal(0, 1, (33, 33)).astype(np.float32))
    half = halve(network)
    plain = open_session(network, form="float32", provider="cpu").run(WINDOWS, "maps and features")
    answer = open_session(half, form="fp16", provider="cpu").run(WINDOWS, "maps and features")
    spread = plain.structural.max() - plain.structural.min()
    assert 0 < np.abs(answer.structural - plain.structural).max() < 0.005 * spread
    assert answer.structural.dtype == np.float32
    assert answer.features is not None
    assert answer.features.dtype == np.float16


def test_a_tensor_used_by_both_precisions_and_a_resize_are_cast_where_they_must() -> None:
    """input -> Conv -> Resize -> (Relu -> Conv), and what Resize makes is also subtracted in float32."""
    weight = np.random.default_rng(2).normal(0, 1, (4, 4, 1, 1)).astype(np.float32)
    constants = [
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Resize", ["a", "", "scales"], ["b"], mode="linear"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "w"], ["d"]),
        helper.make_node("Sub", ["b", "d"], ["y"]),
    ]
    shape = ["N", 4, None, None]
    graph = helper.make_graph(
        nodes,
        "mixed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    half = halve(model)
    onnx.checker.check_model(onnx.load_model_from_string(half))
    x = np.random.default_rng(3).normal(0, 1, (2, 4, 5, 6)).astype(np.float32)
    answers = [
        onnxruntime.InferenceSession(m, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for m in (model, half)
    ]
    assert answers[1].dtype == np.float32
    np.testing.assert_allclose(answers[1], answers[0], atol=0.05)
    kinds = [tensor.data_type for tensor in onnx.load_model_from_string(half).graph.initializer]
    assert sorted(kinds) == [TensorProto.FLOAT, TensorProto.FLOAT16]  # the scales, and the weight once


def both(network: bytes, half: bytes, windows: np.ndarray) -> tuple[WindowMaps, WindowMaps]:
    """What the float32 and the fp16 form answer on the CPU."""
    plain = open_session(network, form="float32", provider="cpu").run(windows, "maps and features")
    return plain, open_session(half, form="fp16", provider="cpu").run(windows, "maps and features")


def kinds(model: bytes) -> dict[str, int]:
    """The weights of convolutions, by name without what was put behind it, and their data types."""
    graph = onnx.load_model_from_string(model).graph
    weights = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    return {t.name.removesuffix("_half"): t.data_type for t in graph.initializer if t.name in weights}


@pytest.mark.slow
def test_a_network_of_stored_halves_with_all_that_one_may_have_scores_alike_in_fp16() -> None:
    """Two PDNs, the autoencoder and directions."""
    torch.manual_seed(2)
    made = Detector(Pdn("small"), Pdn("small", 2 * TEACHER_CHANNELS), Autoencoder()).eval().requires_grad_(False)
    made.std.uniform_(0.05, 0.3)
    made.q_b.copy_(torch.tensor([20.0, 3.0]))
    made.directions = torch.randn(64, TEACHER_CHANNELS) / TEACHER_CHANNELS**0.5
    plain = to_onnx(made)
    half = halve(store_as_half(plain))
    onnx.checker.check_model(onnx.load_model_from_string(half))
    assert set(kinds(half).values()) == {TensorProto.FLOAT16}
    expected, answer = both(plain, half, WINDOWS[:2])
    for mine, theirs in ((answer.structural, expected.structural), (answer.logical, expected.logical)):
        assert mine is not None
        assert theirs is not None
        np.testing.assert_allclose(mine.max(axis=(1, 2)), theirs.max(axis=(1, 2)), rtol=0.005)
        assert np.abs(mine - theirs).max() < 0.01 * np.ptp(theirs)


def test_the_bundled_network_in_fp16_scores_alike_and_keeps_its_energies(root: Path) -> None:
    """Its teacher is one of energies, its weights are stored as halves, and it has directions."""
    verified = verify(root / "models" / "polka-dot" / "1")
    network = verified.files["model.onnx"]
    half = halve(network)
    onnx.checker.check_model(onnx.load_model_from_string(half))
    found = kinds(half)
    in_half = {name for name, kind in found.items() if kind == TensorProto.FLOAT16}
    assert in_half == {"student.0.weight", "student.3.weight", "student.6.weight", "imitation.weight"}
    assert {"target.weight", "features.weight"} < found.keys()
    rgb = decode(verified.files["golden/0.png"], MAX_PIXELS)
    windows = prepare(rgb, plan_tiles(rgb.shape[1], rgb.shape[0], verified.manifest.prepare, global_map=False))
    expected, answer = both(network, half, windows)
    np.testing.assert_allclose(answer.structural.max(axis=(1, 2)), expected.structural.max(axis=(1, 2)), rtol=0.003)
    assert expected.features is not None
    assert answer.features is not None
    np.testing.assert_array_equal(answer.features, expected.features)
