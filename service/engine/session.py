"""One ONNX network on one device, whatever engine runs it. Nothing here knows of pictures or bundles.

onnx_runtime.py and openvino.py are the engines; each is imported where it is used, so that a service holds one of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import BundleRefused, NotReady
from service.image.prepare import WINDOW
from service.types import Wanted, WindowMaps

Provider = Literal["auto", "cpu", "openvino", "cuda"]
OPENVINO_FORMS = ("int8-openvino", "bf16")  # whose scores are OpenVINO's: engines round int8 differently
CPU_LADDER = (1,)  # a batch takes longer on a CPU than its windows one by one, and more memory (docs/decisions/0018)
CUDA_LADDER = (1, 2, 4, 8, 16, 32)
_M_ARENA_MAX = -8  # glibc's malloc.h


class Session(ABC):
    """A loaded network. `run` may be called from one thread at a time. `outputs`: the names that the network gives.

    `features_apart`: whether features are a network of their own, so that a run without them saves their time, and one for
    them alone that of the maps.
    """

    features_apart = False

    def __init__(self, form: str, provider: str, ladder: Sequence[int], outputs: Collection[str]) -> None:
        self.form = form
        self.provider = provider
        self.ladder = tuple(ladder)
        self.has_logical = "logical_map" in outputs
        self._seen: set[int] = set()  # rungs that have run
        self._maps = ["structural_map", "logical_map"] if self.has_logical else ["structural_map"]

    def run(self, windows: NDArray[np.uint8], wanted: Wanted = "maps") -> WindowMaps:
        """What is `wanted` of `windows` uint8 [n,256,256,3], n >= 1, in as many runs as the ladder needs.

        A failing run raises the engine's own exceptions.
        """
        names = [*(() if wanted == "features" else self._maps), *(() if wanted == "maps" else ("features",))]
        top = self.ladder[-1]
        pieces = [self._rung(windows[start : start + top], names) for start in range(0, len(windows), top)]
        whole = pieces[0] if len(pieces) == 1 else [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
        named = dict(zip(names, whole, strict=True))
        none = np.empty((len(windows), 0, 0), np.float32)
        return WindowMaps(named.get("structural_map", none), named.get("logical_map"), named.get("features"))

    def warm_up(self) -> None:
        """Run every rung that has not run yet, so that no request pays for the first use of a shape."""
        while cold := set(self.ladder) - self._seen:  # the largest first: one that fails leaves a ladder without it
            self.run(np.zeros((max(cold), WINDOW, WINDOW, 3), np.uint8))

    def _rung(self, windows: NDArray[np.uint8], names: list[str]) -> list[NDArray[Any]]:
        """The outputs of those `names` for at most the largest rung's windows."""
        count = len(windows)
        rung = next(size for size in self.ladder if size >= count)
        self._seen.add(rung)
        if rung > count:  # filled up with copies: a shape outside the ladder would be planned anew
            windows = np.concatenate([windows, np.repeat(windows[-1:], rung - count, axis=0)])
        return [output[:count] for output in self._infer(np.ascontiguousarray(windows), names)]

    @abstractmethod
    def _infer(self, windows: NDArray[np.uint8], names: list[str]) -> list[NDArray[Any]]:
        """The outputs of those `names`, features last, for windows whose number is a rung's."""


def open_session(
    model: bytes,
    *,
    form: str,
    provider: Provider = "auto",
    threads: int = 0,
    ladder: Sequence[int] | None = None,
    gpu_memory: int | None = None,
) -> Session:
    """Load a verified network from its bytes.

    `auto` takes OpenVINO for the forms that were calibrated in it, else CUDA where it works, else the CPU. `threads`: of
    one run on the CPU, 0 for the cgroup's share. `gpu_memory`: bytes that it may take on CUDA, None for all there is.
    Raises NotReady when the asked provider is not there, or ONNX Runtime fell back silently; BundleRefused when the network
    cannot be loaded, or not in that form.
    """
    if provider == "cuda" or (provider == "auto" and form not in OPENVINO_FORMS and has_cuda()):
        from service.engine.onnx_runtime import open_onnx_runtime  # noqa: PLC0415 - see above

        on_gpu = open_onnx_runtime(model, form, "cuda", threads, ladder or CUDA_LADDER, gpu_memory)
        if on_gpu is not None:
            return on_gpu
    if provider == "cuda":
        raise NotReady(
            "FLAWSCRIBE_PROVIDER=cuda, but ONNX Runtime could not start CUDA here: is there a GPU, and is the extra "
            "`gpu` installed (pip install 'flawscribe[gpu]')?"
        )
    if provider == "openvino" and not has_openvino():
        raise NotReady(
            "FLAWSCRIBE_PROVIDER=openvino, but OpenVINO is not installed: pip install 'flawscribe[openvino]'"
        )
    if provider == "openvino" or (provider == "auto" and form in OPENVINO_FORMS and has_openvino()):
        from service.engine.openvino import open_openvino  # noqa: PLC0415

        return open_openvino(model, form, threads, ladder)
    if form in OPENVINO_FORMS:
        raise BundleRefused(f"form {form} needs OpenVINO: pip install 'flawscribe[openvino]'")
    from service.engine.onnx_runtime import open_onnx_runtime  # noqa: PLC0415

    opened = open_onnx_runtime(model, form, "cpu", threads, ladder or CPU_LADDER)
    if opened is None:
        raise NotReady("ONNX Runtime could not start its CPU provider")
    return opened


def has_cuda() -> bool:
    """Whether there is an NVIDIA driver, as far as can be seen without loading one."""
    return Path("/dev/nvidiactl").exists() or os.name == "nt"


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None


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
