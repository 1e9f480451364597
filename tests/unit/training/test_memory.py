"""What is left of memory, by the files in which Linux tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.training.memory import available_memory

MEMINFO = (
    "MemTotal:       24684084 kB\nMemFree:         8516688 kB\nMemAvailable:    8000000 kB\nHugePages_Total:       0\n"
)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the system's, with `meminfo` and a cgroup's files, as far as a test writes them."""
    monkeypatch.setattr("service.training.memory._CGROUP", tmp_path)
    monkeypatch.setattr("service.training.memory._MEMINFO", tmp_path / "meminfo")
    return tmp_path


def limited(folder: Path, limit: str, used: int) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text("anon 5\ninactive_file 300\nactive_file 200\nslab 7\n")


def test_without_a_limit_it_is_what_the_system_has(system: Path) -> None:
    (system / "meminfo").write_text(MEMINFO)
    assert available_memory() == 8_000_000 * 1024
    limited(system, "max", 4000)
    assert available_memory() == 8_000_000 * 1024


def test_below_a_limit_files_that_were_read_count_as_free(system: Path) -> None:
    limited(system, "10000", 4000)
    assert available_memory() == 10_000 - 4000 + 500
    (system / "meminfo").write_text(MEMINFO)
    assert available_memory() == 6500
    limited(system, str(10**15), 4000)  # more than the machine has
    assert available_memory() == 8_000_000 * 1024
    limited(system, "1000", 4000)
    assert available_memory() == 0


def test_where_nothing_is_told_it_is_unknown(system: Path) -> None:
    assert available_memory() is None
    (system / "meminfo").write_text("nothing of it\n")
    assert available_memory() is None
