"""Time to ready, resident memory, and service time over network time at 1 and 16 clients, all in one run.

    python -m benchmarks.service_time --bundle models/polka-dot/1 --picture part.png --json benchmarks/results/service_time.json

The network's own time is measured in the same run, before and after, in a session of its own with the same settings.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from service.bundle.store import EngineOptions, load_bundle
from service.image.decode import decode
from service.image.prepare import prepare


def network_seconds(bundle_dir: Path, picture: bytes, precision: str, rounds: int) -> float:
    """Median seconds of the network alone for this picture's windows, at the ladder's best rung."""
    bundle = load_bundle(bundle_dir, EngineOptions(precision=precision, provider="cpu"))  # type: ignore[arg-type]
    rgb = decode(picture, 10**9)
    windows = prepare(rgb, bundle.plan(rgb.shape[1], rgb.shape[0]))
    bundle.session.warm_up()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        bundle.session.run(windows)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def client(port: int, picture: bytes, until: float, answers: Any) -> None:
    """Post the picture again and again on one connection; report each latency."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    found = []
    while time.monotonic() < until:
        started = time.perf_counter()
        connection.request("POST", "/detect", picture, {"content-type": "image/png"})
        answer = connection.getresponse()
        answer.read()
        found.append((answer.status, time.perf_counter() - started))
    answers.put(found)


def load(port: int, picture: bytes, clients: int, seconds: float) -> dict[str, Any]:
    """Latency and throughput with `clients` clients, each a process."""
    answers: Any = multiprocessing.Queue()
    until = time.monotonic() + seconds
    processes = [multiprocessing.Process(target=client, args=(port, picture, until, answers)) for _ in range(clients)]
    started = time.monotonic()
    for process in processes:
        process.start()
    found = [item for _ in processes for item in answers.get()]
    wall = time.monotonic() - started
    for process in processes:
        process.join()
    latencies = sorted(latency for status, latency in found if status == 200)
    return {
        "clients": clients,
        "answers": len(found),
        "not_200": sum(status != 200 for status, _ in found),
        "pictures_per_s": round(len(latencies) / wall, 3),
        "seconds_per_picture": round(wall / max(1, len(latencies)), 4),
        "p50_ms": round(1000 * statistics.median(latencies), 2),
        "p99_ms": round(1000 * latencies[min(len(latencies) - 1, int(0.99 * len(latencies)))], 2),
    }


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def measure(bundle_dir: Path, picture: bytes, precision: str, seconds: float) -> dict[str, Any]:
    """All figures for one form."""
    before = network_seconds(bundle_dir, picture, precision, 7)
    records = tempfile.TemporaryDirectory()  # every picture is recorded, as by default
    environment = {
        **os.environ,
        "FLAWSCRIBE_RECORDS_DIR": records.name,
        "FLAWSCRIBE_MODELS_DIR": str(bundle_dir.parents[1]),
        "FLAWSCRIBE_MODEL": bundle_dir.parent.name,
        "FLAWSCRIBE_PRECISION": precision,
        "FLAWSCRIBE_QUEUE_WINDOWS": "256",
    }
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "service", "serve", "--port", "0"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        ready = time.monotonic() - started
        assert "ready on" in line, line
        port = int(line.split()[3].rsplit(":", 1)[1])
        idle_mb = resident_mb(server.pid)
        runs = [load(port, picture, clients, seconds) for clients in (1, 16)]
        loaded_mb = resident_mb(server.pid)
        server.terminate()
        server.wait(60)
    records.cleanup()
    after = network_seconds(bundle_dir, picture, precision, 7)
    network = (before + after) / 2
    for run in runs:
        run["service_over_network"] = round(run["seconds_per_picture"] / network, 3)
    return {
        "form": precision,
        "seconds_to_ready": round(ready, 2),
        "resident_mb_idle": idle_mb,
        "resident_mb_loaded": loaded_mb,
        "network_seconds_per_picture": round(network, 4),
        "runs": runs,
    }


def main() -> None:
    """Measure both forms and print or write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/polka-dot/1"))
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    picture = options.picture.read_bytes()
    shape = np.asarray(decode(picture, 10**9)).shape
    forms = [
        form for form in ("int8", "float32") if (options.bundle / f"model{'.int8' * (form == 'int8')}.onnx").exists()
    ]
    result = {
        "machine": describe(),
        "bundle": str(options.bundle),
        "picture": {"height": shape[0], "width": shape[1], "bytes": len(picture)},
        "forms": [measure(options.bundle, picture, form, options.seconds) for form in forms],
    }
    text = json.dumps(result, indent=1) + "\n"
    if options.json is not None:
        options.json.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
