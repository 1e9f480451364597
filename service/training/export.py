"""Torch detector -> ONNX, and the measure of how well both agree."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.bundle.manifest import Parity
from service.engine.session import Session
from service.errors import BundleRefused
from service.training.network import Detector
from service.training.select import run_torch

OPSET = 18
_LARGEST_ERROR = 1e-3  # relative score error between torch and ONNX Runtime
_HALVED_FROM = 1024  # elements: smaller tensors are stored as they are


def round_to_half(detector: Detector) -> None:
    """Round the networks' weights to float16 values in place, so that storing them as float16 later changes nothing."""
    with torch.no_grad():
        for parameter in detector.parameters():
            if parameter.numel() >= _HALVED_FROM:
                parameter.copy_(parameter.half().float())


def to_onnx(detector: Detector) -> bytes:
    """The detector as one ONNX file: float32 weights inside, batch free. Must be in eval mode."""
    names = ["structural_map", "features"]
    if detector.autoencoder is not None:
        names.insert(1, "logical_map")
    example = torch.zeros((2, 256, 256, 3), dtype=torch.uint8)  # two: a batch of one would be frozen
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of every library that is not there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            detector.cpu(),
            (example,),
            input_names=["image"],
            output_names=names,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("N", min=1, max=4096)},),
            verbose=False,
        )
    assert program is not None
    return without_traces(program.model_proto)


def without_traces(model: onnx.ModelProto) -> bytes:
    """The file without what the exporter notes of the machine that made it (source paths, stack traces)."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return bytes(model.SerializeToString())


def store_as_half(model: bytes) -> bytes:
    """The same function in half the bytes: large float32 weights as float16 behind a Cast, which the runtime folds."""
    proto = onnx.load_model_from_string(model)
    graph = proto.graph
    casts, kept = [], []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _HALVED_FROM:
            kept.append(tensor)
            continue
        kept.append(numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}_half"))
        casts.append(helper.make_node("Cast", [f"{tensor.name}_half"], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return bytes(proto.SerializeToString())


def measure_parity(detector: Detector, session: Session, windows: NDArray[np.uint8], batches: Sequence[int]) -> Parity:
    """How far the session's maps of real `windows` uint8 [n,256,256,3] are from torch's, at each batch size."""
    expected = run_torch(detector, windows)
    score_error = map_error = 0.0
    for batch in batches:
        for start in range(0, len(windows) - batch + 1, batch):
            answer = session.run(windows[start : start + batch])
            for mine, theirs in ((answer.structural, expected.structural), (answer.logical, expected.logical)):
                if mine is None or theirs is None:
                    continue
                truth = theirs[start : start + batch]
                map_error = max(map_error, float(np.abs(mine - truth).max()))
                top = truth.max(axis=(1, 2))
                off = np.abs(mine.max(axis=(1, 2)) - top) / np.maximum(np.abs(top), 0.1)
                score_error = max(score_error, float(off.max()))
    return Parity(
        pictures=len(windows), batches=tuple(batches), max_relative_score_error=score_error, max_abs_map_error=map_error
    )


def require_parity(parity: Parity) -> None:
    """Raises BundleRefused when ONNX Runtime's scores are not torch's."""
    if not parity.max_relative_score_error < _LARGEST_ERROR:
        raise BundleRefused(
            f"ONNX Runtime's scores differ from torch's by {parity.max_relative_score_error:.2g} (limit {_LARGEST_ERROR})"
        )
