"""Builds the images and proves them in a real Docker engine; writes sizes and times to results/images.json.

    python -m benchmarks.images cpu gpu train

Needs `docker` with an engine behind it, and `debian:13-slim` from a registry or made by deploy/debian_engine.sh. Of each image:
first-run makes a key once; the service runs without root, without capabilities, on a read-only root file system; becomes healthy;
answers 401 without and 200 with the key; on SIGTERM answers what it has begun and ends with 0. No GPU is used: the images for
CUDA must say that they find none, and are then proved on the CPU.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from service.bench.machine import describe

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).with_name("results") / "images.json"
HARDENED = [
    "--read-only",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
    "--tmpfs",
    "/tmp",
    "--memory",
    "2g",
]
IN_FLIGHT = 4
PATIENT = ["--env", "FLAWSCRIBE_DRAIN_S=150"]  # so that a busy machine proves the same


def docker(*words: str, check: bool = True) -> str:
    """What `docker ...` prints on both streams. Raises CalledProcessError."""
    done = subprocess.run(["docker", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"docker {' '.join(words)}: {done.stdout}{done.stderr}")
    return (done.stdout + done.stderr).strip()


@dataclass(frozen=True)
class Installation:
    """An image with volumes of its own, and the key that its first run printed."""

    image: str
    volumes: tuple[str, ...]
    key: str

    @contextmanager
    def running(self, *options: str) -> Iterator[str]:
        """The id of a running service, published on a free port of the loopback address."""
        container = docker(
            *("run", "--detach", "--publish", "127.0.0.1::8000"), *HARDENED, *self.volumes, *options, self.image
        )
        try:
            yield container
        finally:
            docker("rm", "--force", container)


@contextmanager
def installed(image: str) -> Iterator[Installation]:
    """First run on empty volumes, twice: the second must change nothing."""
    name = image.replace(":", "-") + "-proof"
    volumes = ("--volume", f"{name}-keys:/keys", "--volume", f"{name}-data:/data")
    try:
        first, second = (docker("run", "--rm", *HARDENED, *volumes, image, "first-run") for _ in range(2))
        keys = re.findall(r"fls_[\w-]+", first)
        assert len(keys) == 1, first
        assert not re.findall(r"fls_[\w-]{20,}", second), second
        yield Installation(image, ("--volume", f"{name}-keys:/keys:ro", *volumes[2:]), keys[0])
    finally:
        docker("volume", "rm", "--force", f"{name}-keys", f"{name}-data")


def prove(image: str, parts: list[Path]) -> dict[str, object]:
    """Runs the image as the module's docstring says; what was measured."""
    figures: dict[str, object] = {"size_mb": round(int(inspect_image(image, "{{.Size}}")) / 1e6)}
    figures["layers_mb"] = layers(image)  # base first
    figures["packages"] = {name: components(image, name) for name in ("python", "debian")}
    with installed(image) as installation:
        options = [*PATIENT]
        if not image.endswith(":cpu"):
            with installation.running("--env", "FLAWSCRIBE_PROVIDER=cuda") as container:
                figures["without_a_gpu"] = why_not_ready(container)
            options += ["--env", "FLAWSCRIBE_PROVIDER=cpu"]
        with installation.running(*options) as container:
            began = time.monotonic()
            wait_healthy(container)
            figures["healthy_after_s"] = round(time.monotonic() - began, 1)
            confined(container)
            with client(container) as http:
                assert http.post("/detect", files={"image": parts[0].read_bytes()}).status_code == 401
                http.headers["x-api-key"] = installation.key
                answers = [http.post("/detect", files={"image": part.read_bytes()}) for part in parts]
                assert [answer.status_code for answer in answers] == [200] * len(parts), answers[0].text
                figures["verdicts"] = [answer.json()["results"][0]["verdict"] for answer in answers]
                assert http.get("/metrics").status_code == 200
                figures["memory_mb"] = memory_mb(container)
                figures["drained"] = drained(container, http, parts[0])
    return figures


def inspect_image(image: str, form: str) -> str:
    return docker("image", "inspect", "--format", form, image)


def layers(image: str) -> list[float]:
    """Sizes of the layers, base first, in MB."""
    sizes = docker("history", "--no-trunc", "--human=false", "--format", "{{.Size}}", image).split()
    return [round(int(size) / 1e6, 1) for size in reversed(sizes) if int(size) > 100_000]


def components(image: str, kind: str) -> int:
    """How many packages an SBOM of the image names."""
    text = docker("run", "--rm", "--network", "none", image, "cat", f"/opt/flawscribe/sbom.{kind}.cdx.json")
    bill = json.loads(text)
    assert bill["bomFormat"] == "CycloneDX"
    return len(bill["components"])


def why_not_ready(container: str) -> str:
    """The service's own words for not becoming ready."""
    end = time.monotonic() + 180
    with client(container) as http:
        while time.monotonic() < end:
            answer = ask(http, "/readyz")
            if answer is not None and answer.status_code == 503 and "loaded" not in answer.json()["detail"]:
                return str(answer.json()["detail"])
            time.sleep(0.5)
    raise SystemExit(f"it should not be ready without a GPU: {docker('logs', container)}")


def wait_healthy(container: str) -> None:
    end = time.monotonic() + 180
    while docker("inspect", "--format", "{{.State.Health.Status}}", container) != "healthy":
        if time.monotonic() > end:
            raise SystemExit(f"not healthy: {docker('logs', container)}")
        time.sleep(0.2)


def confined(container: str) -> None:
    """No root, no capabilities, no way to write but /data and /tmp, and no pip to install with."""
    status = docker("exec", container, "cat", "/proc/self/status")
    assert re.search(r"^Uid:\s+10001\s", status, re.M), status
    assert re.search(r"^CapEff:\s+0+$", status, re.M), status
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.M), status
    for place in ("/", "/opt/flawscribe", "/keys", "/etc"):
        assert "Read-only" in docker("exec", container, "touch", f"{place}/x", check=False), place
    docker("exec", container, "touch", "/data/x", "/tmp/x")
    assert "No module named pip" in docker("exec", container, "python", "-m", "pip", check=False)


def memory_mb(container: str) -> float:
    """Resident memory of the service's process."""
    return round(int(docker("exec", container, "sh", "-c", "grep VmRSS /proc/1/status").split()[1]) / 1024)


def drained(container: str, http: httpx.Client, part: Path) -> dict[str, object]:
    """`docker stop` while pictures wait: each is answered, and the exit code is 0."""
    codes: list[int] = []

    def post() -> None:
        deadline = {"x-deadline-ms": "150000"}
        answer = http.post("/detect", files={"image": part.read_bytes()}, headers=deadline, timeout=300)
        codes.append(answer.status_code)

    threads = [threading.Thread(target=post) for _ in range(IN_FLIGHT)]
    for thread in threads:
        thread.start()
    while f"flawscribe_queue_images {IN_FLIGHT}.0" not in http.get("/metrics").text and not codes:
        time.sleep(0.01)
    docker("stop", "--time", "300", container)
    for thread in threads:
        thread.join()
    exit_code = int(docker("inspect", "--format", "{{.State.ExitCode}}", container))
    assert (codes, exit_code) == ([200] * IN_FLIGHT, 0), (codes, exit_code, docker("logs", container))
    return {"answered": len(codes), "exit_code": exit_code}


def client(container: str) -> httpx.Client:
    port = docker("port", container, "8000").rpartition(":")[2]
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)


def ask(http: httpx.Client, path: str) -> httpx.Response | None:
    try:
        return http.get(path)
    except httpx.TransportError:
        return None


def main(targets: list[str]) -> None:
    """Build and prove each target; keep what was measured of the others before."""
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {"images": {}}
    result |= {"machine": describe(), "engine": docker("version", "--format", "{{.Server.Version}}")}
    with tempfile.TemporaryDirectory() as folder:
        samples = [sys.executable, "-m", "service", "samples", "polka-dot", folder, "--good", "1", "--seed", "7"]
        subprocess.run(samples, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        parts = [Path(folder) / "test" / kind / "000.png" for kind in ("good", "black_thread")]
        for target in targets:
            image = f"flawscribe:{target}"
            docker("build", "--target", target, "--tag", image, ".")
            result["images"][target] = prove(image, parts)
            print(target, json.dumps(result["images"][target]), flush=True)
            RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or ["cpu"])
