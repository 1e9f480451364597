"""Torch detector -> the same function with less work -> ONNX, and the measure of how well both agree."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from service.bundle.manifest import Parity
from service.engine.session import Session
from service.errors import BundleRefused
from service.training.network import IMAGE_MEAN, IMAGE_STD, TEACHER_CHANNELS, Detector, TeacherNetwork
from service.training.select import run_torch
from service.types import WindowMaps

OPSET = 18
_LARGEST_ERROR = 1e-3  # relative score error between torch and ONNX Runtime
_HALVED_FROM = (
    32_768  # elements: smaller tensors (the first layers, whose weights take the pixels) are stored as they are
)
AnyNetwork = TypeVar("AnyNetwork", bound=TeacherNetwork)
PIXEL_UNIT = 128  # the networks take pixels in this unit; a power of two, so that int8 may take the bytes as they are


class Served(nn.Module):
    """What a detector computes, with less work: the graph that is exported.

    The normalisation is in the first layers' weights (nothing is padded, so that this is exact), the whitening in the
    teacher's last; the student's last layer is negated, so that a sum, which engines fuse into the convolution, gives the
    difference. With directions both last layers have these alone as their outputs, a twelfth of the work, and the features
    have a layer of their own, which engines leave out when nobody asks for them; without, features are the whitened ones
    stretched back.
    """

    mean: Tensor
    std: Tensor
    unit: Tensor
    shift: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        teacher, student = _on_pixels(detector.teacher), _on_pixels(detector.student)
        self.teacher, self.student = teacher.layers[:-1], student.layers[:-1]
        target, imitation = _last(teacher), _last(student)
        self.features = None if detector.directions is None else copy.deepcopy(target)
        self.register_buffer("mean", detector.mean[:, None, None].clone())
        self.register_buffer("std", detector.std[:, None, None].clone())
        assert target.bias is not None
        with torch.no_grad():
            target.weight.div_(detector.std[:, None, None, None])
            target.bias.sub_(detector.mean).div_(detector.std)
        self.autoencoder = copy.deepcopy(
            detector.autoencoder
        )  # it pads, with the mean colour: it takes normalised pixels
        if self.autoencoder is not None:
            self.copy = _part(imitation, -torch.eye(TEACHER_CHANNELS), TEACHER_CHANNELS)
            mean, std = torch.tensor(IMAGE_MEAN)[:, None, None], torch.tensor(IMAGE_STD)[:, None, None]
            self.register_buffer("unit", PIXEL_UNIT / 255 / std)
            self.register_buffer("shift", -mean / std)
        along = torch.eye(TEACHER_CHANNELS) if detector.directions is None else detector.directions
        self.target = target if detector.directions is None else _part(target, along)
        self.imitation = _part(imitation, -along)
        gain = 0.1 / (detector.q_b - detector.q_a)
        self.offset = (-gain * detector.q_a).tolist()
        self.gain = [float(gain[0]) / len(along), float(gain[1]) / TEACHER_CHANNELS]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """uint8 [N,256,256,3] -> the detector's own answer."""
        pixels = image.permute(0, 3, 1, 2).float() * (1 / PIXEL_UNIT)
        seen, hidden = self.teacher(pixels), self.student(pixels)
        target = self.target(seen)
        structural = self._scaled(target + self.imitation(hidden), 0)
        features = target * self.std + self.mean if self.features is None else self.features(seen)
        if self.autoencoder is None:
            return structural, features.half()
        logical = self._scaled(self.autoencoder(pixels * self.unit + self.shift) + self.copy(hidden), 1)
        return structural, logical, features.half()

    def _scaled(self, difference: Tensor, index: int) -> Tensor:
        distance: Tensor = difference.square().sum(dim=1)
        scaled: Tensor = distance * self.gain[index] + self.offset[index]
        return scaled


def _on_pixels(network: AnyNetwork) -> AnyNetwork:
    """The network with pixels in PIXEL_UNIT, not normalised, as its input."""
    taken = copy.deepcopy(network)
    taken.take_pixels(PIXEL_UNIT)
    return taken


def _last(network: TeacherNetwork) -> nn.Conv2d:
    last = network.layers[-1]
    assert isinstance(last, nn.Conv2d)
    return last


def _part(layer: nn.Conv2d, along: Tensor, start: int = 0) -> nn.Conv2d:
    """The layer and then `along` [K,384], as one layer with K outputs; of its own 384 outputs from `start` on."""
    assert layer.bias is not None
    part = nn.Conv2d(layer.in_channels, len(along), layer.kernel_size)  # type: ignore[arg-type]
    assert part.bias is not None
    stop = start + along.shape[1]
    with torch.no_grad():
        part.weight.copy_(torch.einsum("kc,cihw->kihw", along.double(), layer.weight[start:stop].double()))
        part.bias.copy_(along.double() @ layer.bias[start:stop].double())
    return part


def round_to_half(detector: Detector, *, whitened: bool) -> None:
    """Round the networks' weights in place, so that storing them as float16 later changes nothing: the large ones to
    float16 values. `whitened`: of the teacher's last layer the whitened weights, which are stored without directions."""
    with torch.no_grad():
        for parameter in detector.parameters():
            if parameter.numel() >= _HALVED_FROM:
                parameter.copy_(parameter.half().float())
        if whitened:
            weight, std = _last(detector.teacher).weight, detector.std[:, None, None, None]
            weight.copy_((weight / std).half().float() * std)


def to_onnx(detector: Detector) -> bytes:
    """The detector as one ONNX file: float32 weights inside, batch free. Must be in eval mode."""
    names = ["structural_map", "features"]
    if detector.autoencoder is not None:
        names.insert(1, "logical_map")
    return module_to_onnx(Served(detector.cpu()), names)


def module_to_onnx(module: nn.Module, names: Sequence[str]) -> bytes:
    """A network of windows uint8 [N,256,256,3] with outputs `names` as one ONNX file, batch free."""
    example = torch.zeros((2, 256, 256, 3), dtype=torch.uint8)  # two: a batch of one would be frozen
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of every library that is not there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (example,),
            input_names=["image"],
            output_names=list(names),
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
    """The same function in half the bytes: large float32 weights that are float16 values are stored as such behind a Cast,
    which the runtime folds."""
    proto = onnx.load_model_from_string(model)
    graph = proto.graph
    casts, kept = [], []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _HALVED_FROM:
            kept.append(tensor)
            continue
        half = values.astype(np.float16)
        if (half != values).any():
            kept.append(tensor)
            continue
        kept.append(numpy_helper.from_array(half, f"{tensor.name}_half"))
        casts.append(helper.make_node("Cast", [f"{tensor.name}_half"], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return bytes(proto.SerializeToString())


def measure_parity(detector: Detector, session: Session, windows: NDArray[np.uint8], batches: Sequence[int]) -> Parity:
    """How far the session's maps of real `windows` uint8 [n,256,256,3] are from torch's, at each batch size that they fill.

    Raises BundleRefused for maps that are not finite.
    """
    return parity_with(run_torch(detector, windows), session, windows, batches)


def parity_with(expected: WindowMaps, session: Session, windows: NDArray[np.uint8], batches: Sequence[int]) -> Parity:
    """The same from the maps that are `expected` of these windows.

    Raises BundleRefused for maps that are not finite.
    """
    batches = tuple(batch for batch in batches if batch <= len(windows))
    score_error = map_error = 0.0
    for batch in batches:
        for start in range(0, len(windows) - batch + 1, batch):
            answer = session.run(windows[start : start + batch])
            for mine, theirs in ((answer.structural, expected.structural), (answer.logical, expected.logical)):
                if mine is None or theirs is None:
                    continue
                truth = theirs[start : start + batch]
                if not np.isfinite(mine - truth).all():
                    raise BundleRefused("the exported network's maps are not all finite numbers")
                map_error = max(map_error, float(np.abs(mine - truth).max()))
                top = truth.max(axis=(1, 2))
                off = np.abs(mine.max(axis=(1, 2)) - top) / np.maximum(np.abs(top), 0.1)
                score_error = max(score_error, float(off.max()))
    return Parity(
        pictures=len(windows), batches=batches, max_relative_score_error=score_error, max_abs_map_error=map_error
    )


def require_parity(parity: Parity) -> None:
    """Raises BundleRefused when ONNX Runtime's scores are not torch's."""
    if not parity.max_relative_score_error < _LARGEST_ERROR:
        raise BundleRefused(
            f"ONNX Runtime's scores differ from torch's by {parity.max_relative_score_error:.2g} (limit {_LARGEST_ERROR})"
        )
