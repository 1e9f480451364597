"""A network in OpenVINO: on a CPU several times as fast as ONNX Runtime where that has matrix units (AMX), which ONNX
Runtime's float kernels do not use (docs/decisions/0013)."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from functools import cached_property
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
    """A network that OpenVINO has compiled, its maps and the teacher's features as two: most pictures need no features."""

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
        self._of_maps = self._compile(self._maps)

    @cached_property
    def _of_features(self) -> _Compiled:
        return self._compile(["features"])  # when they are first wanted

    def warm_up(self) -> None:
        """Run every rung that has not run yet, and features."""
        super().warm_up()
        if "_of_features" not in self.__dict__:
            self.run(np.zeros((self.ladder[-1], WINDOW, WINDOW, 3), np.uint8), "features")

    def _rung(self, windows: NDArray[np.uint8], names: list[str]) -> list[NDArray[Any]]:
        self._seen.add(len(windows))
        return self._infer(np.ascontiguousarray(windows), names)

    def _infer(self, windows: NDArray[np.uint8], names: list[str]) -> list[NDArray[Any]]:
        maps = [name for name in names if name != "features"]
        found = self._of_maps.run(windows, maps) if maps else []
        return found if maps == names else [*found, *self._of_features.run(windows, ["features"])]

    def _compile(self, names: Collection[str]) -> _Compiled:
        """The network as far as the outputs of those `names` need it."""

        def requests(streams: int) -> list[Any]:
            model = self._read()
            for output in [each for each in model.outputs if not each.get_names() & set(names)]:
                model.remove_result(output.get_node())
            compiled = self._core.compile_model(model, "CPU", self._config | {"NUM_STREAMS": streams})
            return [compiled.create_infer_request() for _ in range(streams)]

        most = self.ladder[-1]
        return _Compiled(requests(1)[0], requests(most) if most > 1 else [])

    def _read(self) -> Any:
        return self._core.read_model(self._model)


class _Compiled:
    """A network compiled for one window on all threads, which is over soonest, and for as many windows as the largest rung
    has, each on threads of its own, which costs least in all: threads that share a window wait for each other at every
    layer, the longer the more other work there is."""

    def __init__(self, alone: Any, together: list[Any]) -> None:
        self._alone = alone
        self._together = together

    def run(self, windows: NDArray[np.uint8], names: list[str]) -> list[NDArray[Any]]:
        """The outputs of those `names`."""
        if len(windows) == len(self._together):
            answers = self._run_together(windows, names)
        else:
            answers = []
            for window in windows:
                self._alone.infer({"image": window[None]}, share_inputs=True)
                answers.append(_outputs(self._alone, names))
        return answers[0] if len(answers) == 1 else [np.concatenate(parts) for parts in zip(*answers, strict=True)]

    def _run_together(self, windows: NDArray[np.uint8], names: list[str]) -> list[list[NDArray[Any]]]:
        with contextlib.ExitStack() as running:  # all are waited for: one that still ran could not take the next window
            for request, window in zip(self._together, windows, strict=True):
                request.start_async({"image": window[None]}, share_inputs=True)
                running.callback(request.wait)
        return [_outputs(request, names) for request in self._together]


def _outputs(request: Any, names: list[str]) -> list[NDArray[Any]]:
    return [request.get_tensor(name).data.copy() for name in names]  # the tensors are the next run's too


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
