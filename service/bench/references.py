"""The same network run by others, where they are installed: the published layers in PyTorch, and OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Manifest
from service.engine.session import OPENVINO_FORMS, available_cores

Run = Callable[[NDArray[np.uint8]], object]


@dataclass(frozen=True, slots=True)
class Reference:
    """`run` takes windows uint8 [n,256,256,3] and returns when their maps are there."""

    form: str
    provider: str
    run: Run


def installed(manifest: Manifest, networks: dict[str, bytes], served_by: str, threads: int) -> Iterator[Reference]:
    """What can be run here of the bundle's `networks` (ONNX by form), on the device that serves it."""
    if find_spec("torch") is not None:
        yield from _torch(manifest, served_by, threads)
    if find_spec("openvino") is not None and served_by != "openvino":
        yield from _openvino(networks, threads)


def _torch(manifest: Manifest, served_by: str, threads: int) -> Iterator[Reference]:
    """EfficientAD's published layers, eager, channels last. Random weights: time does not depend on them."""
    import torch  # noqa: PLC0415 - a second to import, and not part of the base install

    from service.training.network import Autoencoder, Detector, Pdn  # noqa: PLC0415

    device = torch.device("cuda" if served_by == "cuda" else "cpu")
    torch.set_num_threads(threads or available_cores())
    size, channels, both = manifest.network.size, manifest.network.channels, manifest.network.global_map
    student = Pdn(size, channels * (2 if both else 1))
    detector = Detector(Pdn(size, channels), student, Autoencoder() if both else None).eval()
    detector = detector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    lower = torch.float16 if device.type == "cuda" else torch.bfloat16

    def run(windows: NDArray[np.uint8], lowered: bool) -> object:
        with torch.inference_mode(), torch.autocast(device.type, lower, enabled=lowered):
            maps = detector(torch.from_numpy(windows).to(device))
        return [each.cpu() for each in maps[:-1]]  # the features stay where they are, as when serving

    yield Reference("float32", "torch", partial(run, lowered=False))
    yield Reference("fp16" if device.type == "cuda" else "bf16", "torch", partial(run, lowered=True))


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
            yield Reference(name, "openvino", partial(_infer, request))


def _infer(request: Any, windows: NDArray[np.uint8]) -> object:
    return request.infer({"image": windows})
