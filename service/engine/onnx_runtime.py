"""A network in ONNX Runtime, on a CPU or by CUDA."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx.utils import Extractor

from service.engine.session import ALL_OUTPUTS, Outputs, Session, available_cores
from service.errors import BundleRefused, NetworkFailure
from service.types import Wanted

log = logging.getLogger("flawscribe.engine")
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeSession(Session):
    """A network that ONNX Runtime has loaded, once for each set of outputs that windows are run for: it runs every node of a
    network, whichever outputs are fetched. Features come with the structural map, beside which they cost little.

    `start` loads the network as far as such outputs need it, and for CUDA graphs if asked to; None where the provider does
    not start.
    """

    def __init__(
        self,
        form: str,
        provider: str,
        ladder: Sequence[int],
        outputs: Collection[str],
        kinds: Sequence[Wanted],
        start: Callable[[Outputs, bool], Any],
    ) -> None:
        super().__init__(form, provider, ladder, outputs, kinds)
        self._start = start
        self._sessions: dict[Outputs, Any] = {}
        self._kinds = list(dict.fromkeys(self._network(kind) for kind in self._kinds))

    def starts(self) -> bool:
        """Load the network for the first kind of window. False where the provider does not start."""
        try:
            self._session(self._kinds[0])
        except NetworkFailure:
            return False
        return True

    def _rungs(self) -> set[tuple[int, Outputs]]:
        return {(rung, outputs) for rung in self.ladder for outputs in self._kinds}

    def _network(self, outputs: Outputs) -> Outputs:
        """All outputs of the network that is run for those `outputs`."""
        with_features = bool({"structural_map", "features"} & set(outputs))
        beside = {"structural_map", "features"} if with_features else set()
        return tuple(name for name in ALL_OUTPUTS if name in self._there & (beside | set(outputs)))

    def _answers(
        self, windows: NDArray[np.uint8], outputs: Sequence[Outputs]
    ) -> Iterator[tuple[list[int], dict[str, NDArray[Any]]]]:
        alike: dict[Outputs, list[int]] = {}
        for place, own in enumerate(outputs):
            alike.setdefault(self._network(own), []).append(place)
        top = self.ladder[-1]
        for network, places in alike.items():
            names = [name for name in network if any(name in outputs[place] for place in places)]
            for some in [places[start : start + top] for start in range(0, len(places), top)]:
                answers = self._rung(windows[some], network, names)
                yield some, dict(zip(names, answers, strict=True))

    def _rung(self, windows: NDArray[np.uint8], network: Outputs, names: list[str]) -> list[NDArray[Any]]:
        """The outputs of those `names` for at most the largest rung's windows."""
        count = len(windows)
        rung = next(size for size in self.ladder if size >= count)
        self._seen.add((rung, network))
        if rung > count:  # filled up with copies: a shape outside the ladder would be planned anew
            windows = np.concatenate([windows, np.repeat(windows[-1:], rung - count, axis=0)])
        return [output[:count] for output in self._infer(np.ascontiguousarray(windows), network, names)]

    def _infer(self, windows: NDArray[np.uint8], network: Outputs, names: list[str]) -> list[NDArray[Any]]:
        """The outputs of those `names` for windows whose number is a rung's."""
        answers: list[NDArray[Any]] = self._session(network).run(names, {"image": windows})
        return answers

    def _session(self, network: Outputs) -> Any:
        """The network with those outputs, loaded when first wanted. Raises NetworkFailure where that fails; the next run tries
        again."""
        if network not in self._sessions:
            session = self._load(network)
            if session is None:
                raise NetworkFailure(f"{self.provider} could not be started, for want of memory perhaps", retry_after=5)
            self._sessions[network] = session
        return self._sessions[network]

    def _load(self, network: Outputs) -> Any:
        return self._start(network, False)


def open_onnx_runtime(
    model: bytes,
    form: str,
    provider: Literal["cpu", "cuda"],
    threads: int,
    ladder: Sequence[int],
    kinds: Sequence[Wanted] = ("maps",),
    gpu_memory: int | None = None,
) -> OnnxRuntimeSession | None:
    """The network on that provider; None where the provider does not start. Raises BundleRefused for a broken network."""
    if provider == "cuda" and not (
        _PROVIDERS["cuda"] in onnxruntime.get_available_providers() and _load_cuda_libraries()
    ):
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, and told of where they are caught
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    # spinning burns whole cores between runs and bought nothing
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings: dict[str, str] = {}
    if provider == "cuda":
        settings = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
        if gpu_memory is not None:
            settings["gpu_mem_limit"] = str(gpu_memory // len(set(kinds)))  # each has a network of its own
        if form == "float32":
            settings["use_tf32"] = "0"  # else convolutions round to ten bits: torch's scores would not be met
    else:
        options.enable_cpu_mem_arena = False  # the arena doubles resident memory and saves no time here
        options.enable_mem_pattern = False  # one block for a whole run is mapped anew each time: int8 took 1.4x as long

    outputs = _outputs_of(model)

    def start(needed: Outputs, for_graphs: bool) -> Any:
        data = model if set(needed) == set(outputs) else _part_of(model, needed)
        asked = settings | ({"enable_cuda_graph": "1"} if for_graphs else {})
        try:
            session = onnxruntime.InferenceSession(data, options, providers=[(_PROVIDERS[provider], asked)])
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            if provider == "cuda":  # a broken network shows on the CPU too
                log.warning("CUDA could not be started: %s", error)
                return None
            raise BundleRefused(f"ONNX Runtime cannot load the network: {error}") from error
        return session if session.get_providers()[0] == _PROVIDERS[provider] else None

    from service.engine.cuda import CudaSession  # noqa: PLC0415 - it needs this module

    kind = CudaSession if provider == "cuda" else OnnxRuntimeSession
    opened = kind(form, provider, ladder, outputs, kinds, start)
    return opened if opened.starts() else None


def _outputs_of(model: bytes) -> Outputs:
    """The names of the network's outputs. Raises BundleRefused where there is no network."""
    try:
        outputs = tuple(output.name for output in onnx.load_model_from_string(model).graph.output)
    except Exception as error:  # protobuf raises its own kinds
        raise BundleRefused(f"ONNX Runtime cannot load the network: {error}") from error
    return outputs


def _part_of(model: bytes, outputs: Outputs) -> bytes:
    """The network as far as those `outputs` need it."""
    part = Extractor(onnx.load_model_from_string(model)).extract_model(["image"], list(outputs))
    return bytes(part.SerializeToString())


def _load_cuda_libraries() -> bool:
    """Load the CUDA libraries that came as wheels; False when there is no NVIDIA driver to use them."""
    if not (Path("/dev/nvidiactl").exists() or os.name == "nt"):
        return False
    onnxruntime.preload_dlls()
    return True
