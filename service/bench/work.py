"""How much arithmetic a network is, so that rows of different networks are not taken for the same work."""

from __future__ import annotations

import math
from collections.abc import Collection

import onnx
from onnx import shape_inference


def gflop(model: bytes, outputs: Collection[str], *, digits: int = 1) -> float:
    """GFLOP of the convolutions, which are nearly all, that those `outputs` of the ONNX file need for one window."""
    proto = onnx.load_model_from_string(model)
    graph = proto.graph
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    shaped = shape_inference.infer_shapes(proto, data_prop=True).graph
    sides = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*shaped.value_info, *shaped.output)
    }
    sides |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    needed = set(outputs)
    total = 0
    for node in reversed(graph.node):  # ONNX has them in the order in which they run
        if needed.isdisjoint(node.output):
            continue
        needed.update(node.input)
        if node.op_type == "Conv":
            total += 2 * math.prod(sides.get(node.input[1], [0])[1:]) * math.prod(sides.get(node.output[0], [0])[1:])
    return round(total / 1e9, digits)
