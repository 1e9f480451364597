"""The faster forms: int8 by static quantisation (QDQ, per channel) calibrated on the site's training normals, and fp16."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

_HALVED = {"Conv", "Relu", "AveragePool", "Resize"}


class _Windows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, windows: Sequence[NDArray[np.uint8]]) -> None:
        self._rest = iter(windows)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        window = next(self._rest, None)
        return None if window is None else {"image": window[None]}


def quantize(model: bytes, windows: Sequence[NDArray[np.uint8]]) -> bytes:
    """The int8 form of a float32 `model`, its activation ranges taken from `windows` uint8 [256,256,3] each."""
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (Path(folder) / name for name in ("a.onnx", "b.onnx", "c.onnx"))
        source.write_bytes(model)
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _Windows(windows),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "AveragePool"],
            extra_options={"ActivationSymmetric": False},
        )
        return target.read_bytes()


def halve(model: bytes) -> bytes:
    """The fp16 form of a float32 `model`: convolutions and what lies between them in half precision; normalisation before,
    and all from the difference of the features on (small numbers, then their squares), in float32."""
    proto = onnx.load_model_from_string(model)
    graph = proto.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    made = {name for node in graph.node if node.op_type in _HALVED for name in node.output}  # in half precision
    nodes, cast = [], set[str]()

    def converted(name: str, to: int) -> str:
        """The tensor in the other precision, from a Cast that is put in once."""
        source, target = (name, f"{name}_half") if to == TensorProto.FLOAT16 else (f"{name}_half", name)
        if target not in cast:
            cast.add(target)
            if name in weights:
                half = numpy_helper.to_array(weights[name]).astype(np.float16)
                graph.initializer.append(numpy_helper.from_array(half, target))
            else:
                nodes.append(helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=to))
        return target

    for node in list(graph.node):
        if node.op_type in _HALVED:
            data = list(node.input) if node.op_type == "Conv" else [node.input[0]]  # Resize has sizes beside its data
            node.input[: len(data)] = [
                f"{name}_half" if name in made else converted(name, TensorProto.FLOAT16) for name in data
            ]
            node.output[:] = [f"{name}_half" for name in node.output]
        else:
            for name in made.intersection(node.input):
                converted(name, TensorProto.FLOAT)
        nodes.append(node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return bytes(proto.SerializeToString())
