"""Does a stalled LLM slow detection down? /detect latency alone, and while /classify requests hang in an LLM that never answers.

python -m benchmarks.llm_stall --json benchmarks/results/llm_stall.json
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks.machine import describe, tell
from service.samples import render
from tests.llm_server import LlmServer, silent

CARD = "{product: polka-dot, name: fabric, may_leave: true}\n"


def part(flaw: str | None, seed: int) -> bytes:
    """A generated part as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(render("polka-dot", np.random.default_rng(seed), flaw).image).save(buffer, "PNG")
    return buffer.getvalue()


def latencies(url: str, picture: bytes, count: int) -> list[float]:
    """Seconds of `count` requests to /detect, one after the other."""
    found = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(count):
            started = time.perf_counter()
            client.post("/detect?store=none", content=picture, headers={"content-type": "image/png"}).raise_for_status()
            found.append(time.perf_counter() - started)
    return found


def hang(url: str, picture: bytes, fallen: list[str]) -> None:
    """One /classify whose LLM never answers; notes why it fell back."""
    headers = {"content-type": "image/png", "x-deadline-ms": "600000"}
    with contextlib.suppress(httpx.TransportError):  # the server ends while the LLM still hangs
        while (
            answer := httpx.post(url + "/classify?store=none", content=picture, headers=headers, timeout=600)
        ).is_error:
            time.sleep(float(answer.headers["retry-after"]))  # more pictures at once than the queue takes
        fallen.append(str(answer.json()["results"][0]["classification"]["fallback_reason"]))


def quantiles(values: list[float]) -> dict[str, float]:
    """Milliseconds."""
    return {name: round(1000 * float(np.quantile(values, q)), 1) for name, q in (("p50", 0.5), ("p99", 0.99))}


def main() -> None:
    """Measure alone, then beside the hanging requests, in one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--hanging", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    good, flawed = part(None, 1), part("black_thread", 2)
    with LlmServer() as llm, tempfile.TemporaryDirectory() as folder:
        llm.script(silent)
        (Path(folder) / "polka-dot.yaml").write_text(CARD)
        environment = {
            **os.environ,
            "FLAWSCRIBE_PRODUCTS_DIR": folder,
            "FLAWSCRIBE_RECORDS_DIR": f"{folder}/records",
            "FLAWSCRIBE_LLM_BASE_URL": llm.base_url,
            "FLAWSCRIBE_LLM_MODEL": "silent",
            "FLAWSCRIBE_LLM_DEADLINE_S": "300",
        }
        command = [sys.executable, "-m", "service", "serve", "--port", "0"]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server:
            assert server.stdout is not None
            url = server.stdout.readline().split()[3]
            latencies(url, good, 5)
            before = latencies(url, good, options.requests)
            fallen: list[str] = []
            threads = [
                threading.Thread(target=hang, args=(url, flawed, fallen), daemon=True) for _ in range(options.hanging)
            ]
            for thread in threads:
                thread.start()
            while len(llm.requests) < 4:
                time.sleep(0.2)
            time.sleep(8)  # the other pictures are judged meanwhile, and wait for a slot of the LLM
            stalled = latencies(url, good, options.requests)
            hanging = sum(thread.is_alive() for thread in threads)
            server.kill()
    alone: dict[str, Any] = quantiles(before)
    held = quantiles(stalled)
    result = {
        "machine": describe(),
        "requests": options.requests,
        "hanging_in_the_llm": hanging,
        "detect_ms_alone": alone,
        "detect_ms_llm_stalled": held,
        "p99_ratio": round(held["p99"] / alone["p99"], 3),
        "p50_ratio": round(held["p50"] / alone["p50"], 3),
    }
    tell(result, options.json)


if __name__ == "__main__":
    main()
