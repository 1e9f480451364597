"""A new user's first commands, timed: clone, `make serve` until it is ready, a flawed part posted and reviewed, the second start,
`make dev`, a model of own parts if asked for, `make test`.

    python -m benchmarks.fresh_clone --json benchmarks/results/fresh_clone.json

What pip downloads comes over the network of the machine at hand, or out of its cache; the commit is what is committed here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, tell
from benchmarks.peers.compare import multipart

ROOT = Path(__file__).resolve().parents[1]
PART = "test/black_thread/000.png"
_LONGEST_S = 1800


@contextlib.contextmanager
def make_serve(clone: Path) -> Iterator[tuple[str, float]]:
    """`make serve` until the block ends: where it answers, and the seconds until it was ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    began = time.monotonic()
    command = ["make", "serve", f"PORT={port}"]
    with subprocess.Popen(command, cwd=clone, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            while not _ready(url):
                if process.poll() is not None or time.monotonic() - began > _LONGEST_S:
                    raise RuntimeError(f"`make serve` did not become ready in {clone}")
                time.sleep(0.05)
            yield url, round(time.monotonic() - began, 1)
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def post(url: str, body: bytes, kind: str) -> Any:
    """The JSON answer to a POST."""
    with urllib.request.urlopen(urllib.request.Request(url, body, {"content-type": kind}), timeout=60) as answer:
        return json.load(answer)


def detected(url: str, part: Path) -> dict[str, Any]:
    """Verdict of the posted part, whether its overlay came, the milliseconds of the answer, and whether a review was taken."""
    body, kind = multipart(part.read_bytes(), "image/png")
    began = time.monotonic()
    (result,) = post(f"{url}/detect?include=overlay", body, kind)["results"]
    seconds = time.monotonic() - began
    review = json.dumps({"verdict": "right", "label": "black_thread"}).encode()
    post(f"{url}/inspections/{result['id']}/review", review, "application/json")  # raises unless it was taken
    return {
        "verdict": result["verdict"],
        "overlay": bool(result["overlay"]["data"]),
        "answer_ms": round(1000 * seconds, 1),
    }


def timed(command: list[str | Path], clone: Path) -> float:
    """Seconds of a command that must succeed."""
    began = time.monotonic()
    subprocess.run(command, cwd=clone, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return round(time.monotonic() - began, 1)


def main() -> None:
    """Time all of it and print or write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", action=argparse.BooleanOptionalAction, default=True, help="also `make test`")
    parser.add_argument("--train", type=int, metavar="N", help="also a model of N own parts, by the default recipe")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": describe()}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "flawscribe"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        with contextlib.suppress(
            OSError
        ):  # where there are real images beside this checkout, the clone's tests find them too
            (clone.parent / "shared").symlink_to(ROOT.parent / "shared")
        with make_serve(clone) as (url, ready_s):
            command, fabric = clone / ".venv/bin/flawscribe", clone.parent / "fabric"
            made_s = timed([command, "samples", "polka-dot", fabric, "--good", "3", "--seed", "7"], clone)
            result |= {"serve_ready_s": ready_s, "samples_s": made_s, **detected(url, fabric / PART)}
        with make_serve(clone) as (_, ready_s):
            result["serve_ready_again_s"] = ready_s
        result["dev_s"] = timed(["make", "dev"], clone)
        if options.train is not None:
            parts = clone.parent / "parts"
            timed([command, "samples", "brushed-metal", parts, "--good", str(options.train)], clone)
            result |= {"trained_on": options.train}
            result["train_s"] = timed([command, "train", "--data", parts / "train/good", "--name", "own"], clone)
        if options.tests:
            began = time.monotonic()
            run = subprocess.run(["make", "test"], cwd=clone, capture_output=True, text=True, check=False)
            told = re.findall(r"^=+ (.*) in [\d.]+s.*=+$", run.stdout, re.MULTILINE)
            result |= {
                "test_s": round(time.monotonic() - began),
                "test_exit": run.returncode,
                "tests": told[-1] if told else run.stdout[-500:],
            }
            if run.returncode:
                print(run.stdout[-6000:])
    tell(result, options.json)


if __name__ == "__main__":
    main()
