"""A network in ONNX Runtime, on a CPU or by CUDA."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.engine.session import Session, available_cores
from service.errors import BundleRefused, NetworkFailure
from service.types import Wanted, WindowMaps

log = logging.getLogger("flawscribe.engine")
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# parts of what ONNX Runtime's arena, CUDA, cuBLAS and cuDNN say when the GPU's memory does not suffice
_NO_MEMORY = (
    "bfcarena",
    "failed to allocate memory",
    "is smaller than requested bytes",
    "out of memory",
    "out_of_memory",
    "alloc_failed",
    "allocation_failed",
)


class _RungGone(Exception):
    """A rung did not fit into the GPU's memory, and has left the ladder."""


class OnnxRuntimeSession(Session):
    """A network that ONNX Runtime has loaded. `start` loads it, None where the provider does not start.

    A session that has failed for want of GPU memory may go on failing whatever it is given: it is made anew, with the rungs
    that are smaller than the one that failed.
    """

    def __init__(self, session: Any, form: str, provider: str, ladder: Sequence[int], start: Callable[[], Any]) -> None:
        super().__init__(form, provider, ladder, {output.name for output in session.get_outputs()})
        self._session = session
        self._start = start

    def run(self, windows: NDArray[np.uint8], wanted: Wanted = "maps") -> WindowMaps:
        """As every session's. What does not fit into the GPU's memory is run in smaller rungs, as long as there are any."""
        while True:
            try:
                return super().run(windows, wanted)
            except _RungGone:
                continue

    def _infer(self, windows: NDArray[np.uint8], names: list[str]) -> list[NDArray[Any]]:
        if self.provider == "cpu":
            answers: list[NDArray[Any]] = self._session.run(names, {"image": windows})
            return answers
        if self._session is None:
            self._restart()
        try:
            return self._infer_bound(windows, names)
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            if not _is_want_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold the session, and it the memory
            self._give_up(len(windows), error)
            raise

    def _infer_bound(self, windows: NDArray[np.uint8], names: list[str]) -> list[NDArray[Any]]:
        binding = self._session.io_binding()
        binding.bind_cpu_input("image", windows)
        for name in names:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        bound: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
        return bound

    def _give_up(self, rung: int, error: Exception) -> None:
        """Make the session anew, without the `rung` that failed and those above it. Raises _RungGone when others are left."""
        smaller = tuple(size for size in self.ladder if size < rung) or (1,)
        log.error(
            "GPU memory does not suffice for %d windows at once: the session is made anew, with at most %d (%s)",
            rung,
            smaller[-1],
            error,
        )
        self.ladder = smaller
        self._restart()
        if rung > 1:
            raise _RungGone from error

    def _restart(self) -> None:
        """Load the network anew. Raises NetworkFailure when that fails too; the next run tries again."""
        self._session = None  # its memory is what the new one needs
        self._seen.clear()
        self._session = self._start()
        if self._session is None:
            raise NetworkFailure("the GPU's memory did not suffice, and CUDA could not be started again", retry_after=5)


def open_onnx_runtime(
    model: bytes,
    form: str,
    provider: Literal["cpu", "cuda"],
    threads: int,
    ladder: Sequence[int],
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
            settings["gpu_mem_limit"] = str(gpu_memory)
        if form == "float32":
            settings["use_tf32"] = "0"  # else convolutions round to ten bits: torch's scores would not be met
    else:
        options.enable_cpu_mem_arena = False  # the arena doubles resident memory and saves no time here
        options.enable_mem_pattern = False  # one block for a whole run is mapped anew each time: int8 took 1.4x as long

    def start() -> Any:
        try:
            session = onnxruntime.InferenceSession(model, options, providers=[(_PROVIDERS[provider], settings)])
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            if provider == "cuda":  # a broken network shows on the CPU too
                log.warning("CUDA could not be started: %s", error)
                return None
            raise BundleRefused(f"ONNX Runtime cannot load the network: {error}") from error
        return session if session.get_providers()[0] == _PROVIDERS[provider] else None

    session = start()
    return None if session is None else OnnxRuntimeSession(session, form, provider, ladder, start)


def _is_want_of_memory(error: Exception) -> bool:
    told = str(error).lower()
    return any(words in told for words in _NO_MEMORY)


def _load_cuda_libraries() -> bool:
    """Load the CUDA libraries that came as wheels; False when there is no NVIDIA driver to use them."""
    if not (Path("/dev/nvidiactl").exists() or os.name == "nt"):
        return False
    onnxruntime.preload_dlls()
    return True
