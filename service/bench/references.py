"""The same network run by others, where they are installed: its layers as published in PyTorch, and OpenVINO."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.bench.work import gflop
from service.bundle.manifest import Manifest
from service.engine.session import OPENVINO_FORMS, available_cores
from service.errors import BadRequest
from service.image.prepare import WINDOW

if TYPE_CHECKING:
    from service.training.network import Detector, TeacherNetwork

Run = Callable[[NDArray[np.uint8]], object]


@dataclass(frozen=True, slots=True)
class Reference:
    """`run` takes windows uint8 [n,256,256,3] and returns when their maps are there. `gflop`: of one window."""

    form: str
    provider: str
    gflop: float
    run: Run


def installed(
    manifest: Manifest, networks: dict[str, bytes], teachers: Path, served_by: str, threads: int
) -> Iterator[Reference]:
    """What can be run here of the bundle's `networks` (ONNX by form), on the device that serves it. `teachers`: the folder
    beside the bundle's model that may have its own."""
    if find_spec("torch") is not None:
        yield from _torch(manifest, teachers, served_by, threads)
    if find_spec("openvino") is not None and served_by != "openvino":
        yield from _openvino(networks, threads)


def _torch(manifest: Manifest, teachers: Path, served_by: str, threads: int) -> Iterator[Reference]:
    """The detector with its layers as published, eager, channels last. Random weights: time does not depend on them."""
    import torch  # noqa: PLC0415 - a second to import, and not part of the base install
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    device = torch.device("cuda" if served_by == "cuda" else "cpu")
    torch.set_num_threads(threads or available_cores())
    detector = _detector(manifest, teachers)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        detector(torch.zeros((1, WINDOW, WINDOW, 3), dtype=torch.uint8))
    work = round(counter.get_total_flops() / 1e9, 1)
    placed: Any = detector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    lower = torch.float16 if device.type == "cuda" else torch.bfloat16

    def run(windows: NDArray[np.uint8], lowered: bool) -> object:
        with torch.inference_mode(), torch.autocast(device.type, lower, enabled=lowered):
            maps = placed(torch.from_numpy(windows).to(device))
        return [each.cpu() for each in maps[:-1]]  # the features stay where they are, as when serving

    yield Reference("float32", "torch", work, partial(run, lowered=False))
    yield Reference("fp16" if device.type == "cuda" else "bf16", "torch", work, partial(run, lowered=True))


def _detector(manifest: Manifest, teachers: Path) -> Detector:
    """An untrained detector of the bundle's kind: its teacher's, its student, its directions, its autoencoder."""
    import torch  # noqa: PLC0415

    from service.training.network import Autoencoder, Detector, Pdn  # noqa: PLC0415

    size, channels, both = manifest.network.size, manifest.network.channels, manifest.network.global_map
    student = Pdn(size, channels * (2 if both else 1))
    detector = Detector(_teacher(manifest, teachers), student, Autoencoder() if both else None)
    directions = manifest.training.get("directions")
    if directions:
        detector.directions = torch.linalg.qr(torch.randn(channels, int(directions)))[0].T.contiguous()
    return detector.eval()


def _teacher(manifest: Manifest, teachers: Path) -> TeacherNetwork:
    """The bundle's teacher, from the folder of teachers beside it or from the usual one; a PDN where it is in neither."""
    from service.training.network import Pdn  # noqa: PLC0415
    from service.training.teacher import DEFAULT_DIRECTORY, load_teacher  # noqa: PLC0415

    for folder in (teachers, DEFAULT_DIRECTORY):
        with contextlib.suppress(BadRequest):
            return load_teacher(manifest.teacher.name, folder).network
    return Pdn(manifest.network.size, manifest.network.channels)  # the row's GFLOP tell


def _openvino(networks: dict[str, bytes], threads: int) -> Iterator[Reference]:
    """ONNX Runtime's forms in OpenVINO; float32 also as it lowers it by default, unless the bundle has that as a form."""
    import openvino  # noqa: PLC0415 - not part of the base install

    core = openvino.Core()
    able = set(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    for form, data in networks.items():
        for name, hint in ((form, "f32"), ("bf16", "bf16")):
            lowered = name != form
            if form in OPENVINO_FORMS or (lowered and (form != "float32" or name in networks or "BF16" not in able)):
                continue
            config = {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": hint,
                "INFERENCE_NUM_THREADS": threads or available_cores(),
            }
            model = core.read_model(data)
            for output in [each for each in model.outputs if each.get_any_name() == "features"]:
                model.remove_result(output.get_node())
            request = core.compile_model(model, "CPU", config).create_infer_request()
            yield Reference(name, "openvino", gflop(data, ("structural_map", "logical_map")), partial(_infer, request))


def _infer(request: Any, windows: NDArray[np.uint8]) -> object:
    return request.infer({"image": windows})
