"""One ONNX network on one device: provider, ladder of batch sizes, IO. Nothing here knows of pictures or bundles."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.errors import BundleRefused, NotReady
from service.image.prepare import WINDOW
from service.types import WindowMaps

log = logging.getLogger("flawscribe.engine")
Provider = Literal["auto", "cpu", "cuda"]
CPU_LADDER = (1, 2, 4)  # a batch buys little on a CPU and costs memory
CPU_INT8_LADDER = (1, 2)  # int8 convolutions unfold their input: 170 MB a window (docs/decisions/0007)
CUDA_LADDER = (1, 2, 4, 8, 16, 32)
_M_ARENA_MAX = -8  # glibc's malloc.h
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Session:
    """A loaded network. `run` may be called from one thread at a time."""

    def __init__(self, session: Any, form: str, provider: str, ladder: Sequence[int]) -> None:
        self._session = session
        self.form = form
        self.provider = provider
        self.ladder = tuple(ladder)
        names = {output.name for output in session.get_outputs()}
        self.has_logical = "logical_map" in names
        self._seen: set[int] = set()  # rungs that have run
        self._maps = ["structural_map", "logical_map"] if self.has_logical else ["structural_map"]

    def run(self, windows: NDArray[np.uint8], features: bool = False) -> WindowMaps:
        """Maps of `windows` uint8 [n,256,256,3], n >= 1, in as many runs as the ladder needs; `features` when asked for.

        A failing run raises ONNX Runtime's own exceptions.
        """
        wanted = [*self._maps, "features"] if features else self._maps
        top = self.ladder[-1]
        pieces = [self._rung(windows[start : start + top], wanted) for start in range(0, len(windows), top)]
        whole = pieces[0] if len(pieces) == 1 else [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
        named = dict(zip(wanted, whole, strict=True))
        return WindowMaps(named["structural_map"], named.get("logical_map"), named.get("features"))

    def warm_up(self) -> None:
        """Run every rung that has not run yet, so that no request pays for the first use of a shape."""
        for rung in set(self.ladder) - self._seen:
            self.run(np.zeros((rung, WINDOW, WINDOW, 3), np.uint8))

    def _rung(self, windows: NDArray[np.uint8], wanted: list[str]) -> list[NDArray[Any]]:
        count = len(windows)
        rung = next(size for size in self.ladder if size >= count)
        self._seen.add(rung)
        if rung > count:  # filled up with copies: a shape outside the ladder would be planned anew
            windows = np.concatenate([windows, np.repeat(windows[-1:], rung - count, axis=0)])
        if self.provider == "cpu":
            outputs = self._session.run(wanted, {"image": np.ascontiguousarray(windows)})
        else:
            binding = self._session.io_binding()
            binding.bind_cpu_input("image", np.ascontiguousarray(windows))
            for name in wanted:
                binding.bind_output(name)
            self._session.run_with_iobinding(binding)
            outputs = binding.copy_outputs_to_cpu()
        return [output[:count] for output in outputs]


def open_session(
    model: bytes, *, form: str, provider: Provider = "auto", threads: int = 0, ladder: Sequence[int] | None = None
) -> Session:
    """Load a verified network from its bytes.

    `auto` takes CUDA where it works, else the CPU. `threads`: of one run on the CPU, 0 for the cgroup's share. Raises
    NotReady when the asked provider is not there, or ONNX Runtime fell back silently; BundleRefused when it cannot
    load the network.
    """
    available = onnxruntime.get_available_providers()
    if provider != "cpu" and _PROVIDERS["cuda"] in available and _cuda_libraries():
        opened = _create(model, "cuda", threads)
        if opened is not None:
            return Session(opened, form, "cuda", ladder or CUDA_LADDER)
    if provider == "cuda":
        raise NotReady(
            "FLAWSCRIBE_PROVIDER=cuda, but ONNX Runtime could not start CUDA here: is there a GPU, and is the extra "
            "`gpu` installed (pip install 'flawscribe[gpu]')?"
        )
    opened = _create(model, "cpu", threads)
    if opened is None:
        raise NotReady("ONNX Runtime could not start its CPU provider")
    return Session(opened, form, "cpu", ladder or (CPU_INT8_LADDER if form == "int8" else CPU_LADDER))


def _cuda_libraries() -> bool:
    """Load the CUDA libraries that came as wheels; False when there is no NVIDIA driver to use them."""
    if not (Path("/dev/nvidiactl").exists() or os.name == "nt"):
        return False
    onnxruntime.preload_dlls()
    return True


def _create(model: bytes, provider: str, threads: int) -> Any | None:
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
    return session if session.get_providers()[0] == _PROVIDERS[provider] else None


def return_memory() -> None:
    """Give freed memory back to the system.

    glibc keeps it apart for each thread: what loading a bundle used would stay beside what the inference thread uses.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def share_memory_pools() -> None:
    """Let all threads allocate from two pools of the C library, not from one each: what a decoding thread has freed would
    stay beside what the inference thread uses. To be called before threads are started."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def available_cores() -> int:
    """Cores that this process may use: the cgroup's quota, else its affinity; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return affinity
    if quota == "max":
        return affinity
    return max(1, min(affinity, -(-int(quota) // int(period))))
