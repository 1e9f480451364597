"""Arithmetic of a network, counted."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from service.bench.work import gflop


def test_convolutions_count_as_far_as_the_outputs_need_them() -> None:
    """3x3 over 8 -> 16 channels and 34x34 px is 32*32*16 cells of 8*9 products and sums; a second one only for `other`."""
    rng = np.random.default_rng(0)
    weights = {
        "first": rng.random((16, 8, 3, 3), np.float32),
        "second": rng.random((4, 16, 1, 1), np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "first"], ["one"]),
            helper.make_node("Relu", ["one"], ["map"]),
            helper.make_node("Conv", ["map", "second"], ["other"]),
        ],
        "two",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 8, 34, 34])],
        [
            helper.make_tensor_value_info("map", TensorProto.FLOAT, ["N", 16, 32, 32]),
            helper.make_tensor_value_info("other", TensorProto.FLOAT, ["N", 4, 32, 32]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    first, second = 2 * 32 * 32 * 16 * 8 * 9, 2 * 32 * 32 * 4 * 16
    assert gflop(model, ["map"], digits=6) == round(first / 1e9, 6)
    assert gflop(model, ["other"], digits=6) == round((first + second) / 1e9, 6)
    assert gflop(model, ["map"]) == 0.0
