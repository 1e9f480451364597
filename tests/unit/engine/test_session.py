from __future__ import annotations

import asyncio
import os
import platform
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from service.engine import cuda as cuda_module
from service.engine import onnx_runtime as runtime_module
from service.engine.batcher import Batcher
from service.engine.session import (
    CPU_LADDER,
    CUDA_LADDER,
    Session,
    available_cores,
    open_session,
    return_memory,
)
from service.errors import BundleRefused, NetworkFailure, NotReady
from service.types import Wanted
from tests.networks import POISON, darkness_network, field_network

ARENA = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Status Message: "
    "bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for requested "
    "buffer of size 8388608"
)
WINDOWS = np.random.default_rng(0).integers(0, 256, (9, 256, 256, 3), dtype=np.uint8)


def opened(global_map: bool = False, **options: Any) -> Session:
    return open_session(darkness_network(global_map), form="float32", **({"provider": "cpu", "threads": 1} | options))


class Spy:
    """Stands before ONNX Runtime's session and notes what is asked of it."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.batches: list[int] = []
        self.outputs: list[list[str]] = []

    def run(self, outputs: list[str], feeds: dict[str, np.ndarray]) -> Any:
        self.batches.append(len(feeds["image"]))
        self.outputs.append(outputs)
        return self._session.run(outputs, feeds)


def spied(session: Session) -> Spy:
    """Stands before the session's one network."""
    ((outputs, loaded),) = session._sessions.items()
    session._sessions[outputs] = Spy(loaded)
    return session._sessions[outputs]


def loaded(session: Session) -> Any:
    """The one network that ONNX Runtime has loaded."""
    (network,) = session._sessions.values()
    return network


@pytest.mark.parametrize(
    ("count", "batches"), [(1, [1]), (2, [2]), (3, [4]), (4, [4]), (5, [4, 1]), (7, [4, 4]), (9, [4, 4, 1])]
)
def test_only_the_ladder_s_batch_sizes_are_run(count: int, batches: list[int]) -> None:
    session = opened(ladder=(1, 2, 4))
    spy = spied(session)
    assert session.run(WINDOWS[:count]).structural.shape == (count, 56, 56)
    assert spy.batches == batches


@pytest.mark.parametrize("ladder", [(1,), (2,), (1, 2, 4), (8,), CUDA_LADDER])
def test_every_rung_gives_the_same_maps(ladder: Sequence[int]) -> None:
    one_by_one = np.concatenate([opened(ladder=(1,)).run(window[None]).structural for window in WINDOWS])
    np.testing.assert_allclose(opened(ladder=ladder).run(WINDOWS).structural, one_by_one, atol=1e-6)


def test_warming_up_runs_every_rung() -> None:
    session = opened()
    spy = spied(session)
    session.warm_up()
    assert tuple(sorted(spy.batches)) == session.ladder == CPU_LADDER


def test_warming_up_spares_the_rungs_that_have_run() -> None:
    session = opened(ladder=(1, 2, 4))
    session.run(WINDOWS[:3])  # a rung of four
    spy = spied(session)
    session.warm_up()
    assert sorted(spy.batches) == [1, 2]


def test_features_are_fetched_when_asked_for_only() -> None:
    session = opened(ladder=(4,))
    spy = spied(session)
    assert session.run(WINDOWS[:3]).features is None
    features = session.run(WINDOWS[:3], "maps and features").features
    assert features is not None
    assert features.shape == (3, 384, 56, 56)
    assert features.dtype == np.float16
    assert spy.outputs == [["structural_map"], ["structural_map", "features"]]


def test_the_logical_map_is_there_with_an_autoencoder_only() -> None:
    assert not opened().has_logical
    assert opened().run(WINDOWS[:2]).logical is None
    both = opened(global_map=True)
    assert both.has_logical
    assert both.run(WINDOWS[:2]).logical is not None


FIELD = field_network(np.random.default_rng(1).normal(0, 1, (33, 33)).astype(np.float32))
KINDS: tuple[Wanted, ...] = ("maps", "structural", "logical")


@pytest.mark.parametrize("ladder", [(1,), (1, 2, 4)])
def test_each_kind_s_maps_are_those_of_the_whole_network(ladder: Sequence[int]) -> None:
    session = open_session(FIELD, form="float32", provider="cpu", threads=1, ladder=ladder)
    whole = session.run(WINDOWS, "maps and features")
    structural, logical = session.run(WINDOWS, "structural and features"), session.run(WINDOWS, "logical")
    np.testing.assert_array_equal(structural.structural, whole.structural)
    np.testing.assert_array_equal(structural.features, whole.features)
    np.testing.assert_array_equal(session.run(WINDOWS, "features").features, whole.features)
    np.testing.assert_array_equal(logical.logical, whole.logical)
    assert structural.logical is None
    assert not logical.structural.any()
    assert logical.features is None


def test_windows_of_several_kinds_run_together_each_for_what_is_wanted_of_it() -> None:
    session = open_session(FIELD, form="float32", provider="cpu", threads=1, ladder=(1, 2, 4))
    whole = session.run(WINDOWS)
    found = session.run(WINDOWS, [KINDS[place % 3] for place in range(9)])
    assert found.logical is not None
    for maps, expected, unread in ((found.structural, whole.structural, 2), (found.logical, whole.logical, 1)):
        for place in range(9):
            np.testing.assert_array_equal(maps[place], 0 if place % 3 == unread else expected[place])


def test_a_network_computes_no_more_than_its_kind_needs() -> None:
    session = open_session(FIELD, form="float32", provider="cpu", threads=1, kinds=("structural", "logical"))
    session.warm_up()
    given = [[output.name for output in network.get_outputs()] for network in session._sessions.values()]
    assert sorted(given) == [["logical_map"], ["structural_map", "features"]]
    without = opened(kinds=("maps",))  # without an autoencoder it is the file as it is
    without.run(WINDOWS[:1], "structural and features")
    assert [output.name for output in loaded(without).get_outputs()] == ["structural_map", "features"]


def test_as_many_answers_are_wanted_as_there_are_windows() -> None:
    with pytest.raises(ValueError, match="1 answers are wanted of 2 windows"):
        opened().run(WINDOWS[:2], ["maps"])


def test_outputs_are_told_by_name_not_by_order() -> None:
    model = onnx.load_model_from_string(darkness_network(global_map=True))
    outputs = list(model.graph.output)[::-1]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    turned = open_session(model.SerializeToString(), form="float32", provider="cpu", threads=1)
    np.testing.assert_array_equal(
        turned.run(WINDOWS[:2], "maps and features").structural, opened(global_map=True).run(WINDOWS[:2]).structural
    )


def test_pixels_that_do_not_lie_in_one_piece_are_judged_alike() -> None:
    session = opened()
    strided = np.asfortranarray(WINDOWS[:2])
    np.testing.assert_array_equal(session.run(strided).structural, session.run(WINDOWS[:2]).structural)


def test_a_failing_run_raises_and_the_next_one_works() -> None:
    session = opened()
    poison = np.full((1, 256, 256, 3), POISON, np.uint8)
    with pytest.raises(Exception, match="out of data bounds"):
        session.run(np.concatenate([WINDOWS[:1], poison]))
    assert session.run(WINDOWS[:1]).structural.shape == (1, 56, 56)


def test_a_network_that_cannot_be_loaded_is_refused() -> None:
    with pytest.raises(BundleRefused, match="ONNX Runtime cannot load"):
        open_session(b"nothing of the kind", form="float32", provider="cpu")


def test_on_a_cpu_nothing_spins_and_no_arena_hoards() -> None:
    options = loaded(opened(threads=3)).get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern


def resident_mb() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_given_back() -> None:
    pieces = [bytearray(4096) for _ in range(40_000)]
    kept = pieces[-1]  # a piece at the end of the heap keeps the C library from shrinking it by itself
    full = resident_mb()
    del pieces
    return_memory()
    assert resident_mb() < full - 100
    assert len(kept) == 4096


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    return_memory()


def test_without_a_number_of_threads_the_cgroup_s_share_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module, "available_cores", lambda: 2)
    assert loaded(opened(threads=0)).get_session_options().intra_op_num_threads == 2


@pytest.mark.parametrize(
    ("quota", "affinity", "cores"),
    [
        ("200000 100000", 8, 2),
        ("150000 100000", 8, 2),
        ("50000 100000", 8, 1),
        ("900000 100000", 4, 4),
        ("max 100000", 6, 6),
    ],
)
def test_cores_are_the_quota_s_and_no_more_than_there_are(
    quota: str, affinity: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)))
    assert available_cores() == cores


def test_without_a_cgroup_cores_are_the_affinity_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Path) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    assert available_cores() == 3


class FakeValue:
    """Memory of the GPU."""

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        self.there = np.full(shape, 77, dtype)

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape: Sequence[int], dtype: Any, device: str, number: int) -> FakeValue:
        assert (device, number) == ("cuda", 0)
        return cls(shape, dtype)

    def update_inplace(self, data: np.ndarray) -> None:
        assert (data.shape, data.dtype) == (self.there.shape, self.there.dtype)
        self.there[:] = data

    def numpy(self) -> np.ndarray:
        return self.there.copy()


class FakeOptions:
    number = -1

    def add_run_config_entry(self, key: str, value: str) -> None:
        assert key == "gpu_graph_id"
        self.number = int(value)


class FakeBinding:
    """`image`: memory of the CPU, or of the GPU, as for graphs."""

    def __init__(self, session: Any) -> None:
        self.session = session  # as ONNX Runtime's does
        self.names: list[str] = []
        self.memory: dict[str, FakeValue] = {}

    def bind_cpu_input(self, name: str, windows: np.ndarray) -> None:
        assert name == "image"
        self.windows = windows

    def bind_output(self, name: str) -> None:
        self.names.append(name)

    def bind_ortvalue_input(self, name: str, value: FakeValue) -> None:
        assert name == "image"
        self.windows = value.there

    def bind_ortvalue_output(self, name: str, value: FakeValue) -> None:
        self.memory[name] = value

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        return [brightness(name, self.windows) for name in self.names]


def brightness(name: str, windows: np.ndarray) -> np.ndarray:
    """What a fake network answers: each window's first byte, in the logical map its negative."""
    shape = (384, 56, 56) if name == "features" else (56, 56)
    cells = windows[:, 0, 0, 0].astype(np.float32) * (-1 if name == "logical_map" else 1)
    filled = np.broadcast_to(cells.reshape(-1, *[1] * len(shape)), (len(windows), *shape))
    return filled.astype(np.float16 if name == "features" else np.float32)


def described(output: Any) -> Any:
    """An output as ONNX Runtime tells of it."""
    tensor = output.type.tensor_type
    kind = {onnx.TensorProto.FLOAT: "tensor(float)", onnx.TensorProto.FLOAT16: "tensor(float16)"}[tensor.elem_type]
    shape = [side.dim_value or side.dim_param for side in tensor.shape.dim]
    return SimpleNamespace(name=output.name, shape=shape, type=kind)


class FakeRuntime:
    """ONNX Runtime on a machine with a GPU; `gives` is the provider that sessions end up with.

    The GPU holds `room` windows; a session that was given more says `words`, and goes on failing whatever it is given.
    """

    def __init__(self, gives: str) -> None:
        self.gives = gives
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.preloaded = 0
        self.breaks = ""
        self.room = 32
        self.words = ARENA
        self.batches: list[int] = []
        self.made: list[weakref.ref[Any]] = []
        self.alive: list[int] = []  # sessions there were when one was made
        self.SessionOptions = onnxruntime.SessionOptions
        self.OrtValue, self.RunOptions = FakeValue, FakeOptions
        self.captured: list[int] = []  # windows of each graph
        self.replayed: list[int] = []
        self.refuses_graphs = False
        self.graph_fails: Callable[[FakeBinding], None] = lambda _: None  # at a capture or a replay

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        self.preloaded += 1

    def InferenceSession(self, model: bytes, options: Any, providers: list[tuple[str, dict[str, str]]]) -> Any:  # noqa: N802
        self.asked += providers
        self.alive.append(sum(made() is not None for made in self.made))
        if providers[0][0] == self.breaks:
            raise RuntimeError("CUDA driver version is insufficient")
        asked, gives, runtime = providers[0][0], self.gives, self
        for_graphs = "enable_cuda_graph" in providers[0][1]
        if for_graphs and self.refuses_graphs:
            gives = "CPUExecutionProvider"  # ONNX Runtime says why, and falls back

        class FakeSession:
            broken = False

            def __init__(self) -> None:
                self.graphs: dict[tuple[int, int], int] = {}  # by thread and number, the binding's id

            def get_providers(self) -> list[str]:
                return [asked if asked == "CPUExecutionProvider" else gives]

            def get_outputs(self) -> list[Any]:
                return [described(output) for output in onnx.load_model_from_string(model).graph.output]

            def io_binding(self) -> FakeBinding:
                return FakeBinding(self)

            def run_with_iobinding(self, binding: FakeBinding, options: FakeOptions | None) -> None:
                assert (options is not None) == for_graphs
                if options is not None and options.number > 0:
                    self.run_graph(binding, options.number)
                    return
                runtime.batches.append(len(binding.windows))
                if self.broken or len(binding.windows) > runtime.room:
                    self.broken = True
                    raise RuntimeError(runtime.words)

            def run_graph(self, binding: FakeBinding, number: int) -> None:
                place = threading.get_ident(), number
                (runtime.replayed if place in self.graphs else runtime.captured).append(len(binding.windows))
                kept = self.graphs.setdefault(place, id(binding))
                assert kept == id(binding), "a graph reads and writes the memory that it was captured with"
                runtime.graph_fails(binding)
                for name, value in binding.memory.items():
                    value.there[:] = brightness(name, binding.windows)

        session = FakeSession()
        self.made.append(weakref.ref(session))
        return session


@pytest.fixture
def graphing(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """A machine with a GPU, where runs become graphs."""
    runtime = FakeRuntime("CUDAExecutionProvider")
    for module in (runtime_module, cuda_module):
        monkeypatch.setattr(module, "onnxruntime", runtime)
    monkeypatch.setattr(Path, "exists", lambda self: str(self) == "/dev/nvidiactl")
    return runtime


@pytest.fixture
def gpu(graphing: FakeRuntime, monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """One where no run becomes a graph yet."""
    monkeypatch.setattr(cuda_module.CudaSession, "_infer_by_graph", lambda *_: None)
    return graphing


@pytest.mark.parametrize("provider", ["auto", "cuda"])
def test_a_gpu_that_is_there_is_used(gpu: FakeRuntime, provider: Any) -> None:
    session = opened(provider=provider)
    assert session.provider == "cuda"
    assert session.ladder == CUDA_LADDER
    assert gpu.preloaded == 1
    ((name, settings),) = gpu.asked
    assert name == "CUDAExecutionProvider"
    assert settings["cudnn_conv_algo_search"] == "HEURISTIC"
    assert settings["arena_extend_strategy"] == "kSameAsRequested"


def test_on_a_gpu_rungs_are_bound_and_cut_to_what_was_asked(gpu: FakeRuntime) -> None:
    session = opened(global_map=True, provider="cuda")
    maps = session.run(WINDOWS[:5])
    assert gpu.batches == [8]
    assert maps.structural.shape == (5, 56, 56)
    assert maps.logical is not None
    np.testing.assert_array_equal(maps.structural, brightness("structural_map", WINDOWS[:5]))
    np.testing.assert_array_equal(maps.logical, brightness("logical_map", WINDOWS[:5]))


def test_a_silent_fallback_is_not_ready(gpu: FakeRuntime) -> None:
    gpu.gives = "CPUExecutionProvider"
    with pytest.raises(NotReady, match="could not start CUDA"):
        opened(provider="cuda")


def test_auto_takes_the_cpu_when_cuda_does_not_start(gpu: FakeRuntime) -> None:
    gpu.gives = "CPUExecutionProvider"
    session = opened(provider="auto")
    assert session.provider == "cpu"
    assert session.ladder == CPU_LADDER


def test_a_cuda_that_breaks_is_not_ready_or_left_for_the_cpu(
    gpu: FakeRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.breaks = "CUDAExecutionProvider"
    with pytest.raises(NotReady):
        opened(provider="cuda")
    assert opened(provider="auto").provider == "cpu"
    assert "driver version is insufficient" in caplog.text


def test_cuda_without_a_driver_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: False)
    monkeypatch.setattr(os, "name", "posix")
    with pytest.raises(NotReady, match="is there a GPU"):
        opened(provider="cuda")


def test_a_gpu_s_memory_is_bounded_when_asked_for(gpu: FakeRuntime) -> None:
    opened(provider="cuda")
    opened(provider="cuda", gpu_memory=2**30)
    assert [settings.get("gpu_mem_limit") for _, settings in gpu.asked] == [None, "1073741824"]


def test_networks_of_several_kinds_share_what_memory_a_model_may_take(gpu: FakeRuntime) -> None:
    session = opened(global_map=True, provider="cuda", gpu_memory=2**30, kinds=("structural", "logical"))
    assert session.run(WINDOWS[:3], ["structural", "structural", "logical"]).structural.shape == (3, 56, 56)
    assert gpu.batches == [2, 1]
    assert [settings["gpu_mem_limit"] for _, settings in gpu.asked] == [str(2**29)] * 2


def test_when_one_kind_s_rung_does_not_fit_all_networks_are_made_anew(gpu: FakeRuntime) -> None:
    session = opened(global_map=True, provider="cuda", kinds=("structural", "logical"))
    session.run(WINDOWS[:2], ["structural", "logical"])
    gpu.room = 5
    session.run(WINDOWS, ["structural"] * 8 + ["logical"])
    assert session.ladder == (1, 2, 4)
    assert gpu.batches == [1, 1, 8, 4, 4, 1]
    assert gpu.alive == [0, 1, 0, 1]


def test_float32_is_not_rounded_to_ten_bits(gpu: FakeRuntime) -> None:
    for form in ("float32", "fp16"):
        open_session(darkness_network(), form=form, provider="cuda")
    assert [settings.get("use_tf32") for _, settings in gpu.asked] == ["0", None]


@pytest.mark.parametrize(
    "words",
    [
        ARENA,
        "Available memory of 0 is smaller than requested bytes of 64",
        "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cublasCreate(&cublas_handle_);",
        "CUDNN failure 4001: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0",
        "CUDA_ERROR_OUT_OF_MEMORY",
    ],
)
def test_what_a_gpu_s_memory_does_not_hold_is_run_in_smaller_rungs(
    gpu: FakeRuntime, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    session = opened(provider="cuda")
    gpu.room, gpu.words = 5, words
    assert session.run(WINDOWS).structural.shape == (9, 56, 56)
    assert gpu.batches == [16, 8, 4, 4, 1]
    assert session.ladder == (1, 2, 4)
    assert len(gpu.made) == 3  # a broken one is given no further window
    told = [record.getMessage() for record in caplog.records]
    assert [text.partition(":")[0] for text in told] == [
        f"GPU memory does not suffice for {rung} windows at once" for rung in (16, 8)
    ]
    assert session.run(WINDOWS[:5]).structural.shape == (5, 56, 56)
    assert len(gpu.made) == 3


def test_a_broken_session_is_gone_before_another_is_made(gpu: FakeRuntime) -> None:
    session = opened(provider="cuda")
    gpu.room = 5
    session.run(WINDOWS)
    assert gpu.alive == [0, 0, 0]


def test_when_not_even_one_window_fits_the_run_fails_and_the_next_has_a_new_session(gpu: FakeRuntime) -> None:
    session = opened(provider="cuda")
    gpu.room = 0
    with pytest.raises(RuntimeError, match="BFCArena"):
        session.run(WINDOWS[:3])
    assert session.ladder == (1,)
    gpu.room = 1
    assert session.run(WINDOWS[:3]).structural.shape == (3, 56, 56)


def test_a_ladder_without_a_rung_of_one_gets_it(gpu: FakeRuntime) -> None:
    session = opened(provider="cuda", ladder=(8,))
    gpu.room = 5
    assert session.run(WINDOWS[:2]).structural.shape == (2, 56, 56)
    assert session.ladder == (1,)


def test_other_failures_of_a_gpu_cost_no_rung(gpu: FakeRuntime) -> None:
    session = opened(provider="cuda")
    gpu.room, gpu.words = 5, "CUDA failure 700: an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match="illegal"):
        session.run(WINDOWS)
    assert session.ladder == CUDA_LADDER
    assert len(gpu.made) == 1


def test_a_network_that_cannot_be_loaded_again_is_tried_again_with_the_next_windows(gpu: FakeRuntime) -> None:
    session = opened(provider="cuda")
    gpu.room, gpu.breaks = 5, "CUDAExecutionProvider"
    for _ in range(2):
        with pytest.raises(NetworkFailure) as failure:
            session.run(WINDOWS)
        assert failure.value.retry_after
    gpu.breaks = ""
    assert session.run(WINDOWS).structural.shape == (9, 56, 56)
    assert session.ladder == (1, 2, 4)


def test_warming_up_leaves_the_rungs_that_a_gpu_s_memory_holds(gpu: FakeRuntime) -> None:
    session = opened(provider="cuda")
    gpu.room = 8
    session.warm_up()
    assert session.ladder == (1, 2, 4, 8)
    assert gpu.batches == [32, 16, 8, 8, 8, 8, 4, 2, 1]  # the session that stays has run them all
    gpu.batches.clear()
    gpu.room = 2
    session.run(WINDOWS[:4])
    session.warm_up()
    assert gpu.batches == [4, 2, 2, 1]  # what another session has run is cold in this one


def test_the_batcher_takes_no_more_than_a_gpu_s_memory_holds(gpu: FakeRuntime) -> None:
    session = opened(provider="cuda")
    gpu.room = 5
    taken: list[int] = []
    batcher = Batcher(None, lambda runner, pictures, windows, seconds: taken.append(windows))
    try:
        for _ in range(2):
            answer = asyncio.run(batcher.submit(session, WINDOWS, float("inf")))
            assert len(answer.maps.structural) == 9
    finally:
        batcher.close()
    assert taken == [9, 4, 4, 1]


def test_a_rung_that_runs_again_is_a_graph_from_then_on(graphing: FakeRuntime) -> None:
    session = opened(provider="cuda", global_map=True)
    answers = [session.run(WINDOWS[start : start + 2], "maps and features") for start in range(0, 8, 2)]
    assert graphing.batches == [2, 2]  # the second to compare the graph with
    assert (graphing.captured, graphing.replayed) == ([2], [2, 2, 2])
    for start, answer in zip(range(0, 8, 2), answers, strict=True):  # kept until now: nothing was written over them
        windows = WINDOWS[start : start + 2]
        np.testing.assert_array_equal(answer.structural, brightness("structural_map", windows))
        np.testing.assert_array_equal(answer.logical, brightness("logical_map", windows))
        np.testing.assert_array_equal(answer.features, brightness("features", windows))
    assert session.run(WINDOWS[:2]).features is None


def test_every_rung_and_network_has_a_graph_of_its_own(graphing: FakeRuntime) -> None:
    session = opened(provider="cuda", global_map=True, kinds=("structural", "logical"))
    wanted: list[Wanted] = ["structural", "structural", "structural", "logical"]
    for _ in range(3):
        found = session.run(WINDOWS[:4], wanted)
    assert sorted(graphing.captured) == [1, 4]
    np.testing.assert_array_equal(found.structural[:3], brightness("structural_map", WINDOWS[:3]))
    assert found.logical is not None
    np.testing.assert_array_equal(found.logical[3:], brightness("logical_map", WINDOWS[3:4]))


def test_the_thread_that_loads_makes_no_graph_and_the_one_that_judges_its_own(graphing: FakeRuntime) -> None:
    session = opened(provider="cuda", ladder=(1, 2))
    session.warm_up()
    session.run(WINDOWS[:2])  # a golden picture
    assert graphing.captured == [2]
    batcher = Batcher(None)
    try:
        for _ in range(3):
            answer = asyncio.run(batcher.submit(session, WINDOWS[:2], float("inf")))
    finally:
        batcher.close()
    assert (graphing.captured, graphing.replayed) == ([2, 2], [2, 2, 2])
    np.testing.assert_array_equal(answer.maps.structural, brightness("structural_map", WINDOWS[:2]))


def failing(after: int) -> Callable[[FakeBinding], None]:
    """Fails at the run of a graph after so many."""
    runs = []

    def fail(_: FakeBinding) -> None:
        runs.append(0)
        if len(runs) > after:
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")

    return fail


@pytest.mark.parametrize("after", [0, 1, 2])  # at the capture, at the first replay, at a later one
def test_a_graph_that_fails_costs_no_answer_and_no_other_is_made(
    graphing: FakeRuntime, after: int, caplog: pytest.LogCaptureFixture
) -> None:
    session = opened(provider="cuda")
    graphing.graph_fails = failing(after)
    for start in range(6):
        found = session.run(WINDOWS[start : start + 1]).structural
        np.testing.assert_array_equal(found, brightness("structural_map", WINDOWS[start : start + 1]))
    assert [settings.get("enable_cuda_graph") for _, settings in graphing.asked] == ["1", None]
    assert graphing.alive == [0, 0]
    assert graphing.captured == [1]
    (told,) = caplog.records
    assert "CUDA graphs are given up" in told.getMessage()
    assert session.ladder == CUDA_LADDER


def test_a_graph_that_answers_something_else_is_not_used(
    graphing: FakeRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    def stale(binding: FakeBinding) -> None:
        binding.windows = np.zeros_like(binding.windows)  # it reads other memory than is written

    session = opened(provider="cuda")
    graphing.graph_fails = stale
    for _ in range(3):
        found = session.run(WINDOWS[:1]).structural
        np.testing.assert_array_equal(found, brightness("structural_map", WINDOWS[:1]))
    assert "answered otherwise" in caplog.text
    assert len(graphing.made) == 2


def test_a_network_that_cannot_be_captured_is_loaded_without(graphing: FakeRuntime) -> None:
    graphing.refuses_graphs = True
    session = opened(provider="cuda")
    assert session.provider == "cuda"
    for _ in range(3):
        session.run(WINDOWS[:1])
    assert (graphing.batches, graphing.captured) == ([1, 1, 1], [])


def test_graphs_go_with_the_sessions_that_a_gpu_s_memory_did_not_hold(graphing: FakeRuntime) -> None:
    session = opened(provider="cuda")
    for _ in range(2):
        session.run(WINDOWS[:2])
    graphing.room = 5
    found = session.run(WINDOWS).structural
    np.testing.assert_array_equal(found, brightness("structural_map", WINDOWS))
    assert graphing.alive == [0, 0, 0]  # no graph has kept a session
    for _ in range(2):
        session.run(WINDOWS[:2])
    assert graphing.captured == [2, 4, 2]  # anew, in the session that is there


def test_want_of_memory_for_a_graph_costs_the_graphs_and_no_rung(graphing: FakeRuntime) -> None:
    def full(_: FakeBinding) -> None:
        raise RuntimeError(ARENA)

    session = opened(provider="cuda")
    graphing.graph_fails = full
    for _ in range(3):
        session.run(WINDOWS[:4])
    assert session.ladder == CUDA_LADDER
    assert graphing.batches == [4, 4, 4, 4]
