"""A network in OpenVINO: on a CPU several times as fast as ONNX Runtime where that has matrix units (AMX), which ONNX
Runtime's float kernels do not use (docs/decisions/0013)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from service.engine.session import Session, available_cores
from service.errors import BundleRefused
from service.image.prepare import WINDOW

_HINTS = {"bf16": "bf16"}  # any other form computes in float32 what is not int8


class OpenVinoSession(Session):
    """A network that OpenVINO has compiled: once without features, and once with them when they are first wanted."""

    features_apart = True

    def __init__(self, model: bytes, form: str, threads: int, ladder: Sequence[int]) -> None:
        self._model = model
        self._core = openvino.Core()
        self._config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads or available_cores(),
            "INFERENCE_PRECISION_HINT": _HINTS.get(form, "f32"),
        }
        names = {name for output in self._read().outputs for name in output.get_names()}
        super().__init__(form, "openvino", ladder, names)
        self._requests = {False: self._compile(features=False)}

    def warm_up(self) -> None:
        """Run every rung that has not run yet, with features too, which are compiled apart."""
        super().warm_up()
        if self._requests.keys() == {False}:
            for rung in self.ladder:
                self.run(np.zeros((rung, WINDOW, WINDOW, 3), np.uint8), features=True)

    def _infer(self, windows: NDArray[np.uint8], wanted: list[str]) -> list[NDArray[Any]]:
        features = "features" in wanted
        if features not in self._requests:
            self._requests[features] = self._compile(features=features)
        request = self._requests[features]
        request.infer({"image": windows}, share_inputs=True)
        return [request.get_tensor(name).data.copy() for name in wanted]  # the tensors are the next run's too

    def _compile(self, *, features: bool) -> Any:
        model = self._read()
        for output in [] if features else [each for each in model.outputs if "features" in each.get_names()]:
            model.remove_result(output.get_node())
        return self._core.compile_model(model, "CPU", self._config).create_infer_request()

    def _read(self) -> Any:
        return self._core.read_model(self._model)


def open_openvino(model: bytes, form: str, threads: int, ladder: Sequence[int]) -> OpenVinoSession:
    """The network, compiled. Raises BundleRefused for a broken network, or for bf16 on a processor that has it not."""
    if form == "bf16" and not has_bfloat16():
        raise BundleRefused("this processor does not compute in bfloat16")
    try:
        return OpenVinoSession(model, form, threads, ladder)
    except RuntimeError as error:
        raise BundleRefused(f"OpenVINO cannot load the network: {error}") from error


def has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
