"""One ONNX network on one device, whatever engine runs it. Nothing here knows of pictures or bundles.

onnx_runtime.py and openvino.py are the engines; each is imported where it is used, so that a service holds one of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import BundleRefused, NotReady
from service.image.prepare import CELLS, WINDOW
from service.types import Wanted, WindowMaps

Provider = Literal["auto", "cpu", "openvino", "cuda"]
OPENVINO_FORMS = ("int8-openvino", "bf16")  # whose scores are OpenVINO's: engines round int8 differently
CPU_LADDER = (1,)  # a batch takes longer on a CPU than its windows one by one, and more memory (docs/decisions/0018)
CUDA_LADDER = (1, 2, 4, 8, 16, 32)
_M_ARENA_MAX = -8  # glibc's malloc.h


Outputs = tuple[str, ...]  # of a network, by name, in the order of ALL_OUTPUTS
ALL_OUTPUTS = ("structural_map", "logical_map", "features")
_MEANT: dict[Wanted, set[str]] = {
    "maps": {"structural_map", "logical_map"},
    "structural": {"structural_map"},
    "logical": {"logical_map"},
    "maps and features": set(ALL_OUTPUTS),
    "structural and features": {"structural_map", "features"},
    "features": {"features"},
}


class Session(ABC):
    """A loaded network. `run` may be called from one thread at a time. `outputs`: the names that the network gives; `kinds`:
    what its pictures want of their windows, which is made ready at warm-up. Anything else is made ready when first wanted.

    `features_apart`: whether features are a network of their own, so that a run without them saves their time, and one for
    them alone that of the maps.
    """

    features_apart = False

    def __init__(
        self, form: str, provider: str, ladder: Sequence[int], outputs: Collection[str], kinds: Sequence[Wanted]
    ) -> None:
        self.form = form
        self.provider = provider
        self.ladder = tuple(ladder)
        self.has_logical = "logical_map" in outputs
        self._there = frozenset(outputs)
        self._kinds = [self._outputs(kind) for kind in kinds]
        self._seen: set[tuple[int, Outputs]] = set()  # windows at once and outputs of the networks that have run

    def run(self, windows: NDArray[np.uint8], wanted: Wanted | Sequence[Wanted] = "maps") -> WindowMaps:
        """What is `wanted` of `windows` uint8 [n,256,256,3], n >= 1, of all or of each, in as many runs as the ladder needs.

        A failing run raises the engine's own exceptions; ValueError when as many are not wanted as there are windows.
        """
        count = len(windows)
        each = (wanted,) * count if isinstance(wanted, str) else wanted
        if len(each) != count:
            raise ValueError(f"{len(each)} answers are wanted of {count} windows")
        found = self._gathered(windows, [self._outputs(one) for one in each])
        structural = found.get("structural_map")
        if structural is None:
            structural = np.zeros((count, CELLS, CELLS), np.float32)
        return WindowMaps(structural, found.get("logical_map"), found.get("features"))

    def warm_up(self) -> None:
        """Run every rung that has not run yet of what pictures want, so that no request pays for the first use of a shape."""
        while cold := self._rungs() - self._seen:  # the largest first: one that fails leaves a ladder without it
            count, outputs = max(cold)
            self._gathered(np.zeros((count, WINDOW, WINDOW, 3), np.uint8), [outputs] * count)

    def _outputs(self, wanted: Wanted) -> Outputs:
        return tuple(name for name in ALL_OUTPUTS if name in _MEANT[wanted] & self._there)

    def _gathered(self, windows: NDArray[np.uint8], outputs: Sequence[Outputs]) -> dict[str, NDArray[Any]]:
        """By name the outputs of all windows, 0 for those windows for which none came."""
        found: dict[str, NDArray[Any]] = {}
        for places, answers in self._answers(windows, outputs):
            for name, answer in answers.items():
                if len(places) == len(windows):  # all of them at once: nothing to put together
                    found[name] = answer
                    continue
                if name not in found:
                    found[name] = np.zeros((len(windows), *answer.shape[1:]), answer.dtype)
                found[name][places] = answer
        return found

    @abstractmethod
    def _answers(
        self, windows: NDArray[np.uint8], outputs: Sequence[Outputs]
    ) -> Iterator[tuple[list[int], dict[str, NDArray[Any]]]]:
        """Run by run the places of its windows and what came of them, until every window has its own `outputs`."""

    @abstractmethod
    def _rungs(self) -> set[tuple[int, Outputs]]:
        """What is run for the pictures' windows: how many at once, and with what outputs."""


def open_session(
    model: bytes,
    *,
    form: str,
    provider: Provider = "auto",
    threads: int = 0,
    ladder: Sequence[int] | None = None,
    gpu_memory: int | None = None,
    kinds: Sequence[Wanted] = ("maps",),
) -> Session:
    """Load a verified network from its bytes.

    `auto` takes OpenVINO for the forms that were calibrated in it, else CUDA where it works, else the CPU. `threads`: of
    one run on the CPU, 0 for the cgroup's share. `gpu_memory`: bytes that it may take on CUDA, None for all there is. `kinds`:
    what its pictures want of their windows.
    Raises NotReady when the asked provider is not there, or ONNX Runtime fell back silently; BundleRefused when the network
    cannot be loaded, or not in that form.
    """
    if provider == "cuda" or (provider == "auto" and form not in OPENVINO_FORMS and has_cuda()):
        from service.engine.onnx_runtime import open_onnx_runtime  # noqa: PLC0415 - see above

        on_gpu = open_onnx_runtime(model, form, "cuda", threads, ladder or CUDA_LADDER, kinds, gpu_memory)
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

        return open_openvino(model, form, threads, ladder, kinds)
    if form in OPENVINO_FORMS:
        raise BundleRefused(f"form {form} needs OpenVINO: pip install 'flawscribe[openvino]'")
    from service.engine.onnx_runtime import open_onnx_runtime  # noqa: PLC0415

    opened = open_onnx_runtime(model, form, "cpu", threads, ladder or CPU_LADDER, kinds)
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
