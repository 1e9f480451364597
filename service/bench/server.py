"""A service in a child process, on a free port, with records of its own that go with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.errors import NotReady
from service.settings import environment

_DRAIN_S = 60


@dataclass(frozen=True, slots=True)
class Server:
    """Where it answers, its process, and how long it took to be ready."""

    url: str
    pid: int
    ready_s: float

    def resident_mb(self) -> float:
        """Resident memory now, in MB. NaN where the system does not tell (it is read from /proc)."""
        return resident_mb(self.pid)


@contextlib.contextmanager
def serving(models_dir: Path, **settings: object) -> Iterator[Server]:
    """Run `flawscribe serve` until the block ends; ready when it begins. Raises NotReady with what it said instead."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"records_dir": Path(folder) / "records", "models_dir": models_dir.resolve()}
        command = [sys.executable, "-m", "service", "serve", "--host", "127.0.0.1", "--port", "0"]
        started = time.monotonic()
        with (
            (Path(folder) / "log").open("w+") as log,
            subprocess.Popen(
                command, env=environment(**(own | settings)), stdout=subprocess.PIPE, stderr=log, text=True
            ) as process,
        ):
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                if "ready on" not in line or "not ready" in line:
                    log.seek(0)
                    raise NotReady(f"the service did not start: {line.strip() or log.read()[-500:].strip()}")
                yield Server(line.split()[3], process.pid, time.monotonic() - started)
            finally:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_DRAIN_S)
                process.kill()


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MB; NaN where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
