"""The faster forms: int8 by static quantisation (QDQ, per channel) calibrated on the site's training normals, and fp16."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
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
    """The int8 form of a float32 `model`, its activation ranges taken from `windows` uint8 [256,256,3] each.

    A convolution is quantised behind its ReLU, so that engines run both as one; pooling stays in int8 too, and the
    picture's bytes are the first layer's input as they are.
    """
    overrides = {}
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (Path(folder) / name for name in ("a.onnx", "b.onnx", "c.onnx"))
        source.write_bytes(model)
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        proto = onnx.load(prepared)
        pixels = _find_pixels(proto.graph)
        if pixels is not None:
            overrides = {
                pixels.name: [{"scale": np.array(pixels.unit, np.float32), "zero_point": np.array(0, np.uint8)}]
            }
            _balance(proto.graph, pixels, np.mean(windows, axis=(0, 1, 2)) * pixels.unit)
            onnx.save(proto, prepared)
        quantize_static(
            str(prepared),
            str(target),
            _Windows(windows),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "Relu", "AveragePool"],
            nodes_to_exclude=sorted({node.name for node in _of_energies(proto.graph)}),
            extra_options={"ActivationSymmetric": False, "TensorQuantOverrides": overrides},
        )
        quantised = onnx.load(target)
    if pixels is not None:
        _take_bytes(quantised.graph, pixels)
    return _without_what_nobody_takes(quantised)


def _of_energies(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of a teacher of energies: the convolutions behind its logarithms, and all that these take from. Its small
    differences of large numbers are lost in eight bits, and in a half's eleven; and it is a small part of the work."""
    behind, waiting = set[str](), list[onnx.NodeProto]()
    for node in graph.node:  # a node comes behind those it takes from
        if node.op_type == "Log" or behind.intersection(node.input):
            if node.op_type == "Conv":
                waiting.append(node)
            else:
                behind.update(node.output)
    maker = {name: node for node in graph.node for name in node.output}
    found: dict[str, onnx.NodeProto] = {}  # by the first output: names of nodes may be empty
    while waiting:
        node = waiting.pop()
        if node.output[0] not in found:
            found[node.output[0]] = node
            waiting += [maker[name] for name in node.input if name in maker]
    return list(found.values())


@dataclass(frozen=True, slots=True)
class _Pixels:
    """Where a network has its pixels as floats: bytes -> Cast -> Mul by `unit` -> the tensor `name`."""

    bytes: str
    name: str
    unit: float


def _find_pixels(graph: onnx.GraphProto) -> _Pixels | None:
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    cast_from = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    for node in graph.node:
        if node.op_type == "Mul" and node.input[0] in cast_from and constants[node.input[1]].size == 1:
            return _Pixels(cast_from[node.input[0]], node.output[0], float(constants[node.input[1]]))
    return None


def _balance(graph: onnx.GraphProto, pixels: _Pixels, mean: NDArray[np.float64]) -> None:
    """Put into the first layers' biases what rounding their weights will add to a picture of `mean` colour [3].

    Pixels are far from zero, so that a rounding error of a weight is a shift of its whole channel: half of all that int8
    loses (docs/decisions/0013).
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[0] == pixels.name:
            weight, bias = (numpy_helper.to_array(tensors[name]) for name in node.input[1:])
            scale = np.maximum(np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127, 1e-12)
            lost = weight - np.rint(weight / scale) * scale
            changed = bias + np.einsum("oihw,i->o", lost, mean)
            tensors[node.input[2]].CopyFrom(numpy_helper.from_array(changed.astype(np.float32), node.input[2]))


def _take_bytes(graph: onnx.GraphProto, pixels: _Pixels) -> None:
    """bytes -> Cast -> Mul -> QuantizeLinear -> DequantizeLinear becomes bytes -> DequantizeLinear: the same numbers."""
    rounded = {n.output[0] for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == pixels.name}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in rounded:
            node.input[0] = pixels.bytes


def _without_what_nobody_takes(proto: onnx.ModelProto) -> bytes:
    """The file without the nodes and constants whose results are neither outputs nor inputs of another node."""
    graph = proto.graph
    wanted = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):  # a node comes behind those it takes from
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    constants = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)
    return bytes(proto.SerializeToString())


def halve(model: bytes) -> bytes:
    """The fp16 form of a float32 `model`, be its weights stored as halves (`store_as_half`) or not.

    Convolutions and what lies between them compute in half precision. In float32 stay the normalisation before, all from the
    difference of the features on (small numbers, then their squares), and a teacher of energies.
    """
    proto = onnx.load_model_from_string(model)
    graph = proto.graph
    _restore_stored(graph)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    exact = {node.output[0] for node in _of_energies(graph)}
    halved = [node for node in graph.node if node.op_type in _HALVED and node.output[0] not in exact]
    made = {name for node in halved for name in node.output}  # in half precision
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
        if made.intersection(node.output):
            data = list(node.input) if node.op_type == "Conv" else [node.input[0]]  # Resize has sizes beside its data
            node.input[: len(data)] = [
                f"{name}_half" if name in made else converted(name, TensorProto.FLOAT16) for name in data
            ]
            node.output[:] = [f"{name}_half" for name in node.output]
        else:
            for name in made.intersection(node.input):
                converted(name, TensorProto.FLOAT)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return _without_what_nobody_takes(proto)


def _restore_stored(graph: onnx.GraphProto) -> None:
    """Weights that are stored as float16 behind a Cast become float32 again, under the Cast's name: the same numbers."""
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.input[0] in stored]:
        tensor = stored[node.input[0]]
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, node.output[0]))
        graph.node.remove(node)
