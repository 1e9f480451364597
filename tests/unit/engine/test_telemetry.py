"""ONNX Runtime tells nobody what it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_the_runtime_keeps_no_device_id_and_no_queue_of_reports(tmp_path: Path) -> None:
    """Telemetry begins with a database and an id under the home folder; in CI the library itself refrains, so CI is unset."""
    silent = {"CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in silent} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import service.engine.session"], env=environment, check=True, timeout=60)
    assert list(tmp_path.rglob("*")) == []
