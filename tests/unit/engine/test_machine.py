"""The machine in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.engine import machine
from service.engine.session import available_cores

INTEL = "processor\t: 0\nmodel name\t: Some Processor\n\nprocessor\t: 1\nmodel name\t: Some Processor\n"
ARM = "processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {part}\nCPU revision\t: 1\n"


def told(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    return machine.machine_name(4)


def test_processor_and_cores_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(INTEL, tmp_path, monkeypatch) == "Some Processor, 4 cores"
    assert machine.machine_name() == f"Some Processor, {available_cores()} cores"


KIND = (
    "model name\t: Virtual Processor\ncpu family\t: 6\nmodel\t\t: {model}\nstepping\t: 8\nflags\t\t: fpu avx2 {flags}\n"
)


def test_processors_that_a_hypervisor_gives_one_name_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = [("143", "amx_int8 sse2"), ("106", "amx_int8 sse2"), ("143", "sse2"), ("143", "sse2 amx_int8")]
    names = [told(KIND.format(model=model, flags=flags), tmp_path, monkeypatch) for model, flags in kinds]
    assert names[0] == names[3] == "Virtual Processor (6-143-8 avx2 amx_int8), 4 cores"
    assert len(set(names)) == 3


def test_processors_without_a_name_are_told_apart_by_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (told(ARM.format(part=part), tmp_path, monkeypatch) for part in ("0xd0c", "0xd08"))
    assert one != other
    assert "0x41 0xd0c" in one


def test_a_system_that_tells_nothing_has_a_name_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "missing")
    assert machine.processor_name()
