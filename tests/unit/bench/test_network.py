"""`flawscribe bench network` on a bundle of tiny networks, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from service.bench import network
from service.engine.session import CPU_LADDER
from service.errors import BundleRefused
from tests.networks import write_bundle

COLUMNS = {"form", "provider", "wanted", "batch", "gflop", "median_ms", "p99_ms", "windows_per_s", "ratio_to_float32"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", "bench", "network", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_json_goes_to_standard_output_and_a_table_to_standard_error(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, int8_gain=1.0)
    done = run("--bundle", str(folder), "--rounds", "3", "--provider", "cpu", "--no-references")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert all(set(row) == COLUMNS for row in rows)
    assert [(row["form"], row["batch"]) for row in rows] == [
        (form, rung) for form in ("float32", "int8") for rung in CPU_LADDER
    ]
    for row in rows:
        assert 0 < row["median_ms"] <= row["p99_ms"]
        assert row["windows_per_s"] == pytest.approx(1000 * row["batch"] / row["median_ms"], rel=0.01)
        assert row["form"] != "float32" or row["ratio_to_float32"] == 1
    header, *lines = done.stderr.splitlines()
    assert header.split()[:3] == ["form", "provider", "wanted"]
    assert len(lines) == len(rows)


def test_a_file_takes_the_json(tmp_path: Path) -> None:
    folder, file = write_bundle(tmp_path / "models"), tmp_path / "network.json"
    done = run("--bundle", str(folder), "--rounds", "3", "--no-references", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert {row["form"] for row in json.loads(file.read_text())} == {"float32"}


def test_what_is_no_bundle_is_said_in_one_line(tmp_path: Path) -> None:
    done = run("--bundle", str(tmp_path))
    assert done.returncode == 2
    assert "manifest.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_windows_are_those_of_the_golden_pictures(tmp_path: Path) -> None:
    verified = network.verify(write_bundle(tmp_path, working_size=448))
    assert network.real_windows(verified).shape == (4, 256, 256, 3)


def test_a_bundle_without_golden_pictures_cannot_be_measured(tmp_path: Path) -> None:
    verified = network.verify(write_bundle(tmp_path))
    bare = type(verified)(verified.folder, verified.manifest.model_copy(update={"golden": ()}), verified.files)
    with pytest.raises(BundleRefused, match="golden"):
        network.real_windows(bare)


def test_tiles_and_wholes_are_measured_for_what_they_are_run_for(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, global_map=True, working_size=448, int8_gain=1.0)
    rows = network.measure(folder, provider="cpu", rounds=3, beside=False)
    assert [(row.form, row.wanted) for row in rows] == [
        ("float32", "structural"),
        ("float32", "logical"),
        ("float32", "maps"),
        ("int8", "structural"),
        ("int8", "logical"),
    ]
