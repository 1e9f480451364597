"""How threads are best spent on a window: all of them on one, or one on each of several; pinned to their cores or not. And
what the outputs cost that not every window needs.

    python -m benchmarks.cpu_threads --json benchmarks/results/cpu_threads.json
    python -m benchmarks.cpu_threads --cores 1 --json benchmarks/results/cpu_threads_1.json

In turns; by the clock, and in processor time of all threads, which other programs on the machine hardly change.
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
from service.engine.session import available_cores
from service.training.export import to_onnx
from service.training.network import Autoencoder, Detector, Pdn
from service.training.quantize import quantize

Windows = NDArray[np.uint8]
Case = Callable[[], int]  # runs some windows and says how many
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


def cases(folder: Path, threads: int) -> dict[str, Case]:
    """What is compared, by name, on so many threads."""
    verified = verify(folder)
    windows = np.ascontiguousarray(real_windows(verified)[:4])
    forms = {name: verified.files[verified.manifest.forms[name].file] for name in ("int8", "float32", "int8-openvino")}
    found: dict[str, Case] = {}
    for pinned in (True, False):
        place = "pinned" if pinned else "not pinned"
        for streams, how in ((1, "a window on all threads"), (threads, "a window a thread")):
            found[f"openvino int8, {how}, {place}"] = by_openvino(
                forms["int8-openvino"], windows, streams, threads=threads, pinned=pinned, without=["features"]
            )
    for name in ("int8", "float32"):
        for batch, how in ((1, "a window on all threads"), (2, "a batch of 2")):
            found[f"onnxruntime {name}, {how}"] = by_onnx_runtime(forms[name], windows, batch, threads=threads)
        if threads > 1:
            found[f"onnxruntime {name}, a window a thread"] = by_onnx_runtime(
                forms[name], windows, 1, threads=1, at_once=threads
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
    """Milliseconds a window, of the processor and by the clock: medians of `rounds` turns."""
    for case in found.values():
        case()
    used: dict[str, list[float]] = {name: [] for name in found}
    took: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, case in found.items():
            began, before = time.perf_counter(), time.process_time()
            count = case()
            used[name].append(1000 * (time.process_time() - before) / count)
            took[name].append(1000 * (time.perf_counter() - began) / count)
    return [
        {
            "case": name,
            "cpu_ms_per_window": round(statistics.median(each), 1),
            "ms_per_window": round(statistics.median(took[name]), 1),
        }
        for name, each in used.items()
    ]


def main() -> None:
    """Print the figures; with --json, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/polka-dot/1"))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--cores", type=int, help="use so many of the cores that there are (default: all of them)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    if options.cores is not None:
        there = sorted(os.sched_getaffinity(0))
        if not 0 < options.cores <= len(there):
            parser.error(f"--cores {options.cores}: there are {len(there)}")
        os.sched_setaffinity(0, there[: options.cores])  # before any engine starts its threads
    rows = timed(cases(options.bundle, available_cores()), options.rounds)
    bundle = verify(options.bundle).manifest
    told = {"bundle": f"{bundle.name}/{bundle.version}", "teacher": bundle.teacher.name, "other_load": load}
    tell({"machine": describe(), **told, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
