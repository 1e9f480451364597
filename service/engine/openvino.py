"""A network in OpenVINO: on a CPU several times as fast as ONNX Runtime where that has matrix units (AMX), which ONNX
Runtime's float kernels do not use (docs/decisions/0013)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from service.engine.session import Outputs, Session, available_cores
from service.errors import BundleRefused
from service.types import Wanted

_MOST_AT_ONCE = 4  # windows, each in buffers of its own; threads beyond that share a window
_HINTS = {"bf16": "bf16"}  # any other form computes in float32 what is not int8
_FEATURES: Outputs = ("features",)
_Job = tuple[int, Outputs]  # a window's place, and what is computed of it


class OpenVinoSession(Session):
    """A network that OpenVINO has compiled, once for each set of outputs that windows are run for: only an only tile needs both
    maps, and most pictures need no features.

    Each is compiled for one window on all threads, which is over soonest, and for as many windows as the largest rung has,
    each on threads of its own, which costs least in all: threads that share a window wait for each other at every layer,
    the longer the more other work there is. Features, of flawed pictures alone, are not worth the second one's buffers.
    """

    features_apart = True

    def __init__(
        self, model: bytes, form: str, threads: int, ladder: Sequence[int] | None, kinds: Sequence[Wanted]
    ) -> None:
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
        super().__init__(form, "openvino", ladder or sorted({1, min(threads, _MOST_AT_ONCE)}), names, kinds)
        self._compiled: dict[tuple[int, Outputs], list[Any]] = {}
        for outputs in self._kinds:
            self._requests(1, outputs)  # a network that cannot be compiled is refused at once

    def _rungs(self) -> set[tuple[int, Outputs]]:
        return {(count, outputs) for outputs in self._kinds for count in {1, self.ladder[-1]}} | {(1, _FEATURES)}

    def _answers(
        self, windows: NDArray[np.uint8], outputs: Sequence[Outputs]
    ) -> Iterator[tuple[list[int], dict[str, NDArray[Any]]]]:
        windows = np.ascontiguousarray(windows)  # those that run share the memory
        maps = [(place, tuple(name for name in own if name != "features")) for place, own in enumerate(outputs)]
        maps = [(place, own) for place, own in maps if own]
        features = [(place, _FEATURES) for place, own in enumerate(outputs) if "features" in own]
        most = self.ladder[-1]
        for jobs in [maps[start : start + most] for start in range(0, len(maps), most)]:
            yield from self._together(windows, jobs) if len(jobs) == most > 1 else self._one_by_one(windows, jobs)
        yield from self._one_by_one(windows, features)

    def _one_by_one(
        self, windows: NDArray[np.uint8], jobs: Sequence[_Job]
    ) -> Iterator[tuple[list[int], dict[str, NDArray[Any]]]]:
        for place, outputs in jobs:
            request = self._requests(1, outputs)[0]
            request.infer({"image": windows[place : place + 1]}, share_inputs=True)
            yield [place], _results(request, outputs)

    def _together(
        self, windows: NDArray[np.uint8], jobs: Sequence[_Job]
    ) -> Iterator[tuple[list[int], dict[str, NDArray[Any]]]]:
        """As many windows as the largest rung has at the same time, whatever each of them is run for."""
        with contextlib.ExitStack() as running:  # all are waited for: one that still ran could not take the next window
            started = []
            for index, (place, outputs) in enumerate(jobs):
                request = self._requests(len(jobs), outputs)[index]
                request.start_async({"image": windows[place : place + 1]}, share_inputs=True)
                running.callback(request.wait)
                started.append((request, place, outputs))
        for request, place, outputs in started:
            yield [place], _results(request, outputs)

    def _requests(self, count: int, outputs: Outputs) -> list[Any]:
        """`count` requests for those `outputs` that run at the same time, from a network compiled for that when first wanted."""
        if (count, outputs) not in self._compiled:
            self._compiled[count, outputs] = self._compile(count, outputs)
        self._seen.add((count, outputs))
        return self._compiled[count, outputs]

    def _compile(self, count: int, outputs: Outputs) -> list[Any]:
        """`count` requests of the network as far as those `outputs` need it."""
        model = self._read()
        for output in [each for each in model.outputs if not each.get_names() & set(outputs)]:
            model.remove_result(output.get_node())
        compiled = self._core.compile_model(model, "CPU", self._config | {"NUM_STREAMS": count})
        return [compiled.create_infer_request() for _ in range(count)]

    def _read(self) -> Any:
        return self._core.read_model(self._model)


def _results(request: Any, outputs: Outputs) -> dict[str, NDArray[Any]]:
    return {name: request.get_tensor(name).data.copy() for name in outputs}  # the tensors are the next run's too


def open_openvino(
    model: bytes, form: str, threads: int, ladder: Sequence[int] | None = None, kinds: Sequence[Wanted] = ("maps",)
) -> OpenVinoSession:
    """The network, compiled; without a `ladder`, for one window and for one a thread.

    Raises BundleRefused for a broken network, or for bf16 on a processor that has it not.
    """
    if form == "bf16" and not has_bfloat16():
        raise BundleRefused("this processor does not compute in bfloat16")
    try:
        return OpenVinoSession(model, form, threads, ladder, kinds)
    except RuntimeError as error:
        raise BundleRefused(f"OpenVINO cannot load the network: {error}") from error


def has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
