"""A network in ONNX Runtime by CUDA: fewer windows at once where memory is short, and kernels that are launched as one graph."""

from __future__ import annotations

import itertools
import logging
import threading
import traceback
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.engine.onnx_runtime import OnnxRuntimeSession
from service.engine.session import Outputs
from service.types import Wanted

log = logging.getLogger("flawscribe.engine")
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
_GRAPH_NUMBER = "gpu_graph_id"  # ONNX Runtime's option of a run: the graph that it captures, or replays
_NO_GRAPH = -1
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_Place = tuple[int, Outputs, int]  # a thread, a network, and a rung


class _RungGone(Exception):
    """A rung did not fit into the GPU's memory, and has left the ladder."""


class CudaSession(OnnxRuntimeSession):
    """A network that ONNX Runtime has loaded onto a GPU.

    A session that has failed for want of GPU memory may go on failing whatever it is given: all are made anew, with the
    rungs that are smaller than the one that failed. CUDA graphs are given up for good when one fails in any way.
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
        super().__init__(form, provider, ladder, outputs, kinds, start)
        self._by_graphs = True
        self._graphs: dict[_Place, _Graph | None] = {}  # None: the rung has run there once
        self._numbers = itertools.count(1)

    def _gathered(self, windows: NDArray[np.uint8], outputs: Sequence[Outputs]) -> dict[str, NDArray[Any]]:
        """As every session's. What does not fit into the GPU's memory is run in smaller rungs, as long as there are any."""
        while True:
            try:
                return super()._gathered(windows, outputs)
            except _RungGone:
                continue

    def _infer(self, windows: NDArray[np.uint8], network: Outputs, names: list[str]) -> list[NDArray[Any]]:
        try:
            answers = self._infer_by_graph(windows, network, names) if self._by_graphs else None
            return self._infer_bound(windows, network, names) if answers is None else answers
        except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
            if not _is_want_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold the session, and it the memory
            self._give_up(len(windows), error)
            raise

    def _infer_bound(self, windows: NDArray[np.uint8], network: Outputs, names: list[str]) -> list[NDArray[Any]]:
        session = self._session(network)
        binding = session.io_binding()
        binding.bind_cpu_input("image", windows)
        for name in names:
            binding.bind_output(name)
        session.run_with_iobinding(binding, _of_graph(_NO_GRAPH) if self._by_graphs else None)
        bound: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
        return bound

    def _infer_by_graph(
        self, windows: NDArray[np.uint8], network: Outputs, names: list[str]
    ) -> list[NDArray[Any]] | None:
        """What `_infer_bound` answers, from a graph; None where there is none yet, or never again.

        ONNX Runtime keeps graphs for the thread that captured them, and models are loaded in another one than judges. A graph
        is made at a thread's second run of a rung: warming up runs each once.
        """
        place = threading.get_ident(), network, len(windows)
        if place not in self._graphs:
            self._graphs[place] = None
            return None
        try:
            return self._graph_answers(place, windows, names)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # they hold the session, and it the memory
            self._forgo_graphs(error)
            return None

    def _graph_answers(self, place: _Place, windows: NDArray[np.uint8], names: list[str]) -> list[NDArray[Any]]:
        graph = self._graphs[place]
        return self._new_graph(place, windows, names) if graph is None else graph.run(windows, names)

    def _new_graph(self, place: _Place, windows: NDArray[np.uint8], names: list[str]) -> list[NDArray[Any]]:
        """The answers of a graph made for that `place`. Raises RuntimeError when they are not those of a run without it."""
        network = place[1]
        expected = self._infer_bound(windows, network, names)
        graph = _Graph(self._session(network), next(self._numbers), windows)
        answers = graph.run(windows, names)
        if not all(np.allclose(*pair, rtol=1e-2, atol=1e-3) for pair in zip(answers, expected, strict=True)):
            raise RuntimeError("a graph answered otherwise than the network")
        self._graphs[place] = graph
        return answers

    def _load(self, network: Outputs) -> Any:
        session = self._start(network, self._by_graphs)
        if session is None and self._by_graphs:  # ONNX Runtime refuses networks that have nodes on the CPU
            self._forgo_graphs("the network could not be loaded for them")
            session = self._start(network, False)
        return session

    def _forgo_graphs(self, why: object) -> None:
        log.warning("CUDA graphs are given up, which costs time alone: %s", why)
        self._by_graphs = False
        self._let_go()

    def _give_up(self, rung: int, error: Exception) -> None:
        """Let go of the sessions and of the rungs from the one that failed up. Raises _RungGone when others are left."""
        smaller = tuple(size for size in self.ladder if size < rung) or (1,)
        log.error(
            "GPU memory does not suffice for %d windows at once: the session is made anew, with at most %d (%s)",
            rung,
            smaller[-1],
            error,
        )
        self.ladder = smaller
        self._let_go()
        if rung > 1:
            raise _RungGone from error

    def _let_go(self) -> None:
        """Of all sessions and their graphs: their memory is what new ones need."""
        self._seen.clear()
        self._graphs.clear()
        self._sessions.clear()


class _Graph:
    """A network's kernels for as many windows as `windows` uint8 [n,256,256,3] are, launched by CUDA all at once: of a small
    batch, launching them one by one takes longer than they do.

    It reads and writes the same memory of the GPU at every run: what it answers is copied out before the next one.
    `session`: started for graphs; `number`: no other of its graphs has it.
    """

    def __init__(self, session: Any, number: int, windows: NDArray[np.uint8]) -> None:
        self._session = session
        self._options = _of_graph(number)
        self._binding = session.io_binding()
        self._image = _on_gpu(windows.shape, np.uint8)
        self._binding.bind_ortvalue_input("image", self._image)
        self._outputs = {}
        for (
            output
        ) in session.get_outputs():  # all of them: they are computed anyway, and a graph always writes the same
            self._outputs[output.name] = _on_gpu((len(windows), *output.shape[1:]), _DTYPES[output.type])
            self._binding.bind_ortvalue_output(output.name, self._outputs[output.name])
        self.run(np.zeros_like(windows), [])  # captures: the next run is a replay, which must read what it is given

    def run(self, windows: NDArray[np.uint8], names: list[str]) -> list[NDArray[Any]]:
        """The outputs of those `names`."""
        self._image.update_inplace(windows)
        self._session.run_with_iobinding(self._binding, self._options)
        return [self._outputs[name].numpy() for name in names]  # copies


def _of_graph(number: int) -> Any:
    """Options of a run that captures or replays that graph."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry(_GRAPH_NUMBER, str(number))
    return options


def _on_gpu(shape: tuple[int, ...], dtype: Any) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cuda", 0)


def _is_want_of_memory(error: Exception) -> bool:
    told = str(error).lower()
    return any(words in told for words in _NO_MEMORY)
