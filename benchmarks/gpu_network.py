"""The network on a GPU, in one go: ONNX Runtime as served and with CUDA graphs, beside torch and the measured bfloat16 ceiling.

    python -m benchmarks.gpu_network --json benchmarks/results/gpu_network.json

For PDN-small and PDN-medium without autoencoder (random weights: time does not depend on them) at batches of 1 to 64:
milliseconds a batch and windows a second, uint8 from the host's memory in, maps back in the host's memory. Parity: the
largest difference of a map from torch's float32, over the map's spread. Ends with exit code 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from benchmarks.machine import describe, tell
from service.engine.session import open_session
from service.training.export import to_onnx
from service.training.network import PDN_SIZES, Detector, Pdn, PdnSize
from service.training.quantize import halve
from service.training.select import run_torch

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
BATCHES = (1, 2, 4, 8, 16, 32, 64)
_TURNS = 30
_SIDE = 8192  # of the matrices whose product measures the ceiling
_GFLOP = {"small": 61.2, "medium": 208.1}  # a window's, without autoencoder and the student's second half


def detector_of(size: PdnSize) -> Detector:
    """An untrained detector whose structural map spreads over about 0 to 1."""
    torch.manual_seed(0)
    detector = Detector(Pdn(size), Pdn(size), None).eval()
    sample = np.random.default_rng(1).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    raw = run_torch(detector, sample).structural
    with torch.no_grad():
        detector.q_a[0], detector.q_b[0] = float(raw.min()), float(raw.max())
    return detector


def torch_run(network: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], dtype: torch.dtype | None) -> Run:
    """The network in torch on the GPU, in that precision."""

    def run(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch.autocast("cuda", dtype or torch.float16, enabled=dtype is not None):
            maps: NDArray[np.float32] = network(torch.from_numpy(windows).cuda())[0].float().cpu().numpy()
        return maps

    return run


def graph_run(model: bytes, batch: int) -> Run:
    """ONNX Runtime with one CUDA graph for this batch: buffers stay where they are, only bytes come in and maps go out."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    settings = {"enable_cuda_graph": "1", "cudnn_conv_algo_search": "HEURISTIC", "do_copy_in_default_stream": "1"}
    session = onnxruntime.InferenceSession(model, options, providers=[("CUDAExecutionProvider", settings)])
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise RuntimeError("ONNX Runtime could not start CUDA")
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


def ways(size: PdnSize, detector: Detector) -> dict[str, Callable[[int], Run]]:
    """What is compared: by name, what makes it for a batch."""
    plain = to_onnx(detector)
    half = halve(plain)
    on_gpu: Any = detector.cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    compiled = torch.compile(on_gpu, mode="max-autotune", dynamic=False)
    served = {
        form: open_session(model, form=form, provider="cuda", ladder=BATCHES)
        for form, model in (("float32", plain), ("fp16", half))
    }
    return {
        "torch float32 eager": lambda _: torch_run(on_gpu, None),
        "torch fp16 eager": lambda _: torch_run(on_gpu, torch.float16),
        "torch fp16 compiled": lambda _: torch_run(compiled, torch.float16),
        "onnxruntime float32": lambda _: lambda windows: served["float32"].run(windows).structural,
        "onnxruntime fp16": lambda _: lambda windows: served["fp16"].run(windows).structural,
        "onnxruntime fp16, CUDA graph": lambda batch: graph_run(half, batch),
    }


def measured(size: PdnSize) -> list[dict[str, object]]:
    """Rows of all ways at all batches, in turns at each batch. A way that fails is a row that says why."""
    detector = detector_of(size)
    rows: list[dict[str, object]] = []
    expected: dict[int, NDArray[np.float32]] = {}
    windows = {b: np.random.default_rng(b).integers(0, 256, (b, 256, 256, 3), dtype=np.uint8) for b in BATCHES}
    for batch in BATCHES:
        expected[batch] = run_torch(detector, windows[batch][:2]).structural  # before it moves to the GPU
    found = ways(size, detector)
    for batch in BATCHES:
        runs: dict[str, Run] = {}
        off: dict[str, float] = {}
        for name, make in found.items():
            try:
                run = make(batch)
                for _ in range(3):
                    answer = run(windows[batch])
                spread = float(np.ptp(expected[batch]))
                off[name] = float(np.abs(answer[: len(expected[batch])] - expected[batch]).max()) / spread
                runs[name] = run
            except Exception as error:  # the libraries' exceptions have no common base but Exception
                rows.append({"size": size, "way": name, "batch": batch, "failed": str(error)[:300]})
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(_TURNS):
            for name, run in runs.items():
                started = time.perf_counter()
                run(windows[batch])
                seconds[name].append(time.perf_counter() - started)
        for name, times in seconds.items():
            median = statistics.median(times)
            rows.append(
                {
                    "size": size,
                    "way": name,
                    "batch": batch,
                    "median_ms": round(1000 * median, 3),
                    "p99_ms": round(1000 * sorted(times)[int(0.99 * len(times))], 3),
                    "windows_per_s": round(batch / median, 1),
                    "map_off": round(off[name], 6),
                }
            )
    return rows


def ceiling() -> dict[str, object]:
    """TFLOP/s of a large bfloat16 product, and the windows a second that would be."""
    a = torch.randn(_SIDE, _SIDE, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    tflops = 20 * 2 * _SIDE**3 / (time.perf_counter() - started) / 1e12
    limits = {size: round(1000 * tflops / gflop) for size, gflop in _GFLOP.items()}
    return {"bfloat16_tflops": round(tflops, 1), "windows_per_s_at_most": limits}


def main() -> int:
    """Measure, and print or write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "no GPU to measure: torch sees no CUDA device here (a driver, and torch and onnxruntime-gpu with CUDA are "
            "needed: pip install 'flawscribe[train,gpu]' torch)",
            file=sys.stderr,
        )
        return 2
    result = {
        "machine": describe(),
        "gpu": torch.cuda.get_device_name(0),
        "ceiling": ceiling(),
        "rows": [row for size in PDN_SIZES for row in measured(size)],
    }
    tell(result, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
