"""The benchmark for a GPU is tried where there is none: it has to run at once when one is at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_network
from benchmarks.gpu_network import NETWORKS, Options, gflop_of, main, measured
from service.training.network import Detector, Pdn
from service.types import WindowMaps


@pytest.mark.slow
def test_the_benchmark_runs_on_a_cpu_and_writes_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    wanted = [
        "--provider",
        "cpu",
        "--networks",
        NETWORKS[0].name,
        "--batches",
        "1",
        "--turns",
        "1",
        "--json",
        str(file),
    ]
    assert main(wanted) == 0
    found = json.loads(file.read_text())
    assert json.loads(capsys.readouterr().out) == found
    rows = {row["way"]: row for row in found["rows"]}
    assert list(rows) == ["torch float32 eager", "onnxruntime float32", "onnxruntime fp16"]
    assert not [row for row in found["rows"] if "failed" in row]
    assert rows["onnxruntime float32"]["map_off"] < 1e-4
    assert rows["onnxruntime fp16"]["map_off"] < 0.01
    assert found["gflop_per_window"] == {NETWORKS[0].name: pytest.approx(45, abs=15)}


def test_what_was_measured_is_written_behind_every_batch_and_no_batch_is_begun_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "found.json"
    seen: list[int] = []

    def at_a_batch(network: object, batch: int, *_: object) -> list[gpu_network.Row]:
        if seen:
            assert len(json.loads(file.read_text())["rows"]) == len(seen)
        seen.append(batch)
        return [{"batch": batch}]

    now = iter([0.0, 0.0, 1.0, 2.0, 9.0, 9.0])  # seconds; before the first network, each batch, the second network
    monkeypatch.setattr(gpu_network, "measured", at_a_batch)
    monkeypatch.setattr(gpu_network, "ways", lambda *_: {})
    monkeypatch.setattr(gpu_network, "detector_of", lambda _: Detector(Pdn("small"), Pdn("small"), None).eval())
    monkeypatch.setattr(gpu_network, "gflop_of", lambda _: 1.0)
    monkeypatch.setattr(gpu_network, "run_torch", lambda *_: WindowMaps(torch.zeros(1).numpy()))
    monkeypatch.setattr(gpu_network.time, "monotonic", lambda: next(now))
    result: dict[str, object] = {"gflop_per_window": {}, "rows": []}
    gpu_network.measure(NETWORKS[:2], Options("cpu", (1, 2, 4, 8), (), 1, until=5.0), result, file)
    assert seen == [1, 2, 4]
    assert result["left_out"] == [f"{NETWORKS[0].name} at 8", NETWORKS[1].name]


def test_a_way_that_fails_says_why_and_the_others_are_measured() -> None:
    def broken(_: int) -> gpu_network.Run:
        raise RuntimeError("no such library")

    maps = torch.rand(1, 56, 56).numpy()
    rows = measured(NETWORKS[0], 1, {"broken": broken, "whole": lambda _: lambda windows: maps}, maps, 2)
    failed, whole = rows
    assert failed["failed"] == "no such library"
    assert whole["map_off"] == 0
    assert whole["way"] == "whole"


def test_the_directions_save_work() -> None:
    torch.manual_seed(0)
    detector = Detector(Pdn("small"), Pdn("small"), None).eval().requires_grad_(False)
    whole = gflop_of(detector)
    detector.directions = torch.randn(64, 384)
    assert gflop_of(detector) < whole == pytest.approx(62.5, abs=0.1)
