"""Many models in one real service, and recall among many cases."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.networks import write_bundle


def test_recall_and_many_models_are_measured(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    command = [sys.executable, "-m", "service", "bench", "memory", "--bundle", str(folder), "--bundles", "4"]
    command += ["--seconds", "0.3", "--cases", "50", "--cases", "200"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [row["cases"] for row in result["cases"]] == [50, 200]
    assert all(0 < row["recall_p50_ms"] <= row["recall_p99_ms"] for row in result["cases"])
    models = result["models"]
    assert models["models"] == 4
    assert models["warm_answer_p50_ms"] > 0
    assert models["rare_beside_flood_p99_ms"] >= models["rare_beside_flood_p50_ms"] > 0
    assert models["rare_refused"] == 0  # whatever the other model's flood
    assert "mb_a_model" in done.stderr


def test_one_bundle_is_not_many() -> None:
    command = [sys.executable, "-m", "service", "bench", "memory", "--bundles", "1", "--cases", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "at least 2" in done.stderr
