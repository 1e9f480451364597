"""A network in ONNX Runtime, on a CPU or by CUDA."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.engine.session import Session, available_cores
from service.errors import BundleRefused

log = logging.getLogger("flawscribe.engine")
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeSession(Session):
    """A network that ONNX Runtime has loaded."""

    def __init__(self, session: Any, form: str, provider: str, ladder: Sequence[int]) -> None:
        super().__init__(form, provider, ladder, {output.name for output in session.get_outputs()})
        self._session = session

    def _infer(self, windows: NDArray[np.uint8], names: list[str]) -> list[NDArray[Any]]:
        if self.provider == "cpu":
            answers: list[NDArray[Any]] = self._session.run(names, {"image": windows})
            return answers
        binding = self._session.io_binding()
        binding.bind_cpu_input("image", windows)
        for name in names:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        bound: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
        return bound


def open_onnx_runtime(
    model: bytes, form: str, provider: Literal["cpu", "cuda"], threads: int, ladder: Sequence[int]
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
    else:
        options.enable_cpu_mem_arena = False  # the arena doubles resident memory and saves no time here
        options.enable_mem_pattern = False  # one block for a whole run is mapped anew each time: int8 took 1.4x as long
    try:
        session = onnxruntime.InferenceSession(model, options, providers=[(_PROVIDERS[provider], settings)])
    except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
        if provider == "cuda":  # a broken network shows on the CPU too
            log.warning("CUDA could not be started: %s", error)
            return None
        raise BundleRefused(f"ONNX Runtime cannot load the network: {error}") from error
    if session.get_providers()[0] != _PROVIDERS[provider]:
        return None
    return OnnxRuntimeSession(session, form, provider, ladder)


def _load_cuda_libraries() -> bool:
    """Load the CUDA libraries that came as wheels; False when there is no NVIDIA driver to use them."""
    if not (Path("/dev/nvidiactl").exists() or os.name == "nt"):
        return False
    onnxruntime.preload_dlls()
    return True
