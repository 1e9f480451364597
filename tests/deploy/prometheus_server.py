"""A Prometheus of our own for tests: Debian's, in a temporary folder, on a free port, with this house's rules."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

RULES = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"


class NoPrometheus(Exception):
    """Why no server can be started here."""


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    client: httpx.Client

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector of an expression. Raises AssertionError with Prometheus's own words when it errs."""
        answer = self.client.post("/api/v1/query", data={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found


@contextlib.contextmanager
def running_prometheus(target: str, interval: str = "250ms") -> Iterator[Prometheus]:
    """Scrape `target` (host:port) as the job `flawscribe`, and evaluate the rules as often. Raises NoPrometheus."""
    binary = shutil.which("prometheus")
    if binary is None:
        raise NoPrometheus("Prometheus is not installed (Debian: prometheus)")
    with tempfile.TemporaryDirectory(prefix="flawscribe-prometheus-") as folder:
        config = yaml.safe_load((RULES / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
        config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
        job = next(job for job in config["scrape_configs"] if job["job_name"] == "flawscribe")
        job["static_configs"] = [{"targets": [target]}]
        config["scrape_configs"] = [job]
        (Path(folder) / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = _free_port()
        command = [binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        with (
            (Path(folder) / "log").open("w") as log,
            _ended(subprocess.Popen(command, stdout=log, stderr=log)) as server,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
        ):
            _wait_ready(client, server, Path(log.name))
            yield Prometheus(client)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def _wait_ready(client: httpx.Client, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/-/ready").status_code == 200:
                return
        time.sleep(0.05)
    raise NoPrometheus(f"Prometheus did not become ready: {log.read_text()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
