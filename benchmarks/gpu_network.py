"""The network on a GPU, in one go: ONNX Runtime as served and with CUDA graphs, beside torch and the measured bfloat16 ceiling.

    python -m benchmarks.gpu_network --json benchmarks/results/gpu_network.json
    python -m benchmarks.gpu_network --sizes medium --batches 1 32 --minutes 4 --json medium.json

For each network (NETWORKS: without autoencoder, untrained, since time does not depend on weights) and each batch: milliseconds
a batch and windows a second, uint8 from the host's memory in, maps back in the host's memory. Parity: the largest difference
of a map from torch's float32 on the CPU, over the map's spread. float32 is not rounded to TF32, in neither library. The result
is written behind every batch, so that whoever has a GPU for a quarter of an hour loses nothing; `--minutes` begins no further
batch after that time, and what is compiled (a minute a batch) only where `--compiled` says. A way that fails, or is not there,
is a row that says why. Ends with exit code 2 where there is no GPU; `--provider cpu` tries the script itself.

What it needs there: torch with CUDA 13, `onnxruntime-gpu`, onnx, onnxscript, pydantic, scipy, pillow. ONNX Runtime finds the
CUDA libraries that torch's wheels brought, so that of what is large only its own wheel (about 200 MB) has to be taken along. To
a machine that is offline and takes files only in pieces:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 -d wheels onnxruntime-gpu
    split --bytes=55M --numeric-suffixes wheels/onnxruntime_gpu-*.whl wheels/part.      # then bring wheels/part.* one by one
    cat wheels/part.* > wheels/$NAME && pip install --no-deps --target /tmp/site wheels/$NAME    # there; NAME: as downloaded
    PYTHONPATH=/tmp/site python -m benchmarks.gpu_network --json gpu_network.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import describe, keep, tell
from service.engine.session import open_session
from service.training.energies import Energies
from service.training.export import Served, to_onnx
from service.training.network import PDN_SIZES, TEACHER_CHANNELS, Detector, Pdn, PdnSize
from service.training.quantize import halve
from service.training.select import run_torch

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
Row = dict[str, object]
BATCHES = (1, 4, 16, 64)
TENSORRT = "onnxruntime TensorRT fp16"
_SIDE = 8192  # of the matrices whose product measures the ceiling
_CHECKED = 2  # windows whose maps are compared
_CUDA: dict[str, str] = {"cudnn_conv_algo_search": "HEURISTIC", "do_copy_in_default_stream": "1"}


@dataclass(frozen=True, slots=True)
class Network:
    """A network that is measured: its student's size, its teacher, and how many directions its map looks along."""

    name: str
    size: PdnSize
    teacher: Literal["pdn", "energies"] = "pdn"
    directions: int | None = 64  # as the default recipe trains; None: all channels, as in the paper


NETWORKS = (  # what matters most first: time may run out
    Network("pdn-small, 64 directions", "small"),
    Network("energies, 64 directions", "small", "energies"),
    Network("pdn-medium, 64 directions", "medium"),
    Network("pdn-small", "small", directions=None),
    Network("pdn-medium", "medium", directions=None),
)


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured, and on what."""

    provider: Literal["cuda", "cpu"]
    batches: Sequence[int]
    compiled: Sequence[str]  # the networks that torch compiles
    turns: int
    until: float  # time.monotonic() from which no batch is begun


def detector_of(network: Network) -> Detector:
    """An untrained detector whose structural map spreads over about 0 to 1."""
    torch.manual_seed(0)
    teacher = Energies() if network.teacher == "energies" else Pdn(network.size)
    detector = Detector(teacher, Pdn(network.size), None).eval().requires_grad_(False)
    if network.directions is not None:
        detector.directions = torch.randn(network.directions, TEACHER_CHANNELS) / TEACHER_CHANNELS**0.5
    raw = run_torch(detector, windows_of(2)).structural
    detector.q_a[0], detector.q_b[0] = float(raw.min()), float(raw.max())
    return detector


def windows_of(batch: int) -> NDArray[np.uint8]:
    """Random windows uint8 [batch,256,256,3], the same ones for one batch."""
    return np.random.default_rng(batch).integers(0, 256, (batch, 256, 256, 3), dtype=np.uint8)


def gflop_of(detector: Detector) -> float:
    """Of a window of the network as it is served, features too: convolutions and products."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        Served(detector).eval()(torch.from_numpy(windows_of(1)))
    return round(counter.get_total_flops() / 1e9, 1)


def torch_run(
    network: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], dtype: torch.dtype | None, device: str
) -> Run:
    """The network in torch, in that precision."""

    def run(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch.autocast(device, dtype or torch.float16, enabled=dtype is not None):
            maps: NDArray[np.float32] = network(torch.from_numpy(windows).to(device))[0].float().cpu().numpy()
        return maps

    return run


def started(model: bytes, provider: str, settings: dict[str, str]) -> Any:
    """An ONNX Runtime session. Raises RuntimeError where it fell back to another provider."""
    if provider not in onnxruntime.get_available_providers():
        raise RuntimeError(f"this build of ONNX Runtime has no {provider}")
    onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=[(provider, settings)])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"ONNX Runtime could not start {provider}: its libraries are not there")
    return session


def graph_run(model: bytes, batch: int) -> Run:
    """ONNX Runtime with one CUDA graph for this batch: buffers stay where they are, only bytes come in and maps go out."""
    session = started(model, "CUDAExecutionProvider", {**_CUDA, "enable_cuda_graph": "1"})
    image = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((batch, 256, 256, 3), np.uint8), "cuda", 0)
    maps = onnxruntime.OrtValue.ortvalue_from_shape_and_type([batch, 56, 56], np.float32, "cuda", 0)
    features = onnxruntime.OrtValue.ortvalue_from_shape_and_type([batch, 384, 56, 56], np.float16, "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input("image", image)
    binding.bind_ortvalue_output("structural_map", maps)
    binding.bind_ortvalue_output("features", features)  # a graph needs every output where it was; this one stays there
    run_options = onnxruntime.RunOptions()
    run_options.add_run_config_entry("gpu_graph_id", str(batch))

    def run(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        image.update_inplace(windows)
        session.run_with_iobinding(binding, run_options)
        found: NDArray[np.float32] = maps.numpy()
        return found

    return run


def tensorrt_run(model: bytes) -> Run:
    """ONNX Runtime by TensorRT in half precision; it builds an engine for the first batch that it is given."""
    session = started(model, "TensorrtExecutionProvider", {"trt_fp16_enable": "1"})

    def run(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run(["structural_map"], {"image": windows})[0]
        return found

    return run


def ways(network: Network, detector: Detector, options: Options) -> dict[str, Callable[[int], Run]]:
    """What is compared: by name, what makes it for a batch."""
    plain = to_onnx(detector)
    half = halve(plain)
    provider = options.provider

    def served(form: str, model: bytes) -> Callable[[int], Run]:
        session = open_session(model, form=form, provider=provider, ladder=tuple(options.batches))
        return lambda _: lambda windows: session.run(windows).structural

    # the folded network, as ONNX Runtime has it; energies are kept in float32 by their own forward, which it has not
    module = detector if network.teacher == "energies" else Served(detector).eval()
    eager: Any = module.to(device=provider, memory_format=torch.channels_last)  # type: ignore[call-overload]
    found: dict[str, Callable[[int], Run]] = {"torch float32 eager": lambda _: torch_run(eager, None, provider)}
    if provider == "cuda":
        found["torch fp16 eager"] = lambda _: torch_run(eager, torch.float16, provider)
    if network.name in options.compiled:
        quick: Any = torch.compile(eager, mode="reduce-overhead", dynamic=False)
        found["torch fp16 compiled"] = lambda _: torch_run(quick, torch.float16, provider)
    found["onnxruntime float32"] = served("float32", plain)
    found["onnxruntime fp16"] = served("fp16", half)
    if provider == "cuda":
        found["onnxruntime fp16, CUDA graph"] = lambda batch: graph_run(half, batch)
        found[TENSORRT] = lambda _: tensorrt_run(half)
    return found


def measured(
    network: Network, batch: int, made: dict[str, Callable[[int], Run]], expected: NDArray[np.float32], turns: int
) -> list[Row]:
    """Rows of all ways at a batch, taken in turns. `expected`: the maps of its first windows. A way that fails is a row that
    says why."""
    windows = windows_of(batch)
    head: Row = {"network": network.name, "batch": batch}
    rows: list[Row] = []
    runs: dict[str, Run] = {}
    off: dict[str, float] = {}
    for name, make in made.items():
        try:
            runs[name] = make(batch)
            for _ in range(3):
                answer = runs[name](windows)
            off[name] = float(np.abs(answer[: len(expected)] - expected).max() / np.ptp(expected))
        except Exception as error:  # the libraries' exceptions have no common base but Exception
            runs.pop(name, None)
            rows.append({**head, "way": name, "failed": str(error)[:300]})
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            begun = time.perf_counter()
            run(windows)
            seconds[name].append(time.perf_counter() - begun)
    for name, times in seconds.items():
        rows.append({**head, "way": name, **_figures(batch, times), "map_off": round(off[name], 6)})
    return rows


def _figures(batch: int, times: Sequence[float]) -> Row:
    median = statistics.median(times)
    return {
        "median_ms": round(1000 * median, 3),
        "p99_ms": round(1000 * sorted(times)[int(0.99 * len(times))], 3),
        "windows_per_s": round(batch / median, 1),
    }


def measure(networks: Sequence[Network], options: Options, result: dict[str, Any], file: Path | None) -> None:
    """Add the rows of all networks at all batches to the `result`, keeping it in `file` behind each batch."""
    for index, network in enumerate(networks):
        if time.monotonic() > options.until:
            result.setdefault("left_out", []).extend(left.name for left in networks[index:])
            break
        detector = detector_of(network)
        result["gflop_per_window"][network.name] = gflop_of(detector)
        # before the network moves to the GPU
        expected = {b: run_torch(detector, windows_of(b)[:_CHECKED]).structural for b in options.batches}
        made = ways(network, detector, options)
        if index > 0:
            made.pop(TENSORRT, None)  # one row tells: it builds an engine for a minute
        for batch in options.batches:
            if time.monotonic() > options.until:
                result.setdefault("left_out", []).append(f"{network.name} at {batch}")
                continue
            result["rows"] += measured(network, batch, made, expected[batch], options.turns)
            made.pop(TENSORRT, None)
            keep(result, file)


def ceiling() -> float:
    """TFLOP/s of a large bfloat16 product."""
    a = torch.randn(_SIDE, _SIDE, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    return round(20 * 2 * _SIDE**3 / (time.perf_counter() - begun) / 1e12, 1)


def _exact_float32() -> None:
    """float32 as float32 in torch too: cuDNN would round convolutions to TF32, which the float32 form does not."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sizes", nargs="+", choices=PDN_SIZES, default=list(PDN_SIZES), help="of the students")
    names = [network.name for network in NETWORKS]
    parser.add_argument("--networks", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--compiled", nargs="*", choices=names, default=names[:1], help="networks that torch compiles too"
    )
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--turns", type=int, default=30, help="runs of each way at each batch")
    parser.add_argument("--minutes", type=float, default=9, help="after which no further batch is begun")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print or write the result."""
    asked = _options(arguments)
    begun = time.monotonic()
    on_gpu = asked.provider == "cuda"
    if on_gpu and not torch.cuda.is_available():
        print(
            "no GPU to measure: torch sees no CUDA device here (a driver, and torch and onnxruntime-gpu with CUDA are "
            "needed: pip install 'flawscribe[train,gpu]' torch)",
            file=sys.stderr,
        )
        return 2
    _exact_float32()
    result: dict[str, Any] = {
        "machine": describe(),
        "gpu": torch.cuda.get_device_name(0) if on_gpu else None,
        "bfloat16_tflops": ceiling() if on_gpu else None,
        "gflop_per_window": {},
        "rows": [],
    }
    compiled = asked.compiled if on_gpu else []
    options = Options(asked.provider, asked.batches, compiled, asked.turns, begun + 60 * asked.minutes)
    networks = [each for each in NETWORKS if each.name in asked.networks and each.size in asked.sizes]
    measure(networks, options, result, asked.json)
    if on_gpu:
        result["windows_per_s_at_most"] = {
            name: round(1000 * result["bfloat16_tflops"] / gflop) for name, gflop in result["gflop_per_window"].items()
        }
    tell(result, asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
