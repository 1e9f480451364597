"""A network in OpenVINO: on a CPU several times as fast as ONNX Runtime where that has matrix units (AMX), which ONNX
Runtime's float kernels do not use (docs/decisions/0013)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from service.engine.session import Session, available_cores
from service.errors import BundleRefused
from service.image.prepare import WINDOW

_MOST_AT_ONCE = 4  # windows, each in buffers of its own; threads beyond that share a window
_HINTS = {"bf16": "bf16"}  # any other form computes in float32 what is not int8


class OpenVinoSession(Session):
    """A network that OpenVINO has compiled: for one window on all threads, which is over soonest, and for as many windows as
    the largest rung has, each on threads of its own, which costs least in all: threads that share a window wait for each
    other at every layer, the longer the more other work there is. With features it is compiled when they are first wanted.
    """

    features_apart = True

    def __init__(self, model: bytes, form: str, threads: int, ladder: Sequence[int] | None) -> None:
        threads = threads or available_cores()
        self._model = model
        self._core = openvino.Core()
        self._config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _HINTS.get(form, "f32"),
            # a thread that may not leave its core waits there for decoding and for the event loop
            "ENABLE_CPU_PINNING": False,
        }
        names = {name for output in self._read().outputs for name in output.get_names()}
        super().__init__(form, "openvino", ladder or sorted({1, min(threads, _MOST_AT_ONCE)}), names)
        self._alone = {False: self._compile(1)[0]}
        self._together = self._compile(self.ladder[-1]) if self.ladder[-1] > 1 else []

    def warm_up(self) -> None:
        """Run every rung that has not run yet, with features too, which are compiled apart."""
        super().warm_up()
        if self._alone.keys() == {False}:
            self.run(np.zeros((1, WINDOW, WINDOW, 3), np.uint8), features=True)

    def _rung(self, windows: NDArray[np.uint8], wanted: list[str]) -> list[NDArray[Any]]:
        self._seen.add(len(windows))
        return self._infer(np.ascontiguousarray(windows), wanted)

    def _infer(self, windows: NDArray[np.uint8], wanted: list[str]) -> list[NDArray[Any]]:
        features = "features" in wanted
        if len(windows) == len(self._together) and not features:
            answers = self._infer_together(windows, wanted)
        else:
            if features not in self._alone:
                self._alone[features] = self._compile(1, features=True)[0]
            request = self._alone[features]
            answers = []
            for window in windows:
                request.infer({"image": window[None]}, share_inputs=True)
                answers.append(_outputs(request, wanted))
        return answers[0] if len(answers) == 1 else [np.concatenate(parts) for parts in zip(*answers, strict=True)]

    def _infer_together(self, windows: NDArray[np.uint8], wanted: list[str]) -> list[list[NDArray[Any]]]:
        with contextlib.ExitStack() as running:  # all are waited for: one that still ran could not take the next window
            for request, window in zip(self._together, windows, strict=True):
                request.start_async({"image": window[None]}, share_inputs=True)
                running.callback(request.wait)
        return [_outputs(request, wanted) for request in self._together]

    def _compile(self, streams: int, *, features: bool = False) -> list[Any]:
        model = self._read()
        for output in [] if features else [each for each in model.outputs if "features" in each.get_names()]:
            model.remove_result(output.get_node())
        compiled = self._core.compile_model(model, "CPU", self._config | {"NUM_STREAMS": streams})
        return [compiled.create_infer_request() for _ in range(streams)]

    def _read(self) -> Any:
        return self._core.read_model(self._model)


def _outputs(request: Any, wanted: list[str]) -> list[NDArray[Any]]:
    return [request.get_tensor(name).data.copy() for name in wanted]  # the tensors are the next run's too


def open_openvino(model: bytes, form: str, threads: int, ladder: Sequence[int] | None = None) -> OpenVinoSession:
    """The network, compiled; without a `ladder`, for one window and for one a thread.

    Raises BundleRefused for a broken network, or for bf16 on a processor that has it not.
    """
    if form == "bf16" and not has_bfloat16():
        raise BundleRefused("this processor does not compute in bfloat16")
    try:
        return OpenVinoSession(model, form, threads, ladder)
    except RuntimeError as error:
        raise BundleRefused(f"OpenVINO cannot load the network: {error}") from error


def has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
