"""Does serving feel a training? /detect latency in turns, without one and beside one that the service itself runs.

python -m benchmarks.train_beside_serving --json benchmarks/results/train_beside_serving.json

The load of the machine and the training's own share of the cores are written down with each turn: a training that stands
still beside a busy machine would show nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.llm_stall import latencies, part, quantiles
from benchmarks.machine import describe, tell
from service.samples import render
from tests.contract.serving import wait_until

_PARTS = 24
_READY_S = 600


def training_cpu_s(lock: Path) -> float:
    """Processor time of the training so far, in seconds."""
    pid = json.loads(lock.read_text())["pid"]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def turn(url: str, picture: bytes, count: int, lock: Path | None) -> dict[str, Any]:
    """Latencies of `count` requests, one after the other; `lock`: of the training beside them."""
    began, cpu = time.monotonic(), training_cpu_s(lock) if lock else 0.0
    seconds = latencies(url, picture, count)
    wall = time.monotonic() - began
    found: dict[str, Any] = {"seconds": seconds, "load_average": round(os.getloadavg()[0], 1)}
    if lock:
        found["training_cores"] = round((training_cpu_s(lock) - cpu) / wall, 2)
    return found


def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """All turns of one kind together, and the median of each."""
    every = [second for each in turns for second in each["seconds"]]
    told: dict[str, Any] = {
        "requests": len(every),
        **quantiles(every),
        "p50_of_turns": [quantiles(each["seconds"])["p50"] for each in turns],
        "load_average": [each["load_average"] for each in turns],
    }
    if "training_cores" in turns[0]:
        told["training_cores"] = [each["training_cores"] for each in turns]
    return told


def start_training(client: httpx.Client, name: str) -> str:
    """Start a long training, and wait until it makes steps."""
    order = {"name": name, "folder": "good", "steps": 100_000}
    answer = client.post("/trainings", json=order)
    answer.raise_for_status()
    training = str(answer.json()["id"])
    wait_until(lambda: client.get(f"/trainings/{training}").json()["step"] > 0, _READY_S)
    return training


def main() -> None:
    """Measure in turns, in one run of the service."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=60, help="Requests a turn.")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--nice", type=int, default=19, help="FLAWSCRIBE_BACKGROUND_NICE.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos" / "good").mkdir(parents=True)
        for seed in range(_PARTS):
            (folder / "photos" / "good" / f"{seed}.png").write_bytes(part(None, seed))
        (folder / "models").mkdir()
        (folder / "models" / "polka-dot").symlink_to(Path("models/polka-dot").resolve())
        environment = {
            **os.environ,
            "FLAWSCRIBE_MODELS_DIR": str(folder / "models"),
            "FLAWSCRIBE_RECORDS_DIR": str(folder / "records"),
            "FLAWSCRIBE_TRAININGS_DIR": str(folder / "trainings"),
            "FLAWSCRIBE_TRAINING_DATA_DIR": str(folder / "photos"),
            "FLAWSCRIBE_BACKGROUND_NICE": str(options.nice),
        }
        command = [sys.executable, "-m", "service", "serve", "--port", "0"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split(" on ")[1].split()[0]
            picture = part(None, 1)
            lock = folder / "trainings" / "lock"
            alone, beside = [], []
            with httpx.Client(base_url=url, timeout=60) as client:
                latencies(url, picture, 5)
                for number in range(options.turns):
                    alone.append(turn(url, picture, options.requests, None))
                    training = start_training(client, f"trial-{number}")
                    beside.append(turn(url, picture, options.requests, lock))
                    client.post(f"/trainings/{training}/cancel").raise_for_status()
        finally:
            process.terminate()
            process.wait(60)
    height, width = render("polka-dot", np.random.default_rng(1), None).image.shape[:2]
    result = {
        "what": "POST /detect in ms, one after the other, without and beside a training of the same service, in turns",
        "machine": describe(),
        "picture": f"{width}x{height} PNG",
        "niceness": options.nice,
        "without_training": summary(alone),
        "beside_training": summary(beside),
    }
    tell(result, options.json)


if __name__ == "__main__":
    main()
