"""The machine that this process runs on, in words: what was measured on one says nothing of another."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

from service.engine.session import available_cores

_CPUINFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """The processor's name as the system has it; on ARM, where Linux has none, by the numbers of its maker and kind."""
    told: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in _CPUINFO.read_text().splitlines():
            key, _, value = line.partition(":")
            told.setdefault(key.strip(), value.strip())
    numbers = [told[key] for key in ("CPU implementer", "CPU part", "CPU revision") if key in told]
    return told.get("model name") or " ".join([platform.processor() or platform.machine(), *numbers])


def machine_name(threads: int = 0) -> str:
    """Processor and cores that a network may run on; `threads`: as many where that is set, 0: all that are allowed."""
    return f"{processor_name()}, {threads or available_cores()} cores"
