from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from service.engine.session import open_session
from service.training.quantize import halve
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
