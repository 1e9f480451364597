"""How threads are best spent on a window: all of them on one, or one on each of several; pinned to their cores or not. And
what the outputs cost that not every window needs.

    python -m benchmarks.cpu_threads --json benchmarks/results/cpu_threads.json

Processor time of all threads, in turns: other programs on the machine hardly change it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
from numpy.typing import NDArray

from benchmarks.machine import describe, tell
from service.bench.network import real_windows
from service.bundle.verify import verify
from service.training.export import to_onnx
from service.training.network import Autoencoder, Detector, Pdn
from service.training.quantize import quantize

Windows = NDArray[np.uint8]
Case = Callable[[], int]  # runs some windows and says how many
THREADS = 2
DIRECTIONS = 64  # outputs of the last layers, as the default recipe has them


def by_openvino(
    model: bytes, windows: Windows, streams: int, *, threads: int, pinned: bool, without: Sequence[str]
) -> Case:
    """A window a stream, on `threads` threads in all, without some outputs."""
    core = openvino.Core()
    read = core.read_model(model)
    for output in [each for each in read.outputs if set(each.get_names()) & set(without)]:
        read.remove_result(output.get_node())
    settings = {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": pinned}
    settings |= {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(read, "CPU", settings)
    requests = [compiled.create_infer_request() for _ in range(streams)]

    def run() -> int:
        with contextlib.ExitStack() as running:
            for request, window in zip(requests, windows, strict=False):
                request.start_async({"image": window[None]}, share_inputs=True)
                running.callback(request.wait)
        return streams

    return run


def by_onnx_runtime(model: bytes, windows: Windows, batch: int, *, threads: int, at_once: int = 1) -> Case:
    """A batch on so many threads; `at_once` of them, each on its own."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    pool = ThreadPoolExecutor(at_once)

    def run() -> int:
        list(pool.map(lambda _: session.run(["structural_map"], {"image": windows[:batch]}), range(at_once)))
        return batch * at_once

    return run


def cases(folder: Path) -> dict[str, Case]:
    """What is compared, by name."""
    verified = verify(folder)
    windows = np.ascontiguousarray(real_windows(verified)[:4])
    forms = {name: verified.files[verified.manifest.forms[name].file] for name in ("int8", "float32", "int8-openvino")}
    found: dict[str, Case] = {}
    bare = {"threads": THREADS, "without": ["features"]}
    for pinned in (True, False):
        place = "pinned" if pinned else "not pinned"
        for streams, how in ((1, "a window on all threads"), (THREADS, "a window a thread")):
            case = by_openvino(forms["int8-openvino"], windows, streams, pinned=pinned, **bare)  # type: ignore[arg-type]
            found[f"openvino int8, {how}, {place}"] = case
    for name in ("int8", "float32"):
        found[f"onnxruntime {name}, a window on all threads"] = by_onnx_runtime(
            forms[name], windows, 1, threads=THREADS
        )
        found[f"onnxruntime {name}, a batch of 2"] = by_onnx_runtime(forms[name], windows, 2, threads=THREADS)
        found[f"onnxruntime {name}, a window a thread"] = by_onnx_runtime(
            forms[name], windows, 1, threads=1, at_once=THREADS
        )
    network = with_autoencoder(list(windows))
    for outputs, without in (
        ("both maps", ["features"]),
        ("structural map", ["features", "logical_map"]),
        ("both maps and features", []),
        ("features", ["structural_map", "logical_map"]),
    ):
        case = by_openvino(network, windows, 1, threads=1, pinned=False, without=without)
        found[f"openvino int8 with an autoencoder, {outputs}, one thread"] = case
    return found


def with_autoencoder(windows: list[Windows]) -> bytes:
    """PDN-small with an autoencoder and random weights, on which time does not depend, in int8."""
    torch.manual_seed(0)
    detector = Detector(Pdn("small"), Pdn("small", 768), Autoencoder()).eval()
    detector.directions = torch.linalg.qr(torch.randn(384, DIRECTIONS))[0].T.contiguous()
    return quantize(to_onnx(detector), windows)


def timed(found: dict[str, Case], rounds: int) -> list[dict[str, Any]]:
    """Processor milliseconds a window: medians of `rounds` turns."""
    for case in found.values():
        case()
    used: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, case in found.items():
            before = time.process_time()
            count = case()
            used[name].append(1000 * (time.process_time() - before) / count)
    return [{"case": name, "cpu_ms_per_window": round(statistics.median(each), 1)} for name, each in used.items()]


def main() -> None:
    """Print the figures; with --json, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/polka-dot/1"))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    rows = timed(cases(options.bundle), options.rounds)
    tell({"machine": describe(), "other_load": load, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
